//! [`Meeting`]: where two streams meet, time has come no further than in either of them that is not idle, and an input is
//! idle only when it was silent for long enough (P5).
//!
//! A [`Tap`] behind each source notes what it gives; it knows nothing of how the engine puts watermarks together.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use millstream::operators::Result as Done;
use millstream::prelude::*;
use tokio::time::Instant;

use super::monitor::{LATE, blame};

/// What is known of both streams in one run.
#[derive(Debug)]
pub(super) struct Meet {
    // Of the attempt that was begun last.
    taps: Mutex<[Arc<Mutex<Given>>; 2]>,
    now: Mutex<Timestamp>,
    pub(super) idle_after: Duration,
    /// How often an input was idle, and how often rows came from one that had been.
    pub(super) idled: Mutex<[u64; 2]>,
}

/// What a stream has given since its attempt began.
#[derive(Debug, Default)]
struct Given {
    rows: u64,
    // Behind how many rows each batch begins, and behind how many it was idle.
    begins: Vec<u64>,
    idle: BTreeSet<u64>,
    is_idle: bool,
    ended: bool,
}

impl Given {
    /// Whether who has had so many rows of it may take it for idle: until it is told how far time has come behind a row, it
    /// may still be what it was before the batch of that row.
    fn may_be_idle(&self, had: u64) -> bool {
        let before = self.begins.iter().rev().find(|begin| **begin < had);
        self.ended || self.idle.contains(&had) || before.is_some_and(|begin| self.idle.contains(begin))
    }
}

impl Meet {
    pub(super) fn new(idle_after: Duration) -> Self {
        Meet { taps: Mutex::default(), now: Mutex::new(Timestamp::MIN), idle_after, idled: Mutex::default() }
    }

    /// How far time has come where they meet.
    pub(super) fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }
}

/// Notes what a stream gives.
#[derive(Debug)]
pub(super) struct Tap<T> {
    meet: Arc<Meet>,
    may_idle: bool,
    given: Arc<Mutex<Given>>,
    heard: Instant,
    rows: std::marker::PhantomData<fn(T)>,
}

impl<T> Tap<T> {
    /// Of the stream of this number, in an attempt that begins.
    pub(super) fn new(meet: &Arc<Meet>, number: usize) -> Self {
        let given = Arc::<Mutex<Given>>::default();
        if let Some(tap) = meet.taps.lock().unwrap().get_mut(number) {
            *tap = Arc::clone(&given);
        }
        let meet = Arc::clone(meet);
        Tap { meet, may_idle: number == 1, given, heard: Instant::now(), rows: std::marker::PhantomData }
    }
}

impl<T: Send + 'static> Operator for Tap<T> {
    type In = Vec<T>;
    type Out = Vec<T>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Vec<T>>) -> Done<Turn> {
        let mut given = self.given.lock().unwrap();
        let begin = given.rows;
        given.begins.push(begin);
        given.rows += batch.times().len() as u64;
        if std::mem::take(&mut given.is_idle)
            && let [_, back] = &mut *self.meet.idled.lock().unwrap()
        {
            *back += 1;
        }
        self.heard = Instant::now();
        out.send(batch);
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, _: &mut Outbox<'_, Vec<T>>) -> Done<Turn> {
        self.given.lock().unwrap().ended |= now == Timestamp::MAX;
        Ok(Turn::Done)
    }

    fn on_idle(&mut self, _: &mut Outbox<'_, Vec<T>>) -> Done<Turn> {
        let mut given = self.given.lock().unwrap();
        let silent = self.heard.elapsed();
        if !given.ended && (!self.may_idle || silent < self.meet.idle_after) {
            blame(format!("P5: an input is idle that has been silent for {silent:?}"));
        }
        let rows = given.rows;
        given.idle.insert(rows);
        given.is_idle = true;
        let [idle, _] = &mut *self.meet.idled.lock().unwrap();
        *idle += 1;
        Ok(Turn::Done)
    }
}

/// Where they meet: rows tell by themselves from which stream they are.
#[derive(Debug)]
pub(super) struct Meeting<T> {
    meet: Arc<Meet>,
    of: fn(&T) -> usize,
    taps: Option<[Arc<Mutex<Given>>; 2]>,
    // How many rows have come of each in this attempt, and up to which time.
    had: [u64; 2],
    highest: [Timestamp; 2],
    now: Timestamp,
    // In this attempt.
    told: Timestamp,
}

impl<T> Meeting<T> {
    pub(super) fn new(meet: &Arc<Meet>, of: fn(&T) -> usize) -> Self {
        let (had, highest) = ([0; 2], [Timestamp::MIN; 2]);
        Meeting { meet: Arc::clone(meet), of, taps: None, had, highest, now: Timestamp::MIN, told: Timestamp::MIN }
    }
}

impl<T: Send + 'static> Operator for Meeting<T> {
    type In = Vec<T>;
    type Out = Vec<T>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Vec<T>>) -> Done<Turn> {
        for (row, time) in batch.rows().iter().zip(batch.times()) {
            let of = (self.of)(row);
            if let (Some(had), Some(highest)) = (self.had.get_mut(of), self.highest.get_mut(of)) {
                *had += 1;
                *highest = (*highest).max(*time);
            }
        }
        out.send(batch);
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, _: &mut Outbox<'_, Vec<T>>) -> Done<Turn> {
        if now == Timestamp::MAX {
            return Ok(Turn::Done);
        }
        // An input that was idle is not known to be when a run begins: until it is again, time is told from where that one is.
        let least = self.highest.iter().min().copied().unwrap_or(now).saturating_sub(LATE);
        if now < self.told || now < self.now && now < least {
            blame(format!("P5: where streams meet the watermark went back from {} to {now}", self.now.max(self.told)));
        }
        let taps = self.taps.get_or_insert_with(|| self.meet.taps.lock().unwrap().clone());
        for (input, ((had, highest), given)) in self.had.iter().zip(self.highest).zip(taps).enumerate() {
            let most = highest.saturating_sub(LATE);
            // What was told before stays told when who was idle comes again and is behind.
            if now > most && now > self.told && !given.lock().unwrap().may_be_idle(*had) {
                let words =
                    format!("P5: where streams meet the watermark is {now}, and of input {input}, which is not idle");
                blame(format!("{words}, rows go up to {highest}, {had} of them"));
            }
        }
        (self.now, self.told) = (self.now.max(now), now);
        *self.meet.now.lock().unwrap() = now;
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Done {
        let [one, other] = &mut self.highest;
        visit.time("one", one)?;
        visit.time("other", other)?;
        visit.time("now", &mut self.now)
    }
}
