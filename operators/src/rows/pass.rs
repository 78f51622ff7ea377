//! [`RowPass`]: one or many verbs over rows, done in one pass over a batch.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use crate::batch::{scaled_to, shorten};
use crate::{Batch, Operator, Origin, Origins, Outbox, Parts, Result, Times, Timestamp, Turn};

/// What a closure may know of a row besides the row itself.
#[derive(Clone, Copy, Debug)]
pub struct RowContext<'a> {
    time: Timestamp,
    messages: &'a [Origin],
    message: u32,
}

impl<'a> RowContext<'a> {
    /// The row's event time.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The message that the row came from, if that is known.
    pub fn origin(&self) -> Option<&'a Origin> {
        self.messages.get(self.message as usize)
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

/// How many rows come out of a step for one that goes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    /// Exactly one: times and origins stay as they are.
    One,
    /// One or none: times and origins close up where they are.
    OneOrNone,
    /// Any number.
    Any,
}

impl Gives {
    /// What this step and a next one give together.
    #[must_use]
    pub const fn then(self, next: Gives) -> Gives {
        match (self, next) {
            (Gives::Any, _) | (_, Gives::Any) => Gives::Any,
            (Gives::One, Gives::One) => Gives::One,
            _ => Gives::OneOrNone,
        }
    }
}

/// How many rows came to each step of a chain: a number a step, in pairs that grow with the chain.
///
/// They are kept beside the steps and not in them, so that a pass can count in registers: what the operator owns would
/// have to be in memory after every row, because a closure may panic.
pub trait Tally: Copy + Default + fmt::Debug + Send + 'static {
    /// Appends the numbers, first step first.
    fn list(&self, into: &mut Vec<u64>);
}

impl Tally for () {
    fn list(&self, _: &mut Vec<u64>) {}
}

impl<B: Tally> Tally for (B, u64) {
    fn list(&self, into: &mut Vec<u64>) {
        self.0.list(into);
        into.push(self.1);
    }
}

/// Something that is done to one row at a time, and gives rows. Two of them in a row are one again, by composition at
/// compile time, so that a chain of verbs costs one pass over the batch.
pub trait RowFn: Clone + Send + Sync + 'static {
    /// The row that goes in.
    type In: Send + 'static;
    /// The rows that come out.
    type Out: Send + 'static;
    /// How many rows came to each step.
    type Tally: Tally;
    /// How many rows come out for one.
    const GIVES: Gives;

    /// Does it to a row, counts the row at each step, and gives what comes out to `emit`.
    fn run(&self, row: Self::In, context: RowContext<'_>, tally: &mut Self::Tally, emit: &mut impl FnMut(Self::Out));
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
    type Tally = ();
    const GIVES: Gives = Gives::One;

    #[inline(always)]
    fn run(&self, row: T, _: RowContext<'_>, (): &mut (), emit: &mut impl FnMut(T)) {
        emit(row);
    }
}

/// The operator that does a [`RowFn`] to every row, and counts the rows that come to each of its steps.
///
/// ```text
/// rows                 0    1    2    3    4      5 come to the filter
/// filter (odd ones)         1         3           2 come to the map
/// map (times ten)          10        30
/// ```
///
/// Rows are given in the order of those that they are made of, with their times and messages. No state is kept.
///
/// ```
/// use millstream_operators::Operator;
/// use millstream_operators::rows::{Filter, Map, RowPass, Whole};
/// use millstream_operators::testkit::Bench;
///
/// let odd = Filter::new(Whole::<i64>::default(), |n| n % 2 == 1);
/// let mut bench = Bench::new(RowPass::new(Map::new(odd, |n| n * 10)));
/// bench.rows(0..5);
/// assert_eq!(bench.take(), [10, 30]);
/// assert_eq!(bench.operator().counts(), [5, 2]);
/// ```
pub struct RowPass<C: RowFn> {
    chain: C,
    tally: C::Tally,
    // What is left of a batch when the outbox was full.
    pending: Option<Pending<C::In>>,
}

struct Pending<T> {
    rows: std::vec::IntoIter<T>,
    times: Times,
    origins: Option<Origins>,
    weight: usize,
    next: usize,
}

// So many rows are sent as one batch when a verb makes many of one.
const CHUNK: usize = 4096;

impl<C: RowFn> RowPass<C> {
    /// The operator of a chain.
    pub fn new(chain: C) -> Self {
        RowPass { chain, tally: C::Tally::default(), pending: None }
    }

