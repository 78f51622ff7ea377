//! [`GenerateSource`]: rows from nothing, at a rate.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, TimestampMicrosecondArray, UInt64Array};
use millstream_operators::columnar::numbers_schema;
use millstream_operators::{Batch, Fault, Result, Source, Timestamp};
use millstream_pipelines::registry::{Ordered, Spec, Wiring};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use super::generated::generate_node;
use crate::engine::Clock;

/// A source of numbered rows: `n` from 0 on, and `at`, the moment that row `n` is due.
///
/// Which moment that is follows from the start and the rate, so a replay gives the same rows.
#[derive(Debug)]
pub struct GenerateSource {
    rate: Option<f64>,
    count: u64,
    clock: Clock,
    at: GeneratePosition,
    // The moment of row 0 on the clock that waits; a restart sets it anew, as no rows are owed for the time between.
    paced_from: Option<(Instant, u64)>,
}

/// How far a [`GenerateSource`] has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneratePosition {
    /// The number of the next row.
    pub next: u64,
    /// When the first run began, in microseconds since the epoch.
    pub started: i64,
}

impl GenerateSource {
    /// `count` rows at `rate` a second; as fast as they are taken without a rate.
    pub fn new(rate: Option<f64>, count: u64, clock: Clock) -> Self {
        GenerateSource { rate, count, clock, at: GeneratePosition::default(), paced_from: None }
    }

    /// How many rows of this run are due, and when the next one is.
    fn due(&mut self) -> (u64, Option<Instant>) {
        let Some(rate) = self.rate else { return (u64::MAX, None) };
        let now = Instant::now();
        let (from, first) = *self.paced_from.get_or_insert((now, self.at.next));
        let given = self.at.next - first;
        let due = (now.duration_since(from).as_secs_f64() * rate) as u64 + 1;
        (due.saturating_sub(given), Some(from + Duration::from_secs_f64((given + 1) as f64 / rate)))
    }

    fn rows(&self, count: u64) -> Result<RecordBatch> {
        let numbers = self.at.next..self.at.next + count;
        let micros = |n: u64| self.rate.map_or(0.0, |rate| n as f64 / rate * 1e6) as i64;
        let at = numbers.clone().map(|n| self.at.started.saturating_add(micros(n)));
        let at = TimestampMicrosecondArray::from_iter_values(at).with_timezone("UTC");
        let columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(UInt64Array::from_iter_values(numbers)), Arc::new(at)];
        RecordBatch::try_new(numbers_schema(), columns)
            .map_err(|error| Fault::bug("generated rows do not fit their columns").because(error))
    }
}

impl Source for GenerateSource {
    type Out = RecordBatch;
    type Position = GeneratePosition;

    async fn open(&mut self, from: Option<GeneratePosition>) -> Result {
        let first = GeneratePosition { next: 0, started: self.clock.now().as_micros() };
        self.at = from.unwrap_or(first);
        self.paced_from = None;
        Ok(())
    }

    async fn next(&mut self, max_rows: usize) -> Result<Option<Batch<RecordBatch>>> {
        let left = self.count.saturating_sub(self.at.next);
        if left == 0 {
            return Ok(None);
        }
        let due = loop {
            match self.due() {
                (0, Some(next)) => sleep_until(next).await,
                (due, _) => break due,
            }
        };
        let count = due.min(left).min(max_rows as u64);
        let rows = self.rows(count)?;
        self.at.next += count;
        let weight = rows.get_array_memory_size();
        Ok(Some(Batch::at(Timestamp::from_micros(self.clock.now().as_micros()), rows).weighing(weight)))
    }

    fn is_endless(&self) -> bool {
        self.count == u64::MAX
    }

    fn position(&self) -> GeneratePosition {
        self.at
    }

    fn lag(&self) -> Option<u64> {
        None
    }
}

/// Rows from nothing: fields by SQL expressions over `n`, the number of the row from 0 on, and `at`, when it is due.
#[derive(Deserialize, JsonSchema)]
pub(super) struct Generate {
    /// Rows a second; as fast as they are taken if not given.
    #[serde(default)]
    #[schemars(range(min = 0.001, max = 1e9))]
    rate: Option<f64>,
    /// How many rows; without end if not given.
    #[serde(default)]
    count: Option<u64>,
    /// Columns and their SQL expressions: `{ id = "'order-' || n", amount = "n % 100 * 1.5" }`.
    fields: Ordered<String>,
}

impl Spec for Generate {
    const KIND: &'static str = "generate";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let Generate { rate, count, fields } = self;
        let node = generate_node(rate, count.unwrap_or(u64::MAX));
        let name = format!("{}/fields", wiring.name());
        wiring.reads_rows(node, &numbers_schema(), |rows| rows.select_as(&name, "fields", fields.0.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn rows(source: &mut GenerateSource, max: usize) -> Option<usize> {
        source.next(max).await.unwrap().map(|batch| batch.len())
    }

    #[tokio::test(start_paused = true)]
    async fn rows_come_at_their_rate_and_end() {
        let mut source = GenerateSource::new(Some(10.0), 15, Clock::system());
        source.open(None).await.unwrap();
        let start = Instant::now();
        assert_eq!(rows(&mut source, 100).await, Some(1));
        let mut given = 1;
        while let Some(count) = rows(&mut source, 100).await {
            given += count;
        }
        assert_eq!(given, 15);
        assert!(
            (Duration::from_millis(1_400)..Duration::from_millis(1_500)).contains(&start.elapsed()),
            "{:?}",
            start.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_replay_gives_the_same_rows() {
        let mut source = GenerateSource::new(Some(1_000.0), 10, Clock::system());
        source.open(None).await.unwrap();
        tokio::time::advance(Duration::from_millis(3)).await;
        source.next(3).await.unwrap();
        let position = source.position();
        let first = source.next(1).await.unwrap().unwrap().into_parts().rows;
        tokio::time::advance(Duration::from_secs(9)).await;
        let mut again = GenerateSource::new(Some(1_000.0), 10, Clock::system());
        again.open(Some(position)).await.unwrap();
        assert_eq!(again.next(1).await.unwrap().unwrap().into_parts().rows, first);
    }

    #[tokio::test]
    async fn without_a_rate_rows_come_as_they_are_taken() {
        let mut source = GenerateSource::new(None, 5, Clock::system());
        source.open(None).await.unwrap();
        assert_eq!(
            (rows(&mut source, 3).await, rows(&mut source, 3).await, rows(&mut source, 3).await),
            (Some(3), Some(2), None)
        );
    }
}
