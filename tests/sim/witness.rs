//! [`Witness`]: judges what processes say at the moment when they say it, by what stands in the broker then.
//!
//! An acknowledgement is sent only when a checkpoint holds what it is for (P11), and at least once then means that all
//! outputs before are stored; checkpoints never go back (P10); outputs are repeated only of what no checkpoint holds (P2).

use std::collections::{BTreeMap, BTreeSet};

use millstream::broker::Embedded;
use serde::Deserialize;
use serde_json::Value;

use super::oracle::Event;
use super::scenario::Scenario;

/// What is known, and what was seen to be wrong first.
pub(super) struct Witness {
    broker: Embedded,
    /// By sequence, from 1 on.
    due: Vec<Due>,
    sequences: BTreeMap<u64, u64>,
    // Of an event, by the total that it makes of its key.
    totals: BTreeMap<(u64, u64), u64>,
    /// Whether every output must be stored when its event is acknowledged.
    stores_before: bool,
    /// Whether outputs are repeated only of events that no checkpoint holds, and whether readers never begin before what is
    /// acknowledged: of instances beside each other neither is so.
    repeats_behind: bool,
    alone: bool,
    newest: (u64, Kept),
    /// The sequence of the last event that is acknowledged, of the last whose outputs were looked for, and how far the
    /// streams of outputs were read.
    acked: u64,
    stored: u64,
    read: [u64; 3],
    there: There,
    /// How many acknowledgements were judged, and the last checkpoint.
    pub(super) acks: u64,
    wrong: Option<String>,
}

/// What must be stored of an event.
struct Due {
    payload: String,
    dead: bool,
    id: u64,
    total: (u64, u64),
}

#[derive(Default)]
struct There {
    ids: BTreeSet<u64>,
    totals: BTreeSet<(u64, u64)>,
    dead: BTreeSet<String>,
}

/// What the newest checkpoint holds: its number, and up to which sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kept {
    epoch: u64,
    sequence: u64,
}

impl Witness {
    pub(super) fn of(scenario: &Scenario, broker: Embedded) -> Self {
        let mut counts = BTreeMap::<u64, u64>::new();
        let mut due = |event: &Event| {
            let count = counts.entry(event.key).or_default();
            *count += u64::from(!event.is_dead());
            Due { payload: event.payload(), dead: event.is_dead(), id: event.id, total: (event.key, *count) }
        };
        let due: Vec<Due> = scenario.events.iter().map(&mut due).collect();
        let least = !scenario.once && !scenario.stateless;
        Witness {
            broker,
            totals: due
                .iter()
                .zip(1..)
                .filter(|(due, _)| !due.dead)
                .map(|(due, sequence)| (due.total, sequence))
                .collect(),
            sequences: due.iter().zip(1..).map(|(due, sequence)| (due.id, sequence)).collect(),
            due,
            stores_before: least,
            repeats_behind: least && !scenario.is_late(),
            alone: !scenario.is_contested(),
            newest: (0, Kept::default()),
            acked: 0,
            stored: 0,
            read: [1; 3],
            there: There::default(),
            acks: 0,
            wrong: None,
        }
    }

    /// What was wrong first, if anything was.
    pub(super) fn verdict(&self) -> Result<(), String> {
        self.wrong.clone().map_or(Ok(()), Err)
    }

    /// Up to which sequence the newest checkpoint goes, if there is one.
    pub(super) fn kept(&mut self) -> Option<u64> {
        self.look();
        (self.newest.0 > 0).then_some(self.newest.1.sequence)
    }

    /// A process is about to say this.
    pub(super) fn hear(&mut self, subject: &str, payload: &[u8]) {
        if let Some(delivery) = subject.strip_prefix("$JS.ACK.IN.") {
            let sequence = delivery.split('.').nth(2).and_then(|sequence| sequence.parse().ok());
            if let (Some(sequence), b"+ACK") = (sequence, payload) {
                self.on_ack(sequence);
            }
        } else if subject.starts_with("$JS.API.CONSUMER.RESET.IN.") {
            if let Some(next) = number(payload, "seq") {
                self.on_reset(next);
            }
        } else if subject == "out.all" && self.repeats_behind {
            let sequence = number(payload, "id").and_then(|id| self.sequences.get(&id).copied());
            self.on_output(sequence.unwrap_or(u64::MAX));
        } else if subject == "totals.all" && self.repeats_behind {
            let total = number(payload, "key").zip(number(payload, "count"));
            self.on_output(total.and_then(|total| self.totals.get(&total).copied()).unwrap_or(u64::MAX));
        }
    }

