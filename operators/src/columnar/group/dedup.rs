//! [`Dedup`]: of rows with one key that are near each other in time, the first.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, SchemaRef};
use foldhash::fast::FixedState;

use super::KeyColumns;
use super::codec::{KeyBytes, KeyCodec};
use crate::columnar::keep;
use crate::rows::Repeats;
use crate::{Batch, Fault, Operator, Outbox, Result, StateVisitor, Timestamp, Turn};

/// Lets the first row of a key pass, and drops those of the same key whose event times are within a span of it; or gives the
/// columns of the key of rows that do not [repeat](Repeats) others ([`distinct`](Dedup::distinct)), as
/// [`rows::Dedup`](crate::rows::Dedup) does:
///
/// ```text
/// rows (10)   a3   b5   a9   a12   | a14   b16 |
/// dedup       a3   b5              | a14   b16
/// distinct    a    b                       b
/// ```
///
/// What is given comes in the order of the rows, with their times and messages. A null in the key is a value like others. No
/// row is rejected.
///
/// # State
/// A time of each key, by key group; all of it stays in memory. A key is forgotten when the watermark is twice the span behind
/// that; without watermarks, never.
pub struct Dedup {
    keys: KeyColumns,
    names: Vec<String>,
    repeats: Repeats,
    // The columns that are given, where those are not all.
    given: Option<SchemaRef>,
    codec: Arc<KeyCodec>,
    noted: HashMap<KeyBytes, Timestamp, FixedState>,
    // One of each key; it finds out whether it must come back later.
    timers: BTreeSet<(Timestamp, KeyBytes)>,
}

impl Dedup {
    /// The operator for rows with the columns of `input`, which gives rows.
    ///
    /// # Errors
    /// None that [`KeyColumns`] have not found.
    pub fn new(input: &SchemaRef, keys: KeyColumns, within: Duration) -> Result<Self> {
        Dedup::of(input, keys, Repeats::of_first(within))
    }

    /// The operator that gives the columns of the key, each key again if none of it came for `ttl`.
    ///
    /// # Errors
    /// As [`new`](Dedup::new).
    pub fn distinct(input: &SchemaRef, keys: KeyColumns, ttl: Duration) -> Result<Self> {
        let given = input.project(keys.places()).map_err(|error| Fault::bug("no such columns").because(error))?;
        Ok(Dedup { given: Some(Arc::new(given)), ..Dedup::of(input, keys, Repeats::of_newest(ttl))? })
    }

    fn of(input: &SchemaRef, keys: KeyColumns, repeats: Repeats) -> Result<Self> {
        let fields: Vec<Field> = keys.places().iter().map(|place| input.field(*place).clone()).collect();
        let names = fields.iter().map(|field| field.name().clone()).collect();
        let codec = Arc::new(KeyCodec::new(&fields, vec![Field::new("first", DataType::Int64, false)])?);
        let noted = HashMap::with_hasher(FixedState::with_seed(0));
        Ok(Dedup { keys, names, repeats, given: None, codec, noted, timers: BTreeSet::new() })
    }

    /// The columns that it gives, where those are not all.
    pub fn schema(&self) -> Option<&SchemaRef> {
        self.given.as_ref()
    }

    fn is_repeat(&mut self, key: &[u8], time: Timestamp) -> bool {
        if let Some(noted) = self.noted.get_mut(key) {
            let (is_repeat, now) = self.repeats.judge(Some(*noted), time);
            *noted = now;
            return is_repeat;
        }
        self.timers.insert((self.repeats.gone_at(time), key.into()));
        self.noted.insert(key.into(), time);
        false
    }
}

