//! [`Computed`]: what comes of the rows of a group; and [`Kept`]: what is kept of them for it.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, UInt32Array};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion_expr::GroupsAccumulator;

use super::calls::{Aggregates, Call};
use super::outputs::Outputs;
use super::top::Top;
use crate::columnar::{ExprError, Expression};
use crate::{Fault, Result, Timestamp};

/// What comes of the rows of a group.
#[derive(Clone, Debug)]
pub enum Computed {
    /// One row of what is computed of them.
    Aggregates(Aggregates),
    /// The best of them.
    Top(Top),
}

impl From<Aggregates> for Computed {
    fn from(aggregates: Aggregates) -> Self {
        Computed::Aggregates(aggregates)
    }
}

impl From<Top> for Computed {
    fn from(top: Top) -> Self {
        Computed::Top(top)
    }
}

/// Something that is noted of the rows of a group, as a whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// The lowest.
    Lowest,
    /// The highest.
    Highest,
}

/// The columns of each accumulator, and which rows it takes.
pub(super) type Arranged = Vec<(Vec<ArrayRef>, Option<ArrayRef>)>;

/// What is kept of the rows of a group: what is needed to compute something of them, and notes.
pub(super) struct Kept {
    computed: Computed,
    notes: Vec<Call>,
    widths: Vec<usize>,
    states: Vec<FieldRef>,
}

impl Kept {
    pub(super) fn new(computed: Computed, notes: &[Note]) -> Result<Self, ExprError> {
        let note = |note: &Note| Call::extreme(*note == Note::Highest);
        let notes = notes.iter().map(note).collect::<Result<Vec<_>, _>>()?;
        let wrong = |fault: Fault| ExprError::new(fault.chain());
        let mut states = match &computed {
            Computed::Aggregates(aggregates) => aggregates.state_fields().map_err(wrong)?,
            Computed::Top(top) => vec![vec![top.state_field()]],
        };
        states.extend(notes.iter().map(Call::state_fields).collect::<Result<Vec<_>>>().map_err(wrong)?);
        let widths = states.iter().map(Vec::len).collect();
        Ok(Kept { computed, notes, widths, states: states.concat() })
    }

    pub(super) fn computed(&self) -> &Computed {
        &self.computed
    }

    /// The columns of the states of all accumulators.
    pub(super) fn state_fields(&self) -> Vec<Field> {
        let named = |(n, field): (usize, &FieldRef)| field.as_ref().clone().with_name(format!("state{n}"));
        self.states.iter().enumerate().map(named).map(|field| field.with_nullable(true)).collect()
    }

    /// What is kept, in words.
    pub(super) fn words(&self) -> String {
        match &self.computed {
            Computed::Aggregates(aggregates) => aggregates.words(),
            Computed::Top(top) => top.words(),
        }
    }

    /// How many columns the state of each accumulator has.
    pub(super) fn widths(&self) -> &[usize] {
        &self.widths
    }

    /// The types of what the accumulators give.
    pub(super) fn types(&self) -> Vec<DataType> {
        let mut types = match &self.computed {
            Computed::Aggregates(aggregates) => aggregates.types(),
            Computed::Top(top) => vec![top.state_field().data_type().clone()],
        };
        types.resize(types.len() + self.notes.len(), DataType::Int64);
        types
    }

    /// What is computed of each row before it is taken in.
    pub(super) fn inputs(&self) -> Vec<Expression> {
        match &self.computed {
            Computed::Aggregates(aggregates) => aggregates.inputs().cloned().collect(),
            Computed::Top(top) => top.inputs().to_vec(),
        }
    }

    /// The columns for each accumulator: of what was computed of each row, of the rows themselves, and of what is noted.
    pub(super) fn arranged(
        &self,
        computed: Vec<ArrayRef>,
        rows: &[ArrayRef],
        times: &[Timestamp],
        notes: Vec<Int64Array>,
    ) -> Result<Arranged> {
        let mut arranged = match &self.computed {
            Computed::Aggregates(aggregates) => aggregates.arranged(computed)?,
            Computed::Top(_) => {
                let times: ArrayRef = Arc::new(times.iter().map(|time| time.as_micros()).collect::<Int64Array>());
                vec![(computed.into_iter().chain(rows.iter().cloned()).chain([times]).collect(), None)]
            }
        };
        arranged.extend(notes.into_iter().map(|note| (vec![Arc::new(note) as ArrayRef], None)));
        Ok(arranged)
    }

    /// An accumulator for each.
    pub(super) fn accumulators(&self) -> Result<Vec<Box<dyn GroupsAccumulator>>> {
        let mut accumulators = match &self.computed {
            Computed::Aggregates(aggregates) => aggregates.accumulators()?,
            Computed::Top(top) => vec![top.accumulator()?],
        };
        for note in &self.notes {
            accumulators.push(note.accumulator_or_fault()?);
        }
        Ok(accumulators)
    }

    /// What was noted, of what the accumulators gave; the rest of that stays.
    pub(super) fn take_notes(&self, given: &mut Vec<ArrayRef>) -> Result<Vec<Int64Array>> {
        let notes = given.split_off(given.len().saturating_sub(self.notes.len()));
        notes.iter().map(noted).collect()
    }

    /// A note of the columns of states, by its number.
    pub(super) fn note_of(&self, states: &[ArrayRef], number: usize) -> Result<Int64Array> {
        let at = (self.states.len() + number).checked_sub(self.notes.len());
        let note = at.and_then(|at| states.get(at)).ok_or_else(|| Fault::bug("a note is missing"))?;
        noted(note)
    }

    /// The rows of results, of what the accumulators gave for each group.
    pub(super) fn outputs(&self, given: &[ArrayRef], now: Timestamp) -> Result<Rows> {
        match &self.computed {
            Computed::Aggregates(aggregates) => {
                let Outputs { columns, good, failed } = aggregates.outputs(given, now)?;
                let failed = good.is_some().then(|| (aggregates.told(given).collect(), failed));
                Ok(Rows { of_group: good, columns, failed })
            }
            Computed::Top(top) => {
                let (groups, columns) = top.outputs(given)?;
                Ok(Rows { of_group: Some(groups), columns, failed: None })
            }
        }
    }

    /// Whether a row, or what comes of a group, can be rejected.
    pub(super) fn can_fail(&self) -> bool {
        match &self.computed {
            Computed::Aggregates(aggregates) => aggregates.can_fail(),
            Computed::Top(top) => top.inputs().iter().any(Expression::can_fail),
        }
    }
}

/// The rows of results.
pub(super) struct Rows {
    /// The group of each, where they are not one a group.
    pub(super) of_group: Option<UInt32Array>,
    pub(super) columns: Vec<ArrayRef>,
    /// What aggregates gave for each group, and the groups that something cannot be computed for, each with the reason.
    pub(super) failed: Option<(Told, Vec<(usize, String)>)>,
}

/// Columns with their names, for people.
pub(super) type Told = Vec<(Field, ArrayRef)>;

fn noted(column: &ArrayRef) -> Result<Int64Array> {
    column.as_primitive_opt::<Int64Type>().cloned().ok_or_else(|| Fault::bug("a note is no number"))
}
