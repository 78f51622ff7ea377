//! [`Quick`]: a comparison or computation of two sides, done by what is quickest for them.
//!
//! The results are those of the [`BinaryExpr`] that it stands for, bit for bit.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::ColumnarValue;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Literal};

use super::constant::WithConstant;
use super::floats::Floats;

/// A [`BinaryExpr`] with a quicker way to the same result.
#[derive(Debug)]
pub(super) struct Quick {
    whole: Arc<BinaryExpr>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Floats(Floats),
    Constant(WithConstant),
}

impl Quick {
    /// The same as `whole`, which fails on overflow, if there is a quicker way over columns of these types.
    pub(super) fn of(whole: &BinaryExpr, input: &Schema) -> DfResult<Option<Self>> {
        let way = match Floats::of(whole, input)? {
            Some(floats) => Some(Way::Floats(floats)),
            None => WithConstant::of(whole)?.map(Way::Constant),
        };
        Ok(way.map(|way| Quick { whole: Arc::new(whole.clone()), way }))
    }
}

/// The value of a side that is a constant.
pub(super) fn literal(side: &Arc<dyn PhysicalExpr>) -> Option<&ScalarValue> {
    side.downcast_ref::<Literal>().map(Literal::value)
}

impl PhysicalExpr for Quick {
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
        let computed = match &self.way {
            Way::Floats(floats) => floats.evaluate(rows)?,
            Way::Constant(constant) => constant.evaluate(rows)?,
        };
        computed.map_or_else(|| self.whole.evaluate(rows), |computed| Ok(ColumnarValue::Array(computed)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.whole.children()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> DfResult<Arc<dyn PhysicalExpr>> {
        // Whatever replaces a side may be of another kind: the whole is right for all of them.
        Arc::clone(&self.whole).with_new_children(children)
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.whole.fmt_sql(f)
    }
}

impl fmt::Display for Quick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.whole, f)
    }
}

impl PartialEq for Quick {
    fn eq(&self, other: &Self) -> bool {
        self.whole == other.whole
    }
}

impl Eq for Quick {}

impl Hash for Quick {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.whole.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, StringArray};
    use arrow::datatypes::Float64Type;
    use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
    use datafusion_expr::Operator;
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

    /// What stands in a column; floats as bits, so that both zeros are told apart. Of two that are no numbers a processor
    /// gives either: they are one here.
    fn told(column: &ArrayRef) -> String {
        let bits = |n: f64| if n.is_nan() { f64::NAN.to_bits() } else { n.to_bits() };
        match column.as_primitive_opt::<Float64Type>() {
            Some(floats) => format!("{:?}", floats.iter().map(|n| n.map(bits)).collect::<Vec<_>>()),
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
        (given(&whole), Quick::of(&whole, &rows.schema()).unwrap().map(|ready| given(&ready)))
    }

    fn floats() -> impl Strategy<Value = f64> {
        let special = [0.0, -0.0, 1.0, -1.0, f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE];
        let tiny = [f64::from_bits(1), -f64::from_bits(1)];
        prop_oneof![prop::sample::select([&special[..], &tiny].concat()), any::<f64>()]
    }

    fn ints() -> impl Strategy<Value = i64> {
        prop_oneof![prop::sample::select(vec![0, 1, -1, 2, i64::MIN, i64::MAX]), any::<i64>()]
    }

    /// A computation of any depth over the columns `x`, `y` and `z` and constants, or a comparison of one with another.
    /// (The sign of what is no number, by which those are compared, may differ after a computation.)
    fn trees() -> impl Strategy<Value = Arc<dyn PhysicalExpr>> {
        let column = |place: usize| Arc::new(Column::new(["x", "y", "z"][place], place)) as Arc<dyn PhysicalExpr>;
        let constant = |constant: f64| Arc::new(Literal::new(ScalarValue::from(constant))) as Arc<dyn PhysicalExpr>;
        let binary = |(left, op, right)| {
            Arc::new(BinaryExpr::new(left, op, right).with_fail_on_overflow(true)) as Arc<dyn PhysicalExpr>
        };
        let leaf = prop_oneof![3 => (0usize..3).prop_map(column), 1 => floats().prop_map(constant)].boxed();
        let [computes, compares] = [&OPERATORS[..5], &OPERATORS[5..]].map(|some| prop::sample::select(some.to_vec()));
        let compared = (leaf.clone(), compares, leaf.clone()).prop_map(binary);
        let computed =
            leaf.prop_recursive(4, 12, 2, move |side| (side.clone(), computes.clone(), side).prop_map(binary));
        prop_oneof![2 => computed, 1 => compared]
    }

    /// The same with every part made quick that can be.
    fn quick(tree: Arc<dyn PhysicalExpr>, input: &Schema) -> Arc<dyn PhysicalExpr> {
        let made = tree.transform_up(|node| {
            let quick = node.downcast_ref::<BinaryExpr>().map(|whole| Quick::of(whole, input).unwrap());
            Ok(match quick.flatten() {
                Some(quick) => Transformed::yes(Arc::new(quick)),
                None => Transformed::no(node),
            })
        });
        made.data().unwrap()
    }

    proptest! {
        #[test]
        fn floats_are_computed_and_compared_as_datafusion_does(
            tree in trees(),
            x in prop::collection::vec(prop::option::of(floats()), 90), y in prop::collection::vec(floats(), 90),
            z in prop::collection::vec(prop::option::of(floats()), 90), count in 1usize..90,
        ) {
            let [x, y, z] = [x.into(), y.into(), z.into()].map(|column: Float64Array| Arc::new(column) as ArrayRef);
            let columns = [("x", x, true), ("y", y, false), ("z", z, true)];
            let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap().slice(0, count);
            let before = rows.clone();
            let given = |tree: &dyn PhysicalExpr| told(&tree.evaluate(&rows).unwrap().into_array(count).unwrap());
            prop_assert_eq!(given(&*quick(Arc::clone(&tree), rows.schema_ref())), given(&*tree));
            // What is written over is a column between two steps, never one that was given.
            prop_assert_eq!(told(rows.column(0)), told(before.column(0)));
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
