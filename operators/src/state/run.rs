//! [`Run`]: keyed state as it was at a barrier, or what has changed of it since the one before, as bytes by key group.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::versions::ReadValue;
use crate::{Fault, FaultKind, Result, Retry};

/// Entries of keyed state, encoded, by key group, so that another number of subtasks shares them out without decoding any.
///
/// Keyed state is saved as runs, one behind the other: a whole one, and for each later barrier what has changed since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Whether it is everything there was.
    pub whole: bool,
    pub(super) groups: BTreeMap<u32, Entries>,
}

/// The entries of a key group: first some are taken out, then others put in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entries {
    gone: Bytes,
    put: Bytes,
}

impl Run {
    /// Everything there is, in whatever form its operator gives it.
    pub fn whole_of(groups: BTreeMap<u32, Vec<u8>>) -> Run {
        let entries = |bytes: Vec<u8>| Entries { gone: Bytes::new(), put: bytes.into() };
        Run { whole: true, groups: groups.into_iter().map(|(group, bytes)| (group, entries(bytes))).collect() }
    }

    /// What was taken out and what was put in, by key group, in whatever form the operator gives it.
    #[cfg(feature = "columnar")]
    pub(crate) fn of_parts(whole: bool, gone: BTreeMap<u32, Vec<u8>>, put: BTreeMap<u32, Vec<u8>>) -> Run {
        let mut groups: BTreeMap<u32, Entries> = BTreeMap::new();
        for (group, bytes) in gone {
            groups.entry(group).or_default().gone = bytes.into();
        }
        for (group, bytes) in put {
            groups.entry(group).or_default().put = bytes.into();
        }
        Run { whole, groups }
    }

    /// What was taken out and then what was put in, of each key group.
    #[cfg(feature = "columnar")]
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.groups.values().map(|entries| (&entries.gone, &entries.put))
    }

    /// The bytes that it takes.
    pub fn weight(&self) -> usize {
        self.groups.values().map(|entries| entries.gone.len() + entries.put.len() + size_of::<u32>()).sum()
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// What was put in, by key group.
    pub(super) fn put(&self) -> impl Iterator<Item = &Bytes> {
        self.groups.values().map(|entries| &entries.put)
    }

    /// Gives it in parts, each of some key groups: where one of them has many bytes, so has its part.
    pub(crate) fn in_parts(self, give: &mut dyn FnMut(Run) -> Result) -> Result {
        let (whole, mut part) = (self.whole, Run { whole: self.whole, ..Run::default() });
        let (mut is_first, mut weight) = (true, 0);
        for (group, entries) in self.groups {
            weight += entries.gone.len() + entries.put.len();
            part.groups.insert(group, entries);
            if weight >= PART {
                (is_first, weight) = (false, 0);
                give(std::mem::replace(&mut part, Run { whole, ..Run::default() }))?;
            }
        }
        if is_first || !part.is_empty() { give(part) } else { Ok(()) }
    }

    /// The parts of one run as one.
    pub(crate) fn joined(parts: Vec<Run>) -> Run {
        let mut joined = RunWriter::default();
        let whole = parts.iter().any(|part| part.whole);
        for (group, Entries { gone, put }) in parts.into_iter().flat_map(|part| part.groups) {
            let (all_gone, all_put) = joined.groups.entry(group).or_default();
            all_gone.extend_from_slice(&gone);
            all_put.extend_from_slice(&put);
        }
        joined.done(whole)
    }

    /// The part of it in some key groups.
    pub fn only(&self, mine: impl Fn(u32) -> bool) -> Run {
        let groups = self.groups.iter().filter(|(group, _)| mine(**group));
        Run { whole: self.whole, groups: groups.map(|(group, entries)| (*group, entries.clone())).collect() }
    }

    /// Plays it: calls `gone` with what was taken out and `put` with what was put in, in this order in each key group.
    pub(super) fn play<G: DeserializeOwned, P: DeserializeOwned>(
        &self,
        name: &str,
        into: &mut impl Replay<G, P>,
    ) -> Result {
        for entries in self.groups.values() {
            each(name, &entries.gone, |gone| into.gone(gone))?;
            each(name, &entries.put, |put| into.put(put))?;
        }
        Ok(())
    }
}

impl Run {
    /// As [`play`](Run::play), of keys and values, of which the values are read by `read`.
    pub(super) fn play_pairs<K: DeserializeOwned, S>(
        &self,
        name: &str,
        into: &mut impl Replay<K, (K, S)>,
        read: &ReadValue<S>,
    ) -> Result {
        for entries in self.groups.values() {
            each(name, &entries.gone, |gone| into.gone(gone))?;
            let mut rest: &[u8] = &entries.put;
            while let Some((pair, mut bytes)) = rest.split_first() {
                if *pair != PAIR {
                    return Err(unreadable(name, rmp_serde::decode::Error::Uncategorized("it is no pair".into())));
                }
                let key = rmp_serde::from_read(&mut bytes).map_err(|error| unreadable(name, error))?;
                let value = read(&mut bytes).map_err(|error| unreadable(name, error))?;
                into.put((key, value));
                rest = bytes;
            }
        }
        Ok(())
    }
}

