//! [`StateVisitor`]: how an operator lists its state, once, so that saving and restoring cannot drift apart.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Keyed, Saved, StateKey, Timers};
use crate::{Fault, FaultKind, KeyGroup, Result, Timestamp};

/// Visits each piece of an operator's state, to save it or to put it back. The name of a piece finds it again after a
/// restart, so it must stay as it is.
///
/// ```
/// use millstream_operators::{Keyed, Result, Saved, StateVisitor};
/// #[derive(Default)]
/// struct Counts { total: u64, of_key: Keyed<String, u64> }
/// impl Counts {
///     fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
///         visit.value("total", &mut self.total)?;
///         visit.keyed("of_key", &mut self.of_key)
///     }
/// }
/// let (mut counts, mut saved) = (Counts::default(), Saved::default());
/// counts.of_key.insert("a".to_owned(), 7);
/// counts.state(&mut StateVisitor::save(&mut saved, 128)).unwrap();
/// let mut restored = Counts::default();
/// restored.state(&mut StateVisitor::restore(&saved)).unwrap();
/// assert_eq!(restored.of_key.get(&"a".to_owned()), Some(&7));
/// ```
pub struct StateVisitor<'a>(Mode<'a>);

enum Mode<'a> {
    Save(&'a mut Saved, u32),
    Restore(&'a Saved),
}

impl<'a> StateVisitor<'a> {
    /// Saves what is visited; keyed state is shared out in so many key groups.
    pub fn save(to: &'a mut Saved, key_groups: u32) -> Self {
        StateVisitor(Mode::Save(to, key_groups))
    }

    /// Puts what was saved back into what is visited; what was not saved is left as it is.
    pub fn restore(from: &'a Saved) -> Self {
        StateVisitor(Mode::Restore(from))
    }

    /// Visits a value that belongs to the subtask as a whole. A node with such state keeps its number of subtasks.
    ///
    /// # Errors
    /// A checkpoint fault when the value cannot be encoded, or when what was saved does not decode as an `S`.
    pub fn value<S: Serialize + DeserializeOwned>(&mut self, name: &str, value: &mut S) -> Result {
        match &mut self.0 {
            Mode::Save(saved, _) => {
                saved.values.insert(name.to_owned(), encoded(name, value)?);
            }
            Mode::Restore(saved) => {
                if let Some(bytes) = saved.values.get(name) {
                    *value = decoded(name, bytes)?;
                }
            }
        }
        Ok(())
    }

    /// Visits how far event time has come. Where the number of subtasks changes, each gets the earliest.
    ///
    /// # Errors
    /// None today.
    pub fn time(&mut self, name: &str, time: &mut Timestamp) -> Result {
        let mut times = BTreeMap::from([(String::new(), *time)]);
        self.times(name, &mut times)?;
        if let Some(restored) = times.get("") {
            *time = *restored;
        }
        Ok(())
    }

    /// As [`time`](StateVisitor::time), of several things that are told apart.
    ///
    /// # Errors
    /// None today.
    pub fn times(&mut self, name: &str, times: &mut BTreeMap<String, Timestamp>) -> Result {
        match &mut self.0 {
            Mode::Save(saved, _) => {
                saved.times.insert(name.to_owned(), times.clone());
            }
            Mode::Restore(saved) => {
                if let Some(saved) = saved.times.get(name) {
                    times.clone_from(saved);
                }
            }
        }
        Ok(())
    }

    /// Visits a value for each key. Where the number of subtasks changes, each gets those of its key groups.
    ///
    /// # Errors
    /// As [`value`](StateVisitor::value).
    pub fn keyed<K: StateKey, S: Serialize + DeserializeOwned>(
        &mut self,
        name: &str,
        keyed: &mut Keyed<K, S>,
    ) -> Result {
        let entries = matches!(self.0, Mode::Save(..)).then(|| keyed.sorted());
        if let Some(restored) = self.entries(name, entries.into_iter().flatten())? {
            *keyed = restored.into_iter().collect();
        }
        Ok(())
    }

    /// Visits timers; they go with their keys.
    ///
    /// # Errors
    /// As [`value`](StateVisitor::value).
    pub fn timers<K: StateKey>(&mut self, name: &str, timers: &mut Timers<K>) -> Result {
        let entries = matches!(self.0, Mode::Save(..)).then(|| timers.sorted());
        if let Some(restored) = self.entries::<K, Timestamp, _>(name, entries.into_iter().flatten())? {
            *timers = restored.into_iter().map(|(key, at)| (at, key)).collect();
        }
        Ok(())
    }

    /// Visits state that an operator encodes by itself: `save` gives the bytes of each key group when there is something to
    /// save; otherwise those that were saved come back.
    ///
    /// # Errors
    /// What `save` says.
    pub fn groups(
        &mut self,
        name: &str,
        save: impl FnOnce(u32) -> Result<BTreeMap<u32, Vec<u8>>>,
    ) -> Result<Option<Vec<Bytes>>> {
        match &mut self.0 {
            Mode::Save(saved, key_groups) => {
                let groups = save(*key_groups)?;
                let groups = groups.into_iter().map(|(group, bytes)| (group, Bytes::from(bytes))).collect();
                saved.groups.insert(name.to_owned(), groups);
                Ok(None)
            }
            Mode::Restore(saved) => Ok(saved.groups.get(name).map(|groups| groups.values().cloned().collect())),
        }
    }

    /// Visits whatever an operator keeps as entries with a key each: saves those that it is given, which must be in an
    /// order that depends on what they are alone, or gives those that were saved.
    ///
    /// # Errors
    /// As [`value`](StateVisitor::value).
    pub fn entries<K: StateKey, S, B>(
        &mut self,
        name: &str,
        entries: impl IntoIterator<Item = (K, B)>,
    ) -> Result<Option<Vec<(K, S)>>>
    where
        S: Serialize + DeserializeOwned,
        B: Serialize,
    {
        match &mut self.0 {
            Mode::Save(saved, key_groups) => {
                let mut groups: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
                for (key, value) in entries {
                    let group = groups.entry(KeyGroup::of(&key, *key_groups).0).or_default();
                    // Entries one behind the other: none has to be held twice before it is encoded.
                    rmp_serde::encode::write(group, &(key, value)).map_err(|error| wrong("saved", name, error))?;
                }
                let groups = groups.into_iter().map(|(group, entries)| (group, Bytes::from(entries))).collect();
                saved.groups.insert(name.to_owned(), groups);
                Ok(None)
            }
            Mode::Restore(saved) => {
                let Some(groups) = saved.groups.get(name) else { return Ok(None) };
                let mut entries = Vec::new();
                for bytes in groups.values() {
                    let mut rest: &[u8] = bytes;
                    while !rest.is_empty() {
                        let entry = rmp_serde::from_read(&mut rest);
                        entries.push(entry.map_err(|error| unreadable(name, error))?);
                    }
                }
                Ok(Some(entries))
            }
        }
    }
}

fn encoded(name: &str, value: &impl Serialize) -> Result<Bytes> {
    rmp_serde::to_vec_named(value).map(Bytes::from).map_err(|error| wrong("saved", name, error))
}

fn decoded<S: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<S> {
    rmp_serde::from_slice(bytes).map_err(|error| unreadable(name, error))
}

fn unreadable(name: &str, error: rmp_serde::decode::Error) -> Fault {
    wrong("restored", name, error).retry_with(crate::Retry::Never)
}

fn wrong(done: &str, name: &str, error: impl std::error::Error + Send + Sync + 'static) -> Fault {
    Fault::new(FaultKind::Checkpoint, format!("state `{name}` cannot be {done}")).because(error)
}

impl fmt::Debug for StateVisitor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Mode::Save(..) => "StateVisitor(save)",
            Mode::Restore(_) => "StateVisitor(restore)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_saved_is_left_as_it_is() {
        let mut value = 5u8;
        StateVisitor::restore(&Saved::default()).value("n", &mut value).unwrap();
        assert_eq!(value, 5);
    }

    #[test]
    fn a_value_of_another_type_is_a_fault_that_names_it() {
        let mut saved = Saved::default();
        StateVisitor::save(&mut saved, 128).value("n", &mut String::from("seven")).unwrap();
        let fault = StateVisitor::restore(&saved).value("n", &mut 0u64).unwrap_err();
        assert_eq!((fault.kind(), fault.to_string().contains("`n`")), (FaultKind::Checkpoint, true));
    }

    #[test]
    fn keyed_state_of_another_type_is_a_fault_that_names_it() {
        let mut saved = Saved::default();
        let mut words: Keyed<u64, String> = [(1, "one".to_owned())].into_iter().collect();
        StateVisitor::save(&mut saved, 128).keyed("words", &mut words).unwrap();
        let fault = StateVisitor::restore(&saved).keyed("words", &mut Keyed::<u64, u64>::default()).unwrap_err();
        assert!(fault.to_string().contains("`words`"), "{fault}");
    }
}
