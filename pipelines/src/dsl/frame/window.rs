//! [`WindowedFrame`]: windows over columns, and what comes of their rows.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use millstream_operators::columnar::{
    Aggregates, Clock, Computed, CountAggregate, ExprError, GlobalAggregate, LastAggregate, OwnWindows,
    SessionAggregate, Top, WindowAggregate,
};
use millstream_operators::window::{Emit, GlobalWindows, TimeWindows};
use millstream_operators::{Operator, Problem, Rejected};

use super::node::{Made, built, idle};
use super::{Frame, KeyedFrame};
use crate::dsl::pipeline::of_node;
use crate::dsl::{OnRejected, Stream};
use crate::graph::OutPort;

/// How rows of columns fall into windows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ColumnWindows {
    /// Windows of equal length: [`tumbling`](millstream_operators::window::tumbling) and
    /// [`sliding`](millstream_operators::window::sliding).
    Time(TimeWindows),
    /// Windows that last as long as rows say.
    Own(OwnWindows),
    /// Windows of so many rows, in the order in which they come.
    Count(u64),
    /// For each row, the newest rows of its key including itself, in the order of event time and then of some columns.
    Last {
        /// How many.
        rows: usize,
        /// The columns that decide between rows of one time.
        order_by: Vec<String>,
    },
    /// One window for ever.
    Global(GlobalWindows),
}

impl From<TimeWindows> for ColumnWindows {
    fn from(windows: TimeWindows) -> Self {
        ColumnWindows::Time(windows)
    }
}

impl From<GlobalWindows> for ColumnWindows {
    fn from(windows: GlobalWindows) -> Self {
        ColumnWindows::Global(windows)
    }
}

impl From<OwnWindows> for ColumnWindows {
    fn from(windows: OwnWindows) -> Self {
        ColumnWindows::Own(windows)
    }
}

impl fmt::Display for ColumnWindows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ColumnWindows::Time(windows) => windows.fmt(f),
            ColumnWindows::Own(windows) => windows.fmt(f),
            ColumnWindows::Count(rows) => write!(f, "{rows} rows each"),
            ColumnWindows::Last { rows, order_by } if order_by.is_empty() => write!(f, "the last {rows} rows"),
            ColumnWindows::Last { rows, order_by } => write!(f, "the last {rows} rows by {}", order_by.join(", ")),
            ColumnWindows::Global(windows) => windows.fmt(f),
        }
    }
}

/// Rows of columns that fall into windows by key, to be aggregated there. The operators show when results come:
/// [`WindowAggregate`], [`SessionAggregate`], [`CountAggregate`], [`LastAggregate`] and [`GlobalAggregate`]; there is an example
/// at [`KeyedFrame`].
#[derive(Clone, Debug)]
pub struct WindowedFrame {
    keyed: KeyedFrame,
    windows: ColumnWindows,
    emit: Option<Emit>,
    late: OnRejected,
}

/// The best rows of a window: how many, by which order, and whether those that are equal to the last one come as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Best {
    rows: usize,
    by: String,
    ties: bool,
}

/// The best `rows` rows by SQL expressions with `asc` or `desc` behind each: `price desc, id`. Nulls are the worst.
pub fn best(rows: usize, by: impl Into<String>) -> Best {
    Best { rows, by: by.into(), ties: false }
}

impl Best {
    /// Also gives the rows that are equal to the last one that fits.
    #[must_use]
    pub fn ties(mut self) -> Self {
        self.ties = true;
        self
    }
}

impl WindowedFrame {
    pub(super) fn new(keyed: KeyedFrame, windows: ColumnWindows) -> Self {
        WindowedFrame { keyed, windows, emit: None, late: OnRejected::Drop }
    }

    /// When windows give results besides the one when they close.
    #[must_use]
    pub fn emit(mut self, emit: Emit) -> Self {
        self.emit = Some(emit);
        self
    }

    /// What becomes of rows that come after all their windows are closed: they are counted and dropped unless this says
    /// otherwise.
    #[must_use]
    pub fn late(mut self, late: OnRejected) -> Self {
        self.late = late;
        self
    }