    /// A batch of which each row gives one at most. Times and origins close up where they are, beside the rows.
    fn one_each(&mut self, batch: Batch<Vec<C::In>>) -> Result<Batch<Vec<C::Out>>> {
        let Parts { times, rows, mut origins, weight } = batch.into_parts();
        let (total, same) = (rows.len(), times.as_same());
        // Rows of one time have no column to close up: each is asked for one, and there is none.
        let (same_time, mut times) = match same {
            Some(time) => (time, Vec::new()),
            None => (Timestamp::MIN, times.into_vec()),
        };
        let cells = cells(&mut times);
        let (mut time, mut time_kept) = (cells.iter(), cells.iter());
        // Whether there are origins is asked here, and not at each row.
        let mut given = match &mut origins {
            None => {
                let context = || RowContext { time: next(&mut time, same_time), messages: &[], message: u32::MAX };
                self.each(rows, context, |row| put(&mut time_kept, row.time))
            }
            Some(origins) => {
                let (messages, of_row) = origins.split_mut();
                let cells = self::cells(of_row);
                let (mut message, mut message_kept) = (cells.iter(), cells.iter());
                let context = || {
                    let (time, message) = (next(&mut time, same_time), next(&mut message, u32::MAX));
                    RowContext { time, messages, message }
                };
                self.each(rows, context, |row| {
                    put(&mut time_kept, row.time);
                    put(&mut message_kept, row.message);
                })
            }
        };
        let kept = given.len();
        shorten(&mut given, kept);
        let mut times = same.map_or_else(|| Times::from(times), |time| Times::same(time, total));
        times.truncate(kept);
        if let Some(origins) = &mut origins {
            shorten(origins.rows_mut(), kept);
        }
        Batch::from_parts(Parts { times, rows: given, origins, weight: scaled_to(weight, kept, total) })
    }

    #[inline(always)]
    fn each<'a>(
        &mut self,
        rows: Vec<C::In>,
        mut context: impl FnMut() -> RowContext<'a>,
        mut keep: impl FnMut(RowContext<'a>),
    ) -> Vec<C::Out> {
        let RowPass { chain, tally, .. } = self;
        let mut counted = *tally;
        let given = filter_map(rows, |row| {
            let context = context();
            let mut given = None;
            chain.run(row, context, &mut counted, &mut |row| given = Some(row));
            if C::GIVES != Gives::One && given.is_some() {
                keep(context);
            }
            given
        });
        *tally = counted;
        given
    }

