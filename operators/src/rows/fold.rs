//! [`Fold`]: a value a key, changed by every row of the key.

use std::fmt;
use std::sync::Arc;

use super::Kept;
use super::silence::Silence;
use crate::{
    Batch, Keyed, Operator, Outbox, Parts, Result, StateKey, StateValue, StateVisitor, Timestamp, Turn, Versions,
};

/// Keeps a value for each key; every row changes that of its key, and the key with its new value goes on.
///
/// ```text
/// rows (added up)   0        1       2        3       4
/// given             even 0   odd 1   even 2   odd 4   even 6
/// ```
///
/// A value that is [kept](super::kept()) for a time begins anew behind a silence of its key that is longer. Counted, with a
/// [`ttl`](Kept::ttl) of 10:
///
/// ```text
/// rows    a 3   a 9   b 8   a 19   a 12   a 30   b 18
/// given   a:1   a:2   b:1   a:3    a:4    a:1    b:2
/// ```
///
/// # State
/// The value of each key: for ever, unless it is kept for a time. It is in memory unless the pipeline has a budget for it, and
/// goes where its keys go when the number of subtasks changes.
///
/// # Order
/// One result a row, in the order of the rows, with their times and messages.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use millstream_operators::rows::Fold;
/// use millstream_operators::testkit::Bench;
///
/// let parity = Arc::new(|n: &i64| String::from(if n % 2 == 0 { "even" } else { "odd" }));
/// let mut bench = Bench::new(Fold::new(parity, 0, Arc::new(|sum: &mut i64, n: i64| *sum += n)));
/// bench.rows(0..5);
/// let given: Vec<String> = bench.take().into_iter().map(|(key, sum)| format!("{key} {sum}")).collect();
/// assert_eq!(given, ["even 0", "odd 1", "even 2", "odd 4", "even 6"]);
/// ```
pub struct Fold<T, K, S, KF, F> {
    key: Arc<KF>,
    first: S,
    change: Arc<F>,
    values: Keyed<K, S>,
    silence: Option<Silence<K>>,
    versions: Versions<S>,
    rows: std::marker::PhantomData<fn(T)>,
}

impl<T, K: StateKey, S, KF, F> Fold<T, K, S, KF, F>
where
    KF: Fn(&T) -> K,
    F: Fn(&mut S, T),
{
    /// The operator that starts each key at `first` and lets `change` take in each row.
    pub fn new(key: Arc<KF>, first: S, change: Arc<F>) -> Self {
        let (values, versions) = (Keyed::default(), Versions::default());
        Fold { key, first, change, values, silence: None, versions, rows: std::marker::PhantomData }
    }

    /// The same operator, which keeps its values as `kept` says.
    #[must_use]
    pub fn kept(mut self, kept: Kept<S>) -> Self {
        self.silence = kept.silence();
        self.versions = kept.versions;
        self
    }
}

impl<T, K, S, KF, F> Operator for Fold<T, K, S, KF, F>
where
    T: Send + 'static,
    K: StateKey,
    S: StateValue,
    KF: Fn(&T) -> K + Send + Sync + 'static,
    F: Fn(&mut S, T) + Send + Sync + 'static,
{
    type In = Vec<T>;
    type Out = Vec<(K, S)>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let Parts { times, rows, origins, weight } = batch.into_parts();
        let Fold { key, first, change, values, silence, .. } = self;
        if let Some(silence) = silence.as_mut() {
            silence.begin(out);
        }
        let rows = rows.into_iter().zip(times.iter()).map(|(row, time)| {
            let key = key(&row);
            if let Some(silence) = silence.as_mut()
                && silence.touch(&key, *time)
            {
                values.remove(&key);
            }
            let value = values.entry(key.clone()).or_insert_with(|| first.clone());
            change(value, row);
            (key, value.clone())
        });
        let rows = rows.collect();
        out.send(Batch::from_parts(Parts { times, rows, origins, weight })?);
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let Some(silence) = &mut self.silence else { return Ok(Turn::Done) };
        Ok(silence.on_watermark(now, out, |key| drop(self.values.remove(&key))))
    }

    fn on_wake(&mut self, now: Timestamp, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let Some(silence) = &mut self.silence else { return Ok(Turn::Done) };
        Ok(silence.on_wake(now, out, |key| drop(self.values.remove(&key))))
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.shape("fold")?;
        visit.keyed_as("values", &mut self.values, &self.versions)?;
        self.silence.as_mut().map_or(Ok(()), |silence| silence.state(visit))
    }
}

