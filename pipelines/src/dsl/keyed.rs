//! [`KeyedStream`]: rows that are grouped by a key.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millstream_operators::rows::{Dedup, Fold, Kept, Visit, kept};
use millstream_operators::window::{KeyOf, Windows};
use millstream_operators::{Key, Operator, Result, Side, StateKey, StateValue};

use super::{Join, Keeping, Stream, WindowedStream};
use crate::graph::Subtask;

/// Rows with a key each: rows of one key keep their order and meet in one subtask of the next node, which may keep state
/// for them.
///
/// What goes by event time ([`dedup`](KeyedStream::dedup), [`distinct`](KeyedStream::distinct), timers, most windows, joins)
/// needs one upstream: [`event_time`](Stream::event_time) or [`processing_time`](Stream::processing_time). [`Pipeline::build`]
/// says where it is missing.
///
/// [`Pipeline::build`]: super::Pipeline::build
///
/// # Examples
/// Logins, by user: each event once, how many in a row have failed, and users who are back after a day.
///
/// ```
/// use std::time::Duration;
/// use millstream_operators::{Timestamp, watermarks::bounded_lateness};
/// # use millstream_pipelines::{dsl::{Pipeline, Stream}, graph::{Node, OutPort, Role}};
/// # fn declared<T: Send + 'static>(pipeline: &Pipeline, name: &str) -> Stream<T> {
/// #     let never = || millstream_operators::Fault::bug("only declared");
/// #     let mut node = Node::new(name, "list", Role::Source(std::sync::Arc::new(move |_| Err(never()))));
/// #     node.outputs = vec![millstream_operators::PortType::of::<Vec<T>>("out")];
/// #     Stream::at(pipeline.clone(), OutPort { node: pipeline.add(node), port: 0 })
/// # }
///
/// #[derive(Clone)]
/// struct Login { id: u64, user: String, ok: bool, at: Timestamp }
///
/// let pipeline = Pipeline::new("logins");
/// # let logins: Stream<Login> = declared(&pipeline, "logins");
/// let late = bounded_lateness(Duration::from_secs(5));
/// let (logins, refused) = logins.event_time("at", |login: &Login| login.at, late);
/// refused.stop("refused");
///
/// let once = logins.key_by(|login| login.id).dedup("once", Duration::from_secs(600));
/// once.clone()
///     .key_by(|login| login.user.clone())
///     .fold("failures", 0_u32, |failures, login| *failures = if login.ok { 0 } else { *failures + 1 })
///     .filter("alarms", |(_, failures)| *failures == 3)
///     .discard("alarms_out");
/// once.key_by(|login| login.user.clone()).distinct("back", Duration::from_secs(86_400)).discard("back_out");
/// pipeline.build().unwrap();
/// ```
pub struct KeyedStream<K, T> {
    pub(super) stream: Stream<T>,
    pub(super) key: KeyOf<T, K>,
}

