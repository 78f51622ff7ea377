//! From a checked syntax tree to something that computes: types coerced, constants folded, arithmetic checked.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, DFSchemaRef, DataFusionError, Result as DfResult, ScalarValue};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{Expr, ExprSchemable, Operator, Volatility, binary_expr, cast};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_physical_expr::expressions::BinaryExpr;
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast::{
    BinaryOperator, Expr as SqlExpr, FunctionArg, FunctionArgExpr, FunctionArguments, Spanned, Visit, Visitor,
};

use super::check::bytes;
use super::functions::catalog;
use super::quick::Quick;
use super::{ExprError, total};
use crate::columnar::schema::{self, describe_type};

/// An expression that is ready.
pub(super) struct Planned {
    pub(super) physical: Arc<dyn PhysicalExpr>,
    pub(super) data_type: DataType,
    pub(super) nullable: bool,
    pub(super) metadata: HashMap<String, String>,
    pub(super) can_fail: bool,
}

/// Plans a checked expression.
pub(super) fn plan(sql: &str, parsed: &SqlExpr, input: &SchemaRef) -> Result<Planned, ExprError> {
    let columns = DFSchema::try_from(Arc::clone(input)).map_err(|error| ExprError::new(words(&error)))?;
    let columns = Arc::new(columns);
    let logical = match logical(parsed, &columns) {
        Ok(logical) => logical,
        Err(error) => return Err(blame(sql, parsed, &columns, &error)),
    };
    finish(&logical, &columns).map_err(|error| ExprError::new(words(&error)))
}

fn logical(parsed: &SqlExpr, columns: &DFSchemaRef) -> DfResult<Expr> {
    let expr = typed(parsed, columns)?;
    if expr.get_type(columns)? == DataType::Null {
        return Err(DataFusionError::Plan("this is always null, and of no type".to_owned()));
    }
    let expr = checked_negation(expr, columns)?;
    let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::clone(columns)).build());
    let expr = simplifier.coerce(expr, columns)?;
    let data_type = expr.get_type(columns)?;
    let canonical = canonical(&data_type);
    let expr = if canonical == data_type { expr } else { cast(expr, canonical) };
    let expr = simplifier.simplify(expr)?;
    check_constants(&expr, columns)?;
    Ok(expr)
}

