//! [`TryMap`]: one row becomes another, or is rejected.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::{Batch, Cause, Operator, Outbox, Parts, PortType, Rejected, Result, Side, Turn};

/// Each row becomes another, with its time and message, or is rejected.
///
/// ```text
/// rows (halves)   0   1          2   3
/// given           0              1
/// rejected            1 is odd       3 is odd
/// ```
///
/// # Errors
/// A row for which the closure gives an error goes to the side output `rejected`, whole, with the words of the error and the
/// code [`Operator`](crate::Code::Operator). The run goes on.
pub struct TryMap<T, U, E, F> {
    f: Arc<F>,
    rejected: Side<Rejected<T>>,
    types: PhantomData<fn(T) -> (U, E)>,
}

impl<T, U, E, F> TryMap<T, U, E, F>
where
    T: Send + 'static,
    E: fmt::Display,
    F: Fn(&T) -> Result<U, E>,
{
    /// The operator that tries `f`. It sees the row by reference, so that a rejected row is whole.
    pub fn new(f: Arc<F>) -> Self {
        TryMap { f, rejected: Side::rejected(1), types: PhantomData }
    }
}

impl<T, U, E, F> Operator for TryMap<T, U, E, F>
where
    T: Send + 'static,
    U: Send + 'static,
    E: fmt::Display + 'static,
    F: Fn(&T) -> Result<U, E> + Send + Sync + 'static,
{
    type In = Vec<T>;
    type Out = Vec<U>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Vec<U>>) -> Result<Turn> {
        let Parts { times, rows, origins, weight } = batch.into_parts();
        let total = rows.len();
        let (mut given_times, mut given) = (Vec::with_capacity(total), Vec::with_capacity(total));
        let mut of = Vec::new();
        for (at, (row, time)) in rows.into_iter().zip(times).enumerate() {
            match (self.f)(&row) {
                Ok(out) => {
                    given.push(out);
                    given_times.push(time);
                    if origins.is_some() {
                        of.push(at);
                    }
                }
                Err(error) => {
                    let cause = Cause::operator(error);
                    out.push_side_from(&self.rejected, time, Rejected { row, cause }, origins.as_ref(), at);
                }
            }
        }
        let weight = crate::batch::scaled_to(weight, given.len(), total);
        let origins = origins.map(|origins| if of.len() == total { origins } else { origins.select(of) });
        out.send(Batch::from_parts(Parts { times: given_times.into(), rows: given, origins, weight })?);
        Ok(Turn::Done)
    }

    fn sides(&self) -> Vec<PortType> {
        vec![self.rejected.port_type()]
    }
}

impl<T, U, E, F> fmt::Debug for TryMap<T, U, E, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TryMap")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{Bench, cuts_do_not_matter, timed, with_origins};

    fn halve(n: &i64) -> Result<i64, String> {
        if n % 2 == 0 { Ok(n / 2) } else { Err(format!("{n} is odd")) }
    }

    #[test]
    fn rows_that_fail_are_rejected_whole_and_the_others_go_on() {
        let given = cuts_do_not_matter(|| TryMap::new(Arc::new(halve)), &timed(0..7));
        assert_eq!(given, [0, 1, 2, 3]);
        let mut bench = Bench::new(TryMap::new(Arc::new(halve)));
        bench.batch(with_origins(timed(1..4)));
        let rejected = bench.take_side_batches::<Rejected<i64>>(1).remove(0);
        assert_eq!(rejected.rows()[1], Rejected { row: 3, cause: Cause::operator("3 is odd") });
        assert_eq!(rejected.origins().unwrap().get(1).unwrap().sequence, 3);
    }
}
