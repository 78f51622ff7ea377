//! What must come out, computed in one go and without anything of the engine.

use std::collections::{BTreeMap, BTreeSet};

use millstream::broker::Outgoing;
use serde_json::{Value, json};

use super::beside::Beside;
use super::order::judge_order;
use super::owners::Given;
use super::reached::{Cell, Reached};
use crate::support::Dice;

/// Something that is fed: an event, or a payload that is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its number, unlike any other's; 0 for a payload that is no event.
    pub id: u64,
    /// What it belongs to.
    pub key: u64,
    /// When it happened, in milliseconds.
    pub at: u64,
    /// A number.
    pub value: u64,
    /// Whether its payload is no event at all.
    pub bad: bool,
    /// Whether it happened so long ago that it may be too late for its window.
    pub old: bool,
    /// Whether it is so far ahead of all others that its time is none to go by.
    pub far: bool,
    /// Whether it is so long that the state of a few does not fit into a manifest.
    pub long: bool,
}

/// How far events may be out of order, in milliseconds.
pub(super) const LATE: u64 = 3_000;
/// How far ahead what is far ahead is, in milliseconds, where event times say nothing of when messages are stored.
pub(super) const FAR: u64 = 10 * 86_400_000;
/// When the broker's clock begins, in milliseconds: events from then on are told by it.
pub(super) const START: u64 = 1_767_225_600_000;
/// How far ahead of the broker's clock events may be, in milliseconds.
pub(super) const AHEAD: u64 = 600_000;
/// From this number on are the events that come when input is lost.
pub(super) const LOST: u64 = 1_000_000;
/// How long windows are, in milliseconds.
pub(super) const WINDOW: u64 = 10_000;
/// How near even and odd numbers of a key must be to meet, in milliseconds.
pub(super) const NEAR: u64 = 2_000;

impl Event {
    /// Up to some hundred events, out of order within [`LATE`], with some payloads that are none.
    pub(super) fn some(dice: &mut Dice) -> Vec<Event> {
        // Now and then their state does not fit into the manifest: so long are they, and so many are held for a join.
        let long = dice.below(8) == 0;
        let (count, step) = (1 + dice.below(120), 1 + dice.below(if long { 60 } else { 900 }));
        let keys = if dice.below(8) == 0 { 100 } else { 1 + dice.below(12) };
        let olds = dice.below(2) == 0;
        let mut now = 100_000;
        let event = |id| {
            now += dice.below(step);
            let old = olds && dice.below(10) == 0;
            let at = now - dice.below(LATE) - if old { 3 * WINDOW } else { 0 };
            let (key, value, bad) = (dice.below(keys), dice.below(1_000), dice.below(20) == 0);
            Event { id, key, at, value, bad, old, long, far: false }
        };
        (1..=count).map(event).collect()
    }

    /// One more for each key, behind all these: what is counted by then shows in what comes of it.
    pub(super) fn probes(events: &[Event]) -> Vec<Event> {
        let now = events.iter().filter(|event| !event.far).map(|event| event.at).max().unwrap_or(0);
        let first = 1 + events.iter().map(|event| event.id).max().unwrap_or(0);
        let keys: BTreeSet<u64> = events.iter().map(|event| event.key).collect();
        let probe = |(id, key)| Event { id, key, at: now, value: 7, ..Event::default() };
        (first..).zip(keys).map(probe).collect()
    }

    /// Makes them happen when they are stored, or thereabouts.
    pub(super) fn are_new(events: &mut [Event]) {
        events.iter_mut().for_each(|event| event.at += START);
    }

    /// Makes some, but for the first and the last ones, be far ahead of all others: their clock was wrong.
    pub(super) fn some_far(dice: &mut Dice, events: &mut [Event], probes: usize) {
        if dice.below(4) > 0 {
            return;
        }
        // By so much only the broker's clock shows that it is wrong.
        let is_new = events.first().is_some_and(|event| event.at >= START);
        let far = if is_new { 6 * AHEAD } else { FAR };
        let last = events.len() - probes;
        let may = events.get_mut(..last).unwrap_or_default().iter_mut().skip(12);
        for event in may.filter(|event| !event.bad && !event.old).filter(|_| dice.below(30) == 0).take(3) {
            (event.far, event.at) = (true, event.at + far);
        }
    }