    /// What is computed of the rows of each key in each window: named SQL expressions over aggregates, such as `count(*)`
    /// and `sum(amount)`. The rows that come of it have the columns of the key, `window_start`, `window_end` (timestamps), and
    /// these. Rows and groups that something cannot be computed for are rejected.
    #[must_use]
    pub fn aggregate<N: Into<String>, S: AsRef<str>>(
        self,
        name: &str,
        columns: impl IntoIterator<Item = (N, S)>,
    ) -> Frame {
        let columns: Vec<(String, String)> =
            columns.into_iter().map(|(column, sql)| (column.into(), sql.as_ref().to_owned())).collect();
        let computed = columns.iter().map(|(column, sql)| format!("{column} = {sql}")).collect::<Vec<_>>().join(", ");
        self.computed(name, "aggregate", &computed, |frame| compiled(frame, name, &columns).map(Computed::from))
    }

    /// The best rows of each key in each window, best first: `&best(1, "price desc").ties()`. They keep their columns;
    /// `window_start` and `window_end` stand behind, unless they have columns of these names. See [`Top`] for a timeline.
    #[must_use]
    pub fn top(self, name: &str, best: &Best) -> Frame {
        let ties = if best.ties { " with ties" } else { "" };
        let words = format!("the best {} by {}{ties}", best.rows, best.by);
        self.computed(name, "top", &words, |frame| {
            let top = Top::new(&frame.schema, best.rows, &best.by).map_err(|error| frame.wrong(name, "top.by", error));
            let top = top.ok()?;
            Some(if best.ties { top.ties() } else { top }.into())
        })
    }

    fn computed(
        self,
        name: &str,
        setting: &str,
        words: &str,
        compile: impl FnOnce(&Frame) -> Option<Computed>,
    ) -> Frame {
        let make = |frame: &Frame| {
            let computed = compile(frame);
            let routed = self.keyed.routed(name, "key_by");
            let windows = match &self.windows {
                ColumnWindows::Own(windows) => windows.check(&frame.schema),
                _ => Ok(()),
            };
            let windows = windows.map_err(|error| frame.wrong(name, "window.until", error));
            self.check_emit(frame, name);
            self.check_spans(frame, name);
            let ((keys, routed), computed) = (routed?, computed?);
            windows.ok()?;
            let by = match self.keyed.columns() {
                [] => String::new(),
                columns => format!(" by {}", columns.join(", ")),
            };
            let emit = self.emit.unwrap_or_default();
            let detail = match &self.windows {
                ColumnWindows::Time(windows) => {
                    let windows = self.emit.map_or(*windows, |emit| windows.emit(emit));
                    format!("{windows}{by}: {words}")
                }
                ColumnWindows::Global(windows) => {
                    format!("{}{by}: {words}", self.global(*windows))
                }
                windows => format!("{windows}{emit}{by}: {words}"),
            };
            let add = Add { frame, routed, name, setting, detail };
            let input = Arc::clone(&frame.schema);
            let (node, schema) = match &self.windows {
                ColumnWindows::Time(windows) => {
                    let windows = self.emit.map_or(*windows, |emit| windows.emit(emit));
                    let make =
                        move |clock| WindowAggregate::new(&input, windows, keys.clone(), computed.clone(), clock);
                    add.operator(make, WindowAggregate::schema)?
                }
                ColumnWindows::Own(windows) => {
                    let windows = windows.clone();
                    let make = move |clock| {
                        SessionAggregate::new(&input, windows.clone(), emit, keys.clone(), computed.clone(), clock)
                    };
                    add.operator(make, SessionAggregate::schema)?
                }
                ColumnWindows::Count(rows) => {
                    let rows = *rows;
                    let make = move |clock| CountAggregate::new(&input, rows, keys.clone(), computed.clone(), clock);
                    add.operator(make, CountAggregate::schema)?
                }
                ColumnWindows::Last { rows, order_by } => {
                    let (Computed::Aggregates(aggregates), rows, order) = (computed, *rows, order_by.clone()) else {
                        let problem =
                            Problem::at(name, "of the last rows something is computed: `top` has no place there");
                        frame.pipeline.problem(problem.in_setting("top").help("say `aggregate`"));
                        return None;
                    };
                    let add = Add { setting: "window.order_by", ..add };
                    let make =
                        move |clock| LastAggregate::new(&input, rows, &order, keys.clone(), aggregates.clone(), clock);
                    add.operator(make, LastAggregate::schema)?
                }
                ColumnWindows::Global(windows) => {
                    let windows = self.global(*windows);
                    let make =
                        move |clock| GlobalAggregate::new(&input, windows, keys.clone(), computed.clone(), clock);
                    add.operator(make, GlobalAggregate::schema)?
                }
            };
            let by_event_time = match &self.windows {
                ColumnWindows::Count(_) => false,
                ColumnWindows::Global(windows) => self.global(*windows).go_by_time(),
                _ => true,
            };
            frame.pipeline.change(node.id, |node| node.by_event_time = by_event_time);
            self.end_late(frame, name, &node);
            Some(node.main(frame, schema))
        };
        self.keyed.frame().clone().then(make)
    }

