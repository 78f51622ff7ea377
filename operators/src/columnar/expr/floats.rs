//! [`Floats`]: arithmetic over columns of 64-bit floats, and comparisons of one with a constant.
//!
//! Arrow's kernels make a new column for every step. Here a step writes into the column of the step before it, so that
//! `a * 1.2 + b` makes one column and not two. They compare floats as whole numbers, to put those that are no number in
//! an order, which processors without wide comparisons of such are slow at; here the few that need it are told apart.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch};
use arrow::buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Float64Type, Schema};
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::Operator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::BinaryExpr;

use super::quick::literal;

/// A computation or comparison of floats.
#[derive(Debug)]
pub(super) struct Floats {
    left: Side,
    op: Operator,
    right: Side,
}

#[derive(Debug)]
enum Side {
    Constant(f64),
    Column(Arc<dyn PhysicalExpr>),
}

impl Side {
    fn of(side: &Arc<dyn PhysicalExpr>, input: &Schema) -> DfResult<Option<Side>> {
        Ok(match literal(side) {
            Some(ScalarValue::Float64(Some(constant))) => Some(Side::Constant(*constant)),
            None if side.data_type(input)? == DataType::Float64 => Some(Side::Column(Arc::clone(side))),
            _ => None,
        })
    }
}

/// The values of a column: ours to write into, where nobody else has them.
enum Values {
    Ours(Vec<f64>),
    Shared(ScalarBuffer<f64>),
}

impl Floats {
    /// The same as `whole`, if that is about 64-bit floats.
    pub(super) fn of(whole: &BinaryExpr, input: &Schema) -> DfResult<Option<Self>> {
        let (Some(left), Some(right)) = (Side::of(whole.left(), input)?, Side::of(whole.right(), input)?) else {
            return Ok(None);
        };
        let known = match (whole.op(), &left, &right) {
            (_, Side::Constant(_), Side::Constant(_)) => false,
            (Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo, _, _) => true,
            // Both zeros are equal in SQL, and what is no number has an order of its own.
            (op, Side::Column(_), Side::Constant(bound)) => is_compared(*op) && *bound != 0.0 && !bound.is_nan(),
            _ => false,
        };
        Ok(known.then_some(Floats { left, op: *whole.op(), right }))
    }

    /// What it gives for these rows, if its sides are the columns that were planned.
    pub(super) fn evaluate(&self, rows: &RecordBatch) -> DfResult<Option<ArrayRef>> {
        match (&self.left, &self.right) {
            (Side::Column(column), Side::Constant(bound)) if is_compared(self.op) => {
                let column = column.evaluate(rows)?.into_array(rows.num_rows())?;
                let Some(column) = column.as_primitive_opt::<Float64Type>() else { return Ok(None) };
                let bits = compared(column.values(), self.op, *bound);
                Ok(Some(Arc::new(BooleanArray::new(bits, column.nulls().cloned()))))
            }
            (left, right) => {
                let (Some(left), Some(right)) = (value(left, rows)?, value(right, rows)?) else { return Ok(None) };
                let computed = match self.op {
                    Operator::Plus => computed(left, right, |l, r| l + r),
                    Operator::Minus => computed(left, right, |l, r| l - r),
                    Operator::Multiply => computed(left, right, |l, r| l * r),
                    Operator::Divide => computed(left, right, |l, r| l / r),
                    Operator::Modulo => computed(left, right, |l, r| l % r),
                    _ => None,
                };
                Ok(computed.map(|computed| Arc::new(computed) as ArrayRef))
            }
        }
    }
}

enum Value {
    Constant(f64),
    Column(Values, Option<NullBuffer>),
}

fn value(side: &Side, rows: &RecordBatch) -> DfResult<Option<Value>> {
    let column = match side {
        Side::Constant(constant) => return Ok(Some(Value::Constant(*constant))),
        Side::Column(column) => column.evaluate(rows)?.into_array(rows.num_rows())?,
    };
    Ok(taken(column).map(|(values, nulls)| Value::Column(values, nulls)))
}