impl<T, K, S, KF, F> fmt::Debug for Fold<T, K, S, KF, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fold({:?})", self.values)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::rows::kept;
    use crate::testkit::{Bench, Step, cuts_do_not_matter, steps_do_not_matter, timed};

    fn sums() -> impl Operator<In = Vec<i64>, Out = Vec<(i64, i64)>> {
        Fold::new(Arc::new(|n: &i64| n % 2), 0, Arc::new(|sum: &mut i64, n: i64| *sum += n))
    }

    #[test]
    fn each_key_has_a_value_of_its_own() {
        let given = cuts_do_not_matter(sums, &timed(0..5));
        assert_eq!(given, [(0, 0), (1, 1), (0, 2), (1, 4), (0, 6)]);
    }

    #[test]
    fn a_key_begins_anew_behind_a_silence_that_is_longer_than_its_ttl_wherever_watermarks_fall() {
        let counts = || {
            let count = Fold::new(Arc::new(|key: &u8| *key), 0_u32, Arc::new(|count: &mut u32, _: u8| *count += 1));
            count.kept(kept().ttl(Duration::from_micros(10)))
        };
        let at = Timestamp::from_micros;
        let rows = [(3, 1), (9, 1), (8, 2), (19, 1), (12, 1), (30, 1), (18, 2)];
        let steps = |watermarks: bool| {
            let with = |(time, key): (i64, u8)| {
                let watermark = watermarks.then(|| Step::Watermark(at(time - 12)));
                [Some(Step::Row(at(time), key)), watermark].into_iter().flatten()
            };
            rows.into_iter().flat_map(with).collect::<Vec<_>>()
        };
        let expected = [(1, 1), (1, 2), (2, 1), (1, 3), (1, 4), (1, 1), (2, 2)];
        for watermarks in [false, true] {
            assert_eq!(steps_do_not_matter(counts, &steps(watermarks)), expected, "{watermarks}");
        }
        let mut bench = Bench::new(counts());
        bench.batch([(at(3), 1), (at(9), 1), (at(8), 2)].into_iter().collect());
        bench.watermark(at(18));
        assert_eq!(bench.operator().values.len(), 2);
        bench.watermark(at(19));
        assert_eq!((bench.operator().values.len(), bench.operator().silence.as_ref().unwrap().len()), (1, 1));
        bench.watermark(at(20));
        assert!(bench.operator().values.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::testkit::cases(256)))]
        #[test]
        fn a_key_keeps_what_its_rows_make_of_it_until_it_is_silent(
            mut rows in prop::collection::vec((0i64..150, 0i64..10, 0u8..4), 1..60), ttl in 1i64..30, every in 1usize..9,
        ) {
            rows.sort_by_key(|(time, jitter, _)| time + jitter);
            let collected = || {
                let add = |all: &mut Vec<i64>, row: (u8, i64)| all.push(row.1);
                let fold = Fold::new(Arc::new(|row: &(u8, i64)| row.0), Vec::new(), Arc::new(add));
                fold.kept(kept().ttl(Duration::from_micros(ttl.unsigned_abs())))
            };
            let at = Timestamp::from_micros;
            let (mut steps, mut latest) = (Vec::new(), i64::MIN);
            let (mut known, mut expected) = (BTreeMap::<u8, (i64, Vec<i64>)>::new(), Vec::new());
            for (n, (time, _, key)) in rows.into_iter().enumerate() {
                latest = latest.max(time);
                steps.push(Step::Row(at(time), (key, time)));
                // No row is late.
                steps.extend((n % every == 0).then(|| Step::Watermark(at(latest - 10))));
                let (newest, all) = known.entry(key).or_insert((time, Vec::new()));
                if time - *newest > ttl {
                    all.clear();
                }
                *newest = time.max(*newest);
                all.push(time);
                expected.push((key, all.clone()));
            }
            prop_assert_eq!(steps_do_not_matter(collected, &steps), expected);
        }
    }

    #[test]
    fn by_the_clock_a_key_begins_anew_behind_a_silence_and_is_let_go_when_the_operator_is_woken() {
        let now = Arc::new(AtomicI64::new(0));
        let clock = Arc::clone(&now);
        let count = Fold::new(Arc::new(|key: &u8| *key), 0_u32, Arc::new(|count: &mut u32, _: u8| *count += 1));
        let clock = Arc::new(move || Timestamp::from_micros(clock.load(Ordering::Relaxed)));
        let span = Duration::from_micros(10);
        let mut bench = Bench::new(count.kept(kept().ttl_by_clock(span).on_clock(clock)));
        let at = |micros| now.store(micros, Ordering::Relaxed);
        bench.rows([1, 2]);
        at(10);
        bench.rows([1]);
        bench.watermark(Timestamp::from_micros(1_000));
        at(15);
        bench.rows([2, 1]);
        assert_eq!(bench.take(), [(1, 1), (2, 1), (1, 2), (2, 1), (1, 3)], "the times of rows say nothing");
        bench.advance(span);
        bench.advance(span);
        assert_eq!(bench.operator().values.len(), 2);
        bench.advance(span);
        assert_eq!((bench.operator().values.len(), bench.operator().silence.as_ref().unwrap().len()), (0, 0));
    }

    #[test]
    fn values_survive_a_restart() {
        let mut bench = Bench::new(sums());
        bench.rows([1, 2]);
        let saved = bench.save();
        let mut bench = Bench::restored(sums(), &saved);
        bench.rows([3]);
        assert_eq!(bench.take(), [(1, 4)]);
    }
}
