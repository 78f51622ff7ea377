//! [`EventTime`]: rows get the time that stands in one of their columns, and watermarks follow.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};

use super::rows::{rejected_port, rejected_rows};
use super::schema::{describe_type, timestamp};
use super::{ExprError, keep};
use crate::suggest::did_you_mean;
use crate::watermarks::{Progress, Watermarks, tell, wake};
use crate::{
    Batch, Cause, Code, Fault, Operator, Outbox, Parts, PortType, Result, StateVisitor, TimeKeeping, Timestamp, Turn,
    Watermark,
};

/// Rows that are refused, each with the reason.
type Refused = Vec<(usize, Cause)>;

/// Gives each row the event time that stands in a column of timestamps (microseconds since 1970), and tells how far event
/// time has come. Watermarks from upstream end here; behind each batch that moves the highest time one follows:
///
/// ```text
/// column       10   12 |   | 11   null | 20 |
/// times        10   12 |   | 11        | 20 |
/// watermarks           | 7 |           |    | 15     (5 late at most)
/// rejected             |   |      null |    |
/// ```
///
/// # State
/// The highest time so far, or that of each subject: see [`Progress`].
///
/// # Errors
/// Rows whose time is null, and those too far ahead of their message, go to the port [`REJECTED`](super::REJECTED), number 1, as
/// JSON text, with the code [`EventTime`](Code::EventTime).
pub struct EventTime {
    schema: SchemaRef,
    column: usize,
    progress: Progress,
}

impl EventTime {
    /// The operator for rows with the columns of `schema`, one of which holds the times.
    ///
    /// # Errors
    /// There is no such column, or it is no timestamp.
    pub fn new(schema: &SchemaRef, column: &str, watermarks: Watermarks) -> Result<Self, ExprError> {
        let Ok(at) = schema.index_of(column) else {
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            let error = ExprError::new(format!("there is no column `{column}`")).within(0..column.len());
            return Err(error.help(did_you_mean(column, "columns", names)));
        };
        let data_type = schema.field(at).data_type();
        if data_type != &timestamp() {
            let what = format!("column `{column}` is {}, and an event time is a timestamp", describe_type(data_type));
            let help = "declare it as `timestamp`, or compute it with `set` and take the event time there";
            return Err(ExprError::new(what).within(0..column.len()).help(help.to_owned()));
        }
        Ok(EventTime { schema: Arc::clone(schema), column: at, progress: Progress::new(watermarks) })
    }

    /// The columns, which are those of the input.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The time of each row, or why it has none.
    fn times(&self, batch: &Batch<RecordBatch>) -> Result<(Vec<Timestamp>, Refused)> {
        let column = batch.rows().column(self.column);
        let column = column.as_primitive_opt::<TimestampMicrosecondType>();
        let column = column.ok_or_else(|| Fault::bug("the event time is no timestamp"))?;
        let times: Vec<Timestamp> = column.values().iter().copied().map(Timestamp::from_micros).collect();
        let mut refused = Vec::new();
        if column.null_count() > 0 || batch.origins().is_some() {
            for (row, time) in times.iter().enumerate() {
                let origin = batch.origins().and_then(|origins| origins.get(row));
                let judged = match column.is_null(row) {
                    true => Err(Cause::new(Code::EventTime, "its event time is null")),
                    false => self.progress.judge(*time, origin),
                };
                refused.extend(judged.err().map(|cause| (row, cause)));
            }
        }
        Ok((times, refused))
    }
}

impl Operator for EventTime {
    type In = RecordBatch;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<RecordBatch>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let (times, refused) = self.times(&batch)?;
        let stay = (!refused.is_empty()).then(|| {
            let mut stay = vec![true; batch.len()];
            for (row, _) in &refused {
                if let Some(stay) = stay.get_mut(*row) {
                    *stay = false;
                }
            }
            BooleanArray::from(stay)
        });
        if stay.is_some() {
            out.send_port(1, rejected_rows(batch.rows(), batch.times(), batch.origins(), refused)?);
        }
        let Parts { rows, origins, weight, .. } = batch.into_parts();
        let mut batch = Batch::from_parts(Parts { times: times.into(), rows, origins, weight })?;
        if let Some(stay) = stay {
            batch = keep(batch, &stay)?;
        }
        self.progress.saw_all(batch.times(), batch.origins());
        out.send(batch);
        tell(&mut self.progress, out);
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        if now == Timestamp::MAX {
            out.watermark(Watermark::At(now));
        }
        Ok(Turn::Done)
    }

    fn on_idle(&mut self, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        self.progress.fall_silent();
        tell(&mut self.progress, out);
        Ok(Turn::Done)
    }

    fn on_wake(&mut self, _: Timestamp, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        wake(&mut self.progress, out);
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        self.progress.state(visit)
    }

    fn time_keeping(&self) -> TimeKeeping {
        TimeKeeping::Makes
    }

    fn sides(&self) -> Vec<PortType> {
        vec![rejected_port(1, true)]
    }
}

