//! The task of a throttle: rows wait here so that no more than a rate pass, and demand shrinks upstream.

use std::sync::Arc;
use std::time::Duration;

use millstream_operators::{AnyBatch, Message, Result, Then};
use millstream_pipelines::graph::Rate;
use tokio::time::Instant;

use super::inbox::{Event, Inbox};
use super::metrics::NodeMetrics;
use super::report::{Line, Part};
use super::router::{Router, Stopped};
use super::snapshots::All;

/// One subtask of a throttle.
pub(crate) struct ThrottleTask {
    pub(crate) inbox: Inbox,
    pub(crate) router: Router,
    pub(crate) line: Line,
    pub(crate) metrics: Arc<NodeMetrics>,
    pub(crate) pace: Pace,
}

/// When the next rows may pass.
#[derive(Debug)]
pub(crate) struct Pace {
    per_row: Duration,
    at_once: usize,
    free_at: Option<Instant>,
}

// Rows pass in pieces that last this long, so that a low rate does not come in bursts of whole batches.
const PIECE: Duration = Duration::from_millis(50);

impl Pace {
    /// The pace of one of `of` subtasks that share the rate.
    pub(crate) fn new(rate: Rate, of: u32) -> Self {
        let rows = u32::try_from(rate.rows.max(1)).unwrap_or(u32::MAX);
        let per_row = rate.per.saturating_mul(of.max(1)) / rows;
        let at_once = PIECE.as_nanos() / per_row.as_nanos().max(1);
        Pace { per_row, at_once: usize::try_from(at_once).unwrap_or(usize::MAX).max(1), free_at: None }
    }

    /// Waits until `rows` may pass, and books the time that they take.
    async fn admit(&mut self, rows: usize) {
        if let Some(at) = self.free_at {
            tokio::time::sleep_until(at).await;
        }
        let now = Instant::now();
        let from = self.free_at.map_or(now, |at| at.max(now.checked_sub(PIECE).unwrap_or(now)));
        self.free_at = from.checked_add(self.per_row.saturating_mul(u32::try_from(rows).unwrap_or(u32::MAX)));
    }
}

impl ThrottleTask {
    /// Runs until the stream ends, something goes wrong, or a task downstream is gone.
    pub(crate) async fn run(mut self) -> Result {
        match self.work().await {
            Ok(()) | Err(Stopped::Downstream) => Ok(()),
            Err(Stopped::Fault(fault)) => Err(fault),
        }
    }

    async fn work(&mut self) -> Result<(), Stopped> {
        while let Some(event) = self.inbox.next().await {
            match event.map_err(Stopped::Fault)? {
                Event::Data(_, batch, room) => {
                    self.metrics.came_in(batch.len());
                    for piece in pieces(batch, self.pace.at_once) {
                        self.pace.admit(piece.len()).await;
                        self.metrics.went_out(0, piece.len());
                        self.router.send(0, 0, piece).await?;
                    }
                    drop(room);
                }
                Event::Watermark(watermark) => self.router.control(|| Message::Watermark(watermark)).await?,
                Event::Barrier(barrier) => {
                    self.router.control(|| Message::Barrier(barrier)).await?;
                    self.line.passed(barrier.epoch, Part::State(All::none())).await;
                    if barrier.then != Then::GoOn {
                        return self.router.control(|| Message::End).await;
                    }
                }
                Event::End => return self.router.control(|| Message::End).await,
            }
        }
        Ok(())
    }
}

fn pieces(mut batch: AnyBatch, rows: usize) -> Vec<AnyBatch> {
    let mut pieces = Vec::new();
    // From the back, so that no row is moved twice.
    while batch.len() > rows {
        pieces.push(batch.split_off((batch.len() - 1) / rows * rows));
    }
    pieces.push(batch);
    pieces.reverse();
    pieces
}

#[cfg(test)]
mod tests {
    use millstream_operators::{Batch, Timestamp};

    use super::*;

    #[test]
    fn a_large_batch_passes_in_pieces_in_order() {
        let batch = Batch::at(Timestamp::MIN, (0..10u32).collect::<Vec<_>>()).into();
        let sizes: Vec<_> = pieces(batch, 4).iter().map(|piece| piece.rows::<Vec<u32>>().unwrap().clone()).collect();
        assert_eq!(sizes, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
    }

    #[cfg(feature = "columnar")]
    #[test]
    fn a_record_batch_passes_in_slices_with_the_times_of_its_rows() {
        use arrow::array::{AsArray, Int64Array, RecordBatch};
        use arrow::datatypes::Int64Type;

        let column: arrow::array::ArrayRef = Arc::new(Int64Array::from_iter_values(0..7));
        let rows = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let batch = Batch::new((0..7).map(Timestamp::from_micros).collect(), rows).unwrap();
        let pieces = pieces(batch.into(), 3);
        let numbers = |piece: &AnyBatch| {
            let rows = piece.rows::<RecordBatch>().unwrap();
            rows.column(0).as_primitive::<Int64Type>().values().to_vec()
        };
        assert_eq!(pieces.iter().map(numbers).collect::<Vec<_>>(), [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
        assert_eq!(pieces[1].times(), [3, 4, 5].map(Timestamp::from_micros));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_rate_passes() {
        let mut pace = Pace::new(Rate { rows: 100, per: Duration::from_secs(1) }, 1);
        let start = Instant::now();
        for _ in 0..40 {
            pace.admit(5).await;
        }
        // 200 rows at 100 a second; the first piece goes at once.
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(1_900) && took <= Duration::from_millis(2_050), "{took:?}");
    }
}
