//! [`RowPass`]: one or many verbs over rows, done in one pass over a batch.

use std::fmt;
use std::marker::PhantomData;

use crate::batch::scaled_to;
use crate::{Batch, Operator, Origin, Origins, Outbox, Parts, Result, Timestamp, Turn};

/// What a closure may know of a row besides the row itself.
#[derive(Clone, Copy, Debug)]
pub struct RowContext<'a> {
    time: Timestamp,
    origins: Option<&'a Origins>,
    row: usize,
}

impl<'a> RowContext<'a> {
    /// The row's event time.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The message that the row came from, if that is known.
    pub fn origin(&self) -> Option<&'a Origin> {
        self.origins?.get(self.row)
    }

    /// The subject of that message; empty if it is not known.
    pub fn subject(&self) -> &'a str {
        self.origin().map_or("", Origin::subject)
    }

    /// The stream sequence of that message; 0 if it is not known.
    pub fn sequence(&self) -> u64 {
        self.origin().map_or(0, |origin| origin.sequence)
    }

    /// A header of that message.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.origin()?.headers.get(name)
    }
}

/// Something that is done to one row at a time, and gives rows. Two of them in a row are one again, by composition at
/// compile time, so that a chain of verbs costs one pass over the batch.
pub trait RowFn: Clone + Send + Sync + 'static {
    /// The row that goes in.
    type In: Send + 'static;
    /// The rows that come out.
    type Out: Send + 'static;
    /// Whether exactly one row comes out for each: times and origins stay as they are then.
    const ONE_TO_ONE: bool;

    /// Does it to a row, and gives what comes out to `emit`.
    fn run(&mut self, row: Self::In, context: RowContext<'_>, emit: &mut impl FnMut(Self::Out));

    /// Appends how many rows came to each step so far.
    fn counts(&self, _into: &mut Vec<u64>) {}
}

/// No verb yet: rows as they come. The beginning of every chain.
pub struct Whole<T>(PhantomData<fn() -> T>);

impl<T> Default for Whole<T> {
    fn default() -> Self {
        Whole(PhantomData)
    }
}

impl<T> Clone for Whole<T> {
    fn clone(&self) -> Self {
        Whole(PhantomData)
    }
}

impl<T> fmt::Debug for Whole<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Whole")
    }
}

impl<T: Send + 'static> RowFn for Whole<T> {
    type In = T;
    type Out = T;
    const ONE_TO_ONE: bool = true;

    #[inline(always)]
    fn run(&mut self, row: T, _: RowContext<'_>, emit: &mut impl FnMut(T)) {
        emit(row);
    }
}

/// The operator that does a [`RowFn`] to every row.
///
/// ```
/// use millstream_operators::rows::{Filter, Map, RowPass, Whole};
/// let doubled_evens = RowPass::new(Map::new(Filter::new(Whole::<i64>::default(), |n| n % 2 == 0), |n| n * 2));
/// # let _ = doubled_evens;
/// ```
pub struct RowPass<C: RowFn> {
    chain: C,
    // What is left of a batch when the outbox was full.
    pending: Option<Pending<C::In>>,
}

struct Pending<T> {
    rows: std::vec::IntoIter<T>,
    times: Vec<Timestamp>,
    origins: Option<Origins>,
    weight: usize,
    next: usize,
}

// So many rows are sent as one batch when a verb makes many of one.
const CHUNK: usize = 4096;

impl<C: RowFn> RowPass<C> {
    /// The operator of a chain.
    pub fn new(chain: C) -> Self {
        RowPass { chain, pending: None }
    }