    fn global(&self, windows: GlobalWindows) -> GlobalWindows {
        self.emit.map_or(windows, |emit| windows.emit(emit))
    }

    fn end_late(&self, frame: &Frame, name: &str, node: &Made) {
        match (&self.late, &self.windows) {
            (OnRejected::Drop, _) => {}
            (_, ColumnWindows::Global(_) | ColumnWindows::Count(_)) => {
                let problem = Problem::at(name, "no row is late for windows that do not go by time");
                frame.pipeline.problem(problem.in_setting("late").help("take it out"));
            }
            (late, _) => {
                let port = OutPort { node: node.id, port: 2 };
                late.end(Stream::<Rejected<Bytes>>::at(frame.pipeline.clone(), port), name);
            }
        }
    }

    /// Spans of no length, and gaps between windows.
    fn check_spans(&self, frame: &Frame, name: &str) {
        let of_windows = match &self.windows {
            ColumnWindows::Time(windows) => windows.problems(),
            ColumnWindows::Own(windows) => windows.problems(),
            ColumnWindows::Global(windows) => windows.problems(),
            _ => Vec::new(),
        };
        let of_emit = self.emit.and_then(Emit::problem).into_iter().collect();
        for problem in of_node(name, "window.", of_windows).chain(of_node(name, "", of_emit)) {
            frame.pipeline.problem(problem);
        }
    }

    /// What is given early where each result is given once.
    fn check_emit(&self, frame: &Frame, name: &str) {
        let kind = match self.windows {
            ColumnWindows::Count(_) => "windows of so many rows are given when they are full",
            ColumnWindows::Last { .. } => "each row gives one result",
            _ => return,
        };
        if self.emit.is_some_and(|emit| emit != Emit::OnClose) {
            let problem = Problem::at(name, format!("there are no early results: {kind}"));
            frame.pipeline.problem(problem.in_setting("emit").help("take it out"));
        }
    }
}

/// Where an operator of windows is added.
struct Add<'a> {
    frame: &'a Frame,
    routed: Frame,
    name: &'a str,
    setting: &'a str,
    detail: String,
}

impl Add<'_> {
    /// Adds it, and gives the columns of its results.
    fn operator<O, M>(self, make: M, schema: impl Fn(&O) -> &SchemaRef) -> Option<(Made, SchemaRef)>
    where
        O: Operator<In = RecordBatch, Out = RecordBatch>,
        M: Fn(Clock) -> std::result::Result<O, ExprError> + Send + Sync + 'static,
    {
        let made = make(idle()).map_err(|error| self.frame.wrong(self.name, self.setting, error)).ok()?;
        let schema = SchemaRef::clone(schema(&made));
        let make = move |clock| make(clock).map_err(built);
        Some((self.routed.node(self.name, "window", self.detail, &schema, &made.sides(), make), schema))
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
