//! [`Aggregates`]: what is computed of the rows of a group, as SQL.

use std::collections::HashMap;
use std::fmt;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, LazyLock};

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion_common::Result as DfResult;
use datafusion_expr::type_coercion::functions::fields_with_udf;
use datafusion_expr::{AggregateUDF, GroupsAccumulator};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::GroupsAccumulatorAdapter;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion_physical_expr::expressions::{Column, Literal};
use datafusion_sql::sqlparser::ast::{
    DuplicateTreatment, Expr as SqlExpr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Spanned, Visit,
    Visitor, visit_expressions,
};

use crate::columnar::expr::{bytes, canonical, closed, parse, words};
use crate::columnar::schema::describe_type;
use crate::columnar::{ExprError, Expression};
use crate::{Fault, Result};

/// What is computed of the rows of each group: named SQL expressions over aggregates, `sum(price * count)`,
/// `count(*) filter (where amount > 10)`, `max(bid) - min(bid)`. The aggregates of DataFusion can be called; what those give
/// that take rows one behind the other, such as `first_value` and `array_agg`, depends on how rows come. `max` takes a NaN for
/// the greatest number.
///
/// A group that one of them cannot be computed for, as by a division by zero, gives no result: what it came to is a rejected
/// row. So is a sum of whole numbers that does not fit into 64 bits; sums never wrap around.
#[derive(Clone)]
pub struct Aggregates {
    pub(super) calls: Vec<Call>,
    pub(super) outputs: Vec<(String, Output)>,
    // What is computed from what calls give.
    pub(super) outer: Vec<Expression>,
    // What that is computed from: a column for each call.
    pub(super) computed: SchemaRef,
}

/// One call of an aggregate.
#[derive(Clone)]
pub(super) struct Call {
    /// As it is written, but for blanks.
    pub(super) sql: String,
    function: Arc<AggregateFunctionExpr>,
    arguments: Vec<(Expression, DataType)>,
    filter: Option<Expression>,
    /// What whole numbers are that it adds up: it does so in wider ones, and what it gives has to fit.
    pub(super) whole: Option<DataType>,
}

#[derive(Clone)]
pub(super) enum Output {
    /// What a call gives.
    Call(usize),
    /// What is computed from what calls give.
    Computed(usize),
}

/// Aggregates that are not offered: what they give depends on the order of rows, or on other queries.
const LEFT_OUT: [&str; 2] = ["grouping", "nth_value"];

pub(super) static FUNCTIONS: LazyLock<HashMap<String, Arc<AggregateUDF>>> = LazyLock::new(|| {
    let mut functions = HashMap::new();
    for function in datafusion_functions_aggregate::all_default_aggregate_functions() {
        if LEFT_OUT.contains(&function.name()) {
            continue;
        }
        for name in function.aliases().iter().map(String::as_str).chain([function.name()]) {
            functions.insert(name.to_owned(), Arc::clone(&function));
        }
    }
    functions
});