    fn on_ack(&mut self, sequence: u64) {
        self.look();
        self.acks += 1;
        self.acked = self.acked.max(sequence);
        let Kept { epoch, sequence: kept } = self.newest.1;
        if kept < sequence {
            self.is_wrong(format!("P11: message {sequence} is acknowledged, and checkpoint {epoch} goes up to {kept}"));
        } else if self.stores_before && self.stored < sequence {
            self.read();
            while self.stored < sequence {
                let Some(due) = usize::try_from(self.stored).ok().and_then(|place| self.due.get(place)) else { break };
                if !self.there.has(due) {
                    let words = format!(
                        "P11: message {sequence} is acknowledged, and what comes of message {} is not stored",
                        self.stored + 1
                    );
                    return self.is_wrong(words);
                }
                self.stored += 1;
            }
        }
    }

    fn on_reset(&mut self, next: u64) {
        if self.alone && next <= self.acked {
            self.is_wrong(format!("P10: a run reads from {next} on, and {} is acknowledged", self.acked));
        }
    }

    fn on_output(&mut self, sequence: u64) {
        self.look();
        let Kept { epoch, sequence: kept } = self.newest.1;
        if sequence <= kept {
            let words = format!("P2: message {sequence} is worked on again, and checkpoint {epoch} goes up to {kept}");
            self.is_wrong(words);
        }
    }

    /// Takes note of the newest checkpoint, which is none from before.
    pub(super) fn look(&mut self) {
        let checkpoint = self.broker.last_message("KV_mill_sim", "$KV.mill_sim.ckpt");
        let marker = self.broker.last_message("ROWS", "mill.txn.sim.out.0");
        let place = |found: &Option<(u64, _)>| found.as_ref().map_or(0, |(sequence, _)| *sequence);
        // Both only grow.
        let revision = place(&checkpoint) + place(&marker);
        if revision == self.newest.0 {
            return;
        }
        let (_, before) = self.newest;
        let mut kept = match &checkpoint {
            Some((_, bytes)) => read_manifest(bytes).unwrap_or(before),
            None => before,
        };
        if let Some(marked) = marker.and_then(|(_, bytes)| read_marker(&bytes)) {
            kept.sequence = kept.sequence.max(marked);
        }
        self.newest = (revision, kept);
        if kept.epoch < before.epoch || kept.sequence < before.sequence.max(self.acked) {
            self.is_wrong(format!("P10: {kept:?} is stored behind {before:?}, and {} is acknowledged", self.acked));
        }
    }

    fn read(&mut self) {
        let [outs, totals, dead] = &mut self.read;
        for (stream, next) in [("OUT", outs), ("TOTALS", totals), ("DEAD", dead)] {
            for (sequence, subject, payload) in self.broker.messages(stream, *next) {
                *next = sequence + 1;
                match (subject.as_str(), number(&payload, "id"), number(&payload, "key"), number(&payload, "count")) {
                    ("out.all", Some(id), ..) => _ = self.there.ids.insert(id),
                    ("totals.all", _, Some(key), Some(count)) => _ = self.there.totals.insert((key, count)),
                    ("out.all" | "totals.all", ..) => {}
                    _ => _ = self.there.dead.insert(String::from_utf8_lossy(&payload).into_owned()),
                }
            }
        }
    }

    fn is_wrong(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }
}

impl There {
    fn has(&self, due: &Due) -> bool {
        match due.dead {
            true => self.dead.contains(&due.payload),
            false => self.ids.contains(&due.id) && self.totals.contains(&due.total),
        }
    }
}

#[derive(Deserialize)]
struct Manifest {
    epoch: u64,
    sources: Value,
}

#[derive(Deserialize)]
struct Marker {
    positions: Option<Value>,
}

fn read_manifest(bytes: &[u8]) -> Option<Kept> {
    let manifest = manifest_of(bytes)?;
    Some(Kept { epoch: manifest.epoch, sequence: sequence_of(&manifest.sources, "events")? })
}

fn manifest_of(bytes: &[u8]) -> Option<Manifest> {
    let start = bytes.iter().position(|byte| *byte == b'\n')? + 1;
    serde_json::from_slice(bytes.get(start..)?).ok()
}

/// Up to which sequence of its stream a checkpoint has what a source read.
pub(super) fn reaches(bytes: &[u8], source: &str) -> Option<u64> {
    sequence_of(&manifest_of(bytes)?.sources, source)
}

fn read_marker(bytes: &[u8]) -> Option<u64> {
    let marker: Marker = serde_json::from_slice(bytes).ok()?;
    sequence_of(&marker.positions?, "events")
}

/// Where a source stands.
fn sequence_of(sources: &Value, name: &str) -> Option<u64> {
    sources.get(name)?.get(0)?.get("position")?.get("sequence")?.as_u64()
}

/// A number of a JSON object that is written without spaces.
fn number(payload: &[u8], name: &str) -> Option<u64> {
    let text = std::str::from_utf8(payload).ok()?;
    let (_, rest) = text.split_once(&format!("\"{name}\":"))?;
    let end = rest.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}
