//! [`Consumer`]: one reader of a stream: where it is, what it has delivered, and what is acknowledged.
//!
//! Deliveries are in `delivery`, pull requests in `pull`, acknowledgements in `ack`, what comes back to be delivered
//! again in `redelivery`, jumps in `jump`.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::clock::rfc3339;
use super::filter::Filter;
use super::jump::Origin;
use super::log::Log;
use super::pull::Pull;
use super::redelivery::Redeliveries;
use super::turn::Turn;
use crate::broker::{AckPolicy, ConsumerConfig, DeliverPolicy, Retention, SequencePair, Subject};

/// A message that was delivered and is not acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    /// Its first delivery.
    pub(super) consumer_seq: u64,
    /// When it was last delivered, or kept alive; what is later than now comes from a delayed refusal.
    pub(super) at: i64,
}

/// A consumer.
pub(super) struct Consumer {
    pub(super) stream: Box<str>,
    pub(super) name: Box<str>,
    pub(super) config: ConsumerConfig,
    pub(super) created: i64,
    pub(super) filter: Filter,
    /// Whether its stream keeps messages until they are acknowledged.
    pub(super) releases: bool,
    /// What it is done with, for its stream to look at.
    pub(super) released: Vec<u64>,
    /// The next message of the stream to look at.
    pub(super) next: u64,
    /// Where it was made or set last.
    pub(super) origin: Origin,
    /// The number of the next delivery.
    pub(super) next_delivery: u64,
    /// Up to where all is acknowledged.
    pub(super) floor: SequencePair,
    /// The same two places as the server writes them down, which is what it shows.
    pub(super) shown_delivered: SequencePair,
    pub(super) shown_floor: SequencePair,
    pub(super) pending: BTreeMap<u64, Pending>,
    /// How often a message was delivered again.
    pub(super) redelivered: BTreeMap<u64, u64>,
    pub(super) redeliveries: Redeliveries,
    /// With [`DeliverPolicy::LastPerSubject`]: what is left of the first pass.
    pub(super) lasts: VecDeque<u64>,
    /// Where to go on after that pass.
    pub(super) after_lasts: u64,
    /// How many messages are still to be delivered; signed, as removals may be counted twice for a moment.
    pub(super) to_come: i64,
    /// Up to where `to_come` was counted.
    pub(super) counted_to: u64,
    pub(super) waiting: VecDeque<Pull>,
    pub(super) last_delivered_at: Option<i64>,
    pub(super) last_acked_at: Option<i64>,
    /// When unacknowledged messages are looked at.
    pub(super) ack_check: Option<i64>,
    /// The last sign of life of a client.
    pub(super) active_at: i64,
}

impl Consumer {
    pub(super) fn new(
        stream: &str,
        config: ConsumerConfig,
        retention: Retention,
        log: &Log,
        turn: &mut Turn<'_>,
    ) -> Self {
        let mut consumer = Consumer {
            stream: stream.into(),
            name: config.name.as_str().into(),
            filter: filter_of(&config),
            config,
            created: turn.now,
            releases: retention != Retention::Limits,
            released: Vec::new(),
            next: 1,
            origin: Origin::default(),
            next_delivery: 1,
            floor: SequencePair::default(),
            shown_delivered: SequencePair::default(),
            shown_floor: SequencePair::default(),
            pending: BTreeMap::new(),
            redelivered: BTreeMap::new(),
            redeliveries: Redeliveries::default(),
            lasts: VecDeque::new(),
            after_lasts: 0,
            to_come: 0,
            counted_to: 0,
            waiting: VecDeque::new(),
            last_delivered_at: None,
            last_acked_at: None,
            ack_check: None,
            active_at: turn.now,
        };
        consumer.start(log);
        consumer.recount(log);
        if let Some(threshold) = consumer.lifetime() {
            turn.wake_after(threshold);
        }
        consumer
    }

    /// Chooses the first message.
    fn start(&mut self, log: &Log) {
        let (first, last) = (log.first(), log.last());
        self.next = match self.config.deliver_policy {
            DeliverPolicy::All => first,
            DeliverPolicy::Last if self.filter.is_all() => last,
            DeliverPolicy::Last => {
                self.filter.patterns().iter().filter_map(|pattern| log.last_of(pattern)).max().unwrap_or(0)
            }
            DeliverPolicy::New => last + 1,
            DeliverPolicy::ByStartSequence => self.config.opt_start_seq,
            DeliverPolicy::ByStartTime => {
                let time = self.config.opt_start_time.as_deref().and_then(super::clock::parse_rfc3339);
                log.first_at(time.unwrap_or(i64::MIN))
            }
            DeliverPolicy::LastPerSubject => {
                self.lasts = log.lasts(&self.filter).into();
                self.after_lasts = last;
                self.lasts.front().copied().unwrap_or(last)
            }
        };
        let fixed = self.config.deliver_policy == DeliverPolicy::ByStartSequence;
        if first == 0 && !fixed {
            self.next = 1;
        } else if self.next > last && !fixed {
            self.next = last + 1;
        } else if self.next < first {
            self.next = first;
        }
        self.floor = SequencePair { consumer_seq: 0, stream_seq: self.next.saturating_sub(1) };
        self.shown_delivered = self.floor;
        self.shown_floor = self.floor;
        self.origin = Origin { floor: self.floor, next: self.next };
    }

    /// Counts afresh what is to come.
    pub(super) fn recount(&mut self, log: &Log) {
        let count = if self.config.deliver_policy == DeliverPolicy::LastPerSubject {
            log.lasts(&self.filter).into_iter().filter(|seq| *seq >= self.next).count() as u64
        } else {
            log.count(self.next, &self.filter)
        };
        self.to_come = i64::try_from(count).unwrap_or(i64::MAX);
        self.counted_to = log.last();
    }

