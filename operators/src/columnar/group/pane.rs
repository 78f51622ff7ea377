//! [`Pane`]: groups that take rows in, and are put into a table when they must be looked at.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::codec::{KeyBytes, KeyCodec};
use super::groups::{Arriving, Before, Groups};
use super::kept::Kept;
use super::sealed::Sealed;
use super::table::Table;
use crate::state::Piece;
use crate::{Result, Run, Snapshot, Spill, StateVisitor, Timestamp};

/// The groups of some rows: those that have changed since they were last looked at take rows in, and all of them stand in a
/// table. A group that changes again goes on from what the table has of it, so when it was looked at does not matter.
///
/// At a barrier groups are sealed: a snapshot shares them as they are then, and they get into the table bit by bit with the rows
/// that come afterwards, so that nobody waits for a million of them.
pub(super) struct Pane {
    live: Option<Groups>,
    /// The last one last; of each, how many are in the table already.
    sealed: VecDeque<(Arc<Sealed>, usize)>,
    table: Table,
}

/// So many keys are looked at at once where all are.
const AT_ONCE: usize = 4_096;
/// For each row that comes so many of those that are sealed get into the table, and some for each batch.
const A_ROW: usize = if cfg!(test) { 0 } else { 2 };
const A_BATCH: usize = if cfg!(test) { 1 } else { 1_024 };
/// And at least such a part of them.
const A_SHARE: usize = 32;

impl Pane {
    pub(super) fn new(codec: &Arc<KeyCodec>) -> Self {
        Pane { live: None, sealed: VecDeque::new(), table: Table::new(Arc::clone(codec)) }
    }

    pub(super) fn take_in(&mut self, kept: &Kept, arriving: &Arriving<'_>) -> Result {
        self.make_room()?;
        if arriving.rows.is_empty() {
            return Ok(());
        }
        // So that layers do not pile up where much was sealed once and little comes since.
        let left: usize = self.sealed.iter().map(|(sealed, done)| sealed.len() - done).sum();
        self.unseal((A_BATCH + A_ROW * arriving.rows.len()).max(left / A_SHARE))?;
        let (live, sealed) = (self.live.as_ref(), &self.sealed);
        let is_here = |key: &[u8]| {
            live.is_some_and(|groups| groups.has(key)) || sealed.iter().any(|(sealed, _)| sealed.find(key).is_some())
        };
        let keys = arriving.rows.iter().map(|row| arriving.keys.get(*row as usize));
        self.table.bring(keys.filter(|key| !is_here(key)))?;
        let groups = match &mut self.live {
            Some(groups) => groups,
            live => live.insert(Groups::new(kept)?),
        };
        groups.take_in(arriving, Before { sealed, table: &self.table })
    }

    /// Puts so many more of what is sealed into the table.
    fn unseal(&mut self, mut most: usize) -> Result {
        // What was sealed last takes the place of what was sealed before.
        while most > 0
            && let Some((sealed, done)) = self.sealed.front_mut()
        {
            let (keys, states) = sealed.some(*done, most);
            *done += keys.len();
            most -= keys.len();
            self.table.put_saved(&keys, states)?;
            if *done == sealed.len() {
                self.sealed.pop_front();
            }
        }
        Ok(())
    }

    /// All of it as a table.
    pub(super) fn table(&mut self) -> Result<&mut Table> {
        self.unseal(usize::MAX)?;
        if let Some(groups) = self.live.take() {
            let sealed = groups.sealed()?;
            let (keys, states) = sealed.some(0, usize::MAX);
            self.table.put(&keys, states)?;
        }
        Ok(&mut self.table)
    }

    /// Lets rows go if many have come and do not fit. Groups that take rows in stand in the table before:
    /// what it has of them must not go.
    fn make_room(&mut self) -> Result {
        let live = self.live.as_ref().map_or(0, Groups::len);
        if self.table.grows_by(live) { self.table()?.let_go() } else { Ok(()) }
    }

    /// All keys.
    pub(super) fn keys(&mut self) -> Result<Vec<KeyBytes>> {
        Ok(self.table()?.all_keys())
    }

    /// Whether there are no groups but those that take rows in.
    fn is_live(&self) -> bool {
        self.table.is_empty() && self.sealed.is_empty() && self.live.is_some()
    }

