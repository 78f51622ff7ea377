//! [`WithConstant`]: a comparison or computation of which one side is a constant, made ready once and not once a batch.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Datum, RecordBatch, Scalar};
use arrow::compute::kernels::{cmp, numeric};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::{ColumnarValue, Operator};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::BinaryExpr;

use super::quick::literal;

/// Quicker than the [`BinaryExpr`]: that one makes an array of its constant for every batch, and looks through columns
/// of floats for negative zeros before it compares them, which only a comparison with zero needs.
#[derive(Debug)]
pub(super) struct WithConstant {
    other: Arc<dyn PhysicalExpr>,
    constant: Scalar<ArrayRef>,
    data_type: DataType,
    on_left: bool,
    kernel: Kernel,
}

type Kernel = fn(&dyn Datum, &dyn Datum) -> Result<ArrayRef, ArrowError>;

fn column(compared: Result<BooleanArray, ArrowError>) -> Result<ArrayRef, ArrowError> {
    Ok(Arc::new(compared?))
}

/// What does the work of an operator that checks whole numbers for overflow.
fn kernel(op: Operator, constant: &DataType) -> Option<Kernel> {
    // Dates, times and decimals have rules of their own.
    let number = constant.is_integer() || constant.is_floating();
    Some(match op {
        Operator::Plus if number => numeric::add,
        Operator::Minus if number => numeric::sub,
        Operator::Multiply if number => numeric::mul,
        Operator::Divide if number => numeric::div,
        Operator::Modulo if number => numeric::rem,
        Operator::Eq => |l, r| column(cmp::eq(l, r)),
        Operator::NotEq => |l, r| column(cmp::neq(l, r)),
        Operator::Lt => |l, r| column(cmp::lt(l, r)),
        Operator::LtEq => |l, r| column(cmp::lt_eq(l, r)),
        Operator::Gt => |l, r| column(cmp::gt(l, r)),
        Operator::GtEq => |l, r| column(cmp::gt_eq(l, r)),
        _ => return None,
    })
}

/// Both zeros are equal in SQL and differ in Arrow's order, so that a comparison with one needs more than a kernel.
pub(super) fn is_float_zero(constant: &ScalarValue) -> bool {
    match constant {
        ScalarValue::Float16(Some(n)) => n.to_f32() == 0.0,
        ScalarValue::Float32(Some(n)) => *n == 0.0,
        ScalarValue::Float64(Some(n)) => *n == 0.0,
        _ => false,
    }
}

impl WithConstant {
    /// The same as `whole`, which fails on overflow, if one of its sides is a constant of a plain type.
    pub(super) fn of(whole: &BinaryExpr) -> DfResult<Option<Self>> {
        let (constant, other, on_left) = match (literal(whole.left()), literal(whole.right())) {
            (Some(constant), None) => (constant, whole.right(), true),
            (None, Some(constant)) => (constant, whole.left(), false),
            _ => return Ok(None),
        };
        let data_type = constant.data_type();
        let kernel = kernel(*whole.op(), &data_type);
        let Some(kernel) = kernel.filter(|_| !constant.is_null() && !data_type.is_nested() && !is_float_zero(constant))
        else {
            return Ok(None);
        };
        let (other, constant) = (Arc::clone(other), constant.to_scalar()?);
        Ok(Some(WithConstant { other, constant, data_type, on_left, kernel }))
    }

    /// What it gives for these rows, if the other side is a column of the type that was planned.
    pub(super) fn evaluate(&self, rows: &RecordBatch) -> DfResult<Option<ArrayRef>> {
        match self.other.evaluate(rows)? {
            ColumnarValue::Array(other) if other.data_type() == &self.data_type => {
                let other: &dyn Array = &other;
                let computed = match self.on_left {
                    true => (self.kernel)(&self.constant, &other),
                    false => (self.kernel)(&other, &self.constant),
                };
                Ok(Some(computed?))
            }
            _ => Ok(None),
        }
    }
}
