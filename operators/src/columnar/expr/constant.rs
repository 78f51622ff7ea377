//! [`WithConstant`]: a comparison or computation of which one side is a constant, made ready once and not once a batch.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Datum, RecordBatch, Scalar};
use arrow::compute::kernels::{cmp, numeric};
use arrow::datatypes::{DataType, FieldRef, Schema};
use arrow::error::ArrowError;
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::{ColumnarValue, Operator};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Literal};

/// The same as a [`BinaryExpr`], quicker: that one makes an array of its constant for every batch, and looks through
/// columns of floats for negative zeros before it compares them, which only a comparison with zero needs.
#[derive(Debug)]
pub(super) struct WithConstant {
    whole: Arc<BinaryExpr>,
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
fn is_float_zero(constant: &ScalarValue) -> bool {
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
        let literal = |side: &Arc<dyn PhysicalExpr>| side.downcast_ref::<Literal>().map(|side| side.value().clone());
        let (constant, on_left) = match (literal(whole.left()), literal(whole.right())) {
            (Some(constant), None) => (constant, true),
            (None, Some(constant)) => (constant, false),
            _ => return Ok(None),
        };
        let data_type = constant.data_type();
        let kernel = kernel(*whole.op(), &data_type);
        let Some(kernel) =
            kernel.filter(|_| !constant.is_null() && !data_type.is_nested() && !is_float_zero(&constant))
        else {
            return Ok(None);
        };
        let constant = constant.to_scalar()?;
        Ok(Some(WithConstant { whole: Arc::new(whole.clone()), constant, data_type, on_left, kernel }))
    }
}

impl PhysicalExpr for WithConstant {
    fn data_type(&self, input: &Schema) -> DfResult<DataType> {
        self.whole.data_type(input)
    }

    fn nullable(&self, input: &Schema) -> DfResult<bool> {
        self.whole.nullable(input)
    }

    fn return_field(&self, input: &Schema) -> DfResult<FieldRef> {
        self.whole.return_field(input)
    }

    fn evaluate(&self, rows: &RecordBatch) -> DfResult<ColumnarValue> {
        let other = if self.on_left { self.whole.right() } else { self.whole.left() };
        match other.evaluate(rows)? {
            ColumnarValue::Array(other) if other.data_type() == &self.data_type => {
                let other: &dyn Array = &other;
                let computed = match self.on_left {
                    true => (self.kernel)(&self.constant, &other),
                    false => (self.kernel)(&other, &self.constant),
                };
                Ok(ColumnarValue::Array(computed?))
            }
            _ => self.whole.evaluate(rows),
        }
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.whole.children()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> DfResult<Arc<dyn PhysicalExpr>> {
        let whole = Arc::clone(&self.whole).with_new_children(children)?;
        let ready = whole.downcast_ref::<BinaryExpr>().map(WithConstant::of).transpose()?.flatten();
        Ok(ready.map_or(whole, |ready| Arc::new(ready)))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.whole.fmt_sql(f)
    }
}

impl fmt::Display for WithConstant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.whole, f)
    }
}

impl PartialEq for WithConstant {
    fn eq(&self, other: &Self) -> bool {
        self.whole == other.whole
    }
}

impl Eq for WithConstant {}

impl Hash for WithConstant {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.whole.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Float64Array, Int64Array, StringArray};
    use arrow::datatypes::Float64Type;
    use datafusion_physical_expr::expressions::Column;
    use proptest::prelude::*;

    use super::*;

    const OPERATORS: [Operator; 11] = [
        Operator::Plus,
        Operator::Minus,
        Operator::Multiply,
        Operator::Divide,
        Operator::Modulo,
        Operator::Eq,
        Operator::NotEq,
        Operator::Lt,
        Operator::LtEq,
        Operator::Gt,
        Operator::GtEq,
    ];

    /// What stands in a column; floats as bits, so that both zeros and all that is not a number are told apart.
    fn told(column: &ArrayRef) -> String {
        match column.as_primitive_opt::<Float64Type>() {
            Some(floats) => format!("{:?}", floats.iter().map(|n| n.map(f64::to_bits)).collect::<Vec<_>>()),
            None => format!("{column:?}"),
        }
    }

    /// What DataFusion computes by itself, and what is computed with a constant that is ready, if that is used.
    fn both(values: ArrayRef, op: Operator, constant: ScalarValue, on_left: bool) -> (String, Option<String>) {
        let rows = RecordBatch::try_from_iter_with_nullable([("x", values, true)]).unwrap();
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new("x", 0));
        let constant: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(constant));
        let [left, right] = if on_left { [constant, column] } else { [column, constant] };
        let whole = BinaryExpr::new(left, op, right).with_fail_on_overflow(true);
        let given = |expr: &dyn PhysicalExpr| match expr.evaluate(&rows) {
            Ok(value) => told(&value.into_array(rows.num_rows()).unwrap()),
            Err(error) => error.to_string(),
        };
        (given(&whole), WithConstant::of(&whole).unwrap().map(|ready| given(&ready)))
    }

    fn floats() -> impl Strategy<Value = f64> {
        let special = [0.0, -0.0, 1.0, -1.0, f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE];
        let tiny = [f64::from_bits(1), -f64::from_bits(1)];
        prop_oneof![prop::sample::select([&special[..], &tiny].concat()), any::<f64>()]
    }

    fn ints() -> impl Strategy<Value = i64> {
        prop_oneof![prop::sample::select(vec![0, 1, -1, 2, i64::MIN, i64::MAX]), any::<i64>()]
    }

    proptest! {
        #[test]
        fn floats_are_computed_and_compared_as_datafusion_does(
            values in prop::collection::vec(prop::option::of(floats()), 1..20),
            constant in floats(), on_left: bool, op in prop::sample::select(OPERATORS.to_vec()),
        ) {
            let values = Arc::new(Float64Array::from(values));
            let (expected, given) = both(values, op, ScalarValue::from(constant), on_left);
            prop_assert_eq!(given.is_none(), constant == 0.0);
            prop_assert_eq!(given.unwrap_or_else(|| expected.clone()), expected);
        }

        #[test]
        fn whole_numbers_fail_where_datafusion_fails(
            values in prop::collection::vec(prop::option::of(ints()), 1..20),
            constant in ints(), on_left: bool, op in prop::sample::select(OPERATORS.to_vec()),
        ) {
            let (expected, given) = both(Arc::new(Int64Array::from(values)), op, ScalarValue::from(constant), on_left);
            prop_assert_eq!(given, Some(expected));
        }
    }

    #[test]
    fn text_is_compared_and_null_and_other_types_are_left_alone() {
        let text = || Arc::new(StringArray::from(vec![Some("a"), None, Some("b")])) as ArrayRef;
        for op in [Operator::Eq, Operator::Lt] {
            let (expected, given) = both(text(), op, ScalarValue::from("b"), true);
            assert_eq!(given, Some(expected));
        }
        assert_eq!(both(text(), Operator::Eq, ScalarValue::Utf8(None), false).1, None);
        assert_eq!(both(text(), Operator::LikeMatch, ScalarValue::from("b%"), false).1, None);
        // Whole numbers that were planned for another type than they have: DataFusion's own words.
        let (expected, given) = both(Arc::new(Int64Array::from(vec![1])), Operator::Lt, ScalarValue::from(2u8), false);
        assert_eq!(given, Some(expected));
    }
}
