//! [`Select`]: columns computed, added, replaced and dropped.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};

use super::rows::{compute_or_reject, rejected_port};
use super::{Clock, ExprError, Expression};
use crate::suggest::did_you_mean;
use crate::{Batch, Fault, Operator, Outbox, Parts, PortType, Result, Turn};

/// Makes the columns of each row anew: some computed, some kept, some dropped.
///
/// ```text
/// rows                       n: 0    n: 1             n: 2
/// given (x = 6 / (n - 1))    x: -6                    x: 6
/// rejected                           divide by zero
/// ```
///
/// Rows keep their times and messages. Nothing is kept of them.
///
/// # Errors
/// Rows that a column cannot be computed for go to the port [`REJECTED`](super::REJECTED), number 1, with the columns that they
/// came with, as JSON text. It may be left open where that cannot happen.
pub struct Select {
    computed: Vec<Expression>,
    // For each column of the output, where it comes from.
    columns: Vec<From>,
    schema: SchemaRef,
    clock: Clock,
}

#[derive(Clone, Copy)]
enum From {
    Input(usize),
    Computed(usize),
}

impl Select {
    /// These columns and no others, in this order; `clock` is what `now()` asks.
    ///
    /// # Errors
    /// Two columns of one name, or none at all.
    pub fn new(columns: Vec<(String, Expression)>, clock: Clock) -> Result<Self, ExprError> {
        let made = columns.iter().enumerate().map(|(i, (name, made))| (From::Computed(i), Arc::new(made.field(name))));
        Select::of(made.collect(), columns, clock)
    }

    /// All columns of `input`, of which those named here are replaced where they stand; new ones come last. The
    /// expressions all see the columns of the input.
    ///
    /// # Errors
    /// Two columns of one name among those that are set.
    pub fn with(input: &SchemaRef, columns: Vec<(String, Expression)>, clock: Clock) -> Result<Self, ExprError> {
        let kept = input.fields().iter().enumerate().map(|(i, field)| (From::Input(i), Arc::clone(field)));
        let mut output: Vec<(From, FieldRef)> = kept.collect();
        for (i, (name, expression)) in columns.iter().enumerate() {
            let made = (From::Computed(i), Arc::new(expression.field(name)));
            match output.iter_mut().find(|(from, field)| matches!(from, From::Input(_)) && field.name() == name) {
                Some(replaced) => *replaced = made,
                None => output.push(made),
            }
        }
        Select::of(output, columns, clock)
    }

    /// All columns of `input` but these.
    ///
    /// # Errors
    /// A column that there is not; or no column would be left.
    pub fn without(input: &SchemaRef, names: &[&str]) -> Result<Self, ExprError> {
        if let Some(unknown) = names.iter().find(|name| input.column_with_name(name).is_none()) {
            let known = input.fields().iter().map(|field| field.name().as_str());
            return Err(
                ExprError::new(format!("there is no column `{unknown}`")).help(did_you_mean(unknown, "columns", known))
            );
        }
        let kept = input.fields().iter().enumerate().filter(|(_, field)| !names.contains(&field.name().as_str()));
        let kept = kept.map(|(i, field)| (From::Input(i), Arc::clone(field))).collect();
        Select::of(kept, Vec::new(), Arc::new(|| crate::Timestamp::MIN))
    }

    fn of(output: Vec<(From, FieldRef)>, columns: Vec<(String, Expression)>, clock: Clock) -> Result<Self, ExprError> {
        let (columns_from, fields): (Vec<_>, Vec<FieldRef>) = output.into_iter().unzip();
        if fields.is_empty() {
            return Err(ExprError::new("no column would be left").help("keep at least one".to_owned()));
        }
        for (i, field) in fields.iter().enumerate() {
            if fields.iter().take(i).any(|before| before.name() == field.name()) {
                return Err(ExprError::new(format!("there would be two columns called `{}`", field.name())));
            }
        }
        let computed = columns.into_iter().map(|(_, expression)| expression).collect();
        Ok(Select { computed, columns: columns_from, schema: Arc::new(Schema::new(fields)), clock })
    }

    /// The columns that it gives.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

impl Operator for Select {
    type In = RecordBatch;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<RecordBatch>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let (batch, computed) = compute_or_reject(&self.computed, batch, (self.clock)(), out, 1)?;
        let Parts { times, rows, origins, weight } = batch.into_parts();
        let columns = self.columns.iter().map(|from| match from {
            From::Input(place) => rows.columns().get(*place).cloned(),
            From::Computed(place) => computed.get(*place).cloned(),
        });
        let columns = columns.collect::<Option<Vec<_>>>().ok_or_else(|| Fault::bug("a column is missing"))?;
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|error| Fault::bug("columns do not fit their schema").because(error))?;
        out.send(Batch::from_parts(Parts { times, rows, origins, weight })?);
        Ok(Turn::Done)
    }

    fn sides(&self) -> Vec<PortType> {
        vec![rejected_port(1, self.computed.iter().any(Expression::can_fail))]
    }
}

impl std::fmt::Debug for Select {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Select({})", super::describe(&self.schema))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::columnar::steps::{Step, steps_do_not_matter};
    use crate::columnar::tests::{at_port, clock, ints, joined, lines, numbered_batch, refused, rejected, rows, run};
    use crate::columnar::{describe, schema};
    use crate::origin::tests::numbered;
    use crate::testkit::Bench;