/// Where a run is played to.
pub(super) trait Replay<G, P> {
    fn gone(&mut self, gone: G);
    fn put(&mut self, put: P);
}

fn each<T: DeserializeOwned>(name: &str, bytes: &[u8], mut take: impl FnMut(T)) -> Result {
    let mut rest = bytes;
    while !rest.is_empty() {
        take(rmp_serde::from_read(&mut rest).map_err(|error| unreadable(name, error))?);
    }
    Ok(())
}

/// A run as it grows.
#[derive(Default)]
pub(super) struct RunWriter {
    groups: BTreeMap<u32, (Vec<u8>, Vec<u8>)>,
}

/// What MessagePack says of two things that follow: an entry is a key and a value.
const PAIR: u8 = 0x92;
/// A part of a run has about so many bytes.
const PART: usize = 4 << 20;

/// A run that is given in parts, which say the same one behind the other.
pub(super) struct Parts<'a> {
    run: RunWriter,
    weight: usize,
    whole: bool,
    is_first: bool,
    give: &'a mut dyn FnMut(Run) -> Result,
}

impl<'a> Parts<'a> {
    pub(super) fn new(whole: bool, give: &'a mut dyn FnMut(Run) -> Result) -> Self {
        Parts { run: RunWriter::default(), weight: 0, whole, is_first: true, give }
    }

    pub(super) fn gone(&mut self, group: u32, encoded: &[u8]) -> Result {
        self.run.groups.entry(group).or_default().0.extend_from_slice(encoded);
        self.wrote(encoded.len())
    }

    pub(super) fn put(&mut self, group: u32, encoded_key: &[u8], encoded_value: &[u8]) -> Result {
        let entries = &mut self.run.groups.entry(group).or_default().1;
        entries.push(PAIR);
        entries.extend_from_slice(encoded_key);
        entries.extend_from_slice(encoded_value);
        self.wrote(1 + encoded_key.len() + encoded_value.len())
    }

    pub(super) fn encode_gone(&mut self, group: u32, gone: &impl Serialize) -> Result {
        let entries = &mut self.run.groups.entry(group).or_default().0;
        let before = entries.len();
        write(entries, gone)?;
        let written = entries.len() - before;
        self.wrote(written)
    }

    pub(super) fn encode(&mut self, group: u32, put: &impl Serialize) -> Result {
        let entries = &mut self.run.groups.entry(group).or_default().1;
        let before = entries.len();
        write(entries, put)?;
        let written = entries.len() - before;
        self.wrote(written)
    }

    fn wrote(&mut self, bytes: usize) -> Result {
        self.weight += bytes;
        if self.weight < PART { Ok(()) } else { self.part() }
    }

    fn part(&mut self) -> Result {
        (self.weight, self.is_first) = (0, false);
        (self.give)(std::mem::take(&mut self.run).done(self.whole))
    }

    /// Gives what is left; a run without entries has one part.
    pub(super) fn done(mut self) -> Result {
        if self.weight > 0 || self.is_first { self.part() } else { Ok(()) }
    }
}

impl RunWriter {
    pub(super) fn done(self, whole: bool) -> Run {
        let entries = |(gone, put): (Vec<u8>, Vec<u8>)| Entries { gone: gone.into(), put: put.into() };
        Run { whole, groups: self.groups.into_iter().map(|(group, both)| (group, entries(both))).collect() }
    }
}

/// Entries one behind the other: none has to be held twice.
pub(super) fn write(to: &mut Vec<u8>, entry: &impl Serialize) -> Result {
    rmp_serde::encode::write(to, entry)
        .map_err(|error| Fault::new(FaultKind::Checkpoint, "keyed state cannot be saved").because(error))
}

/// The bytes of a value of the piece of state `name`.
pub(super) fn encoded(name: &str, value: &impl Serialize) -> Result<Bytes> {
    let wrong = |error| Fault::new(FaultKind::Checkpoint, format!("state `{name}` cannot be saved")).because(error);
    rmp_serde::to_vec_named(value).map(Bytes::from).map_err(wrong)
}

/// The value that [`encoded`] made bytes of.
pub(super) fn decoded<S: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<S> {
    rmp_serde::from_slice(bytes).map_err(|error| unreadable(name, error))
}

pub(super) fn unreadable(name: &str, error: rmp_serde::decode::Error) -> Fault {
    let words = format!(
        "state `{name}` cannot be restored: if its type has changed, give it another version, and say how older values become such"
    );
    Fault::new(FaultKind::Checkpoint, words).because(error).retry_with(Retry::Never)
}