    /// How many nanoseconds without a sign of life it lives; `None` for ever.
    pub(super) fn lifetime(&self) -> Option<u64> {
        // The server adds a random time of 0.1 to 1 second, so that not all go at once.
        (self.config.inactive_threshold > 0).then(|| self.config.inactive_threshold.saturating_add(100_000_000))
    }

    /// Takes over a changed configuration, which was checked.
    pub(super) fn configure(&mut self, config: ConsumerConfig, log: &Log, turn: &mut Turn<'_>) {
        let filter = filter_of(&config);
        let same = filter.patterns() == self.filter.patterns();
        self.config = config;
        if !same {
            self.filter = filter;
            self.recount(log);
        }
        if self.ack_check.is_some() {
            self.ack_check = Some(turn.wake_after(100_000_000));
        }
        if let Some(threshold) = self.lifetime() {
            self.active_at = turn.now;
            turn.wake_after(threshold);
        }
        self.pump(log, turn);
    }

    /// A message came into the stream.
    pub(super) fn on_stored(&mut self, seq: u64, subject: &Subject, log: &Log, turn: &mut Turn<'_>) {
        if !self.filter.matches(subject) {
            return;
        }
        if seq > self.counted_to {
            self.to_come += 1;
        }
        if seq >= self.next && !self.waiting.is_empty() {
            self.pump(log, turn);
        }
    }

    /// A message went from the stream.
    pub(super) fn on_removed(&mut self, seq: u64, subject: &Subject, log: &Log, turn: &mut Turn<'_>) {
        self.count_removed(seq, subject);
        self.forget(seq, log, turn);
    }

    /// Counts a message that went, if it was still to come.
    pub(super) fn count_removed(&mut self, seq: u64, subject: &Subject) {
        if seq >= self.next && self.filter.matches(subject) {
            self.to_come -= 1;
        }
    }

    /// Forgets a delivery whose message went.
    pub(super) fn forget(&mut self, seq: u64, log: &Log, turn: &mut Turn<'_>) {
        if let Some(pending) = self.pending.get(&seq) {
            let (first, delivered) = (pending.consumer_seq, self.deliveries(seq));
            self.terminate(seq, first, delivered, "Unacknowledged message was deleted", log, turn);
        } else {
            self.redelivered.remove(&seq);
        }
    }

    /// The last delivery, and the last message it is done looking at.
    pub(super) fn position(&self) -> SequencePair {
        SequencePair { consumer_seq: self.next_delivery.saturating_sub(1), stream_seq: self.next.saturating_sub(1) }
    }

    /// Whether a message must be kept for it, in a stream that keeps messages for consumers.
    pub(super) fn needs(&self, seq: u64, subject: &str) -> bool {
        if !self.filter.matches(subject) {
            return false;
        }
        let unacked = match self.config.ack_policy {
            AckPolicy::None | AckPolicy::All => seq > self.floor.stream_seq,
            AckPolicy::Explicit => seq > self.floor.stream_seq && (seq >= self.next || self.pending.contains_key(&seq)),
        };
        unacked || self.redelivered.contains_key(&seq)
    }

    /// Does what is due; false if it has gone for lack of interest.
    pub(super) fn on_time(&mut self, log: &Log, turn: &mut Turn<'_>) -> bool {
        self.check_pending(log, turn);
        let due = |pull: &Pull| [pull.expires, pull.next_heartbeat].iter().flatten().any(|due| *due <= turn.now);
        if self.waiting.iter().any(due) {
            self.sweep(true, turn);
            self.pump(log, turn);
        }
        for pull in &self.waiting {
            [pull.expires, pull.next_heartbeat].iter().flatten().for_each(|due| turn.due.at(*due));
        }
        let Some(lifetime) = self.lifetime() else { return true };
        // Whoever still works on messages is not gone.
        let working = self.pending.values().map(|p| p.at.saturating_add(self.longest_wait())).max().unwrap_or(0);
        let dies = super::due::after(self.active_at.max(working), lifetime);
        if !self.waiting.is_empty() {
            turn.wake_after(lifetime);
            return true;
        }
        turn.due.at(dies);
        dies > turn.now
    }

    /// What the API tells of it.
    pub(super) fn describe(&mut self, log: &Log, turn: &mut Turn<'_>) -> Value {
        if self.next > log.last() {
            self.to_come = 0;
        } else if self.to_come > 0 {
            let most = log.len().min(log.last() - self.next + 1);
            self.to_come = self.to_come.min(i64::try_from(most).unwrap_or(i64::MAX));
        }
        self.sweep(false, turn);
        let place = |pair: SequencePair, at: Option<i64>| {
            let mut place = json!(pair);
            if let (Some(at), Some(place)) = (at, place.as_object_mut()) {
                place.insert("last_active".into(), rfc3339(at).into());
            }
            place
        };
        json!({
            "stream_name": self.stream,
            "name": self.name,
            "created": rfc3339(self.created),
            "config": super::consumer_config::describe(&self.config),
            "delivered": place(self.shown_delivered, self.last_delivered_at),
            "ack_floor": place(self.shown_floor, self.last_acked_at),
            "num_ack_pending": self.pending.len(),
            "num_redelivered": if self.config.max_deliver == 1 { 0 } else { self.redelivered.len() },
            "num_waiting": self.waiting.len(),
            "num_pending": self.to_come.max(0),
            "ts": rfc3339(turn.now),
        })
    }
}

fn filter_of(config: &ConsumerConfig) -> Filter {
    if config.filter_subject.is_empty() {
        Filter::new(&config.filter_subjects)
    } else {
        Filter::new([&config.filter_subject])
    }
}