impl fmt::Debug for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventTime({:?})", self.progress)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::columnar::steps::{Step, steps_do_not_matter};
    use crate::columnar::tests::{at_port, refused, rejected, rows, run};
    use crate::testkit::Bench;
    use crate::watermarks::bounded_lateness;
    use crate::{Origin, Origins};

    const COLUMNS: &[(&str, &str)] = &[("n", "int64"), ("at", "timestamp")];

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn event_time(column: &str) -> Result<EventTime, ExprError> {
        let schema = rows(COLUMNS, &["{}"]).rows().schema();
        EventTime::new(&schema, column, bounded_lateness(Duration::from_secs(5)))
    }

    #[test]
    fn rows_get_the_time_of_the_column_and_those_without_are_rejected() {
        let batch = rows(COLUMNS, &[r#"{"n":1,"at":"1970-01-01T00:00:07Z"}"#, r#"{"n":2}"#]);
        let mut operator = event_time("at").unwrap();
        let mut taken = run(&mut operator, [batch]);
        assert_eq!(at_port::<RecordBatch>(&mut taken, 0)[0].times(), [Timestamp::from_millis(7_000)]);
        assert_eq!(rejected(&mut taken, 1), [(r#"{"n":2,"at":null}"#.to_owned(), "its event time is null".to_owned())]);
        assert_eq!(operator.progress.news(), None, "the watermark was told");
    }

    /// Rows with these times, or none, of messages that were stored at 1,000, 1,001, 1,002, …
    fn stored(times: &[Option<i64>]) -> Batch<RecordBatch> {
        let line = |(n, time): (usize, &Option<i64>)| format!("{{\"n\":{n},\"at\":{}}}", json!(time));
        let lines: Vec<String> = times.iter().enumerate().map(line).collect();
        let batch = rows(COLUMNS, &lines.iter().map(String::as_str).collect::<Vec<_>>());
        let subject_bytes = bytes::Bytes::from_static(b"stored");
        let message = |n: u64| Origin {
            sequence: n + 1,
            stored_at: at(1_000 + n.cast_signed()),
            subject_bytes: subject_bytes.clone(),
            ..Origin::default()
        };
        let messages: Vec<Origin> = (0..times.len() as u64).map(message).collect();
        batch.with_origins(Origins::one_each(Arc::default(), messages)).unwrap()
    }

    proptest! {
        #[test]
        fn rows_have_their_times_and_the_watermark_follows_wherever_it_is_cut_and_restarted(
            times in prop::collection::vec(prop::option::weighted(0.9, 0i64..2_000), 1..40),
            lateness in 0i64..50, most_ahead in 0i64..1_500, seed: u64,
        ) {
            let batch = stored(&times);
            let span = |micros: i64| Duration::from_micros(micros.unsigned_abs());
            let watermarks = bounded_lateness(span(lateness)).max_ahead(span(most_ahead));
            let make = || EventTime::new(&batch.rows().schema(), "at", watermarks).unwrap();
            // Watermarks from upstream say nothing here.
            let steps = [Step::Watermark(5_000), Step::Rows(batch.clone())];
            let told = steps_do_not_matter(make, &steps, seed);
            let taken = (0..).zip(&times).filter_map(|(n, time)| Some((n, (*time)?)));
            let taken: Vec<(i64, i64)> = taken.filter(|(n, time)| *time <= 1_000 + n + most_ahead).collect();
            let ends = |(n, time): &(i64, i64)| format!("at {time} of Some({})", n + 1);
            prop_assert_eq!(told.port(0).len(), taken.len());
            for (row, taken) in told.port(0).iter().zip(&taken) {
                prop_assert!(row.ends_with(&ends(taken)), "{row} and not {taken:?}");
            }
            prop_assert_eq!(told.port(1).len(), times.len() - taken.len());
            let highest = taken.iter().map(|(_, time)| *time).max();
            prop_assert_eq!(told.watermark, highest.map(|highest| Watermark::At(at(highest - lateness))));
        }
    }

    #[test]
    fn what_is_no_timestamp_or_is_not_there_is_refused_with_the_way_out() {
        let text = event_time("n").unwrap_err().to_string();
        assert!(text.contains("is int64") && text.contains("timestamp"), "{text}");
        let text = event_time("att").unwrap_err().to_string();
        assert!(text.contains("no column `att`") && text.contains("`at`"), "{text}");
    }

    #[test]
    fn a_watermark_follows_each_batch_that_moves_the_highest_time() {
        let (at, schema) = (Timestamp::from_micros, rows(COLUMNS, &["{}"]).rows().schema());
        let late = bounded_lateness(Duration::from_micros(5));
        let mut bench = Bench::new(EventTime::new(&schema, "at", late).unwrap());
        for lines in [&[r#"{"at":10}"#, r#"{"at":12}"#][..], &[r#"{"at":11}"#, "{}"], &[r#"{"at":20}"#]] {
            bench.batch(rows(COLUMNS, lines));
        }
        let times: Vec<_> = bench.take_batches().iter().flat_map(|batch| batch.times().to_vec()).collect();
        assert_eq!(times, [10, 12, 11, 20].map(at));
        assert_eq!(bench.take_watermarks(), [7, 15].map(|time| Watermark::At(at(time))));
        let rejected = refused(&mut bench, 1);
        assert_eq!((rejected.len(), rejected[0].1.as_str()), (1, "its event time is null"));
    }
}