    /// How far time has come behind these: far ones do not count.
    pub(super) fn now(events: &[Event]) -> u64 {
        let near = events.iter().filter(|event| !event.bad && !event.far);
        near.map(|event| event.at).max().unwrap_or(0)
    }

    /// Whether it comes to nothing but a dead letter: it is no event, or the broker's clock shows that its own was wrong.
    pub(super) fn is_dead(&self) -> bool {
        self.bad || self.is_refused()
    }

    /// Whether it is an event whose time is too far ahead of the broker's clock.
    pub(super) fn is_refused(&self) -> bool {
        !self.bad && self.far && self.at >= START
    }

    /// What is published: payloads that come to dead letters have headers, so that it shows whether dead letters have them too.
    pub(super) fn message(&self) -> Outgoing {
        self.message_to("in.event")
    }

    /// The same to this subject.
    pub(super) fn message_to(&self, subject: &'static str) -> Outgoing {
        let mut message = Outgoing::new(subject, self.payload());
        for (name, value) in self.headers() {
            message.headers.push(name, &value).unwrap();
        }
        message
    }

    /// With which headers: one of the caller, and one that must not be taken for our own.
    pub(super) fn headers(&self) -> Vec<(&'static str, String)> {
        match self.is_dead() {
            true => vec![("Trace-Id", format!("trace {}", self.id)), ("Mill-Dlq-Seq", "forged".to_owned())],
            false => Vec::new(),
        }
    }

    /// What is published as payload.
    pub(super) fn payload(&self) -> String {
        let Event { id, key, at, value, bad, old, long, .. } = self;
        match (bad, long) {
            (true, _) => format!("no event {id}"),
            (_, false) => json!({"id": id, "key": key, "at": at, "value": value, "old": old}).to_string(),
            (_, true) => {
                let mut dice = Dice::new(*id);
                let words: String = (0..16).map(|_| format!("{:x}", dice.below(u64::MAX))).collect();
                json!({"id": id, "key": key, "at": at, "value": value, "old": old, "words": words}).to_string()
            }
        }
    }
}

/// What stands in the output streams, or must.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outputs {
    /// One for each event.
    pub(super) plain: Vec<Value>,
    /// The running totals of each key, in order.
    pub(super) totals: BTreeMap<u64, Vec<Value>>,
    /// Who gave totals, in the order in which those are stored.
    pub(super) given: Vec<Given>,
    /// The sums of each key and window.
    pub(super) windows: Vec<Value>,
    /// Events that came too late for their window.
    pub(super) late: Vec<u64>,
    /// Even numbers with each odd one near them, or with none.
    pub(super) met: Vec<Value>,
    /// Payloads that are no events.
    pub(super) dead: Vec<String>,
    /// What comes of events without state: of each none, some or very many.
    pub(super) rows: Vec<String>,
}

