//! [`KeyedFrame`] and [`WindowedFrame`]: event time, keys and windows over columns.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use millstream_operators::columnar::{Aggregates, Clock, Dedup, EventTime, KeyColumns, WindowAggregate};
use millstream_operators::watermarks::Watermarks;
use millstream_operators::window::TimeWindows;
use millstream_operators::{Operator, Problem, Rejected};

use super::Frame;
use super::node::{built, idle, routed};
use crate::dsl::{OnRejected, Stream};
use crate::graph::OutPort;

/// Rows of columns that are grouped by some of them: rows of one key meet in one subtask of the next node.
#[derive(Clone, Debug)]
pub struct KeyedFrame {
    frame: Frame,
    columns: Vec<String>,
}

/// Rows of columns that fall into windows by key, to be aggregated there.
#[derive(Clone, Debug)]
pub struct WindowedFrame {
    keyed: KeyedFrame,
    windows: TimeWindows,
    late: OnRejected,
}

impl Frame {
    /// Each row gets the event time that stands in a column of timestamps, and watermarks follow as `watermarks` says.
    /// Rows without a time, and those too far ahead of their message, are rejected.
    #[must_use]
    pub fn event_time(self, name: &str, column: &str, watermarks: Watermarks) -> Frame {
        let make = |frame: &Frame| {
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

    /// Rows of each key fall into windows: `tumbling` or `sliding`.
    pub fn window(self, windows: TimeWindows) -> WindowedFrame {
        WindowedFrame { keyed: self, windows, late: OnRejected::Drop }
    }

    /// The first row of a key passes; those of the same key whose event times are within `within` of it are dropped. Keys
    /// are forgotten as event time goes on, so it needs an event time upstream.
    #[must_use]
    pub fn dedup(self, name: &str, within: Duration) -> Frame {
        let make = |frame: &Frame| {
            let Some((keys, routed)) = self.routed(name, "dedup.by") else {
                return Some(frame.unchanged(name, "dedup"));
            };
            let (input, detail) = (Arc::clone(&frame.schema), format!("{} within {within:?}", self.columns.join(", ")));
            let make = move |_: Clock| Dedup::new(&input, keys.clone(), within);
            let schema = Arc::clone(&frame.schema);
            Some(routed.node(name, "dedup", detail, &schema, &[], make).main(frame, schema))
        };
        self.frame.clone().then(make)
    }

    /// The columns of the key, and the frame whose next node gets the rows of one key in one subtask.
    fn routed(&self, name: &str, setting: &str) -> Option<(KeyColumns, Frame)> {
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

impl WindowedFrame {
    /// What becomes of rows that come after all their windows are closed: they are counted and dropped unless this says
    /// otherwise.
    #[must_use]
    pub fn late(mut self, late: OnRejected) -> Self {
        self.late = late;
        self
    }

    /// What is computed of the rows of each key in each window: named SQL expressions over aggregates, such as `count(*)`
    /// and `sum(amount)`. The rows that come of it have the columns of the key, `window_start`, `window_end`, and these.
    #[must_use]
    pub fn aggregate<N: Into<String>, S: AsRef<str>>(
        self,
        name: &str,
        columns: impl IntoIterator<Item = (N, S)>,
    ) -> Frame {
        let columns: Vec<(String, String)> =
            columns.into_iter().map(|(column, sql)| (column.into(), sql.as_ref().to_owned())).collect();
        let WindowedFrame { keyed, windows, late } = self;
        let make = |frame: &Frame| {
            let aggregates = compiled(frame, name, &columns);
            let (keys, routed) = keyed.routed(name, "key_by")?;
            let aggregates = aggregates?;
            let input = Arc::clone(&frame.schema);
            let make = move |clock| WindowAggregate::new(&input, windows, keys.clone(), aggregates.clone(), clock);
            let made = make(idle()).map_err(|error| frame.wrong(name, "aggregate", error)).ok()?;
            let schema = SchemaRef::clone(made.schema());
            let computed =
                columns.iter().map(|(column, sql)| format!("{column} = {sql}")).collect::<Vec<_>>().join(", ");
            let by = if keyed.columns.is_empty() { String::new() } else { format!(" by {}", keyed.columns.join(", ")) };
            let detail = format!("{windows}{by}: {computed}");
            let make = move |clock| make(clock).map_err(built);
            let node = routed.node(name, "window", detail, &schema, &made.sides(), make);
            if !matches!(late, OnRejected::Drop) {
                let port = OutPort { node: node.id, port: 2 };
                late.end(Stream::<Rejected<Bytes>>::at(frame.pipeline.clone(), port), name);
            }
            Some(node.main(frame, schema))
        };
        keyed.frame.clone().then(make)
    }
}

fn compiled(frame: &Frame, name: &str, columns: &[(String, String)]) -> Option<Aggregates> {
    if columns.is_empty() {
        let help = "add `aggregate = { rows = \"count(*)\" }`";
        frame.pipeline.problem(Problem::at(name, "nothing is computed").in_setting("aggregate").help(help));
        return None;
    }
    let wrong = |wrong: Vec<_>| {
        for (column, error) in wrong {
            frame.wrong(name, &format!("aggregate.{column}"), error);
        }
    };
    Aggregates::compile(columns, &frame.schema).map_err(wrong).ok()
}