/// The values and the nulls of a column.
fn taken(mut column: ArrayRef) -> Option<(Values, Option<NullBuffer>)> {
    let is_ours = Arc::get_mut(&mut column).is_some();
    let floats = column.as_primitive_opt::<Float64Type>()?;
    let (values, nulls) = (floats.values().clone(), floats.nulls().cloned());
    drop(column);
    let values = match is_ours {
        true => values.into_inner().into_vec().map_or_else(|shared| Values::Shared(shared.into()), Values::Ours),
        false => Values::Shared(values),
    };
    Some((values, nulls))
}

/// An operation of each row's values on both sides.
fn computed(left: Value, right: Value, op: impl Fn(f64, f64) -> f64) -> Option<Float64Array> {
    let (values, nulls) = match (left, right) {
        (Value::Constant(left), Value::Column(right, nulls)) => (changed(right, |right| op(left, right)), nulls),
        (Value::Column(left, nulls), Value::Constant(right)) => (changed(left, |left| op(left, right)), nulls),
        (Value::Column(left, left_nulls), Value::Column(right, right_nulls)) => {
            let nulls = NullBuffer::union(left_nulls.as_ref(), right_nulls.as_ref());
            (together(left, right, op), nulls)
        }
        (Value::Constant(_), Value::Constant(_)) => return None,
    };
    Some(Float64Array::new(values.into(), nulls))
}

fn changed(values: Values, op: impl Fn(f64) -> f64) -> Vec<f64> {
    match values {
        Values::Ours(mut values) => {
            values.iter_mut().for_each(|value| *value = op(*value));
            values
        }
        Values::Shared(values) => values.iter().map(|value| op(*value)).collect(),
    }
}

fn together(left: Values, right: Values, op: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    match (left, right) {
        (Values::Ours(mut left), Values::Ours(right)) => {
            left.iter_mut().zip(&right).for_each(|(left, right)| *left = op(*left, *right));
            left
        }
        (Values::Ours(mut left), Values::Shared(right)) => {
            left.iter_mut().zip(&*right).for_each(|(left, right)| *left = op(*left, *right));
            left
        }
        (Values::Shared(left), Values::Ours(mut right)) => {
            left.iter().zip(&mut right).for_each(|(left, right)| *right = op(*left, *right));
            right
        }
        (Values::Shared(left), Values::Shared(right)) => left.iter().zip(&*right).map(|(l, r)| op(*l, *r)).collect(),
    }
}

fn is_compared(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq)
}

/// For which values a comparison with `bound`, which is a number other than zero, holds. In Arrow's order what is no
/// number comes after all numbers, or before them where its sign is negative.
fn compared(values: &[f64], op: Operator, bound: f64) -> BooleanBuffer {
    // Without branches, so that many are compared at once.
    let sign = |value: f64| value.to_bits() >> 63 == 1;
    match op {
        Operator::Eq => bits(values, |value| value == bound),
        Operator::NotEq => bits(values, |value| value != bound),
        Operator::Lt => bits(values, |value| (value < bound) | (value.is_nan() & sign(value))),
        Operator::LtEq => bits(values, |value| (value <= bound) | (value.is_nan() & sign(value))),
        Operator::Gt => bits(values, |value| (value > bound) | (value.is_nan() & !sign(value))),
        _ => bits(values, |value| (value >= bound) | (value.is_nan() & !sign(value))),
    }
}

/// A bit for each value.
fn bits(values: &[f64], holds: impl Fn(f64) -> bool) -> BooleanBuffer {
    let byte = |values: &[f64; 8]| {
        let truths = values.map(|value| u8::from(holds(value)));
        // Each truth moves to its place in the highest byte.
        (u64::from_le_bytes(truths).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
    };
    let (eights, rest) = values.as_chunks::<8>();
    let mut bytes = Vec::with_capacity(eights.len() + 1);
    bytes.extend(eights.iter().map(byte));
    if !rest.is_empty() {
        bytes.push((0..).zip(rest).map(|(bit, value)| u8::from(holds(*value)) << bit).sum());
    }
    BooleanBuffer::new(bytes.into(), 0, values.len())
}