impl Outputs {
    /// What must come of events in this order, of which some came too late for their windows: which old ones did depends on
    /// how far time had come for the window just then.
    ///
    /// Windows have those of a second stream as well.
    pub(super) fn of(events: &[Event], side: &[Event], late: &[u64]) -> Self {
        let mut outputs = Outputs::default();
        let (mut totals, mut windows) = (BTreeMap::<u64, (u64, u64)>::new(), BTreeMap::<(u64, u64), (u64, u64)>::new());
        for event in events {
            let Event { id, key, value, .. } = event;
            if event.is_dead() {
                outputs.dead.push(event.payload());
                continue;
            }
            outputs.plain.push(json!({"id": id, "twice": value * 2}));
            let (count, sum) = totals.entry(*key).or_default();
            (*count, *sum) = (*count + 1, *sum + value);
            outputs.totals.entry(*key).or_default().push(json!({"key": key, "count": *count, "sum": *sum}));
        }
        for Event { id, key, at, value, .. } in events.iter().chain(side).filter(|event| !event.is_dead()) {
            if late.contains(id) {
                outputs.late.push(*id);
                continue;
            }
            let (count, sum) = windows.entry((*key, at - at % WINDOW)).or_default();
            (*count, *sum) = (*count + 1, *sum + value);
        }
        let side =
            |parity| events.iter().filter(move |event| !event.is_dead() && !event.old && event.value % 2 == parity);
        for left in side(0) {
            let near = |right: &&Event| right.key == left.key && right.at.abs_diff(left.at) <= NEAR;
            let met: Vec<Value> =
                side(1).filter(near).map(|right| json!({"left": left.id, "right": right.id})).collect();
            outputs.met.extend(if met.is_empty() { vec![json!({"left": left.id, "right": null})] } else { met });
        }
        for ((key, start), (count, sum)) in windows {
            outputs.windows.push(json!({"key": key, "start": start, "count": count, "sum": sum}));
        }
        outputs
    }

    /// What shows that something happened.
    pub(super) fn reached(&self) -> Reached {
        let mut reached = Reached::default();
        reached.note_if(self.given.iter().any(|given| given.of() == 4), Cell::FourOwners);
        let place = |window: &Value| (window["key"].as_u64(), window["start"].as_u64());
        let results: BTreeSet<_> =
            self.windows.iter().map(|window| (place(window), window["count"].as_u64())).collect();
        let places: BTreeSet<_> = self.windows.iter().map(place).collect();
        reached.note_if(places.len() < results.len(), Cell::GivenAgain);
        reached.note_if(self.late.iter().any(|id| Beside::stream_of(*id) == 0), Cell::LateRow);
        reached.note_if(self.late.iter().any(|id| Beside::stream_of(*id) == 1), Cell::LateBeside);
        reached.note_if(!self.dead.is_empty(), Cell::DeadLetter);
        reached.note_if(self.met.iter().any(|met| !met["right"].is_null()), Cell::Pair);
        reached.note_if(self.met.iter().any(|met| met["right"].is_null()), Cell::Alone);
        reached.note_if(self.rows.iter().any(|row| row.ends_with("/1299")), Cell::ManyRows);
        reached
    }

    /// What must come of events in this order where no state is kept.
    pub(super) fn rows_of(events: &[Event]) -> Self {
        let rows = events.iter().flat_map(|event| rows_of(&event.payload())).collect();
        Outputs { rows, ..Outputs::default() }
    }

    /// What is wrong with which events came too late: only those do whose window was over when a row before them came. Those of
    /// the second stream come when they come: time may have gone on without it.
    pub(super) fn judge_late(&self, events: &[Event], side: &[Event], allowed: u64) -> Result<(), String> {
        for id in &self.late {
            if let Some(event) = side.iter().find(|event| event.id == *id) {
                if Event::now(events) < event.at - event.at % WINDOW + WINDOW + allowed + LATE {
                    return Err(format!("late: {id} of the second stream came in time for its window"));
                }
                continue;
            }
            let place = events.iter().position(|event| event.id == *id && !event.is_dead());
            let place = place.ok_or_else(|| format!("late: {id} is no event"))?;
            let (before, from) = events.split_at(place);
            let end = from.first().map_or(0, |event| event.at - event.at % WINDOW + WINDOW);
            if Event::now(before) < end + allowed + LATE {
                return Err(format!("late: {id} came in time for its window"));
            }
        }
        Ok(())
    }

