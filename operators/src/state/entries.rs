//! [`AwayEntries`]: entries of bytes that are in a table outside of memory, and [`FrozenEntries`], those at a barrier.

use std::sync::Arc;

use super::long_keys::{apart, entry, group_of, placed};
use super::notes::{Notes, is_note};
use super::spill::{Spill, SpillTable, SpillView};
use crate::Result;

/// Entries by a key group and a key, of bytes. What the table says that is an error is kept by the [`Spill`], and the entry
/// counts as missing.
pub(crate) struct AwayEntries {
    spill: Arc<Spill>,
    // Made when something goes there.
    table: Option<Box<dyn SpillTable>>,
    entries: usize,
    // What is on its way there.
    leaving: Vec<(Vec<u8>, Vec<u8>)>,
    // The keys that have changed since the last snapshot and are in memory no more.
    notes: Notes,
    // The bytes of memory that the owner was last known to hold.
    held: usize,
}

/// So many entries go to the table at once.
const AT_ONCE: usize = 4_096;

/// The key of an entry: there are 32768 key groups at most.
pub(crate) fn key_of(group: u32, key: &[u8]) -> Vec<u8> {
    let group = u16::try_from(group).unwrap_or(u16::MAX - 1);
    [&group.to_be_bytes()[..], key].concat()
}

impl AwayEntries {
    pub(crate) fn new(spill: Arc<Spill>) -> Self {
        let (leaving, notes) = (Vec::new(), Notes::default());
        AwayEntries { spill, table: None, entries: 0, leaving, notes, held: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    pub(crate) fn key_groups(&self) -> u32 {
        self.spill.key_groups()
    }

    pub(crate) fn or_fault<T>(&self, result: Result<T>) -> Option<T> {
        self.spill.or_fault(result)
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        // What was never there is not looked for.
        let table = self.table.as_ref().filter(|_| self.entries > 0)?;
        let place = placed(key);
        let value = self.spill.or_fault(table.get(&place))??;
        match place {
            std::borrow::Cow::Borrowed(_) => Some(value),
            std::borrow::Cow::Owned(place) => Some(apart(&place, &value).2.to_vec()),
        }
    }

    /// Takes a value out.
    pub(crate) fn take(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let value = self.get(key)?;
        let removed = self.table.as_mut()?.remove(placed(key).into_owned());
        self.spill.or_fault(removed)?;
        self.counts(self.entries.saturating_sub(1));
        Some(value)
    }

    /// Takes an entry, which is there when all are [`sent`](AwayEntries::send).
    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.leaving.push(entry(key, value));
        if self.leaving.len() >= AT_ONCE {
            self.send();
        }
    }

    /// Puts into the table what was taken since the last call.
    pub(crate) fn send(&mut self) {
        let leaving = std::mem::take(&mut self.leaving);
        let entries = self.entries + leaving.len();
        if !leaving.is_empty() {
            self.add(leaving);
            self.counts(entries);
        }
    }

    fn add(&mut self, entries: Vec<(Vec<u8>, Vec<u8>)>) {
        if self.table.is_none() {
            self.table = self.spill.or_fault(self.spill.table());
        }
        let put = self.table.as_mut().map(|table| table.put(entries));
        put.and_then(|put| self.spill.or_fault(put));
    }

    fn counts(&mut self, entries: usize) {
        self.spill.stores(self.entries, entries);
        self.entries = entries;
    }

    /// Notes that a key has changed.
    pub(crate) fn note(&mut self, key: &[u8]) {
        if let Some(piece) = self.notes.note(key) {
            self.add(vec![piece]);
        }
    }

    /// Gives all entries: the key group, the key, the value.
    pub(crate) fn each(&self, mut give: impl FnMut(u32, &[u8], &[u8]) -> Result) {
        let read = self.table.as_ref().map(|table| each(&**table, &mut give));
        read.and_then(|read| self.spill.or_fault(read));
    }

    /// Forgets all of them, and what was noted.
    pub(crate) fn clear(&mut self) {
        (self.table, self.notes) = (None, Notes::default());
        self.counts(0);
    }

    /// The owner holds so many bytes of memory; how many of them it should let go of.
    pub(crate) fn excess(&mut self, held: usize) -> usize {
        self.spill.holds(self.held, held);
        self.held = held;
        self.spill.excess(held)
    }

    /// The entries as they are now, and what was noted since the last call.
    pub(crate) fn freeze(&mut self) -> Result<FrozenEntries> {
        let notes = std::mem::take(&mut self.notes);
        let view = self.table.as_ref().map(|table| table.view()).transpose()?;
        if let Some(table) = &mut self.table {
            // They stay in the view.
            notes.places().try_for_each(|place| table.remove(place))?;
        }
        Ok(FrozenEntries { view, entries: self.entries, notes })
    }
}

impl Drop for AwayEntries {
    fn drop(&mut self) {
        self.spill.holds(self.held, 0);
        self.spill.stores(self.entries, 0);
    }
}

/// The entries that were in a table at a barrier.
pub(crate) struct FrozenEntries {
    view: Option<Box<dyn SpillView>>,
    pub(crate) entries: usize,
    notes: Notes,
}

impl FrozenEntries {
    /// Gives all entries: the key group, the key, the value.
    pub(crate) fn each(&self, mut give: impl FnMut(u32, &[u8], &[u8]) -> Result) -> Result {
        self.view.as_ref().map_or(Ok(()), |view| each(&**view, &mut give))
    }

    /// Gives the keys that were noted, once each or more often, with their values if they are in the table: the key group, the
    /// key, the value.
    pub(crate) fn each_noted(&self, mut give: impl FnMut(u32, &[u8], Option<&[u8]>) -> Result) -> Result {
        let view = self.view.as_deref();
        self.notes.each(view, |noted| {
            let ((group, key), place) = (group_of(noted), placed(noted));
            let value = view.map(|view| view.get(&place)).transpose()?.flatten();
            give(group, key, value.as_deref().map(|value| apart(&place, value).2))
        })
    }
}

/// Takes a key group, a key and a value.
type Give<'a> = dyn FnMut(u32, &[u8], &[u8]) -> Result + 'a;

fn each(view: &(impl SpillView + ?Sized), give: &mut Give<'_>) -> Result {
    view.scan(&mut |place, value| {
        if is_note(place) {
            return Ok(());
        }
        let (group, key, value) = apart(place, value);
        give(group, key, value)
    })
}
