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
pub struct KeyedStream<K, T> {
    pub(super) stream: Stream<T>,
    pub(super) key: KeyOf<T, K>,
}

impl<K: Key, T: Send + 'static> KeyedStream<K, T> {
    pub(super) fn new(stream: Stream<T>, key: KeyOf<T, K>) -> Self {
        KeyedStream { stream, key }
    }

    /// Keeps a value for each key, from `first` on; every row changes that of its key, and the key with its new value
    /// goes on. The values are state: they survive a restart.
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
    /// ```ignore
    /// orders
    ///     .key_by(|order| order.customer.clone())
    ///     .keeping(kept::<Totals>().ttl(days(30)).version(2).migrate(1, |old: TotalsV1| Totals { cents: old.0, orders: 0 }))
    ///     .fold("totals", Totals::default(), |totals, order| totals.add(order))
    /// ```
    pub fn keeping<S: StateValue>(self, kept: Kept<S>) -> Keeping<K, T, S>
    where
        K: StateKey,
    {
        Keeping::new(self, kept)
    }

    /// Rows of each key fall into windows: `tumbling`, `sliding`, `session`, `until`, `last_rows`, `count_windows` or `global`.
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
    /// when they are late by up to `within`. Keys are forgotten as event time goes on, so it needs watermarks upstream.
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
    /// late by up to `ttl`. Keys are forgotten as event time goes on, so it needs watermarks upstream.
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
    /// timers and give rows; `on_timer` is called when event time has come so far.
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
