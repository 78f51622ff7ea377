//! [`Join`]: rows of two streams with the same key, put together.

use std::fmt;
use std::sync::Arc;

use millstream_operators::join::{Both, Gathered, Interval, IntervalJoin, Pair, Sided, TemporalJoin};
use millstream_operators::window::{KeyOf, SessionWindows, TimeWindows, Windowed, Windows};
use millstream_operators::{Key, Operator, Rejected, Result, StateKey, StateValue};

use super::windowed::Late;
use super::{KeyedStream, Stream};
use crate::graph::{InPort, OutPort, Subtask};

/// Rows of two streams that have the same key: the verbs say which of them belong together, and what is given.
///
/// `how` is an interval (`within(before, after)`) or windows (`tumbling(minute)`). Every join is bounded by time, so that
/// what it keeps is.
pub struct Join<K, L, R> {
    left: KeyedStream<K, L>,
    right: KeyedStream<K, R>,
    late: Option<Late<Sided<L, R>>>,
}

/// Which rows of two streams belong together: an [`Interval`], [`TimeWindows`] or [`SessionWindows`].
pub trait How: Sized {
    /// The pairs, with rows that have no partner on the left, and on the right, as `alone` says. With `once`, a row of the
    /// left is paired once at most.
    fn pairs<K: StateKey, L: StateValue, R: StateValue>(
        self,
        join: Join<K, L, R>,
        name: &str,
        alone: (bool, bool),
        once: bool,
    ) -> Stream<Pair<L, R>>;
}

impl<K: StateKey, L: StateValue, R: StateValue> Join<K, L, R> {
    pub(super) fn new(left: KeyedStream<K, L>, right: KeyedStream<K, R>) -> Join<K, L, R>
    where
        K: Key,
    {
        Join { left, right, late: None }
    }

    /// What becomes of rows that come too late to be joined; they are counted and dropped unless this says otherwise.
    #[must_use]
    pub fn late(mut self, late: impl FnOnce(Stream<Rejected<Sided<L, R>>>) + 'static) -> Self {
        self.late = Some(Box::new(late));
        self
    }

    /// Rows that have partners, with each of them.
    pub fn inner(self, name: &str, how: impl How) -> Stream<(L, R)> {
        how.pairs(self, name, (false, false), false).filter_map(&pairs_of(name), Pair::inner).boxed()
    }

    /// All rows of the left, with their partners or none.
    pub fn left(self, name: &str, how: impl How) -> Stream<(L, Option<R>)> {
        how.pairs(self, name, (true, false), false).filter_map(&pairs_of(name), Pair::left).boxed()
    }

    /// All rows of the right, with their partners or none.
    pub fn right(self, name: &str, how: impl How) -> Stream<(Option<L>, R)> {
        how.pairs(self, name, (false, true), false).filter_map(&pairs_of(name), Pair::right).boxed()
    }

    /// All rows of both sides, with their partners or none.
    pub fn full(self, name: &str, how: impl How) -> Stream<(Option<L>, Option<R>)> {
        how.pairs(self, name, (true, true), false).map(&pairs_of(name), Pair::full).boxed()
    }

    /// The rows of the left that have a partner, each once.
    pub fn semi(self, name: &str, how: impl How) -> Stream<L> {
        let pairs = how.pairs(self, name, (false, false), true);
        pairs.filter_map(&pairs_of(name), |pair| pair.inner().map(|(left, _)| left)).boxed()
    }

    /// The rows of the left that have no partner.
    pub fn anti(self, name: &str, how: impl How) -> Stream<L> {
        let alone = |pair| match pair {
            Pair::Left(left) => Some(left),
            Pair::Both(..) | Pair::Right(_) => None,
        };
        how.pairs(self, name, (true, false), false).filter_map(&pairs_of(name), alone).boxed()
    }

    /// Each row of the left with the newest row of the right that is not later than it: the right is a table, and its rows
    /// are versions.
    pub fn as_of(self, name: &str) -> Stream<(L, Option<R>)> {
        let pairs = self.operator(name, "temporal_join", String::new(), |key| TemporalJoin::new(key));
        pairs.filter_map(&pairs_of(name), Pair::left).boxed()
    }

    /// Both sides as one stream of sided rows that go by key.
    fn sided(self, name: &str) -> BothSides<K, L, R> {
        let key = Sided::key_of(Arc::clone(&self.left.key), Arc::clone(&self.right.key));
        let left = self.left.stream.map(&format!("{name}/left"), Sided::Left).boxed();
        let right = self.right.stream.map(&format!("{name}/right"), Sided::Right).boxed();
        (KeyedStream::new(left, Arc::clone(&key)), right.hashed(key), self.late)
    }

    fn operator<U, O, M>(self, name: &str, kind: &'static str, detail: String, make: M) -> Stream<U>
    where
        U: Send + 'static,
        O: Operator<In = Vec<Sided<L, R>>, Out = Vec<U>>,
        M: Fn(KeyOf<Sided<L, R>, K>) -> O + Send + Sync + 'static,
    {
        let (left, right, late) = self.sided(name);
        let key = Arc::clone(&left.key);
        let make = move |_: &Subtask| -> Result<O> { Ok(make(Arc::clone(&key))) };
        let node = left.rows().node(name, kind, make).detailed(detail);
        right.enter(InPort { node: node.id, port: 0 });
        if let Some(late) = late {
            late(Stream::at(node.pipeline.clone(), OutPort { node: node.id, port: 1 }));
        }
        node.main()
    }
}

/// The left with its key, the right on its way to the same node, and what becomes of late rows.
type BothSides<K, L, R> = (KeyedStream<K, Sided<L, R>>, Stream<Sided<L, R>>, Option<Late<Sided<L, R>>>);

/// The name of the node that picks what is given of the pairs.
fn pairs_of(name: &str) -> String {
    format!("{name}/pairs")
}

impl How for Interval {
    fn pairs<K: StateKey, L: StateValue, R: StateValue>(
        self,
        join: Join<K, L, R>,
        name: &str,
        alone: (bool, bool),
        once: bool,
    ) -> Stream<Pair<L, R>> {
        join.operator(name, "interval_join", self.to_string(), move |key| {
            let join = IntervalJoin::new(self, alone, key);
            if once { join.once() } else { join }
        })
    }
}

fn windowed<K: StateKey, L: StateValue, R: StateValue>(
    windows: impl Windows,
    join: Join<K, L, R>,
    name: &str,
    once: bool,
) -> Stream<Pair<L, R>> {
    let make = move |key| windows.operator(key, Arc::new(Gathered::default()));
    let gathered = join.operator(name, "window_join", windows.to_string(), make);
    let of_window = move |window: Windowed<K, Both<L, R>>| {
        let mut both = window.value;
        if once {
            both.right.truncate(1);
        }
        both.pairs()
    };
    gathered.flat_map(&format!("{name}/rows"), of_window).boxed()
}

macro_rules! in_windows {
    ($($windows:ty),*) => {$(impl How for $windows {
        fn pairs<K: StateKey, L: StateValue, R: StateValue>(
            self,
            join: Join<K, L, R>,
            name: &str,
            _: (bool, bool),
            once: bool,
        ) -> Stream<Pair<L, R>> {
            // What is without partner in a window is told in any case, and picked or not.
            windowed(self, join, name, once)
        }
    })*};
}
in_windows!(TimeWindows, SessionWindows);

impl<K, L, R> fmt::Debug for Join<K, L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Join({:?}, {:?})", self.left, self.right)
    }
}
