//! [`Dedup`]: of rows with one key that are near each other in time, the first.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, SchemaRef};
use bytes::Bytes;
use foldhash::fast::FixedState;

use super::KeyColumns;
use super::codec::{KeyBytes, KeyCodec, RowKeys};
use super::table::Table;
use crate::columnar::keep;
use crate::rows::Repeats;
use crate::{Batch, Fault, Operator, Outbox, Result, StateVisitor, Timers, Timestamp, Turn};

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
/// A time of each key, by key group, and when to forget it: when the watermark is twice the span behind that; without
/// watermarks, never. What does not fit in memory goes to the spill store.
pub struct Dedup {
    keys: KeyColumns,
    names: Vec<String>,
    repeats: Repeats,
    // The columns that are given, where those are not all.
    given: Option<SchemaRef>,
    codec: Arc<KeyCodec>,
    /// The time that is noted of each key.
    noted: Table,
    // One of each key; it finds out whether it must come back later.
    timers: Timers<Bytes>,
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
        let noted = Table::new(Arc::clone(&codec));
        Ok(Dedup { keys, names, repeats, given: None, codec, noted, timers: Timers::default() })
    }

    /// The columns that it gives, where those are not all.
    pub fn schema(&self) -> Option<&SchemaRef> {
        self.given.as_ref()
    }

    /// For which rows, of which these are the keys and the times, no other is noted.
    fn judge(&mut self, keys: &RowKeys, times: &[Timestamp]) -> Result<Vec<bool>> {
        if self.noted.has_grown() {
            self.noted.let_go()?;
        }
        // The table is asked once for each key of the batch, and told once what is to be noted of it now.
        let mut of_batch: HashMap<&[u8], usize, FixedState> = HashMap::with_hasher(FixedState::with_seed(0));
        let (mut all, mut of_row) = (Vec::new(), Vec::with_capacity(times.len()));
        for row in 0..times.len() {
            let key = keys.get(row);
            of_row.push(*of_batch.entry(key).or_insert_with(|| {
                all.push(key);
                all.len() - 1
            }));
        }
        self.noted.bring(all.iter().copied())?;
        let before = self.noted_of(&all)?;
        let mut now = before.clone();
        let stays = of_row.iter().zip(times).map(|(key, time)| {
            let Some(noted) = now.get_mut(*key) else { return false };
            let (is_repeat, then) = self.repeats.judge(*noted, *time);
            *noted = Some(then);
            !is_repeat
        });
        let stays = stays.collect();
        let (mut changed, mut noted) = (Vec::new(), Vec::new());
        for (key, (before, now)) in all.iter().zip(before.iter().zip(&now)) {
            let Some(now) = now.filter(|now| *before != Some(*now)) else { continue };
            if before.is_none() {
                self.timers.set(self.repeats.gone_at(now), Bytes::copy_from_slice(key));
            }
            changed.push(KeyBytes::from(*key));
            noted.push(now.as_micros());
        }
        self.noted.put(&changed, vec![Arc::new(Int64Array::from(noted))])?;
        Ok(stays)
    }

    /// What is noted of keys, which is in memory.
    fn noted_of<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Timestamp>>> {
        let places: Vec<_> = keys.iter().map(|key| self.noted.find(key.as_ref())).collect();
        let found: Vec<_> = places.iter().flatten().copied().collect();
        let columns = self.noted.values(&found)?;
        let mut times = times_of(&columns)?.iter().map(|time| Timestamp::from_micros(*time));
        Ok(places.iter().map(|place| place.and_then(|_| times.next())).collect())
    }

    /// Does something with all keys and what is noted of them, some at a time, so that they need not be in memory at once.
    fn with_all(&mut self, keys: &[KeyBytes], mut then: impl FnMut(&mut Self, &KeyBytes, Timestamp)) -> Result {
        for keys in keys.chunks(AT_ONCE) {
            self.noted.bring(keys.iter().map(|key| &**key))?;
            for (key, noted) in keys.iter().zip(self.noted_of(keys)?) {
                if let Some(noted) = noted {
                    then(self, key, noted);
                }
            }
            if self.noted.has_grown() {
                self.noted.let_go()?;
            }
        }
        Ok(())
    }
}

/// The times that are noted of keys.
fn times_of(columns: &[ArrayRef]) -> Result<&[i64]> {
    let times = columns.first().and_then(|times| times.as_primitive_opt::<Int64Type>());
    times.map(|times| &times.values()[..]).ok_or_else(|| Fault::bug("keys have no times"))
}

// Keys that are brought back to memory at once.
const AT_ONCE: usize = 4_096;

impl Operator for Dedup {
    type In = RecordBatch;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<RecordBatch>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let columns = batch.rows().columns();
        let columns: Vec<ArrayRef> =
            self.keys.places().iter().filter_map(|place| columns.get(*place).cloned()).collect();
        let keys = self.codec.keys(&columns)?;
        let stays = self.judge(&keys, batch.times())?;
        let stays = keep(batch, &BooleanArray::from(stays))?;
        if self.given.is_none() {
            out.send(stays);
            return Ok(Turn::Done);
        }
        let keys = stays.rows().project(self.keys.places());
        let keys = keys.map_err(|error| Fault::bug("no such columns").because(error))?;
        out.send(stays.map_rows(|_| keys)?);
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        loop {
            let due = std::iter::from_fn(|| self.timers.next_due(now)).take(AT_ONCE);
            let due: Vec<KeyBytes> = due.map(|(_, key)| KeyBytes::from(&*key)).collect();
            if due.is_empty() {
                return Ok(Turn::Done);
            }
            self.with_all(&due, |dedup, key, noted| match dedup.repeats.gone_at(noted) {
                later if later > now => dedup.timers.set(later, Bytes::copy_from_slice(key)),
                _ => dedup.noted.remove([key]),
            })?;
            if !out.has_room() {
                return Ok(Turn::Again);
            }
        }
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.shape(&format!("the {} of {}", self.repeats.word(), self.names.join(", ")))?;
        let codec = &self.codec;
        let is_restored = visit.piece("noted", &mut self.noted, || Table::new(Arc::clone(codec)))?;
        visit.fit_timers(&mut self.timers);
        if is_restored {
            let (timers, repeats) = (&mut self.timers, &self.repeats);
            self.noted.each(&mut |keys, values| {
                for (key, noted) in keys.iter().zip(times_of(values)?) {
                    timers.set(repeats.gone_at(Timestamp::from_micros(*noted)), Bytes::copy_from_slice(key));
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Dedup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dedup({:?}, {:?})", self.repeats, self.noted)
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
        #![proptest_config(ProptestConfig::with_cases(crate::testkit::cases(256)))]
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
        assert_eq!(bench.operator().noted.all_keys().len(), 1, "a repeat may still come late");
        bench.watermark(at(21));
        assert!(bench.operator().noted.is_empty() && bench.operator().timers.is_empty());
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
