//! [`Groups`]: the keys of some rows, and the accumulators that take those rows in.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array, new_empty_array};
use arrow::compute::{prep_null_mask_filter, take};
use arrow::datatypes::DataType;
use datafusion_expr::{EmitTo, GroupsAccumulator};

use super::calls::failed;
use super::codec::{KeyBytes, RowKeys};
use super::kept::Kept;
use super::key_set::KeySet;
use super::sealed::Sealed;
use super::table::Table;
use crate::{Fault, Result};

/// Groups that take rows in.
pub(super) struct Groups {
    /// The number of a group is the place of its key.
    keys: KeySet,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    /// How many columns the state of each accumulator has, and what each gives.
    widths: Vec<usize>,
    types: Vec<DataType>,
}

/// Rows on their way into groups: the columns of each accumulator, and which of them are meant.
pub(super) struct Arriving<'a> {
    pub(super) keys: &'a RowKeys,
    pub(super) rows: &'a [u32],
    pub(super) columns: &'a [(Vec<ArrayRef>, Option<ArrayRef>)],
    /// Whether all rows are meant, in their order.
    pub(super) all: bool,
}

/// What is kept of keys that have no group: sealed at a barrier, the last one last, or else in the table.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    pub(super) sealed: &'a VecDeque<(Arc<Sealed>, usize)>,
    pub(super) table: &'a Table,
}

/// A filter, in which null is not true.
pub(super) fn truth(filter: &ArrayRef) -> Option<BooleanArray> {
    let filter = filter.as_boolean_opt()?;
    Some(if filter.null_count() > 0 { prep_null_mask_filter(filter) } else { filter.clone() })
}

impl Groups {
    pub(super) fn new(kept: &Kept) -> Result<Self> {
        Ok(Groups {
            keys: KeySet::new(),
            accumulators: kept.accumulators()?,
            widths: kept.widths().to_vec(),
            types: kept.types(),
        })
    }

    /// How many groups there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is a group of this key.
    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.keys.find(key).is_some()
    }

    /// Takes rows in. A group that begins goes on from what `before` has of its key.
    pub(super) fn take_in(&mut self, arriving: &Arriving<'_>, before: Before<'_>) -> Result {
        self.go_on(arriving, before)?;
        let groups: Vec<usize> =
            arriving.rows.iter().map(|row| self.keys.number(arriving.keys.get(*row as usize))).collect();
        let indices = (!arriving.all).then(|| UInt32Array::from(arriving.rows.to_vec()));
        let picked = |column: &ArrayRef| match &indices {
            Some(indices) => take(column, indices, None).map_err(|error| Fault::bug("cannot take").because(error)),
            None => Ok(ArrayRef::clone(column)),
        };
        let total = self.keys.len();
        for (accumulator, (arguments, filter)) in self.accumulators.iter_mut().zip(arriving.columns) {
            let arguments = arguments.iter().map(picked).collect::<Result<Vec<_>>>()?;
            let filter = filter.as_ref().map(picked).transpose()?;
            let filter = filter.as_ref().and_then(truth);
            let taken = accumulator.update_batch(&arguments, &groups, filter.as_ref(), total);
            taken.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Begins the groups of the keys of rows that `before` has something of. They come before others that begin: accumulators
    /// take each group that begins for one of those that they are given something for.
    fn go_on(&mut self, arriving: &Arriving<'_>, before: Before<'_>) -> Result {
        for (sealed, _) in before.sealed.iter().rev() {
            self.begin(arriving, |key| sealed.find(key), |places| sealed.values(places))?;
        }
        let table = before.table;
        if table.is_empty() {
            return Ok(());
        }
        self.begin(arriving, |key| table.find(key), |places| table.values(places))
    }

    fn begin<P>(
        &mut self,
        arriving: &Arriving<'_>,
        find: impl Fn(&[u8]) -> Option<P>,
        values: impl FnOnce(&[P]) -> Result<Vec<ArrayRef>>,
    ) -> Result {
        let (mut places, mut groups) = (Vec::new(), Vec::new());
        for row in arriving.rows {
            let key = arriving.keys.get(*row as usize);
            if !self.has(key)
                && let Some(place) = find(key)
            {
                places.push(place);
                groups.push(self.keys.number(key));
            }
        }
        if places.is_empty() { Ok(()) } else { self.merge(&values(&places)?, &groups) }
    }

    /// Takes in what others have taken in: keys, and the columns of their states.
    pub(super) fn absorb<'a>(&mut self, keys: impl IntoIterator<Item = &'a [u8]>, states: &[ArrayRef]) -> Result {
        let groups: Vec<usize> = keys.into_iter().map(|key| self.keys.number(key)).collect();
        self.merge(states, &groups)
    }

    fn merge(&mut self, states: &[ArrayRef], groups: &[usize]) -> Result {
        let (total, mut states) = (self.keys.len(), states.iter().cloned());
        for (accumulator, width) in self.accumulators.iter_mut().zip(&self.widths) {
            let state: Vec<ArrayRef> = states.by_ref().take(*width).collect();
            accumulator.merge_batch(&state, groups, total).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// The keys and the columns of their states.
    pub(super) fn sealed(mut self) -> Result<Sealed> {
        let mut states = Vec::new();
        for accumulator in &mut self.accumulators {
            states.extend(accumulator.state(EmitTo::All).map_err(|error| failed(&error))?);
        }
        Ok(Sealed::new(self.keys, states))
    }

    /// The keys in their order, and what the accumulators give for each.
    pub(super) fn results(mut self) -> Result<(Vec<KeyBytes>, Vec<ArrayRef>)> {
        let mut keys: Vec<(&[u8], usize)> = self.keys.range(0..self.keys.len()).zip(0..).collect();
        if keys.is_empty() {
            // Some accumulators know no type where they have seen no row.
            return Ok((Vec::new(), self.types.iter().map(new_empty_array).collect()));
        }
        keys.sort_unstable();
        let order = keys.iter().map(|(_, number)| u32::try_from(*number).unwrap_or(u32::MAX));
        let order = UInt32Array::from_iter_values(order);
        let mut given = Vec::new();
        for accumulator in &mut self.accumulators {
            let column = accumulator.evaluate(EmitTo::All).map_err(|error| failed(&error))?;
            given.push(take(&column, &order, None).map_err(|error| Fault::bug("cannot order groups").because(error))?);
        }
        Ok((keys.into_iter().map(|(key, _)| key.into()).collect(), given))
    }
}
