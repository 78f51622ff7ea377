//! [`Groups`]: the keys of some rows, and the accumulators that take those rows in.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::{prep_null_mask_filter, take};
use datafusion_expr::{EmitTo, GroupsAccumulator};
use foldhash::fast::FixedState;

use super::calls::{Aggregates, failed};
use super::codec::{KeyBytes, RowKeys};
use crate::{Fault, Result};

/// Groups that take rows in.
pub(super) struct Groups {
    numbers: HashMap<KeyBytes, usize, FixedState>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
}

/// Groups as they are saved and put together: keys in their order, and for each call the columns of its state.
pub(super) struct Frozen {
    pub(super) keys: Vec<KeyBytes>,
    pub(super) states: Vec<Vec<ArrayRef>>,
}

/// Rows on their way into groups: the columns of each call, and which of them are meant.
pub(super) struct Arriving<'a> {
    pub(super) keys: &'a RowKeys,
    pub(super) rows: &'a [u32],
    pub(super) columns: &'a [(Vec<ArrayRef>, Option<ArrayRef>)],
    /// Whether all rows are meant, in their order.
    pub(super) all: bool,
}

impl Groups {
    pub(super) fn new(aggregates: &Aggregates) -> Result<Self> {
        let numbers = HashMap::with_hasher(FixedState::with_seed(0));
        Ok(Groups { numbers, accumulators: aggregates.accumulators()? })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    fn number(&mut self, key: &[u8]) -> usize {
        match self.numbers.get(key) {
            Some(number) => *number,
            None => {
                let number = self.numbers.len();
                self.numbers.insert(key.into(), number);
                number
            }
        }
    }

    /// Takes rows in.
    pub(super) fn take_in(&mut self, arriving: &Arriving<'_>) -> Result {
        let number = |row: &u32| self.number(arriving.keys.get(*row as usize));
        let groups: Vec<usize> = arriving.rows.iter().map(number).collect();
        let indices = (!arriving.all).then(|| UInt32Array::from(arriving.rows.to_vec()));
        let picked = |column: &ArrayRef| match &indices {
            Some(indices) => take(column, indices, None).map_err(|error| Fault::bug("cannot take").because(error)),
            None => Ok(ArrayRef::clone(column)),
        };
        let total = self.numbers.len();
        for (accumulator, (arguments, filter)) in self.accumulators.iter_mut().zip(arriving.columns) {
            let arguments = arguments.iter().map(picked).collect::<Result<Vec<_>>>()?;
            let filter = filter.as_ref().map(picked).transpose()?;
            let filter = filter.as_ref().and_then(|filter| filter.as_boolean_opt());
            // Null is not true.
            let filter = filter.map(|f| if f.null_count() > 0 { prep_null_mask_filter(f) } else { f.clone() });
            let taken = accumulator.update_batch(&arguments, &groups, filter.as_ref(), total);
            taken.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Takes in what other groups have taken in.
    pub(super) fn absorb(&mut self, frozen: &Frozen) -> Result {
        let groups: Vec<usize> = frozen.keys.iter().map(|key| self.number(key)).collect();
        let total = self.numbers.len();
        for (accumulator, state) in self.accumulators.iter_mut().zip(&frozen.states) {
            accumulator.merge_batch(state, &groups, total).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// The keys in their order, and for each its number.
    fn sorted(&mut self) -> (Vec<KeyBytes>, UInt32Array) {
        let mut keys: Vec<(KeyBytes, usize)> = std::mem::take(&mut self.numbers).into_iter().collect();
        keys.sort_unstable();
        let numbers = keys.iter().map(|(_, number)| u32::try_from(*number).unwrap_or(u32::MAX)).collect::<Vec<_>>();
        (keys.into_iter().map(|(key, _)| key).collect(), numbers.into())
    }

    /// What has been taken in, to be saved or put together.
    pub(super) fn freeze(mut self) -> Result<Frozen> {
        let (keys, order) = self.sorted();
        let mut states = Vec::new();
        for accumulator in &mut self.accumulators {
            let state = accumulator.state(EmitTo::All).map_err(|error| failed(&error))?;
            states.push(ordered(&state, &order)?);
        }
        Ok(Frozen { keys, states })
    }

    /// The keys in their order, and what the calls give for each.
    pub(super) fn results(mut self) -> Result<(Vec<KeyBytes>, Vec<ArrayRef>)> {
        let (keys, order) = self.sorted();
        let mut given = Vec::new();
        for accumulator in &mut self.accumulators {
            given.push(accumulator.evaluate(EmitTo::All).map_err(|error| failed(&error))?);
        }
        Ok((keys, ordered(&given, &order)?))
    }
}

fn ordered(columns: &[ArrayRef], order: &UInt32Array) -> Result<Vec<ArrayRef>> {
    let ordered = columns.iter().map(|column| take(column, order, None));
    ordered.collect::<Result<_, _>>().map_err(|error| Fault::bug("cannot order groups").because(error))
}