impl Operator for Dedup {
    type In = RecordBatch;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<RecordBatch>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let columns = batch.rows().columns();
        let columns: Vec<ArrayRef> =
            self.keys.places().iter().filter_map(|place| columns.get(*place).cloned()).collect();
        let keys = self.codec.keys(&columns)?;
        let stays = batch.times().iter().enumerate().map(|(row, time)| !self.is_repeat(keys.get(row), *time));
        let stays = BooleanArray::from(stays.collect::<Vec<bool>>());
        let stays = keep(batch, &stays)?;
        if self.given.is_none() {
            out.send(stays);
            return Ok(Turn::Done);
        }
        let keys = stays.rows().project(self.keys.places());
        let keys = keys.map_err(|error| Fault::bug("no such columns").because(error))?;
        out.send(stays.map_rows(|_| keys)?);
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, _: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        while self.timers.first().is_some_and(|(at, _)| *at <= now)
            && let Some((at, key)) = self.timers.pop_first()
        {
            match self.noted.get(&key).map(|noted| self.repeats.gone_at(*noted)) {
                Some(later) if later > at => drop(self.timers.insert((later, key))),
                _ => drop(self.noted.remove(&key)),
            }
        }
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.shape(&format!("the {} of {}", self.repeats.word(), self.names.join(", ")))?;
        let (codec, noted) = (&self.codec, &self.noted);
        let restored = visit.groups(self.repeats.word(), || {
            let codec = Arc::clone(codec);
            let mut all: Vec<(KeyBytes, Timestamp)> = noted.iter().map(|(key, time)| (key.clone(), *time)).collect();
            let save = move |key_groups| {
                all.sort_unstable();
                let times: ArrayRef = Arc::new(all.iter().map(|(_, time)| time.as_micros()).collect::<Int64Array>());
                let keys: Vec<KeyBytes> = all.into_iter().map(|(key, _)| key).collect();
                codec.save(&[codec.rows(&keys, [times])?], key_groups)
            };
            Ok((noted.len(), save))
        })?;
        for bytes in restored.into_iter().flatten() {
            for (keys, columns) in self.codec.restore(&bytes)? {
                let times = columns.first().and_then(|times| times.as_primitive_opt::<Int64Type>());
                let times = times.ok_or_else(|| Fault::bug("saved keys have no times"))?;
                for (row, time) in times.values().iter().enumerate() {
                    self.is_repeat(keys.get(row), Timestamp::from_micros(*time));
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dedup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dedup({:?}, {} keys)", self.repeats, self.noted.len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::columnar::steps::{Step, steps_do_not_matter};
    use crate::columnar::tests::{cut, ints, joined, rows, run};
    use crate::testkit::Bench;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    /// Rows of a key and a number, at their times.
    fn batch(all: &[(i64, &str, i64)]) -> Batch<RecordBatch> {
        let lines: Vec<String> = all.iter().map(|(_, key, n)| format!("{{\"key\":\"{key}\",\"n\":{n}}}")).collect();
        let batch = rows(&[("key", "utf8"), ("n", "int64")], &lines.iter().map(String::as_str).collect::<Vec<_>>());
        Batch::new(all.iter().map(|(time, ..)| at(*time)).collect(), batch.into_parts().rows).unwrap()
    }

    fn distinct() -> Dedup {
        let schema = batch(&[(0, "", 0)]).rows().schema();
        let by = KeyColumns::new(&schema, &["key".to_owned()]).unwrap();
        Dedup::distinct(&schema, by, Duration::from_micros(10)).unwrap()
    }

    fn dedup() -> Dedup {
        let schema = batch(&[(0, "", 0)]).rows().schema();
        Dedup::new(&schema, KeyColumns::new(&schema, &["key".to_owned()]).unwrap(), Duration::from_micros(10)).unwrap()
    }

    /// Rows that are behind the watermark by no more than the span.
    fn timeline() -> impl Strategy<Value = Vec<(i64, u8)>> {
        prop::collection::vec((0i64..120, 0i64..20, 0u8..4), 1..60).prop_map(|mut rows| {
            rows.sort_by_key(|(time, jitter, _)| time + jitter);
            rows.into_iter().map(|(time, _, key)| (time, key)).collect()
        })
    }

    /// Rows in pieces, with the watermark 10 behind the latest of them.
    fn steps(rows: &[(i64, u8)], size: usize) -> Vec<Step<RecordBatch>> {
        let keys: Vec<String> = (0..4).map(|key| key.to_string()).collect();
        let (mut latest, mut n) = (i64::MIN, 0..);
        let piece = |rows: &[(i64, u8)]| {
            latest = rows.iter().map(|(time, _)| *time).fold(latest, i64::max);
            let rows: Vec<_> =
                rows.iter().zip(&mut n).map(|((time, key), n)| (*time, keys[usize::from(*key)].as_str(), n)).collect();
            [Step::Rows(batch(&rows)), Step::Watermark(latest - 10)]
        };
        rows.chunks(size).flat_map(piece).collect()
    }

    proptest! {
        #[test]
        fn the_first_rows_of_keys_pass_wherever_it_is_cut_and_restarted(rows in timeline(), size in 1usize..20, seed: u64) {
            let told = steps_do_not_matter(dedup, &steps(&rows, size), seed);
            let (mut first, mut expected) = (BTreeMap::<u8, i64>::new(), Vec::new());
            for (n, (time, key)) in rows.into_iter().enumerate() {
                if first.get(&key).is_none_or(|first| (time - first).abs() > 10) {
                    first.insert(key, time);
                    expected.push(format!("{{\"key\":\"{key}\",\"n\":{n}}} at {time} of None"));
                }
            }
            prop_assert_eq!(told.port(0), expected);
        }

        #[test]
        fn keys_are_given_when_none_of_them_came_for_long_wherever_it_is_cut_and_restarted(
            rows in timeline(), size in 1usize..20, seed: u64,
        ) {
            let told = steps_do_not_matter(distinct, &steps(&rows, size), seed);
            let (mut newest, mut expected) = (BTreeMap::<u8, i64>::new(), Vec::new());
            for (time, key) in rows {
                let before = newest.insert(key, newest.get(&key).map_or(time, |newest| time.max(*newest)));
                if before.is_none_or(|before| time - before > 10) {
                    expected.push(format!("{{\"key\":\"{key}\"}} at {time} of None"));
                }
            }
            prop_assert_eq!(told.port(0), expected);
        }
    }

    #[test]
    fn a_key_is_given_once_and_again_when_none_of_it_came_for_long() {
        let all =
            batch(&[(3, "a", 1), (5, "b", 2), (9, "a", 3), (12, "a", 4), (16, "b", 5), (22, "a", 6), (33, "a", 7)]);
        let make = distinct;
        for cuts in [&[][..], &[1], &[2, 4]] {
            let given = joined(&mut run(&mut make(), cut(&all, cuts)), 0).unwrap();
            assert_eq!(given.schema(), *make().schema().unwrap());
            let keys = given.column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>();
            assert_eq!((keys, given.num_columns()), (vec!["a", "b", "b", "a"], 1));
        }
    }

    #[test]
    fn keys_survive_a_restart_and_are_forgotten_behind_the_watermark() {
        let mut bench = Bench::new(dedup());
        bench.batch(batch(&[(0, "a", 1)]));
        let mut bench = Bench::restored(dedup(), &bench.save());
        bench.batch(batch(&[(10, "a", 2)]));
        assert_eq!(bench.take_batches().len(), 0);
        bench.watermark(at(20));
        assert_eq!(bench.operator().noted.len(), 1, "a repeat may still come late");
        bench.watermark(at(21));
        assert_eq!((bench.operator().noted.len(), bench.operator().timers.len()), (0, 0));
    }

    #[test]
    fn a_repeat_is_near_the_first_row_for_dedup_and_near_the_newest_for_distinct() {
        let schema = batch(&[(0, "", 0)]).rows().schema();
        let keys = KeyColumns::new(&schema, &["key".to_owned()]).unwrap();
        let distinct = Dedup::distinct(&schema, keys, Duration::from_micros(10)).unwrap();
        let (mut dedup, mut distinct) = (Bench::new(dedup()), Bench::new(distinct));
        for part in [&[(3, "a", 3), (5, "b", 5), (9, "a", 9), (12, "a", 12)][..], &[(14, "a", 14), (16, "b", 16)]] {
            dedup.batch(batch(part));
            distinct.batch(batch(part));
        }
        let passed: Vec<i64> = dedup.take_batches().iter().flat_map(|batch| ints(batch.rows(), "n")).collect();
        assert_eq!(passed, [3, 5, 14, 16]);
        let times: Vec<_> = distinct.take_batches().iter().flat_map(|batch| batch.times().to_vec()).collect();
        assert_eq!(times, [3, 5, 16].map(at));
    }
}
