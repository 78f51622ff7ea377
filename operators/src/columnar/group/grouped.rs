//! [`Grouped`]: what the operators of all windows over columns have in common.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, SchemaRef};

use super::KeyColumns;
use super::codec::{KeyBytes, KeyCodec, RowKeys};
use super::groups::{Arriving, Groups};
use super::kept::{Arranged, Computed, Kept, Note};
use super::pane::Pane;
use super::results::{Bounds, Given, Outcome, Results};
use crate::columnar::rows::compute_or_reject;
use crate::columnar::{Clock, ExprError, Expression};
use crate::{Batch, Fault, Outbox, Result, Timestamp};

/// How rows of columns are grouped by key: what is computed of each before it is taken in, what is kept of them and under which
/// names, and how that becomes results.
pub(super) struct Grouped {
    keys: KeyColumns,
    inputs: Vec<Expression>,
    clock: Clock,
    pub(super) kept: Kept,
    pub(super) codec: Arc<KeyCodec>,
    pub(super) results: Results,
}

/// Rows of which everything is computed.
pub(super) struct Ready {
    pub(super) batch: Batch<RecordBatch>,
    computed: Vec<ArrayRef>,
    /// The columns of the key.
    pub(super) keys: Vec<ArrayRef>,
}

impl Grouped {
    /// For rows with the columns of `input`, of which `notes` are kept as well; `clock` is what `now()` asks. What is kept stands
    /// under the key, and where there are several windows of one under a number behind it, which is called `number`.
    ///
    /// # Errors
    /// Two columns of the results have one name.
    pub(super) fn new(
        input: &SchemaRef,
        (keys, number): (KeyColumns, Option<&str>),
        computed: Computed,
        notes: &[Note],
        clock: Clock,
    ) -> Result<Self, ExprError> {
        let kept = Kept::new(computed, notes)?;
        let results = Results::new(input, &keys, kept.computed())?;
        let number = number.map(|number| Field::new(number, DataType::Int64, false));
        let named: Vec<Field> = results.keys().iter().cloned().chain(number).collect();
        let codec = KeyCodec::new(&named, kept.state_fields()).map(|codec| codec.grouped_by(results.keys().len()));
        let codec = Arc::new(codec.map_err(|fault| ExprError::new(fault.chain()))?);
        Ok(Grouped { keys, inputs: kept.inputs(), clock, kept, codec, results })
    }

    /// The columns of the results.
    pub(super) fn schema(&self) -> &SchemaRef {
        self.results.schema()
    }

    /// Whether there can be rows that something cannot be computed for.
    pub(super) fn can_reject(&self) -> bool {
        self.kept.can_fail()
    }

    /// What shapes the state, in words.
    pub(super) fn shape(&self, windows: &str, is_early: bool) -> String {
        self.results.shape(windows, &self.kept, is_early)
    }

    /// Computes what is computed of each row; rows for which that fails go to port 1.
    pub(super) fn ready(&self, batch: Batch<RecordBatch>, out: &mut Outbox<'_, RecordBatch>) -> Result<Ready> {
        let (batch, computed) = compute_or_reject(&self.inputs, batch, (self.clock)(), out, 1)?;
        let rows = batch.rows().columns();
        let keys = self.keys.places().iter().filter_map(|place| rows.get(*place).cloned()).collect();
        Ok(Ready { batch, computed, keys })
    }

    /// The columns that are taken in of rows, with what is noted of each.
    pub(super) fn columns(&self, ready: &mut Ready, notes: Vec<Int64Array>) -> Result<Arranged> {
        let (computed, batch) = (std::mem::take(&mut ready.computed), &ready.batch);
        self.kept.arranged(computed, batch.rows().columns(), batch.times(), notes)
    }

    /// What is kept under some names: what was computed of it, and what was noted.
    pub(super) fn of_names(&self, pane: &mut Pane, names: &[KeyBytes]) -> Result<Together> {
        let mut groups = Groups::new(&self.kept)?;
        pane.add_to(&mut groups, Some(names))?;
        let (names, mut values) = groups.results()?;
        let notes = self.kept.take_notes(&mut values)?;
        Ok(Together { names, values, notes })
    }

    /// Takes all rows in, under the names that stand in columns, and gives these.
    pub(super) fn take_all(
        &self,
        pane: &mut Pane,
        mut ready: Ready,
        names: &[ArrayRef],
        notes: Vec<Int64Array>,
    ) -> Result<RowKeys> {
        let keys = self.codec.keys(names)?;
        let columns = self.columns(&mut ready, notes)?;
        let all: Vec<u32> = (0..u32::try_from(ready.batch.len()).unwrap_or(u32::MAX)).collect();
        pane.take_in(&self.kept, &Arriving { keys: &keys, rows: &all, columns: &columns, all: true })?;
        Ok(keys)
    }

    /// The rows of results, none of which is given at a time before `at`.
    pub(super) fn rows(&self, given: Given, at: Timestamp) -> Result<Outcome> {
        self.results.rows(&self.kept, &self.codec, given, at, (self.clock)())
    }
}

/// What is kept of some windows, put together.
pub(super) struct Together {
    pub(super) names: Vec<KeyBytes>,
    values: Vec<ArrayRef>,
    notes: Vec<Int64Array>,
}

impl Together {
    /// What was noted, by its number.
    pub(super) fn note(&self, number: usize) -> Result<Int64Array> {
        self.notes.get(number).cloned().ok_or_else(|| Fault::bug("a note is missing"))
    }

    /// The results of windows that begin and end there.
    pub(super) fn between(self, starts: Int64Array, ends: Int64Array) -> Given {
        Given { keys: self.names, values: self.values, bounds: Bounds::Each(starts, ends) }
    }
}