/// The planned expression as it was written, after a check of the types that coercion would make something of.
fn typed(parsed: &SqlExpr, columns: &DFSchemaRef) -> DfResult<Expr> {
    let options = ParserOptions::new().with_enable_ident_normalization(false).with_map_string_types_to_utf8view(false);
    let planner = SqlToRel::new_with_options(catalog(), options);
    let expr = planner.sql_to_expr(parsed.clone(), columns, &mut PlannerContext::new())?;
    expr.apply(|node| {
        let pairs: Vec<(&Expr, &Expr)> = match node {
            Expr::BinaryExpr(binary) if compares_or_computes(binary.op) => vec![(&binary.left, &binary.right)],
            Expr::Between(between) => vec![(&between.expr, &between.low), (&between.expr, &between.high)],
            Expr::InList(list) => list.list.iter().map(|item| (&*list.expr, item)).collect(),
            _ => Vec::new(),
        };
        for (left, right) in pairs {
            // Lambda variables have no type here.
            let (Ok(left), Ok(right)) = (left.get_type(columns), right.get_type(columns)) else { continue };
            if is_text(&left) && is_count(&right) || is_count(&left) && is_text(&right) {
                return Err(DataFusionError::Plan(format!(
                    "{} does not go together with {}",
                    describe_type(&left),
                    describe_type(&right)
                )));
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(expr)
}

/// `-x` of whole numbers as `0 - x`, which is checked: the least number has no negative.
fn checked_negation(expr: Expr, columns: &DFSchemaRef) -> DfResult<Expr> {
    let checked = expr.transform_up(|node| match node {
        Expr::Negative(inner) => {
            let data_type = inner.get_type(columns)?;
            if !data_type.is_integer() {
                return Ok(Transformed::no(Expr::Negative(inner)));
            }
            let zero = Expr::Literal(ScalarValue::new_zero(&data_type)?, None);
            Ok(Transformed::yes(binary_expr(zero, Operator::Minus, *inner)))
        }
        node => Ok(Transformed::no(node)),
    });
    checked.data()
}

fn compares_or_computes(op: Operator) -> bool {
    op.supports_propagation()
        || op.is_numerical_operators()
        || matches!(op, Operator::IsDistinctFrom | Operator::IsNotDistinctFrom)
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_count(data_type: &DataType) -> bool {
    data_type.is_numeric() || data_type == &DataType::Boolean
}

/// Constants that could not be folded would fail for every row: say so now.
fn check_constants(expr: &Expr, columns: &DFSchemaRef) -> DfResult<()> {
    expr.apply(|node| {
        let regex = match node {
            Expr::BinaryExpr(binary) if is_regex(binary.op) => literal_text(&binary.right),
            Expr::ScalarFunction(call) if call.func.name().starts_with("regexp_") => {
                call.args.get(1).and_then(literal_text)
            }
            _ => None,
        };
        if let Some(regex) = regex {
            datafusion_functions::regex::compile_regex(regex, None)?;
        }
        let volatile =
            matches!(node, Expr::ScalarFunction(call) if call.func.signature().volatility == Volatility::Volatile);
        let whole = matches!(node, Expr::BinaryExpr(_) | Expr::ScalarFunction(_) | Expr::Cast(_) | Expr::Negative(_));
        let mut literals = whole && !volatile;
        node.apply_children(|child| {
            literals &= matches!(child, Expr::Literal(..));
            Ok(TreeNodeRecursion::Continue)
        })?;
        if literals {
            let batch = arrow::array::RecordBatch::try_new_with_options(
                Arc::new(arrow::datatypes::Schema::empty()),
                Vec::new(),
                &arrow::array::RecordBatchOptions::new().with_row_count(Some(1)),
            )?;
            physical(node, columns)?.evaluate(&batch)?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

fn is_regex(op: Operator) -> bool {
    matches!(op, Operator::RegexMatch | Operator::RegexIMatch | Operator::RegexNotMatch | Operator::RegexNotIMatch)
}

fn literal_text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text), _) => {
            text.as_deref()
        }
        _ => None,
    }
}

fn physical(expr: &Expr, columns: &DFSchemaRef) -> DfResult<Arc<dyn PhysicalExpr>> {
    let planned = create_physical_expr(expr, columns, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
    // Whole numbers that do not fit are an error of the row, not another number.
    let checked = planned.transform_up(|node| {
        let Some(binary) = node.downcast_ref::<BinaryExpr>() else { return Ok(Transformed::no(node)) };
        let checked = binary.clone().with_fail_on_overflow(true);
        let ready: Arc<dyn PhysicalExpr> = match Quick::of(&checked, columns.as_arrow())? {
            Some(ready) => Arc::new(ready),
            None => Arc::new(checked),
        };
        Ok(Transformed::yes(ready))
    });
    checked.data()
}

fn finish(expr: &Expr, columns: &DFSchemaRef) -> DfResult<Planned> {
    let physical = physical(expr, columns)?;
    let field = physical.return_field(columns.as_arrow())?;
    // What a column says of itself holds for the column alone, not for what is computed from it.
    let metadata = if matches!(expr, Expr::Column(_)) { field.metadata().clone() } else { HashMap::new() };
    Ok(Planned {
        data_type: field.data_type().clone(),
        nullable: field.is_nullable(),
        metadata,
        can_fail: !total::is_total(expr, columns),
        physical,
    })
}

/// The declared type that holds the same values; the type itself if there is none.
pub(in crate::columnar) fn canonical(data_type: &DataType) -> DataType {
    let inner = |field: &Arc<Field>| Arc::new(field.as_ref().clone().with_data_type(canonical(field.data_type())));
    match data_type {
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Timestamp(..) => schema::timestamp(),
        DataType::Date64 => DataType::Date32,
        DataType::Duration(_) => DataType::Duration(arrow::datatypes::TimeUnit::Microsecond),
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Dictionary(_, values) => canonical(values),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => DataType::List(inner(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect::<Fields>()),
        other => other.clone(),
    }
}

/// What DataFusion says, without its names for itself.
pub(in crate::columnar) fn words(error: &DataFusionError) -> String {
    let root = error.find_root();
    let message = match root {
        DataFusionError::ArrowError(error, _) => error.to_string(),
        other => other.message().into_owned(),
    };
    let message = message.lines().next().unwrap_or("");
    // What follows are the names of signatures.
    let message = message.split(". No function matches").next().unwrap_or(message).trim_end_matches('.');
    if message.starts_with("Unsupported ast node in sqltorel: Lambda") {
        return "`->` makes a lambda, which only functions such as `array_filter` take".to_owned();
    }
    if message.starts_with("Unsupported ast node") {
        return "this form of SQL is not supported".to_owned();
    }
    let prefixes = [
        "Cast error: ",
        "Compute error: ",
        "Invalid argument error: ",
        "Arithmetic overflow: ",
        "Parser error: ",
        "Arrow error: ",
    ];
    let message = prefixes.iter().fold(message, |message, prefix| message.strip_prefix(prefix).unwrap_or(message));
    message.to_owned()
}

/// Finds the smallest part of an expression that cannot be planned, and blames that.
fn blame(sql: &str, parsed: &SqlExpr, columns: &DFSchemaRef, error: &DataFusionError) -> ExprError {
    let mut blamer = Blamer { columns, lambdas: 0 };
    let culprit = match parsed.visit(&mut blamer) {
        ControlFlow::Break(culprit) => culprit,
        ControlFlow::Continue(()) => Box::new((parsed.clone(), words(error))),
    };
    let (part, message) = *culprit;
    let text = |part: &SqlExpr| {
        let text = bytes(sql, part.span()).and_then(|range| sql.get(range)).map(str::to_owned);
        text.unwrap_or_else(|| part.to_string())
    };
    let type_of = |part: &SqlExpr| typed(part, columns).and_then(|expr| expr.get_type(columns)).ok();
    let within = bytes(sql, part.span()).map(|range| closed(sql, range));
    match &part {
        SqlExpr::CompoundFieldAccess { root, .. } => {
            if let Some(of) = type_of(root) {
                let what = format!("`{}` is {}, and has no such part", text(root), describe_type(&of));
                let help = "lists take a number from 1 on, structs the name of a field in single quotes".to_owned();
                return ExprError::new(what).within(within).help(help);
            }
        }
        SqlExpr::BinaryOp { left, op, right } => {
            if let (Some(l), Some(r)) = (type_of(left), type_of(right))
                && (is_mismatch(&message) || l != r)
            {
                let (l, r) = (describe_type(&l), describe_type(&r));
                let what =
                    format!("`{}` is {l} and `{}` is {r}: `{op}` does not go between them", text(left), text(right));
                return ExprError::new(with_detail(what, &message)).within(within).help(type_hint(&l, &r, op));
            }
        }
        SqlExpr::Function(function) => {
            let arguments = match &function.args {
                FunctionArguments::List(list) => list.args.as_slice(),
                _ => &[],
            };
            let types = arguments.iter().map(|argument| match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) => type_of(argument).map(|t| describe_type(&t)),
                _ => None,
            });
            if let Some(types) = types.collect::<Option<Vec<_>>>().filter(|_| is_mismatch(&message)) {
                let what = format!("`{}` does not take ({})", function.name, types.join(", "));
                return ExprError::new(what).within(within).help(detail(&message));
            }
        }
        _ => {}
    }
    ExprError::new(message).within(within)
}

/// Whether a message is about types, and says no more than that they do not go together.
fn is_mismatch(message: &str) -> bool {
    [
        "coerc",
        "Cannot get result type",
        "Candidate",
        "signature",
        "common argument type",
        "does not go together",
        "argument types",
        "expects",
    ]
    .iter()
    .any(|word| message.contains(word))
}

fn with_detail(what: String, message: &str) -> String {
    if is_mismatch(message) { what } else { format!("{what}: {message}") }
}

fn detail(message: &str) -> Option<String> {
    let expects = message.split(". ").find(|part| part.contains("expect"))?;
    Some(expects.trim_end_matches('.').to_owned())
}

fn type_hint(left: &str, right: &str, op: &BinaryOperator) -> Option<String> {
    if left == "utf8" && right == "utf8" && op == &BinaryOperator::Plus {
        return Some("texts are joined with `||`".to_owned());
    }
    let number = |name: &str| name.starts_with("int") || name.starts_with("uint") || name.starts_with("float");
    let other = if left == "utf8" { right } else { left };
    let mixed = (left == "utf8" || right == "utf8") && number(other);
    mixed.then(|| format!("cast one of them, as in cast(x as {other})"))
}

/// A range with the brackets behind it that it opens: the parser's places leave them out.
pub(in crate::columnar) fn closed(sql: &str, range: Range<usize>) -> Range<usize> {
    let mut end = range.end;
    let text = |end: usize| sql.get(range.start..end).unwrap_or("");
    let open = |end: usize, pair: [char; 2]| text(end).matches(pair[0]).count() > text(end).matches(pair[1]).count();
    while let Some(rest) = sql.get(end..) {
        let trimmed = rest.trim_start();
        let closes = match trimmed.chars().next() {
            Some(')') => open(end, ['(', ')']),
            Some(']') => open(end, ['[', ']']),
            _ => false,
        };
        if !closes {
            break;
        }
        end = sql.len() - trimmed.len() + 1;
    }
    range.start..end
}

struct Blamer<'a> {
    columns: &'a DFSchemaRef,
    // Inside a lambda its parameters are not known.
    lambdas: usize,
}

impl Visitor for Blamer<'_> {
    type Break = Box<(SqlExpr, String)>;

    fn pre_visit_expr(&mut self, expr: &SqlExpr) -> ControlFlow<Self::Break> {
        self.lambdas += usize::from(matches!(expr, SqlExpr::Lambda(_)));
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &SqlExpr) -> ControlFlow<Self::Break> {
        let lambda = matches!(expr, SqlExpr::Lambda(_));
        self.lambdas -= usize::from(lambda);
        let name = matches!(expr, SqlExpr::Identifier(_) | SqlExpr::Value(_));
        if lambda || name || self.lambdas > 0 {
            return ControlFlow::Continue(());
        }
        match logical(expr, self.columns) {
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new((expr.clone(), words(&error)))),
        }
    }
}
