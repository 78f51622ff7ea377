//! [`Filter`]: the rows for which an expression is true.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};

use super::rows::{judge_or_reject, rejected_port};
use super::schema::describe_type;
use super::{Clock, ExprError, Expression, keep};
use crate::{Batch, Operator, Outbox, PortType, Result, Turn};

/// Lets the rows pass for which its predicate is true; null is not.
///
/// ```text
/// rows (6 / (n - 1) > 2)   0   1                2   3   4
/// given                                         2   3
/// rejected                     divide by zero
/// ```
///
/// Rows keep their times and messages. Nothing is kept of them.
///
/// # Errors
/// Rows that the predicate cannot be computed for go to the port [`REJECTED`](super::REJECTED), number 1, as JSON text. It may
/// be left open where that cannot happen.
pub struct Filter {
    predicate: Expression,
    clock: Clock,
}

impl Filter {
    /// A filter by a predicate; `clock` is what `now()` asks.
    ///
    /// # Errors
    /// An expression that is not true or false.
    pub fn new(predicate: Expression, clock: Clock) -> Result<Self, ExprError> {
        check_predicate(&predicate)?;
        Ok(Filter { predicate, clock })
    }

    /// The columns, which are those of the input.
    pub fn schema(&self) -> &SchemaRef {
        self.predicate.input()
    }
}

/// Refuses an expression that is not true or false.
pub(super) fn check_predicate(predicate: &Expression) -> Result<(), ExprError> {
    if predicate.data_type() == &DataType::Boolean {
        return Ok(());
    }
    let what = format!("this is {}, and must be true or false", describe_type(predicate.data_type()));
    Err(ExprError::new(what).within(0..predicate.sql().len()).help("compare it with something".to_owned()))
}

impl Operator for Filter {
    type In = RecordBatch;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<RecordBatch>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let (batch, mask) = judge_or_reject(&self.predicate, batch, (self.clock)(), out, 1)?;
        out.send(keep(batch, &mask)?);
        Ok(Turn::Done)
    }

    fn sides(&self) -> Vec<PortType> {
        vec![rejected_port(1, self.predicate.can_fail())]
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filter({})", self.predicate.sql())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::columnar::steps::{Step, steps_do_not_matter};
    use crate::columnar::tests::{at_port, clock, ints, joined, numbered_batch, refused, rows, run};
    use crate::origin::tests::numbered;
    use crate::testkit::Bench;

    fn filter(sql: &str) -> Filter {
        let schema = numbered_batch(1).rows().schema();
        Filter::new(Expression::compile(sql, &schema).unwrap(), clock()).unwrap()
    }

    #[test]
    fn lets_true_rows_pass_with_their_origins() {
        let batch = numbered_batch(6).with_origins(numbered(6)).unwrap();
        let passed = at_port::<RecordBatch>(&mut run(&mut filter("n % 2 = 1"), [batch]), 0).remove(0);
        assert_eq!(ints(passed.rows(), "n"), [1, 3, 5]);
        assert_eq!(passed.origins().unwrap().get(1).unwrap().sequence, 3);
    }

    #[test]
    fn null_is_not_true() {
        let batch = rows(&[("n", "int64")], &[r#"{"n":1}"#, "{}"]);
        assert_eq!(joined(&mut run(&mut filter("n > 0"), [batch]), 0).unwrap().num_rows(), 1);
    }

    #[test]
    fn rows_that_fail_are_rejected_and_the_others_go_on() {
        let mut bench = Bench::new(filter("6 / (n - 1) > 2"));
        bench.batch(numbered_batch(5));
        assert_eq!(ints(bench.take_batches()[0].rows(), "n"), [2, 3]);
        let rejected = refused(&mut bench, 1);
        assert_eq!(rejected.len(), 1);
        assert_eq!(rejected[0].0, r#"{"n":1}"#);
        assert!(rejected[0].1.to_lowercase().contains("divide by zero"), "{}", rejected[0].1);
    }

    #[test]
    fn only_a_predicate_that_can_fail_must_have_its_rejected_rows_looked_after() {
        assert!(!filter("n > 1").sides()[0].must_connect());
        assert!(filter("1 / n > 1").sides()[0].must_connect());
    }

    #[test]
    fn a_number_is_no_predicate() {
        let schema = numbered_batch(1).rows().schema();
        let error = Filter::new(Expression::compile("n + 1", &schema).unwrap(), clock()).unwrap_err();
        assert_eq!(error.to_string(), "this is int64, and must be true or false (compare it with something)");
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_batches_are_cut_and_where_it_is_restarted(which in 0usize..4, seed: u64) {
            let sql = [
                "case when n % 7 = 3 then 10 / (n - 10) > 0 else 100 / (n - 30) < 9 end",
                // Whether the right side is looked at must not depend on other rows.
                "n > 50 and 10 / (n - 55) > 0 or n % 2 = 0",
                "n < 55 or 10 / (n - 55) > 0",
                "nullif(n, 20) < 10 and 10 / (n % 5) > 2",
            ][which];
            let batch = numbered_batch(60).with_origins(numbered(60)).unwrap();
            let predicate = Expression::compile(sql, &batch.rows().schema()).unwrap();
            let make = || Filter::new(predicate.clone(), clock()).unwrap();
            let told = steps_do_not_matter(make, &[Step::Rows(batch)], seed);
            prop_assert!(!told.port(0).is_empty() && !told.port(1).is_empty());
        }
    }
}
