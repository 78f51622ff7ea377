//! [`Panes`]: the groups of each piece of time that windows share.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::Field;
use bytes::Bytes;

use super::calls::Aggregates;
use super::codec::{KeyBytes, KeyCodec, RowKeys};
use super::groups::{Arriving, Frozen, Groups};
use crate::{Result, Timestamp};

/// The groups of a piece of time: those that take rows in, and those that were saved and not needed since.
#[derive(Default)]
struct Pane {
    live: Option<Groups>,
    frozen: Vec<Arc<Frozen>>,
}

/// What makes bytes of groups, by key group.
type Save = Box<dyn FnOnce(u32) -> Result<BTreeMap<u32, Vec<u8>>> + Send>;

/// The groups of all pieces of time that are open, by where these begin.
pub(super) struct Panes {
    aggregates: Aggregates,
    codec: Arc<KeyCodec>,
    panes: BTreeMap<i64, Pane>,
}

impl Panes {
    pub(super) fn new(aggregates: Aggregates, keys: &[Field]) -> Result<Self> {
        let states = aggregates.state_fields()?.into_iter().flatten().enumerate();
        let states = states.map(|(n, field)| field.as_ref().clone().with_name(format!("state{n}")).with_nullable(true));
        Ok(Panes { codec: Arc::new(KeyCodec::new(keys, states.collect())?), aggregates, panes: BTreeMap::new() })
    }

    /// The keys of rows with these columns.
    pub(super) fn keys(&self, columns: &[ArrayRef]) -> Result<RowKeys> {
        self.codec.keys(columns)
    }

    /// Takes rows into the panes that `of_pane` tells, of `total` rows in all.
    pub(super) fn take_in(
        &mut self,
        keys: &RowKeys,
        of_pane: &BTreeMap<i64, Vec<u32>>,
        columns: Vec<ArrayRef>,
        total: usize,
    ) -> Result {
        let columns = self.aggregates.arranged(columns)?;
        for (pane, rows) in of_pane {
            let arriving = Arriving { keys, rows, columns: &columns, all: rows.len() == total };
            self.panes.entry(*pane).or_default().thawed(&self.aggregates)?.take_in(&arriving)?;
        }
        Ok(())
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

    /// The keys and results of the panes that begin in `from..to`, put together, in the order of keys; the panes stay
    /// unless they are no longer needed.
    pub(super) fn results(&mut self, from: i64, to: i64, needed: bool) -> Result<(Vec<KeyBytes>, Vec<ArrayRef>)> {
        let starts: Vec<i64> = self.starts_from(from).take_while(|start| *start < to).collect();
        if let ([only], false) = (starts.as_slice(), needed)
            && let Some(mut pane) = self.panes.remove(only)
        {
            pane.thawed(&self.aggregates)?;
            return pane.live.map_or_else(|| Ok((Vec::new(), Vec::new())), Groups::results);
        }
        let mut groups = Groups::new(&self.aggregates)?;
        for start in starts {
            if let Some(pane) = self.panes.get_mut(&start) {
                pane.freeze()?;
                pane.frozen.iter().try_for_each(|frozen| groups.absorb(frozen))?;
            }
        }
        groups.results()
    }

    /// Keys as columns, and what the calls gave for them as the columns of the outputs.
    pub(super) fn outputs(
        &self,
        keys: &[KeyBytes],
        given: Vec<ArrayRef>,
        now: Timestamp,
    ) -> Result<(Vec<ArrayRef>, Vec<ArrayRef>)> {
        Ok((self.codec.columns(keys)?, self.aggregates.outputs(given, now)?))
    }

    /// The groups of a pane as they are now: how many, and what makes bytes of them by key group.
    pub(super) fn freeze(&mut self, pane: i64) -> Result<(usize, Save)> {
        let codec = Arc::clone(&self.codec);
        let pane = self.panes.entry(pane).or_default();
        pane.freeze()?;
        let all = pane.frozen.clone();
        let count = all.iter().map(|frozen| frozen.keys.len()).sum();
        let save: Save = Box::new(move |key_groups| {
            let rows = all.iter().map(|frozen| codec.rows(&frozen.keys, frozen.states.iter().flatten().cloned()));
            codec.save(&rows.collect::<Result<Vec<_>>>()?, key_groups)
        });
        Ok((count, save))
    }

    /// Where all panes begin.
    pub(super) fn starts(&self) -> Vec<i64> {
        self.panes.keys().copied().collect()
    }

    /// Puts back the panes that were saved.
    pub(super) fn restore(&mut self, saved: Vec<(i64, Vec<Bytes>)>) -> Result {
        self.panes.clear();
        let counts: Vec<usize> = self.aggregates.state_fields()?.iter().map(Vec::len).collect();
        for (pane, groups) in saved {
            let pane = self.panes.entry(pane).or_default();
            for bytes in groups {
                for (keys, columns) in self.codec.restore(&bytes)? {
                    let rows = columns.first().map_or(0, |column| column.len());
                    let keys = (0..rows).map(|row| keys.get(row).into()).collect();
                    let mut columns = columns.into_iter();
                    let states = counts.iter().map(|count| columns.by_ref().take(*count).collect()).collect();
                    pane.frozen.push(Arc::new(Frozen { keys, states }));
                }
            }
        }
        Ok(())
    }
}

impl Pane {
    /// The groups that take rows in.
    fn thawed(&mut self, aggregates: &Aggregates) -> Result<&mut Groups> {
        let groups = match self.live.take() {
            Some(groups) => groups,
            None => Groups::new(aggregates)?,
        };
        let groups = self.live.insert(groups);
        for frozen in self.frozen.drain(..) {
            groups.absorb(&frozen)?;
        }
        Ok(groups)
    }

    fn freeze(&mut self) -> Result {
        if let Some(groups) = self.live.take().filter(|groups| !groups.is_empty()) {
            self.frozen.push(Arc::new(groups.freeze()?));
        }
        Ok(())
    }
}