    fn go_on(&mut self, out: &mut Outbox<'_, Vec<C::Out>>) -> Result<Turn> {
        let Some(mut pending) = self.pending.take() else { return Ok(Turn::Done) };
        let Pending { rows, times, origins, weight, next } = &mut pending;
        let total = times.len();
        loop {
            let expected = rows.len().min(CHUNK);
            let mut given_times = Vec::with_capacity(expected);
            let mut given_rows = Vec::with_capacity(expected);
            let mut of = Vec::with_capacity(if origins.is_some() { expected } else { 0 });
            for (row, time) in rows.by_ref().zip(times.iter().skip(*next).copied()) {
                let context = RowContext { time, origins: origins.as_ref(), row: *next };
                let before = given_rows.len();
                self.chain.run(row, context, &mut |out| given_rows.push(out));
                let more = given_rows.len() - before;
                if more == 1 {
                    given_times.push(time);
                } else {
                    given_times.resize(given_rows.len(), time);
                }
                if origins.is_some() {
                    of.resize(given_rows.len(), *next);
                }
                *next += 1;
                if given_rows.len() >= CHUNK {
                    break;
                }
            }
            let weight = scaled_to(*weight, given_rows.len(), total);
            let origins = origins.as_ref().map(|origins| origins.select(of));
            out.send(Batch::from_parts(Parts { times: given_times, rows: given_rows, origins, weight })?);
            if rows.len() == 0 {
                return Ok(Turn::Done);
            }
            if !out.has_room() {
                self.pending = Some(pending);
                return Ok(Turn::Again);
            }
        }
    }
}

impl<C: RowFn> Operator for RowPass<C> {
    type In = Vec<C::In>;
    type Out = Vec<C::Out>;

    fn on_batch(&mut self, batch: Batch<Vec<C::In>>, out: &mut Outbox<'_, Vec<C::Out>>) -> Result<Turn> {
        let Parts { times, rows, origins, weight } = batch.into_parts();
        if C::ONE_TO_ONE {
            let mut given = Vec::with_capacity(rows.len());
            for ((at, row), time) in rows.into_iter().enumerate().zip(times.iter().copied()) {
                let context = RowContext { time, origins: origins.as_ref(), row: at };
                self.chain.run(row, context, &mut |out| given.push(out));
            }
            out.send(Batch::from_parts(Parts { times, rows: given, origins, weight })?);
            return Ok(Turn::Done);
        }
        self.pending = Some(Pending { rows: rows.into_iter(), times, origins, weight, next: 0 });
        self.go_on(out)
    }

    fn on_more(&mut self, out: &mut Outbox<'_, Vec<C::Out>>) -> Result<Turn> {
        self.go_on(out)
    }

    fn counts(&self) -> Vec<u64> {
        let mut counts = Vec::new();
        self.chain.counts(&mut counts);
        counts
    }
}

impl<C: RowFn> fmt::Debug for RowPass<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RowPass")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{Filter, FilterMap, FlatMap, Inspect, Map};
    use crate::testkit::{Bench, cuts_do_not_matter, timed};

    #[test]
    fn a_chain_gives_what_its_verbs_give_one_after_the_other() {
        let chain = Map::new(Filter::new(Whole::<i64>::default(), |n| n % 3 != 0), |n: i64| n * 10);
        let chain = FlatMap::new(chain, |n: i64| (0..n % 4).map(move |i| n + i));
        let input = 0..200;
        let expected: Vec<i64> =
            input.clone().filter(|n| n % 3 != 0).map(|n| n * 10).flat_map(|n| (0..n % 4).map(move |i| n + i)).collect();
        let given = cuts_do_not_matter(|| RowPass::new(chain.clone()), &timed(input));
        assert_eq!(given, expected);
    }

    #[test]
    fn every_step_counts_the_rows_that_came_to_it() {
        let chain = Inspect::new(Filter::new(Map::new(Whole::default(), |n: i64| n), |n| *n < 3), |_| {});
        let mut bench = Bench::new(RowPass::new(chain));
        bench.rows(0..10);
        assert_eq!(bench.operator().counts(), [10, 10, 3]);
    }

    #[test]
    fn times_and_origins_stay_with_their_rows() {
        let chain = FilterMap::new(Whole::default(), |n: i64| (n > 1).then_some(n * 2));
        let mut bench = Bench::new(RowPass::new(chain));
        bench.batch(crate::testkit::with_origins(timed(0..4)));
        let batch = bench.take_batches().remove(0);
        assert_eq!(batch.rows(), &[4, 6]);
        assert_eq!(batch.times().iter().map(|t| t.as_micros()).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(batch.origins().unwrap().get(1).unwrap().sequence, 4);
    }

    #[test]
    fn a_flood_waits_for_room() {
        let mut bench = Bench::new(RowPass::new(FlatMap::new(Whole::default(), |n: i64| std::iter::repeat_n(n, 3000))));
        bench.room_for(2);
        bench.rows(0..100);
        assert!(bench.turns() > 10, "{}", bench.turns());
        assert_eq!(bench.take().len(), 300_000);
    }
}