    /// Leaves of each key and window the last result, which is what counts where some come behind its end; and what is wrong
    /// with those before it. The first has all that come in time, and each further one more than the one before; where no lateness
    /// is allowed there is none (P6).
    pub(super) fn settle(&mut self, events: &[Event], allowed: u64) -> Result<(), String> {
        let in_time = events.iter().filter(|event| !event.is_dead() && !event.old);
        let mut least = BTreeMap::<(u64, u64), u64>::new();
        in_time.for_each(|event| *least.entry((event.key, event.at - event.at % WINDOW)).or_default() += 1);
        let number = |window: &Value, name: &str| window.get(name).and_then(Value::as_u64).unwrap_or(0);
        let mut last = BTreeMap::<(u64, u64), Value>::new();
        for window in self.windows.drain(..) {
            let place = (number(&window, "key"), number(&window, "start"));
            let (due, has) = (least.get(&place).copied().unwrap_or(1), number(&window, "count"));
            match last.get(&place) {
                None if has < due => return Err(format!("P6: {window} comes first, and {due} come in time")),
                Some(before) if has <= number(before, "count") => {
                    return Err(format!("P6: {window} comes behind {before}"));
                }
                Some(before) if allowed == 0 => {
                    return Err(format!("P6: {window} comes behind {before}, which was final"));
                }
                _ => _ = last.insert(place, window),
            }
        }
        self.windows = last.into_values().collect();
        Ok(())
    }

    /// Leaves out the windows of old events and of the second stream: where outputs may repeat, such an event may be in time in
    /// one run and late in another.
    pub(super) fn without_old(mut self, events: &[Event], side: &[Event]) -> Self {
        let windows: Vec<(u64, u64)> = events
            .iter()
            .filter(|event| event.old && !event.is_dead())
            .chain(side)
            .map(|event| (event.key, event.at - event.at % WINDOW))
            .collect();
        self.windows.retain(|window| {
            let number = |name: &str| window.get(name).and_then(Value::as_u64).unwrap_or(u64::MAX);
            !windows.contains(&(number("key"), number("start")))
        });
        self.late.clear();
        self
    }

    /// Which window of an old event has fewer rows than came for it in time: of its results one must have them all.
    pub(super) fn judge_old(&self, events: &[Event], side: &[Event]) -> Result<(), String> {
        let window_of = |event: &Event| (event.key, event.at - event.at % WINDOW);
        let everything = || events.iter().chain(side);
        for event in everything().filter(|event| !event.is_dead() && !self.late.contains(&event.id)) {
            if !event.old && Beside::stream_of(event.id) == 0 {
                continue;
            }
            let (key, start) = window_of(event);
            let came =
                |other: &&Event| !other.is_dead() && window_of(other) == (key, start) && !self.late.contains(&other.id);
            let due = everything().filter(came).count() as u64;
            let number = |window: &Value, name: &str| window.get(name).and_then(Value::as_u64);
            let its = self
                .windows
                .iter()
                .filter(|window| number(window, "key") == Some(key) && number(window, "start") == Some(start));
            let most = its.filter_map(|window| number(window, "count")).max().unwrap_or_default();
            // Late ones counted in another run, perhaps.
            let all = everything().filter(|other| !other.is_dead() && window_of(other) == (key, start)).count() as u64;
            if most > all {
                return Err(format!("event {}: of {all} events in its window {most} are counted", event.id));
            }
            if most < due {
                return Err(format!("event {}: of {due} events in its window {most} are counted", event.id));
            }
        }
        Ok(())
    }

