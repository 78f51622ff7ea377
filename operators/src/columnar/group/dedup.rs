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
use crate::{Batch, Fault, Operator, Outbox, Result, StateVisitor, Timestamp, Turn};

/// Lets the first row of a key pass, and drops those of the same key whose event times are within `within` of it; see
/// [`rows::Dedup`](crate::rows::Dedup).
pub struct Dedup {
    keys: KeyColumns,
    within: Duration,
    codec: Arc<KeyCodec>,
    first: HashMap<KeyBytes, Timestamp, FixedState>,
    timers: BTreeSet<(Timestamp, KeyBytes)>,
}

impl Dedup {
    /// The operator for rows with the columns of `input`.
    ///
    /// # Errors
    /// None that [`KeyColumns`] have not found.
    pub fn new(input: &SchemaRef, keys: KeyColumns, within: Duration) -> Result<Self> {
        let fields: Vec<Field> = keys.places().iter().map(|place| input.field(*place).clone()).collect();
        let codec = Arc::new(KeyCodec::new(&fields, vec![Field::new("first", DataType::Int64, false)])?);
        let first = HashMap::with_hasher(FixedState::with_seed(0));
        Ok(Dedup { keys, within, codec, first, timers: BTreeSet::new() })
    }

    fn gone_at(&self, first: Timestamp) -> Timestamp {
        first.saturating_add(self.within).saturating_add(Duration::from_micros(1))
    }

    fn is_first(&mut self, key: &[u8], time: Timestamp) -> bool {
        let near = |first: &Timestamp| time.since(*first).max(first.since(time)) <= self.within;
        if self.first.get(key).is_some_and(near) {
            return false;
        }
        self.timers.insert((self.gone_at(time), key.into()));
        self.first.insert(key.into(), time);
        true
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
        let stays = batch.times().iter().enumerate().map(|(row, time)| self.is_first(keys.get(row), *time));
        let stays = BooleanArray::from(stays.collect::<Vec<bool>>());
        out.send(keep(batch, &stays)?);
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, _: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        while self.timers.first().is_some_and(|(at, _)| *at <= now)
            && let Some((at, key)) = self.timers.pop_first()
        {
            // A later row of the key may have become the first since.
            if self.first.get(&key).is_some_and(|first| self.gone_at(*first) <= at) {
                self.first.remove(&key);
            }
        }
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        let (codec, first) = (&self.codec, &self.first);
        let restored = visit.groups("first", || {
            let codec = Arc::clone(codec);
            let mut all: Vec<(KeyBytes, Timestamp)> = first.iter().map(|(key, time)| (key.clone(), *time)).collect();
            let save = move |key_groups| {
                all.sort_unstable();
                let times: ArrayRef = Arc::new(all.iter().map(|(_, time)| time.as_micros()).collect::<Int64Array>());
                let keys: Vec<KeyBytes> = all.into_iter().map(|(key, _)| key).collect();
                codec.save(&[codec.rows(&keys, [times])?], key_groups)
            };
            Ok((first.len(), save))
        })?;
        for bytes in restored.into_iter().flatten() {
            for (keys, columns) in self.codec.restore(&bytes)? {
                let times = columns.first().and_then(|times| times.as_primitive_opt::<Int64Type>());
                let times = times.ok_or_else(|| Fault::bug("saved keys have no times"))?;
                for (row, time) in times.values().iter().enumerate() {
                    self.is_first(keys.get(row), Timestamp::from_micros(*time));
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dedup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dedup(within {:?}, {} keys)", self.within, self.first.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    fn dedup() -> Dedup {
        let schema = batch(&[(0, "", 0)]).rows().schema();
        Dedup::new(&schema, KeyColumns::new(&schema, &["key".to_owned()]).unwrap(), Duration::from_micros(10)).unwrap()
    }

    #[test]
    fn the_first_row_of_a_key_passes_wherever_batches_are_cut() {
        let all = batch(&[(0, "a", 1), (5, "a", 2), (5, "b", 3), (10, "a", 4), (11, "a", 5), (3, "b", 6)]);
        for cuts in [&[][..], &[1], &[2, 4], &[1, 2, 3, 4, 5]] {
            let passed = joined(&mut run(&mut dedup(), cut(&all, cuts)), 0).unwrap();
            assert_eq!(ints(&passed, "n"), [1, 3, 5]);
        }
    }

    #[test]
    fn keys_survive_a_restart_and_are_forgotten_behind_the_watermark() {
        let mut bench = Bench::new(dedup());
        bench.batch(batch(&[(0, "a", 1)]));
        let mut bench = Bench::restored(dedup(), &bench.save());
        bench.batch(batch(&[(10, "a", 2)]));
        assert_eq!(bench.take_batches().len(), 0);
        bench.watermark(at(11));
        assert_eq!((bench.operator().first.len(), bench.operator().timers.len()), (0, 0));
    }
}
