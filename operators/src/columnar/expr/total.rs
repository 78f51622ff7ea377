//! Whether an expression has a value for every row, or may fail for some.

use arrow::datatypes::DataType;
use datafusion_common::DFSchemaRef;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_expr::{Expr, ExprSchemable, Operator};

/// Functions that have a value for whatever they are given.
const TOTAL: [&str; 24] = [
    "now",
    "current_date",
    "upper",
    "lower",
    "btrim",
    "ltrim",
    "rtrim",
    "character_length",
    "octet_length",
    "coalesce",
    "nullif",
    "get_field",
    "starts_with",
    "ends_with",
    "contains",
    "concat",
    "named_struct",
    "struct",
    "array_length",
    "make_array",
    "md5",
    "sha256",
    "reverse",
    "strpos",
];

/// Whether no row can make the expression fail. It is on the safe side: what is not known to be harmless is not.
pub(super) fn is_total(expr: &Expr, columns: &DFSchemaRef) -> bool {
    let mut total = true;
    let walked = expr.apply(|node| {
        total = total && node_is_total(node, columns);
        Ok(if total { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    total && walked.is_ok()
}

fn node_is_total(node: &Expr, columns: &DFSchemaRef) -> bool {
    match node {
        Expr::Column(_)
        | Expr::Literal(..)
        | Expr::Alias(_)
        | Expr::Not(_)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsNotTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotUnknown(_)
        | Expr::Between(_)
        | Expr::InList(_)
        | Expr::Case(_)
        | Expr::TryCast(_) => true,
        Expr::Like(like) => matches!(*like.pattern, Expr::Literal(..)),
        Expr::BinaryExpr(binary) => match binary.op {
            Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::And
            | Operator::Or
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
            | Operator::StringConcat => true,
            Operator::RegexMatch | Operator::RegexIMatch | Operator::RegexNotMatch | Operator::RegexNotIMatch => {
                matches!(*binary.right, Expr::Literal(..))
            }
            // Floating-point numbers become infinite or NaN.
            Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide => {
                node.get_type(columns).is_ok_and(|data_type| data_type.is_floating())
            }
            _ => false,
        },
        Expr::ScalarFunction(call) => TOTAL.contains(&call.func.name()),
        Expr::Cast(cast) => cast.expr.get_type(columns).is_ok_and(|from| always_fits(&from, cast.field.data_type())),
        _ => false,
    }
}

/// Whether a cast has a result for every value.
fn always_fits(from: &DataType, to: &DataType) -> bool {
    let plain = |data_type: &DataType| data_type.is_primitive() || data_type == &DataType::Boolean;
    if from == to || to == &DataType::Utf8 && plain(from) || to.is_floating() && from.is_numeric() {
        return true;
    }
    let wider = from.is_integer() && to.is_integer() && from.primitive_width() < to.primitive_width();
    wider && (from.is_unsigned_integer() || to.is_signed_integer())
}