    const COLUMNS: [(&str, &str); 3] = [("id", "int64 not null"), ("name", "utf8"), ("raw", "json")];

    fn columns(list: &[(&str, &str)]) -> Vec<(String, Expression)> {
        let input = schema(COLUMNS).unwrap();
        let compile = |sql| Expression::compile(sql, &input).unwrap();
        list.iter().map(|(name, sql)| ((*name).to_owned(), compile(sql))).collect()
    }

    fn input() -> Batch<RecordBatch> {
        let lines = [r#"{"id":1,"name":"a","raw":"[]"}"#, r#"{"id":0,"name":"b"}"#, r#"{"id":4}"#];
        rows(&COLUMNS, &lines).with_origins(numbered(3)).unwrap().weighing(30)
    }

    #[test]
    fn replaces_all_columns() {
        let mut select =
            Select::new(columns(&[("twice", "id * 2"), ("raw", "raw"), ("who", "upper(name)")]), clock()).unwrap();
        assert_eq!(describe(select.schema()), "twice: int64 not null, raw: json, who: utf8");
        let batch = at_port::<RecordBatch>(&mut run(&mut select, [input()]), 0).remove(0);
        assert_eq!(
            lines(batch.rows()),
            [
                json!({"twice": 2, "raw": "[]", "who": "A"}),
                json!({"twice": 0, "raw": null, "who": "B"}),
                json!({"twice": 8, "raw": null, "who": null}),
            ]
        );
        assert_eq!((batch.weight(), batch.origins().unwrap().get(2).unwrap().sequence), (30, 2));
    }

    #[test]
    fn adds_and_replaces_columns_that_all_see_the_input() {
        let input_schema = input().rows().schema();
        let list = columns(&[("id", "id + 1"), ("before", "id"), ("at", "now()")]);
        let mut select = Select::with(&input_schema, list, clock()).unwrap();
        assert_eq!(
            describe(select.schema()),
            "id: int64 not null, name: utf8, raw: json, before: int64 not null, at: timestamp not null"
        );
        let rows = joined(&mut run(&mut select, [input()]), 0).unwrap();
        assert_eq!(
            lines(&rows)[0],
            json!({"id": 2, "name": "a", "raw": "[]", "before": 1, "at": "2026-01-01T12:00:00Z"})
        );
    }

    #[test]
    fn drops_columns() {
        let input_schema = input().rows().schema();
        let mut select = Select::without(&input_schema, &["name", "raw"]).unwrap();
        assert_eq!(lines(&joined(&mut run(&mut select, [input()]), 0).unwrap())[2], json!({"id": 4}));
        assert!(Select::without(&input_schema, &["nmae"]).unwrap_err().to_string().contains("did you mean `name`?"));
        assert!(Select::without(&input_schema, &["id", "name", "raw"]).is_err());
    }

    #[test]
    fn two_columns_of_one_name_are_refused() {
        let error = Select::new(columns(&[("a", "id"), ("a", "name")]), clock()).unwrap_err();
        assert_eq!(error.to_string(), "there would be two columns called `a`");
        assert!(Select::with(&input().rows().schema(), columns(&[("a", "id"), ("a", "name")]), clock()).is_err());
    }

    #[test]
    fn a_column_that_cannot_be_computed_rejects_its_row_and_the_others_go_on() {
        let input = numbered_batch(3);
        let x = Expression::compile("6 / (n - 1)", &input.rows().schema()).unwrap();
        let mut bench = Bench::new(Select::new(vec![("x".to_owned(), x)], clock()).unwrap());
        bench.batch(input);
        assert_eq!(ints(bench.take_batches()[0].rows(), "x"), [-6, 6]);
        let rejected = refused(&mut bench, 1);
        assert_eq!((rejected.len(), rejected[0].0.as_str()), (1, r#"{"n":1}"#));
    }

    #[test]
    fn a_row_that_fails_is_rejected_whole() {
        let list = columns(&[("x", "10 / id"), ("y", "cast(name as int64)")]);
        let mut taken = run(&mut Select::new(list, clock()).unwrap(), [input()]);
        assert_eq!(lines(&joined(&mut taken, 0).unwrap()), [json!({"x": 2, "y": null})]);
        let rejected = rejected(&mut taken, 1);
        assert_eq!(rejected[0].0, r#"{"id":1,"name":"a","raw":[]}"#);
        assert!(rejected[0].1.contains("Cannot cast string 'a'"), "{rejected:?}");
        assert_eq!(rejected[1].0, r#"{"id":0,"name":"b","raw":null}"#);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_batches_are_cut_and_where_it_is_restarted(seed: u64) {
            let batch = numbered_batch(50).with_origins(numbered(50)).unwrap();
            let schema = batch.rows().schema();
            let compile = |(name, sql): (&str, &str)| (name.to_owned(), Expression::compile(sql, &schema).unwrap());
            let columns = [("a", "100 / (n % 9 - 4)"), ("b", "n * n")].map(compile);
            let make = || Select::with(&schema, columns.to_vec(), clock()).unwrap();
            let told = steps_do_not_matter(make, &[Step::Rows(batch)], seed);
            // Of 50 rows those numbered 4, 13, 22, 31, 40 and 49 cannot be divided by.
            prop_assert_eq!((told.port(0).len(), told.port(1).len()), (44, 6));
        }
    }
}