impl Aggregates {
    /// Compiles named expressions over rows with these columns.
    ///
    /// # Errors
    /// For each expression that is wrong, its name and what is.
    pub fn compile(columns: &[(String, String)], input: &SchemaRef) -> Result<Self, Vec<(String, ExprError)>> {
        let (mut calls, mut outers, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
        for (name, sql) in columns {
            match outer(sql, input, &mut calls) {
                Ok(outer) => outers.push((name, sql, outer)),
                Err(error) => wrong.push((name.clone(), error)),
            }
        }
        // What is kept of a group is in this order, whatever that of the columns is.
        let mut order: Vec<usize> = (0..calls.len()).collect();
        order.sort_by_key(|number| calls.get(*number).map(|call: &Call| &call.sql));
        let mut calls: Vec<Option<Call>> = calls.into_iter().map(Some).collect();
        let calls: Vec<Call> = order.iter().filter_map(|number| calls.get_mut(*number)?.take()).collect();
        let field =
            |(number, call): (&usize, &Call)| Field::new(placeholder(*number), call.data_type(), call.nullable());
        let computed: SchemaRef = Arc::new(Schema::new(order.iter().zip(&calls).map(field).collect::<Vec<_>>()));
        let place = |number: usize| order.iter().position(|other| *other == number).unwrap_or_default();
        let (mut outputs, mut outer) = (Vec::new(), Vec::new());
        for (name, sql, output) in outers {
            match output {
                Outer::Call(number) => outputs.push((name.clone(), Output::Call(place(number)))),
                Outer::Text(text) => match Expression::compile(&text, &computed) {
                    Ok(expression) => {
                        outputs.push((name.clone(), Output::Computed(outer.len())));
                        outer.push(expression.shown_as(sql));
                    }
                    Err(error) => wrong.push((name.clone(), error)),
                },
            }
        }
        if wrong.is_empty() { Ok(Aggregates { calls, outputs, outer, computed }) } else { Err(wrong) }
    }

    /// The columns that come of it.
    pub fn fields(&self) -> Vec<Field> {
        let field = |(name, output): &(String, Output)| match output {
            Output::Call(number) => Some(self.computed.field(*number).clone().with_name(name)),
            Output::Computed(number) => self.outer.get(*number).map(|expression| expression.field(name)),
        };
        self.outputs.iter().filter_map(field).collect()
    }

    /// Whether a row can make it fail, or what rows of a group come to.
    pub fn can_fail(&self) -> bool {
        self.inputs().chain(&self.outer).any(Expression::can_fail) || self.calls.iter().any(|call| call.whole.is_some())
    }

    /// What is computed of each row before it is aggregated: the arguments and filters of all calls, one after the other.
    pub(super) fn inputs(&self) -> impl Iterator<Item = &Expression> {
        self.calls.iter().flat_map(|call| call.arguments.iter().map(|(argument, _)| argument).chain(&call.filter))
    }

    /// What is kept of groups, in words: the same for all that give the same to keep.
    pub(super) fn words(&self) -> String {
        self.calls.iter().map(|call| call.sql.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The columns of [`inputs`](Self::inputs), each for its call: arguments of the types that the functions take, and the
    /// filter.
    pub(super) fn arranged(&self, columns: Vec<ArrayRef>) -> Result<Vec<(Vec<ArrayRef>, Option<ArrayRef>)>> {
        let mut columns = columns.into_iter();
        let mut arranged = Vec::new();
        for call in &self.calls {
            let mut arguments = Vec::new();
            for (_, data_type) in &call.arguments {
                let column = columns.next().ok_or_else(|| Fault::bug("an aggregate lacks an argument"))?;
                arguments.push(match column.data_type() == data_type {
                    true => column,
                    false => cast(&column, data_type).map_err(|error| Fault::bug("cannot cast").because(error))?,
                });
            }
            let filter = call.filter.as_ref().and_then(|_| columns.next());
            arranged.push((arguments, filter));
        }
        Ok(arranged)
    }

    /// The types of what calls give.
    pub(super) fn types(&self) -> Vec<DataType> {
        self.calls.iter().map(|call| call.function.field().data_type().clone()).collect()
    }

    /// An accumulator for each call.
    pub(super) fn accumulators(&self) -> Result<Vec<Box<dyn GroupsAccumulator>>> {
        self.calls.iter().map(Call::accumulator_or_fault).collect()
    }

    /// The columns of the states of all calls.
    pub(super) fn state_fields(&self) -> Result<Vec<Vec<FieldRef>>> {
        self.calls.iter().map(Call::state_fields).collect()
    }
}

impl Call {
    fn data_type(&self) -> DataType {
        self.whole.clone().unwrap_or_else(|| canonical(self.function.field().data_type()))
    }

    fn nullable(&self) -> bool {
        self.function.is_nullable()
    }

    /// The lowest or the highest of whole numbers.
    pub(super) fn extreme(highest: bool) -> Result<Call, ExprError> {
        static LOWEST: LazyLock<Result<Call, ExprError>> = LazyLock::new(|| Call::over_numbers("min"));
        static HIGHEST: LazyLock<Result<Call, ExprError>> = LazyLock::new(|| Call::over_numbers("max"));
        if highest { HIGHEST.clone() } else { LOWEST.clone() }
    }

    fn over_numbers(name: &str) -> Result<Call, ExprError> {
        let numbers: SchemaRef = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let aggregate = FUNCTIONS.get(name).ok_or_else(|| ExprError::new(format!("there is no aggregate `{name}`")))?;
        let made = built(aggregate, vec![Expression::compile("n", &numbers)?], false, None);
        made.map_err(|error| ExprError::new(words(&error)))
    }

    pub(super) fn state_fields(&self) -> Result<Vec<FieldRef>> {
        self.function.state_fields().map_err(|error| failed(&error))
    }

    pub(super) fn accumulator_or_fault(&self) -> Result<Box<dyn GroupsAccumulator>> {
        self.accumulator().map_err(|error| failed(&error))
    }

    fn accumulator(&self) -> DfResult<Box<dyn GroupsAccumulator>> {
        if self.function.groups_accumulator_supported() {
            return self.function.create_groups_accumulator();
        }
        let function = Arc::clone(&self.function);
        Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
    }
}

pub(super) fn failed(error: &datafusion_common::DataFusionError) -> Fault {
    Fault::operator(format!("an aggregate cannot be computed: {}", words(error)))
}

/// What is left of an expression when its aggregates are computed.
enum Outer {
    Call(usize),
    /// The same text with a name in the place of each call, at the same bytes.
    Text(String),
}

fn placeholder(number: usize) -> String {
    format!("_{number}")
}

/// Finds the calls of aggregates in an expression.
fn outer(sql: &str, input: &SchemaRef, calls: &mut Vec<Call>) -> Result<Outer, ExprError> {
    let parsed = parse(sql, input)?;
    let mut finder = Finder { sql, input, calls, found: Vec::new() };
    if let ControlFlow::Break(error) = parsed.visit(&mut finder) {
        return Err(*error);
    }
    let found = finder.found;
    match found.as_slice() {
        [] => {
            let help = "call one, as in `sum(amount)`, or list the column in `key_by`";
            Err(ExprError::new("this is no aggregate").within(0..sql.len()).help(help.to_owned()))
        }
        [(range, number)] if *range == (0..sql.trim_end().len()) => Ok(Outer::Call(*number)),
        found => {
            let mut text = sql.to_owned();
            for (range, number) in found.iter().rev() {
                // As long as what it stands for, so that mistakes are found where they are.
                text.replace_range(range.clone(), &format!("{:<1$}", placeholder(*number), range.len()));
            }
            Ok(Outer::Text(text))
        }
    }
}

/// Where the next pair of brackets ends.
fn brackets_end(sql: &str, from: usize) -> usize {
    let (mut open, mut quote) = (0, None);
    for (at, c) in sql.char_indices().skip_while(|(at, _)| *at < from) {
        match (quote, c) {
            (Some(end), c) if end == c => quote = None,
            (Some(_), _) => continue,
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => open += 1,
            (None, ')') if open <= 1 => return at + c.len_utf8(),
            (None, ')') => open -= 1,
            _ => {}
        }
    }
    sql.len()
}

struct Finder<'a> {
    sql: &'a str,
    input: &'a SchemaRef,
    calls: &'a mut Vec<Call>,
    found: Vec<(Range<usize>, usize)>,
}

impl Visitor for Finder<'_> {
    type Break = Box<ExprError>;

    fn pre_visit_expr(&mut self, expr: &SqlExpr) -> ControlFlow<Self::Break> {
        let SqlExpr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let name = function.name.to_string().to_lowercase();
        let Some(aggregate) = FUNCTIONS.get(&name) else { return ControlFlow::Continue(()) };
        let start = bytes(self.sql, expr.span()).map_or(0, |range| range.start);
        // The parser's own places leave brackets out, and what has no place, such as `*`.
        let mut range = start..brackets_end(self.sql, start);
        if function.filter.is_some() {
            range.end = brackets_end(self.sql, range.end);
        }
        match self.call(function, aggregate, &range) {
            Ok(call) => {
                let sql = function.to_string();
                self.found.push((range, self.calls.len()));
                self.calls.push(Call { sql, ..call });
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

impl Finder<'_> {
    fn call(
        &self,
        function: &Function,
        aggregate: &Arc<AggregateUDF>,
        range: &Range<usize>,
    ) -> Result<Call, ExprError> {
        let refused = |what: &str| Err(ExprError::new(what).within(range.clone()));
        if function.over.is_some() {
            return refused("`over` does not go here: the rows of a window are aggregated");
        }
        if !function.within_group.is_empty() || function.null_treatment.is_some() {
            return refused("this form of an aggregate is not supported");
        }
        let FunctionArguments::List(list) = &function.args else { return refused("it needs arguments in brackets") };
        if !list.clauses.is_empty() {
            return refused("an order of rows within an aggregate is not supported");
        }
        let mut arguments = Vec::new();
        for argument in &list.args {
            arguments.push(match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) => self.compile(argument)?,
                FunctionArg::Unnamed(FunctionArgExpr::Wildcard) if aggregate.name() == "count" => {
                    Expression::compile("1", self.input)?
                }
                _ => return refused("arguments are expressions"),
            });
        }
        if arguments.is_empty() && aggregate.name() == "count" {
            arguments.push(Expression::compile("1", self.input)?);
        }
        let filter = function.filter.as_ref().map(|filter| self.compile(filter)).transpose()?;
        if let Some(filter) = filter.as_ref().filter(|filter| filter.data_type() != &DataType::Boolean) {
            return refused(&format!("the filter `{}` must be true or false", filter.sql()));
        }
        let is_distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
        let types: Vec<String> = arguments.iter().map(|argument| describe_type(argument.data_type())).collect();
        let made = built(aggregate, arguments, is_distinct, filter);
        made.map_err(|error| {
            let words = words(&error);
            let what = match words.contains("signature") || words.contains("coerc") {
                true => format!("`{}` does not take ({})", aggregate.name(), types.join(", ")),
                false => words,
            };
            ExprError::new(what).within(range.clone())
        })
    }

    /// Compiles a part of the text by itself, and blames the bytes of the whole.
    fn compile(&self, part: &SqlExpr) -> Result<Expression, ExprError> {
        let range = bytes(self.sql, part.span()).map(|range| closed(self.sql, range));
        let nested = visit_expressions(part, |expr| match expr {
            SqlExpr::Function(inner) if FUNCTIONS.contains_key(&inner.name.to_string().to_lowercase()) => {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        });
        if nested.is_break() {
            let error = ExprError::new("this is an aggregate of an aggregate").within(range);
            return Err(error.help("aggregate in two steps".to_owned()));
        }
        let (text, start) = match range.and_then(|range| Some((self.sql.get(range.clone())?, range.start))) {
            Some((text, start)) => (text.to_owned(), start),
            None => (part.to_string(), 0),
        };
        Expression::compile(&text, self.input).map_err(|mut error| {
            error.within = error.within.map(|within| within.start + start..within.end + start);
            error
        })
    }
}

/// Any whole number of 64 bits has so few.
const WHOLE_DIGITS: u8 = 20;

fn built(
    aggregate: &Arc<AggregateUDF>,
    arguments: Vec<Expression>,
    is_distinct: bool,
    filter: Option<Expression>,
) -> DfResult<Call> {
    let fields: Vec<FieldRef> =
        arguments.iter().enumerate().map(|(number, made)| Arc::new(made.field(&placeholder(number)))).collect();
    let mut coerced = fields_with_udf(&fields, aggregate.as_ref())?;
    let mut whole = None;
    if aggregate.name() == "sum"
        && let Some(field) = coerced.first_mut().filter(|field| field.data_type().is_integer())
    {
        // By itself it would wrap around.
        whole = Some(field.data_type().clone());
        *field = Arc::new(field.as_ref().clone().with_data_type(DataType::Decimal128(WHOLE_DIGITS, 0)));
    }
    let schema = Arc::new(Schema::new(
        coerced
            .iter()
            .zip(&fields)
            .map(|(coerced, field)| field.as_ref().clone().with_data_type(coerced.data_type().clone()))
            .collect::<Vec<_>>(),
    ));
    let mut physical: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
    for (number, (argument, field)) in arguments.iter().zip(schema.fields()).enumerate() {
        // What must be known beforehand, as the share of a percentile, is given as it is.
        physical.push(match argument.constant() {
            Some(constant) => Arc::new(Literal::new(constant.cast_to(field.data_type())?)),
            None => Arc::new(Column::new(field.name(), number)),
        });
    }
    let types = schema.fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>();
    let builder = AggregateExprBuilder::new(Arc::clone(aggregate), physical).schema(schema).alias(aggregate.name());
    let function = Arc::new(builder.with_distinct(is_distinct).build()?);
    // Some refuse what they cannot do only when they are asked to begin.
    let arguments = arguments.into_iter().zip(types).collect();
    let call = Call { sql: String::new(), function, arguments, filter, whole };
    call.accumulator()?;
    call.function.create_accumulator()?;
    Ok(call)
}

impl fmt::Debug for Aggregates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.outputs.iter().map(|(name, _)| name.as_str()).collect();
        write!(f, "Aggregates({})", names.join(", "))
    }
}
