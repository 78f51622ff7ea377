//! [`Route`]: rows to the output of the first predicate that is true for them.

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::not;
use arrow::datatypes::SchemaRef;

use super::filter::check_predicate;
use super::rows::{REJECTED, columns_port, judge_or_reject, rejected_port};
use super::{Clock, ExprError, Expression, keep};
use crate::{Batch, Fault, Operator, Outbox, PortType, Result, Turn};

/// Sends each row to the first of its routes whose predicate is true for it; null is not. Ports 1 and up are the routes, in
/// order; port 0 is for rows that match none.
///
/// ```text
/// rows                            0   1   2   3   4   5   6   7                8   9
/// 1: small (n < 3)                0   1   2
/// 2: even (n % 2 = 0)                             4       6                    8
/// 3: risky (10 / (n - 7) > 4)                                                      9
/// 0: all others                               3       5
/// 4: rejected                                                 divide by zero
/// ```
///
/// Rows of one output stay in order, with their times and messages. Nothing is kept of them.
///
/// # Errors
/// Rows that a predicate cannot be computed for, before one has matched, go to the last port, [`REJECTED`](super::REJECTED), as
/// JSON text. It may be left open where that cannot happen.
pub struct Route {
    names: Vec<String>,
    predicates: Vec<Expression>,
    schema: SchemaRef,
    clock: Clock,
}

impl Route {
    /// Routes by name and predicate, over rows with these columns; `clock` is what `now()` asks.
    ///
    /// # Errors
    /// An expression that is not true or false; a name that is empty, comes twice, or is that of another port.
    pub fn new(input: &SchemaRef, routes: Vec<(String, Expression)>, clock: Clock) -> Result<Self, ExprError> {
        let mut names: Vec<String> = Vec::new();
        let mut predicates = Vec::new();
        for (name, predicate) in routes {
            check_predicate(&predicate)?;
            if [PortType::MAIN, REJECTED, ""].contains(&name.as_str()) {
                return Err(ExprError::new(format!("no route can be called `{name}`")));
            }
            if names.contains(&name) {
                return Err(ExprError::new(format!("there are two routes called `{name}`")));
            }
            names.push(name);
            predicates.push(predicate);
        }
        Ok(Route { names, predicates, schema: SchemaRef::clone(input), clock })
    }

    /// The columns, which are those of the input.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

impl Operator for Route {
    type In = RecordBatch;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<RecordBatch>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let (now, last) = ((self.clock)(), self.predicates.len() + 1);
        let mut rest = batch;
        for (predicate, port) in self.predicates.iter().zip(1..) {
            if rest.is_empty() {
                break;
            }
            let truth;
            (rest, truth) = judge_or_reject(predicate, rest, now, out, last)?;
            match truth.true_count() {
                0 => {}
                all if all == rest.len() => {
                    out.send_port(
                        port,
                        std::mem::replace(&mut rest, Batch::at(now, RecordBatch::new_empty(self.schema.clone()))),
                    );
                }
                _ => {
                    let matched = certain(&truth);
                    let others = not(&matched).map_err(|error| Fault::bug("cannot negate").because(error))?;
                    out.send_port(port, keep(rest.clone(), &matched)?);
                    rest = keep(rest, &others)?;
                }
            }
        }
        out.send(rest);
        Ok(Turn::Done)
    }

    fn sides(&self) -> Vec<PortType> {
        let can_fail = self.predicates.iter().any(Expression::can_fail);
        let routes = self.names.iter().map(|name| columns_port(name.clone(), &self.schema));
        routes.chain([rejected_port(self.names.len() + 1, can_fail)]).collect()
    }
}

/// The same truth, where null is false.
fn certain(truth: &BooleanArray) -> BooleanArray {
    if truth.null_count() > 0 { arrow::compute::prep_null_mask_filter(truth) } else { truth.clone() }
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let routes = self.names.iter().zip(self.predicates.iter().map(Expression::sql));
        f.write_str("Route")?;
        f.debug_map().entries(routes).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::columnar::steps::{Step, steps_do_not_matter};
    use crate::columnar::tests::{clock, ints, joined, numbered_batch, refused, rows, run};
    use crate::origin::tests::numbered;
    use crate::testkit::Bench;

    fn route(routes: &[(&str, &str)]) -> Result<Route, ExprError> {
        let schema = numbered_batch(1).rows().schema();
        let compile = |(name, sql): &(&str, &str)| Ok(((*name).to_owned(), Expression::compile(sql, &schema)?));
        Route::new(&schema, routes.iter().map(compile).collect::<Result<_, _>>()?, clock())
    }

    #[test]
    fn the_first_match_wins_and_the_rest_goes_to_port_zero() {
        let route = route(&[("small", "n < 3"), ("even", "n % 2 = 0"), ("risky", "10 / (n - 7) > 4")]).unwrap();
        let mut bench = Bench::new(route);
        bench.batch(numbered_batch(10).with_origins(numbered(10)).unwrap());
        let given = [0, 1, 2, 3].map(|port| bench.take_port::<RecordBatch>(port).remove(0));
        let numbers = given.each_ref().map(|batch| ints(batch.rows(), "n"));
        assert_eq!(numbers, [vec![3, 5], vec![0, 1, 2], vec![4, 6, 8], vec![9]]);
        assert_eq!(given[2].origins().unwrap().get(2).unwrap().sequence, 8);
        let rejected = refused(&mut bench, 4);
        assert_eq!((rejected.len(), rejected[0].0.as_str()), (1, r#"{"n":7}"#));
    }

    #[test]
    fn a_batch_that_matches_whole_goes_on_whole() {
        let mut taken =
            run(&mut route(&[("all", "n >= 0"), ("none", "1 / (n - n) = 1")]).unwrap(), [numbered_batch(3)]);
        assert_eq!(taken.0.len(), 1);
        assert_eq!(ints(&joined(&mut taken, 1).unwrap(), "n"), [0, 1, 2]);
    }

    #[test]
    fn null_matches_nothing() {
        let mut taken =
            run(&mut route(&[("some", "n > 0")]).unwrap(), [rows(&[("n", "int64")], &["{}", r#"{"n":1}"#])]);
        assert_eq!(joined(&mut taken, 0).unwrap().num_rows(), 1);
    }

    #[test]
    fn ports_have_the_names_of_the_routes() {
        let names: Vec<_> = route(&[("a", "n > 1"), ("b", "n > 2")])
            .unwrap()
            .sides()
            .iter()
            .map(|port| port.name().to_owned())
            .collect();
        assert_eq!(names, ["a", "b", "rejected"]);
        for bad in [[("a", "n > 1"), ("a", "n > 2")], [("out", "n > 1"), ("b", "n > 2")], [("a", "n"), ("b", "n > 2")]]
        {
            assert!(route(&bad).is_err());
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_batches_are_cut_and_where_it_is_restarted(seed: u64) {
            static ROUTES: LazyLock<Route> =
                LazyLock::new(|| route(&[("a", "n % 3 = 0"), ("b", "30 / (n % 10 - 5) > 9")]).unwrap());
            let make = || {
                let routes = ROUTES.names.iter().cloned().zip(ROUTES.predicates.iter().cloned()).collect();
                Route::new(&ROUTES.schema, routes, clock()).unwrap()
            };
            let batch = numbered_batch(60).with_origins(numbered(60)).unwrap();
            let told = steps_do_not_matter(make, &[Step::Rows(batch)], seed);
            prop_assert_eq!([0, 1, 2, 3].map(|port| told.port(port).len()).iter().sum::<usize>(), 60);
        }
    }
}
