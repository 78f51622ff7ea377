//! [`Panes`]: the groups of each piece of time that windows share.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Int64Type};

use super::calls::Aggregates;
use super::codec::{KeyBytes, KeyCodec, RowKeys};
use super::groups::{Arriving, Frozen, Groups};
use crate::{Fault, Result, Timestamp};

/// The groups of a piece of time: those that take rows in, and those that were saved and not needed since.
#[derive(Default)]
struct Pane {
    live: Option<Groups>,
    frozen: Vec<Frozen>,
}

/// The groups of all pieces of time that are open, by where these begin.
pub(super) struct Panes {
    aggregates: Aggregates,
    codec: KeyCodec,
    panes: BTreeMap<i64, Pane>,
}

impl Panes {
    pub(super) fn new(aggregates: Aggregates, keys: &[Field]) -> Result<Self> {
        let states = aggregates.state_fields()?.into_iter().flatten().enumerate();
        let states = states.map(|(n, field)| field.as_ref().clone().with_name(format!("state{n}")).with_nullable(true));
        let state = std::iter::once(Field::new("pane", DataType::Int64, false)).chain(states).collect();
        Ok(Panes { codec: KeyCodec::new(keys, state)?, aggregates, panes: BTreeMap::new() })
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

    /// Everything, as bytes by key group.
    pub(super) fn save(&mut self, key_groups: u32) -> Result<BTreeMap<u32, Vec<u8>>> {
        self.panes.values_mut().try_for_each(Pane::freeze)?;
        let all = self.panes.iter().flat_map(|(start, pane)| pane.frozen.iter().map(move |frozen| (*start, frozen)));
        let rows = all.map(|(start, frozen)| {
            let pane: ArrayRef = Arc::new(Int64Array::from_value(start, frozen.keys.len()));
            self.codec.rows(&frozen.keys, std::iter::once(pane).chain(frozen.states.iter().flatten().cloned()))
        });
        self.codec.save(&rows.collect::<Result<Vec<_>>>()?, key_groups)
    }

    /// Puts back what was saved.
    pub(super) fn restore<'a>(&mut self, saved: impl Iterator<Item = &'a [u8]>) -> Result {
        self.panes.clear();
        let counts: Vec<usize> = self.aggregates.state_fields()?.iter().map(Vec::len).collect();
        for bytes in saved {
            for (keys, columns) in self.codec.restore(bytes)? {
                self.restore_rows(&keys, &columns, &counts)?;
            }
        }
        Ok(())
    }

    fn restore_rows(&mut self, keys: &RowKeys, columns: &[ArrayRef], counts: &[usize]) -> Result {
        let starts = columns.first().and_then(|starts| starts.as_primitive_opt::<Int64Type>());
        let starts = starts.ok_or_else(|| Fault::bug("saved panes do not say where they begin"))?;
        let mut of_pane: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for (row, start) in (0..).zip(starts.values()) {
            of_pane.entry(*start).or_default().push(row);
        }
        for (start, rows) in of_pane {
            let keys = rows.iter().map(|row| keys.get(*row as usize).into()).collect();
            let rows = UInt32Array::from(rows);
            let mut columns = columns.iter().skip(1).map(|column| take(column, &rows, None));
            let states = counts.iter().map(|count| columns.by_ref().take(*count).collect::<Result<_, _>>());
            let states = states.collect::<Result<_, _>>().map_err(|error| Fault::bug("cannot take").because(error))?;
            self.panes.entry(start).or_default().frozen.push(Frozen { keys, states });
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
            self.frozen.push(groups.freeze()?);
        }
        Ok(())
    }
}
