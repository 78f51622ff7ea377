//! [`KeyedFrame`]: event time and keys over columns.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use millstream_operators::Operator;
use millstream_operators::columnar::{Clock, Dedup, EventTime, KeyColumns};
use millstream_operators::watermarks::{ByClock, Watermarks};

use super::node::{built, idle, routed};
use super::{ColumnWindows, Frame, WindowedFrame};
use crate::dsl::pipeline::of_node;

/// Rows of columns that are grouped by some of them: rows of one key meet in one subtask of the next node.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use millstream_operators::{columnar::schema, watermarks::bounded_lateness, window::tumbling};
/// use millstream_pipelines::dsl::{OnRejected, best};
/// # use millstream_pipelines::{dsl::{Frame, Pipeline}, graph::{Node, OutPort, Role}};
/// # use millstream_operators::{Fault, PortType};
/// # fn declared(pipeline: &Pipeline, schema: arrow::datatypes::SchemaRef) -> Frame {
/// #     let mut node = Node::new("orders", "list", Role::Source(std::sync::Arc::new(|_| Err(Fault::bug("only declared")))));
/// #     node.outputs = vec![PortType::of::<arrow::array::RecordBatch>("out")];
/// #     Frame::at(pipeline.clone(), OutPort { node: pipeline.add(node), port: 0 }, schema)
/// # }
///
/// let columns = [("id", "utf8"), ("customer", "utf8"), ("amount", "float64"), ("at", "timestamp")];
/// let pipeline = Pipeline::new("orders");
/// # let orders = declared(&pipeline, schema(columns).unwrap()).on_rejected(OnRejected::Drop);
/// let orders = orders.event_time("at", "at", bounded_lateness(Duration::from_secs(5)));
/// let once = orders.key_by(["id"]).dedup("once", Duration::from_secs(600));
/// let minutes = || once.clone().key_by(["customer"]).window(tumbling(Duration::from_secs(60)));
/// minutes().aggregate("totals", [("orders", "count(*)"), ("total", "sum(amount)")]).discard("totals_out");
/// minutes().top("largest", &best(3, "amount desc")).discard("largest_out");
/// once.key_by(["customer"]).distinct("customers", Duration::from_secs(86_400)).discard("customers_out");
/// pipeline.build().unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct KeyedFrame {
    frame: Frame,
    columns: Vec<String>,
}

impl Frame {
    /// Each row gets the event time that stands in a column of timestamps, and watermarks follow as `watermarks` says: see
    /// [`EventTime`] for a timeline. Rows without a time, and those too far ahead of their message, are rejected.
    #[must_use]
    pub fn event_time(self, name: &str, column: &str, watermarks: Watermarks) -> Frame {
        let make = |frame: &Frame| {
            let wrong = of_node(name, "event_time.", watermarks.problem().into_iter().collect());
            wrong.for_each(|problem| frame.pipeline.problem(problem));
            let (input, column) = (Arc::clone(&frame.schema), column.to_owned());
            let detail = format!("{column}, {watermarks}");
            let make = move |_: Clock| EventTime::new(&input, &column, watermarks);
            let made = make(idle()).map_err(|error| frame.wrong(name, "event_time.column", error));
            let Ok(made) = made else { return Some(frame.unchanged(name, "event_time")) };
            let schema = Arc::clone(made.schema());
            let make = move |clock| make(clock).map_err(built);
            Some(frame.node(name, "event_time", detail, &schema, &made.sides(), make).main(frame, schema))
        };
        self.then(make)
    }

    /// As [`Stream::processing_time`](crate::dsl::Stream::processing_time): each row gets the time of the engine's clock when it
    /// comes. See [`ByClock`] for a timeline.
    #[must_use]
    pub fn processing_time(self, name: &str, every: Duration) -> Frame {
        let make = |frame: &Frame| {
            let wrong = of_node(name, "processing_time.", ByClock::<RecordBatch>::problem(every).into_iter().collect());
            wrong.for_each(|problem| frame.pipeline.problem(problem));
            let make = move |clock: Clock| Ok(ByClock::<RecordBatch>::new(clock, every));
            let schema = Arc::clone(&frame.schema);
            let node = frame.node(name, "processing_time", format!("every {every:?}"), &schema, &[], make);
            Some(node.main(frame, schema))
        };
        self.then(make)
    }

    /// Rows are grouped by these columns; by none, all rows are one group.
    pub fn key_by<N: Into<String>>(self, columns: impl IntoIterator<Item = N>) -> KeyedFrame {
        KeyedFrame { frame: self, columns: columns.into_iter().map(Into::into).collect() }
    }
}

impl KeyedFrame {
    /// The rows.
    pub(super) fn frame(&self) -> &Frame {
        &self.frame
    }

    /// The columns of the key.
    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Rows of each key fall into windows: `tumbling`, `sliding`, or one of the others of [`ColumnWindows`]. Windows of no
    /// length are reported by [`build`](crate::dsl::Pipeline::build).
    pub fn window(self, windows: impl Into<ColumnWindows>) -> WindowedFrame {
        WindowedFrame::new(self, windows.into())
    }

    /// The first row of a key passes; those of the same key whose event times are within `within` of it are dropped, also
    /// when they are late by up to `within`: see [`Dedup`] for a timeline. Keys are forgotten as event time goes on, so it needs
    /// an event time upstream.
    #[must_use]
    pub fn dedup(self, name: &str, within: Duration) -> Frame {
        let make = |frame: &Frame| {
            let Some((keys, routed)) = self.routed(name, "dedup.by") else {
                return Some(frame.unchanged(name, "dedup"));
            };
            let (input, detail) = (Arc::clone(&frame.schema), format!("{} within {within:?}", self.columns.join(", ")));
            let make = move |_: Clock| Dedup::new(&input, keys.clone(), within);
            let schema = Arc::clone(&frame.schema);
            let node = routed.node(name, "dedup", detail, &schema, &[], make);
            frame.pipeline.change(node.id, |node| node.by_event_time = true);
            Some(node.main(frame, schema))
        };
        self.frame.clone().then(make)
    }

    /// Each key once, as a row of its columns: it goes on with its first row, and again only if none of it came for `ttl` of
    /// event time; rows may be late by up to `ttl`; see [`Dedup`] for a timeline. Keys are forgotten as event time goes on, so it
    /// needs an event time upstream.
    #[must_use]
    pub fn distinct(self, name: &str, ttl: Duration) -> Frame {
        let make = |frame: &Frame| {
            let (keys, routed) = self.routed(name, "distinct.by")?;
            let (input, detail) =
                (Arc::clone(&frame.schema), format!("{}, forgotten after {ttl:?}", self.columns.join(", ")));
            let make = move |_: Clock| Dedup::distinct(&input, keys.clone(), ttl);
            let schema = make(idle()).ok()?.schema().map(Arc::clone)?;
            let node = routed.node(name, "distinct", detail, &schema, &[], make);
            frame.pipeline.change(node.id, |node| node.by_event_time = true);
            Some(node.main(frame, schema))
        };
        self.frame.clone().then(make)
    }

    /// The columns of the key, and the frame whose next node gets the rows of one key in one subtask.
    pub(super) fn routed(&self, name: &str, setting: &str) -> Option<(KeyColumns, Frame)> {
        let keys = match KeyColumns::new(&self.frame.schema, &self.columns) {
            Ok(keys) => keys,
            Err(wrong) => {
                for (_, error) in wrong {
                    self.frame.wrong(name, setting, error);
                }
                return None;
            }
        };
        let route = routed(keys.clone());
        Some((keys, Frame { route, ..self.frame.clone() }))
    }
}