    /// What is wrong with the order in which what comes of a key is there, of all these events: totals, windows, and rows where
    /// those of a key stay together.
    pub(super) fn judge_keys(&self, events: &[Event], side: &[Event], keyed: bool) -> Result<(), String> {
        let of = |value: &Value, name: &str| value.get(name).and_then(Value::as_u64);
        let (mut ids, mut counts) = (BTreeMap::<u64, Vec<u64>>::new(), BTreeMap::<u64, Vec<u64>>::new());
        for Event { id, key, .. } in events.iter().filter(|event| !event.is_dead()) {
            ids.entry(*key).or_default().push(*id);
            let counts = counts.entry(*key).or_default();
            counts.push(counts.len() as u64 + 1);
        }
        let totals = self.totals.iter().flat_map(|(key, all)| all.iter().map(move |total| (*key, total)));
        judge_order("total", &counts, totals.filter_map(|(key, total)| Some((key, of(total, "count")?))))?;
        if keyed {
            let keys: BTreeMap<u64, u64> = events.iter().map(|event| (event.id, event.key)).collect();
            let plain = self.plain.iter().filter_map(|row| of(row, "id"));
            judge_order("row", &ids, plain.filter_map(|id| Some((*keys.get(&id)?, id))))?;
        }
        // Which windows there are of old events may differ from run to run.
        let mut starts = BTreeMap::<u64, BTreeSet<u64>>::new();
        for Event { key, at, .. } in events.iter().filter(|event| !event.is_dead() && !event.old) {
            starts.entry(*key).or_default().insert(at - at % WINDOW);
        }
        for Event { key, at, .. } in events.iter().filter(|event| !event.is_dead() && event.old).chain(side) {
            starts.entry(*key).or_default().remove(&(at - at % WINDOW));
        }
        let starts = starts.into_iter().map(|(key, starts)| (key, starts.into_iter().collect())).collect();
        let windows = self.windows.iter().filter_map(|window| Some((of(window, "key")?, of(window, "start")?)));
        judge_order("window", &starts, windows)
    }

    /// What is wrong with the order of rows.
    pub(super) fn judge_order(&self, there: &Outputs) -> Result<(), String> {
        let differs = self.rows.iter().zip(&there.rows).position(|(wanted, there)| wanted != there);
        match differs {
            None => Ok(()),
            Some(place) => {
                let (wanted, there) = (self.rows.get(place), there.rows.get(place));
                Err(format!("row {place} is {there:?} and should be {wanted:?}"))
            }
        }
    }

    /// What is wrong with what is there: `once` each must be there exactly once, and else at least.
    pub(super) fn judge(&self, there: &Outputs, once: bool) -> Result<(), String> {
        same("plain", texts(&self.plain), texts(&there.plain), once)?;
        same("windows", texts(&self.windows), texts(&there.windows), once)?;
        same("met", texts(&self.met), texts(&there.met), once)?;
        let late = |outputs: &Outputs| outputs.late.iter().map(u64::to_string).collect();
        same("late", late(self), late(there), once)?;
        same("dead letters", self.dead.clone(), there.dead.clone(), once)?;
        same("rows", self.rows.clone(), there.rows.clone(), once)?;
        if once && self.totals != there.totals {
            return Err(format!("the totals of a key are {:?} and should be {:?}", there.totals, self.totals));
        }
        let flat = |outputs: &Outputs| outputs.totals.values().flat_map(|all| texts(all)).collect();
        same("totals", flat(self), flat(there), once)
    }
}

/// The rows of a payload.
pub(super) fn rows_of(payload: &str) -> Vec<String> {
    let value = serde_json::from_str::<Value>(payload).ok();
    let number = |name: &str| value.as_ref().and_then(|value| value.get(name)?.as_u64());
    let (Some(id), Some(value)) = (number("id"), number("value")) else { return vec![payload.to_owned()] };
    // More than one batch takes, now and then.
    let copies = if value.is_multiple_of(500) { 1_300 } else { value % 4 };
    (0..copies).map(|copy| format!("{id}/{copy}")).collect()
}

fn texts(values: &[Value]) -> Vec<String> {
    values.iter().map(Value::to_string).collect()
}

fn same(what: &str, wanted: Vec<String>, there: Vec<String>, once: bool) -> Result<(), String> {
    let mut left: BTreeMap<String, i64> = BTreeMap::new();
    wanted.into_iter().for_each(|text| *left.entry(text).or_default() += 1);
    let known = left.clone();
    for text in there {
        *left.entry(text).or_default() -= 1;
    }
    for (text, count) in left {
        match count {
            1.. => return Err(format!("{what}: {text} is missing")),
            0 => {}
            _ if !known.contains_key(&text) => return Err(format!("{what}: {text} is wrong")),
            _ if once => return Err(format!("{what}: {text} is there {} times too often", -count)),
            _ => {}
        }
    }
    Ok(())
}
