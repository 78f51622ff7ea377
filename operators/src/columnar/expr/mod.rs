//! [`Expression`]: one SQL expression over the columns of a record batch.

mod check;
mod constant;
mod floats;
mod functions;
mod plan;
mod quick;
#[cfg(test)]
mod tests;
mod total;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion_common::ScalarValue;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Literal;

pub(super) use check::{bytes, parse};
pub(super) use plan::{canonical, closed, words};

use crate::{Fault, Result, Timestamp};

/// What is wrong with an expression: some bytes of its text, why, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExprError {
    /// What is wrong, in a sentence without a full stop.
    pub what: String,
    /// The bytes of the text that are to blame, where a part of it is.
    pub within: Option<Range<usize>>,
    /// What to do about it.
    pub help: Option<String>,
}

impl ExprError {
    /// Something that is wrong with the whole.
    pub(super) fn new(what: impl Into<String>) -> Self {
        ExprError { what: what.into(), within: None, help: None }
    }

    /// The same, blamed on some bytes.
    pub(super) fn within(mut self, bytes: impl Into<Option<Range<usize>>>) -> Self {
        self.within = bytes.into();
        self
    }

    /// The same, with a way out.
    pub(super) fn help(mut self, help: impl Into<Option<String>>) -> Self {
        self.help = help.into();
        self
    }
}

impl fmt::Display for ExprError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.help.iter().try_for_each(|help| write!(f, " ({help})"))
    }
}

impl std::error::Error for ExprError {}

/// Bytes of stack that the longest expression is planned within, even where nothing is optimised.
const COMPILER_STACK: usize = 32 << 20;

/// An SQL expression, compiled for batches of one schema: `amount * 1.2`, `upper(name) like 'A%'`.
///
/// - Columns are named as they are declared; case matters, and quotes are needed only around odd names (`"a-b"`).
/// - Types are checked when it is compiled. A sum or product of whole numbers that does not fit is an error of the
///   row, and never wraps around.
/// - `now()`, `current_timestamp` and `current_date` are the time given to [`evaluate`](Expression::evaluate): one for
///   the whole batch.
/// - What it gives is of a type that a schema can declare, where there is one: text is `utf8` and times are UTC
///   microseconds, whatever function made them.
///
/// ```
/// use millstream_operators::columnar::{Expression, schema};
/// let schema = schema([("amount", "float64"), ("customerId", "utf8")]).unwrap();
/// let large = Expression::compile("amount >= 10 and customerId is not null", &schema).unwrap();
/// assert_eq!(large.columns(), ["amount", "customerId"]);
/// let error = Expression::compile("amuont >= 10", &schema).unwrap_err();
/// assert_eq!(error.to_string(), "there is no column `amuont` (did you mean `amount`?)");
/// assert_eq!(error.within, Some(0..6));
/// ```
#[derive(Clone, Debug)]
pub struct Expression {
    sql: Arc<str>,
    input: SchemaRef,
    physical: Arc<dyn PhysicalExpr>,
    data_type: DataType,
    nullable: bool,
    metadata: HashMap<String, String>,
    columns: Vec<String>,
    can_fail: bool,
}

impl Expression {
    /// Compiles an expression over rows with these columns.
    ///
    /// # Errors
    /// Text that is no expression, names that are not known, types that do not go together, and what would need more
    /// than one row: subqueries, aggregates, window functions. Also what would give another value on a replay.
    pub fn compile(sql: &str, input: &SchemaRef) -> Result<Expression, ExprError> {
        // The planner goes down an expression by recursion, and may panic: neither must hurt who asks.
        std::thread::scope(|scope| {
            let compile = || Expression::compile_here(sql, input);
            let compiled = std::thread::Builder::new().stack_size(COMPILER_STACK).spawn_scoped(scope, compile);
            let compiled = compiled.map_err(|error| ExprError::new(format!("cannot compile expressions: {error}")))?;
            compiled.join().unwrap_or_else(|_| Err(ExprError::new("this expression cannot be planned")))
        })
    }

    fn compile_here(sql: &str, input: &SchemaRef) -> Result<Expression, ExprError> {
        let parsed = check::parse(sql, input)?;
        let columns = check::check(sql, &parsed, input)?;
        let planned = plan::plan(sql, &parsed, input)?;
        Ok(Expression {
            sql: sql.into(),
            input: Arc::clone(input),
            physical: planned.physical,
            data_type: planned.data_type,
            nullable: planned.nullable,
            metadata: planned.metadata,
            columns,
            can_fail: planned.can_fail,
        })
    }

    /// The text that it was compiled from.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The same, which people are told of in other words.
    pub(super) fn shown_as(self, sql: &str) -> Self {
        Expression { sql: sql.into(), ..self }
    }

    /// The columns that rows must have.
    pub fn input(&self) -> &SchemaRef {
        &self.input
    }

    /// The type of what it gives.
    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// Whether it may give null.
    pub fn nullable(&self) -> bool {
        self.nullable
    }

    /// The columns that it reads, each once, in the order in which they come in the text.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Whether a row can make it fail: a division can, a comparison cannot.
    pub fn can_fail(&self) -> bool {
        self.can_fail
    }

    /// A column of what it gives, under a name.
    pub fn field(&self, name: &str) -> Field {
        Field::new(name, self.data_type.clone(), self.nullable).with_metadata(self.metadata.clone())
    }

    /// The value that it has for every row, if it is a constant.
    pub(super) fn constant(&self) -> Option<&ScalarValue> {
        self.physical.downcast_ref::<Literal>().map(Literal::value)
    }

    /// Computes it for every row; `now` is what `now()` gives.
    ///
    /// # Errors
    /// A fault when it cannot be computed for one of the rows: operators find out which, and reject that.
    pub fn evaluate(&self, rows: &RecordBatch, now: Timestamp) -> Result<ArrayRef> {
        self.check_columns(rows)?;
        let value = functions::at(now, || self.physical.evaluate(rows));
        let array = value.and_then(|value| value.into_array(rows.num_rows()));
        let array = array.map_err(|error| Fault::operator(format!("`{}`: {}", self.sql, plan::words(&error))))?;
        let array = if array.data_type() == &self.data_type {
            array
        } else {
            // Functions may name the items of their lists in another way than they said.
            let cast = cast(&array, &self.data_type);
            cast.map_err(|error| Fault::operator(format!("`{}`: {error}", self.sql)))?
        };
        if !self.nullable && array.null_count() > 0 {
            return Err(Fault::operator(format!("`{}` is null where it should never be", self.sql)));
        }
        Ok(array)
    }

    fn check_columns(&self, rows: &RecordBatch) -> Result {
        let (expected, got) = (self.input.fields(), rows.schema_ref().fields());
        // The same allocation, unless rows come from elsewhere than they were planned to.
        if Arc::ptr_eq(&self.input, rows.schema_ref()) || expected == got {
            return Ok(());
        }
        let same = expected.len() == got.len()
            && expected.iter().zip(got).all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type());
        if same { Ok(()) } else { Err(Fault::bug(format!("`{}` was compiled for other columns", self.sql))) }
    }
}
