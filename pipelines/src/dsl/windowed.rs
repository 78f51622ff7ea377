//! [`WindowedStream`]: rows of a key that fall into windows.

use std::fmt;
use std::sync::Arc;

use millstream_operators::aggregate::{Aggregate, TopRows, count, top_rows};
use millstream_operators::window::{Windowed, Windows};
use millstream_operators::{Rejected, StateKey, StateValue};

use super::pipeline::of_node;
use super::{KeyedStream, Stream};
use crate::graph::{OutPort, Subtask};

/// Rows of each key that fall into windows, to be aggregated there. When windows give results, their docs say: for those of
/// equal length see [`TimeWindowed`](millstream_operators::window::TimeWindowed).
///
/// # Examples
/// Per minute: how many orders of each customer there were and for how much, the three largest of all, and who ordered.
///
/// ```
/// use std::time::Duration;
/// use millstream_operators::aggregate::{count, sum};
/// use millstream_operators::{Timestamp, watermarks::bounded_lateness, window::tumbling};
/// # use millstream_pipelines::{dsl::{Pipeline, Stream}, graph::{Node, OutPort, Role}};
/// # fn declared<T: Send + 'static>(pipeline: &Pipeline, name: &str) -> Stream<T> {
/// #     let never = || millstream_operators::Fault::bug("only declared");
/// #     let mut node = Node::new(name, "list", Role::Source(std::sync::Arc::new(move |_| Err(never()))));
/// #     node.outputs = vec![millstream_operators::PortType::of::<Vec<T>>("out")];
/// #     Stream::at(pipeline.clone(), OutPort { node: pipeline.add(node), port: 0 })
/// # }
///
/// #[derive(Clone, serde::Serialize, serde::Deserialize)]
/// struct Order { customer: String, cents: u64, at: Timestamp }
///
/// let pipeline = Pipeline::new("orders");
/// # let orders: Stream<Order> = declared(&pipeline, "orders");
/// let late = bounded_lateness(Duration::from_secs(5));
/// let (orders, refused) = orders.event_time("at", |order: &Order| order.at, late);
/// refused.stop("refused");
///
/// let minutes = tumbling(Duration::from_secs(60)).allowed_lateness(Duration::from_secs(10));
/// let by_customer = |order: &Order| order.customer.clone();
/// let computed = (count(), sum(|order: &Order| order.cents));
/// let totals = orders.clone().key_by(by_customer).window(minutes).late(|late| late.discard("late"));
/// totals.aggregate("totals", computed).discard("totals_out");
/// let all = orders.clone().key_by(|_| ()).window(minutes);
/// all.top("largest", 3, |order| order.cents).discard("largest_out");
/// orders.key_by(by_customer).window(minutes).distinct("who").discard("who_out");
/// pipeline.build().unwrap();
/// ```
pub struct WindowedStream<K, T, W> {
    keyed: KeyedStream<K, T>,
    windows: W,
    late: Option<Late<T>>,
}

/// What becomes of late rows.
pub(super) type Late<T> = Box<dyn FnOnce(Stream<Rejected<T>>)>;

impl<K: StateKey, T: Send + 'static, W: Windows<T>> WindowedStream<K, T, W> {
    pub(super) fn new(keyed: KeyedStream<K, T>, windows: W) -> Self {
        WindowedStream { keyed, windows, late: None }
    }

    /// What becomes of rows that come after all their windows are closed; they are counted and dropped unless this says
    /// otherwise: `.late(|late| late.sink("late", dead_letters("DEAD")))`.
    #[must_use]
    pub fn late(mut self, late: impl FnOnce(Stream<Rejected<T>>) + 'static) -> Self {
        self.late = Some(Box::new(late));
        self
    }

    /// What is computed of the rows of each key in each window: an aggregate such as `count()`, or a tuple of several. Each
    /// result says the key, from when to when the window is, and whether it comes [early, on time or
    /// late](millstream_operators::window::Firing).
    pub fn aggregate<A: Aggregate<T>>(self, name: &str, aggregate: A) -> Stream<Windowed<K, A::Out>> {
        let WindowedStream { keyed, windows, late } = self;
        let (key, aggregate) = (Arc::clone(&keyed.key), Arc::new(aggregate));
        let detail = windows.to_string();
        let pipeline = keyed.stream.pipeline();
        of_node(name, "", windows.problems()).for_each(|problem| pipeline.problem(problem));
        let by_event_time = windows.by_event_time();
        let make = move |_: &Subtask| Ok(windows.clone().operator(Arc::clone(&key), Arc::clone(&aggregate)));
        let node = keyed.rows().node(name, "window", make).detailed(detail);
        node.pipeline.change(node.id, |node| node.by_event_time = by_event_time);
        if let Some(late) = late {
            late(Stream::at(node.pipeline.clone(), OutPort { node: node.id, port: 1 }));
        }
        node.main()
    }

    /// The rows themselves: of each key in each window the `rows` for which `by` gives the greatest values, best first; see
    /// [`top_rows`]. For the best of all rows, whatever their key, use the key `()`.
    pub fn top<B, F>(self, name: &str, rows: usize, by: F) -> Stream<Windowed<K, T>>
    where
        T: StateValue,
        B: StateValue + Ord,
        F: Fn(&T) -> B + Send + Sync + 'static,
    {
        self.best(name, top_rows(rows, by))
    }

    /// As [`top`](WindowedStream::top), with all rows that are equal to the last one that fits.
    pub fn top_with_ties<B, F>(self, name: &str, rows: usize, by: F) -> Stream<Windowed<K, T>>
    where
        T: StateValue,
        B: StateValue + Ord,
        F: Fn(&T) -> B + Send + Sync + 'static,
    {
        self.best(name, top_rows(rows, by).ties())
    }

    fn best<B, F>(self, name: &str, top: TopRows<F>) -> Stream<Windowed<K, T>>
    where
        T: StateValue,
        B: StateValue + Ord,
        F: Fn(&T) -> B + Send + Sync + 'static,
    {
        self.aggregate(name, top).flat_map(&format!("{name}/rows"), Windowed::each).boxed()
    }

    /// Each key once in each window that has rows of it, when the window gives its results.
    pub fn distinct(self, name: &str) -> Stream<Windowed<K, ()>> {
        let without = |window: Windowed<K, u64>| {
            let Windowed { key, start, end, firing, .. } = window;
            Windowed { key, start, end, value: (), firing }
        };
        self.aggregate(name, count()).map(&format!("{name}/keys"), without).boxed()
    }
}

impl<K, T, W: fmt::Debug> fmt::Debug for WindowedStream<K, T, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WindowedStream({:?}, {:?})", self.keyed, self.windows)
    }
}