    /// What is kept for some keys goes on under the name of another: each name comes with those that it is made of.
    pub(super) fn rename<'a>(
        &mut self,
        kept: &Kept,
        names: impl Iterator<Item = (&'a KeyBytes, &'a [KeyBytes])>,
    ) -> Result {
        let moves: Vec<_> = names.flat_map(|(name, made_of)| made_of.iter().map(move |from| (from, name))).collect();
        if moves.is_empty() {
            return Ok(());
        }
        self.make_room()?;
        let table = self.table()?;
        table.bring(moves.iter().map(|(from, _)| &***from))?;
        let found = moves.iter().filter_map(|(from, to)| Some((table.find(from)?, &***to)));
        let (places, to): (Vec<_>, Vec<_>) = found.unzip();
        let states = table.values(&places)?;
        table.remove(moves.iter().map(|(from, _)| *from));
        let mut groups = Groups::new(kept)?;
        groups.absorb(to, &states)?;
        self.live = Some(groups);
        Ok(())
    }

    /// Adds these keys, or all of them, to others.
    pub(super) fn add_to(&mut self, groups: &mut Groups, only: Option<&[KeyBytes]>) -> Result {
        self.make_room()?;
        let table = self.table()?;
        match only {
            Some(only) => table.bring(only.iter().map(|key| &**key))?,
            None => table.bring_all()?,
        }
        let (mut keys, mut places) = (Vec::new(), Vec::new());
        let mut add = |key| {
            if let Some(place) = table.find(key) {
                keys.push(key);
                places.push(place);
            }
        };
        match only {
            Some(only) => only.iter().for_each(|key| add(&**key)),
            None => table.keys().for_each(|key| add(&**key)),
        }
        groups.absorb(keys, &table.values(&places)?)
    }

    /// What note number `note` says of some keys, as far as something is kept of them.
    pub(super) fn noted_of<'k>(
        &mut self,
        kept: &Kept,
        keys: &BTreeSet<&'k [u8]>,
        note: usize,
    ) -> Result<Vec<(&'k [u8], i64)>> {
        self.make_room()?;
        let table = self.table()?;
        table.bring(keys.iter().copied())?;
        let found = keys.iter().filter_map(|key| Some((*key, table.find(key)?)));
        let (keys, places): (Vec<_>, Vec<_>) = found.unzip();
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let notes = kept.note_of(&table.values(&places)?, note)?;
        Ok(keys.into_iter().zip(notes.values().iter().copied()).collect())
    }

    /// What note number `note` says of each key.
    pub(super) fn noted(&mut self, kept: &Kept, note: usize) -> Result<Vec<(KeyBytes, Timestamp)>> {
        let table = self.table()?;
        let mut all = Vec::new();
        // Some at a time: they may be more than fit in memory.
        for some in table.all_keys().chunks(AT_ONCE) {
            table.bring(some.iter().map(|key| &**key))?;
            let found = some.iter().filter_map(|key| Some((key.clone(), table.find(key)?)));
            let (keys, places): (Vec<_>, Vec<_>) = found.unzip();
            let notes = kept.note_of(&table.values(&places)?, note)?;
            all.extend(keys.into_iter().zip(notes.values().iter().copied().map(Timestamp::from_micros)));
            if table.has_grown() {
                table.let_go()?;
            }
        }
        Ok(all)
    }

    /// Takes some keys out.
    pub(super) fn remove(&mut self, keys: &[KeyBytes]) -> Result {
        self.make_room()?;
        let table = self.table()?;
        table.bring(keys.iter().map(|key| &**key))?;
        table.remove(keys);
        Ok(())
    }
}

impl Piece for Pane {
    fn freeze(&mut self) -> Result<Box<dyn Snapshot>> {
        let fresh = self.live.take().map(Groups::sealed).transpose()?.filter(|sealed| sealed.len() > 0).map(Arc::new);
        let is_fresh = fresh.is_some();
        self.sealed.extend(fresh.map(|sealed| (sealed, 0)));
        self.table.freeze(self.sealed.iter().map(|(sealed, _)| Arc::clone(sealed)).collect(), is_fresh)
    }

    fn fit(&mut self, spill: &Arc<Spill>) -> Result<bool> {
        self.table()?.fit(spill)
    }

    fn play(&mut self, run: &Run) -> Result {
        self.table.play(run)
    }
}

/// The groups of all pieces of time that are open, by where these begin.
pub(super) struct Panes {
    codec: Arc<KeyCodec>,
    panes: BTreeMap<i64, Pane>,
}

impl Panes {
    pub(super) fn new(codec: Arc<KeyCodec>) -> Self {
        Panes { codec, panes: BTreeMap::new() }
    }

    /// The pane that begins at `start`.
    pub(super) fn at(&mut self, start: i64) -> &mut Pane {
        self.panes.entry(start).or_insert_with(|| Pane::new(&self.codec))
    }

    /// Where the panes begin that hold rows, from `from` on.
    pub(super) fn starts_from(&self, from: i64) -> impl Iterator<Item = i64> {
        self.panes.range(from..).map(|(pane, _)| *pane)
    }

    /// Forgets the first pane if `is_gone` says so of where it begins; whether it did.
    pub(super) fn forget_first(&mut self, is_gone: impl Fn(i64) -> bool) -> bool {
        match self.panes.first_entry() {
            Some(entry) if is_gone(*entry.key()) => {
                entry.remove();
                true
            }
            _ => false,
        }
    }

    /// The groups of the panes that begin in `from..to`, put together: of these keys only, if they are told. The panes stay
    /// unless they are no longer needed.
    pub(super) fn together(
        &mut self,
        kept: &Kept,
        (from, to): (i64, i64),
        only: Option<&[KeyBytes]>,
        needed: bool,
    ) -> Result<Groups> {
        let starts: Vec<i64> = self.starts_from(from).take_while(|start| *start < to).collect();
        if let ([start], false) = (starts.as_slice(), needed)
            && self.panes.get(start).is_some_and(Pane::is_live)
            && let Some(groups) = self.panes.remove(start).and_then(|pane| pane.live)
        {
            return Ok(groups);
        }
        let mut groups = Groups::new(kept)?;
        for start in starts {
            if let Some(pane) = self.panes.get_mut(&start) {
                pane.add_to(&mut groups, only)?;
            }
        }
        Ok(groups)
    }

    /// All keys of the panes that begin in `from..to` if some are not in memory.
    pub(super) fn keys_if_away(&mut self, (from, to): (i64, i64)) -> Result<Option<BTreeSet<KeyBytes>>> {
        if !self.panes.range(from..to).any(|(_, pane)| pane.table.has_away()) {
            return Ok(None);
        }
        let mut keys = BTreeSet::new();
        for (_, pane) in self.panes.range_mut(from..to) {
            keys.extend(pane.keys()?);
        }
        Ok(Some(keys))
    }

    /// Where all panes begin.
    pub(super) fn starts(&self) -> Vec<i64> {
        self.panes.keys().copied().collect()
    }

    /// Lists them among the state of an operator. True if those that were saved have come back.
    pub(super) fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result<bool> {
        let codec = &self.codec;
        visit.pane_pieces("panes", &mut self.panes, || Pane::new(codec))
    }
}