    fn go_on(&mut self, out: &mut Outbox<'_, Vec<C::Out>>) -> Result<Turn> {
        let Some(mut pending) = self.pending.take() else { return Ok(Turn::Done) };
        let Pending { rows, times, origins, weight, next } = &mut pending;
        let total = times.len();
        let origins = origins.as_ref();
        let (messages, of_row): (&[Origin], &[u32]) = match origins {
            Some(origins) => (origins.messages(), origins.of_row()),
            None => (&[], &[]),
        };
        loop {
            let mut counted = self.tally;
            let expected = rows.len().min(CHUNK);
            let mut given_times = Vec::with_capacity(expected);
            let mut given_rows = Vec::with_capacity(expected);
            let mut of = Vec::with_capacity(if origins.is_some() { expected } else { 0 });
            for (row, time) in rows.by_ref().zip(times.iter().skip(*next).copied()) {
                let message = of_row.get(*next).copied().unwrap_or(u32::MAX);
                let context = RowContext { time, messages, message };
                self.chain.run(row, context, &mut counted, &mut |out| given_rows.push(out));
                given_times.resize(given_rows.len(), time);
                if origins.is_some() {
                    of.resize(given_rows.len(), *next);
                }
                *next += 1;
                if given_rows.len() >= CHUNK {
                    break;
                }
            }
            self.tally = counted;
            let weight = scaled_to(*weight, given_rows.len(), total);
            let origins = origins.map(|origins| origins.select(of));
            out.send(Batch::from_parts(Parts { times: given_times.into(), rows: given_rows, origins, weight })?);
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

/// A column that is read from the front while it closes up behind.
fn cells<T>(column: &mut [T]) -> &[Cell<T>] {
    Cell::from_mut(column).as_slice_of_cells()
}

fn next<T: Copy>(column: &mut std::slice::Iter<'_, Cell<T>>, or: T) -> T {
    column.next().map_or(or, Cell::get)
}

fn put<T>(kept: &mut std::slice::Iter<'_, Cell<T>>, value: T) {
    if let Some(place) = kept.next() {
        place.set(value);
    }
}

/// What `f` makes of some rows; where both kinds of row have one layout, in the memory of those that went in.
#[inline(always)]
fn filter_map<T, U>(rows: Vec<T>, f: impl FnMut(T) -> Option<U>) -> Vec<U> {
    if const { size_of::<T>() == size_of::<U>() && align_of::<T>() == align_of::<U>() } {
        return rows.into_iter().filter_map(f).collect();
    }
    let mut given = Vec::with_capacity(rows.len());
    given.extend(rows.into_iter().filter_map(f));
    given
}

impl<C: RowFn> Operator for RowPass<C> {
    type In = Vec<C::In>;
    type Out = Vec<C::Out>;

    fn on_batch(&mut self, batch: Batch<Vec<C::In>>, out: &mut Outbox<'_, Vec<C::Out>>) -> Result<Turn> {
        if C::GIVES != Gives::Any {
            out.send(self.one_each(batch)?);
            return Ok(Turn::Done);
        }
        let Parts { times, rows, origins, weight } = batch.into_parts();
        self.pending = Some(Pending { rows: rows.into_iter(), times, origins, weight, next: 0 });
        self.go_on(out)
    }

    fn on_more(&mut self, out: &mut Outbox<'_, Vec<C::Out>>) -> Result<Turn> {
        self.go_on(out)
    }

    fn counts(&self) -> Vec<u64> {
        let mut counts = Vec::new();
        self.tally.list(&mut counts);
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
    use proptest::prelude::*;

    use super::*;
    use crate::rows::{Filter, FilterMap, FlatMap, Inspect, Map, MapWith};
    use crate::testkit::{Bench, cuts_do_not_matter, timed, with_origins};

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

    proptest! {
        #[test]
        fn a_chain_of_every_verb_gives_what_iterators_give(rows in prop::collection::vec(-50i64..50, 1..60)) {
            let chain = Inspect::new(Filter::new(Whole::<i64>::default(), |n| n % 3 != 0), |_| {});
            let chain = MapWith::new(chain, |n: i64, from: RowContext<'_>| (n * 10, from.sequence(), from.time()));
            let chain = FlatMap::new(chain, |row: (i64, u64, Timestamp)| (0..row.0.rem_euclid(4)).map(move |_| row));
            let chain = FilterMap::new(chain, |row: (i64, u64, Timestamp)| (row.0 > -300).then_some(row));
            let chain = Map::new(chain, |row: (i64, u64, Timestamp)| (row, row.0 + 1));
            let expected = rows.iter().copied().zip(1..).zip(0..).filter(|((n, _), _)| n % 3 != 0);
            let expected = expected.flat_map(|((n, sequence), time)| {
                let row = (n * 10, sequence, Timestamp::from_micros(time));
                std::iter::repeat_n(row, (n * 10).rem_euclid(4) as usize)
            });
            let expected: Vec<_> = expected.filter(|row| row.0 > -300).map(|row| (row, row.0 + 1)).collect();
            prop_assert_eq!(cuts_do_not_matter(|| RowPass::new(chain.clone()), &timed(rows)), expected);
        }
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
        bench.batch(with_origins(timed(0..4)));
        let batch = bench.take_batches().remove(0);
        assert_eq!(batch.rows(), &[4, 6]);
        assert_eq!(batch.times().iter().map(|t| t.as_micros()).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(batch.origins().unwrap().get(1).unwrap().sequence, 4);
    }

    #[test]
    fn rows_of_another_layout_have_their_own_times_and_messages_too() {
        let chain =
            Map::new(FilterMap::new(Whole::default(), |n: i64| (n % 3 > 0).then(|| n.to_string())), |s| s + "!");
        let chain = MapWith::new(chain, |s: String, from: RowContext<'_>| (s, from.time(), from.sequence()));
        let mut bench = Bench::new(RowPass::new(chain));
        bench.batch(with_origins(timed(0..6)));
        let batch = bench.take_batches().remove(0);
        let rows: Vec<_> = batch.rows().iter().map(|(s, time, n)| (s.as_str(), time.as_micros(), *n)).collect();
        assert_eq!(rows, [("1!", 1, 2), ("2!", 2, 3), ("4!", 4, 5), ("5!", 5, 6)]);
        assert_eq!(batch.times().iter().map(|t| t.as_micros()).collect::<Vec<_>>(), [1, 2, 4, 5]);
        let sequences = (0..batch.len()).map(|row| batch.origins().unwrap().get(row).unwrap().sequence);
        assert_eq!(sequences.collect::<Vec<_>>(), [2, 3, 5, 6]);
    }

    #[test]
    fn few_rows_do_not_hold_the_memory_of_many() {
        let mut bench = Bench::new(RowPass::new(Filter::new(Whole::default(), |n: &i64| n % 100 == 0)));
        bench.batch(with_origins(timed(0..1_000)));
        let Parts { rows, times, .. } = bench.take_batches().remove(0).into_parts();
        let times = times.into_vec();
        assert_eq!(rows.len(), 10);
        assert!(rows.capacity() <= 40 && times.capacity() <= 40, "{} {}", rows.capacity(), times.capacity());
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