impl<K: Key, T: Send + 'static> KeyedStream<K, T> {
    pub(super) fn new(stream: Stream<T>, key: KeyOf<T, K>) -> Self {
        KeyedStream { stream, key }
    }

    /// Keeps a value for each key, from `first` on; every row changes that of its key, and the key with its new value
    /// goes on: see [`Fold`] for a timeline. The values are state: they survive a restart, and stay for ever unless
    /// [`keeping`](KeyedStream::keeping) says for how long.
    pub fn fold<S, F>(self, name: &str, first: S, change: F) -> Stream<(K, S)>
    where
        K: StateKey,
        S: StateValue + Sync,
        F: Fn(&mut S, T) + Send + Sync + 'static,
    {
        let change = Arc::new(change);
        let key = Arc::clone(&self.key);
        let make = move |_: &Subtask| {
            let key = Arc::clone(&key);
            Ok(Fold::new(Arc::new(move |row: &T| key(row)), first.clone(), Arc::clone(&change)))
        };
        self.rows().node(name, "fold", make).main()
    }

    /// How the next node, a [`fold`](Keeping::fold) or [`process`](Keeping::process), keeps what it has of each key:
    /// for how long, and in which version.
    ///
    /// ```
    /// use std::time::Duration;
    /// use millstream_operators::rows::kept;
    /// # use millstream_pipelines::{dsl::{Pipeline, Stream}, graph::{Node, OutPort, Role}};
    /// # fn declared<T: Send + 'static>(pipeline: &Pipeline, name: &str) -> Stream<T> {
    /// #     let never = || millstream_operators::Fault::bug("only declared");
    /// #     let mut node = Node::new(name, "list", Role::Source(std::sync::Arc::new(move |_| Err(never()))));
    /// #     node.outputs = vec![millstream_operators::PortType::of::<Vec<T>>("out")];
    /// #     Stream::at(pipeline.clone(), OutPort { node: pipeline.add(node), port: 0 })
    /// # }
    ///
    /// struct Order { customer: String, cents: u64 }
    ///
    /// #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// struct Totals { cents: u64, orders: u64 }
    ///
    /// let pipeline = Pipeline::new("totals");
    /// # let orders: Stream<Order> = declared(&pipeline, "orders");
    /// // In version 1 it was the number of cents alone.
    /// let month = Duration::from_secs(30 * 86_400);
    /// let kept = kept::<Totals>().ttl_by_clock(month).version(2).migrate(1, |cents: u64| Totals { cents, orders: 0 });
    /// orders
    ///     .key_by(|order| order.customer.clone())
    ///     .keeping(kept)
    ///     .fold("totals", Totals::default(), |totals, order| {
    ///         totals.cents += order.cents;
    ///         totals.orders += 1;
    ///     })
    ///     .discard("out");
    /// pipeline.build().unwrap();
    /// ```
    pub fn keeping<S: StateValue>(self, kept: Kept<S>) -> Keeping<K, T, S>
    where
        K: StateKey,
    {
        Keeping::new(self, kept)
    }

    /// Rows of each key fall into windows: `tumbling`, `sliding`, `session`, `until`, `last_rows`, `count_windows` or `global`;
    /// see [`window`](millstream_operators::window) for when each gives its results. Windows of no length are reported by
    /// [`build`](super::Pipeline::build).
    pub fn window<W: Windows<T>>(self, windows: W) -> WindowedStream<K, T, W>
    where
        K: StateKey,
    {
        WindowedStream::new(self, windows)
    }

    /// Rows of this stream (the left) and of another (the right) that have the same key are put together; the verbs of
    /// [`Join`] say how.
    pub fn join<R: StateValue>(self, right: KeyedStream<K, R>) -> Join<K, T, R>
    where
        K: StateKey,
        T: StateValue,
    {
        Join::new(self, right)
    }

    /// The first row of a key passes; those of the same key whose event times are within `within` of it are dropped, also
    /// when they are late by up to `within`: see [`Dedup`] for a timeline. Keys are forgotten as event time goes on, so it needs
    /// watermarks upstream.
    pub fn dedup(self, name: &str, within: Duration) -> Stream<T>
    where
        K: StateKey,
    {
        let key = Arc::clone(&self.key);
        let make = move |_: &Subtask| Ok(Dedup::new(Arc::clone(&key), within));
        let node = self.rows().node(name, "dedup", make).detailed(format!("within {within:?}"));
        node.pipeline.change(node.id, |node| node.by_event_time = true);
        node.main()
    }

    /// Each key once: it goes on with its first row, and again only if none of it came for `ttl` of event time; rows may be
    /// late by up to `ttl`; see [`Dedup`] for a timeline. Keys are forgotten as event time goes on, so it needs watermarks
    /// upstream.
    pub fn distinct(self, name: &str, ttl: Duration) -> Stream<K>
    where
        K: StateKey,
    {
        let key = Arc::clone(&self.key);
        let make = move |_: &Subtask| Ok(Dedup::distinct(Arc::clone(&key), ttl));
        let node = self.rows().node(name, "distinct", make).detailed(format!("forgotten after {ttl:?}"));
        node.pipeline.change(node.id, |node| node.by_event_time = true);
        node.main()
    }

    /// State and timers by key, for what no other verb does: `on_row` sees each row with the state of its key, may set
    /// timers and give rows; `on_timer` is called when event time has come so far. See [`Process`] for a timeline.
    ///
    /// [`Process`]: millstream_operators::rows::Process
    ///
    /// # Examples
    /// Users who log in and do nothing for a minute:
    ///
    /// ```
    /// use std::time::Duration;
    /// use millstream_operators::{Timestamp, rows::Visit, watermarks::ascending};
    /// # use millstream_pipelines::{dsl::{Pipeline, Stream}, graph::{Node, OutPort, Role}};
    /// # fn declared<T: Send + 'static>(pipeline: &Pipeline, name: &str) -> Stream<T> {
    /// #     let never = || millstream_operators::Fault::bug("only declared");
    /// #     let mut node = Node::new(name, "list", Role::Source(std::sync::Arc::new(move |_| Err(never()))));
    /// #     node.outputs = vec![millstream_operators::PortType::of::<Vec<T>>("out")];
    /// #     Stream::at(pipeline.clone(), OutPort { node: pipeline.add(node), port: 0 })
    /// # }
    ///
    /// type Act = (String, Timestamp);
    ///
    /// let pipeline = Pipeline::new("idlers");
    /// # let acts: Stream<Act> = declared(&pipeline, "acts");
    /// let (acts, refused) = acts.event_time("at", |act: &Act| act.1, ascending());
    /// refused.stop("refused");
    /// let on_row = |visit: &mut Visit<'_, '_, String, Timestamp, String>, _: Act| {
    ///     let due = visit.time().saturating_add(Duration::from_secs(60));
    ///     if let Some(before) = visit.state().replace(due) {
    ///         visit.clear_timer(before);
    ///     }
    ///     visit.set_timer(due);
    /// };
    /// let on_timer = |visit: &mut Visit<'_, '_, String, Timestamp, String>| {
    ///     visit.state().take();
    ///     let user = visit.key().clone();
    ///     visit.give(user);
    /// };
    /// acts.key_by(|act| act.0.clone()).process("idle", on_row, on_timer).discard("out");
    /// pipeline.build().unwrap();
    /// ```
    pub fn process<S, U, R, W>(self, name: &str, on_row: R, on_timer: W) -> Stream<U>
    where
        K: StateKey,
        S: StateValue,
        U: Send + 'static,
        R: Fn(&mut Visit<'_, '_, K, S, U>, T) + Send + Sync + 'static,
        W: Fn(&mut Visit<'_, '_, K, S, U>) + Send + Sync + 'static,
    {
        self.keeping(kept()).process(name, on_row, on_timer)
    }

    /// As [`process`](KeyedStream::process), with side outputs of one type, whose ports are 1, 2, …: closures give rows there
    /// with [`Visit::give_to`].
    pub fn process_with_sides<S, U, V, R, W, const N: usize>(
        self,
        name: &str,
        sides: [Side<V>; N],
        on_row: R,
        on_timer: W,
    ) -> (Stream<U>, [Stream<V>; N])
    where
        K: StateKey,
        S: StateValue,
        U: Send + 'static,
        V: Send + 'static,
        R: Fn(&mut Visit<'_, '_, K, S, U>, T) + Send + Sync + 'static,
        W: Fn(&mut Visit<'_, '_, K, S, U>) + Send + Sync + 'static,
    {
        self.keeping(kept()).process_with_sides(name, sides, on_row, on_timer)
    }

    /// Your own operator, each subtask of which sees all rows of its keys.
    pub fn operator<U, O, M>(self, name: &str, kind: &'static str, make: M) -> Stream<U>
    where
        U: Send + 'static,
        O: Operator<In = Vec<T>, Out = Vec<U>>,
        M: Fn(&Subtask) -> Result<O> + Send + Sync + 'static,
    {
        self.rows().operator(name, kind, make)
    }

    /// The rows as a stream whose next node gets those of one key in one subtask.
    pub fn rows(self) -> Stream<T> {
        self.stream.hashed(self.key)
    }
}

impl<K, T> fmt::Debug for KeyedStream<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyedStream({:?})", self.stream)
    }
}
