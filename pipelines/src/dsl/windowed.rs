//! [`WindowedStream`]: rows of a key that fall into windows.

use std::fmt;
use std::sync::Arc;

use millstream_operators::aggregate::Aggregate;
use millstream_operators::window::{Windowed, Windows};
use millstream_operators::{Rejected, StateKey};

use super::{KeyedStream, Stream};
use crate::graph::{OutPort, Subtask};

/// Rows of each key that fall into windows, to be aggregated there.
pub struct WindowedStream<K, T, W> {
    keyed: KeyedStream<K, T>,
    windows: W,
    late: Option<Late<T>>,
}

/// What becomes of late rows.
pub(super) type Late<T> = Box<dyn FnOnce(Stream<Rejected<T>>)>;

impl<K: StateKey, T: Send + 'static, W: Windows> WindowedStream<K, T, W> {
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

    /// What is computed of the rows of each key in each window: an aggregate such as `count()`, or a tuple of several.
    pub fn aggregate<A: Aggregate<T>>(self, name: &str, aggregate: A) -> Stream<Windowed<K, A::Out>> {
        let WindowedStream { keyed, windows, late } = self;
        let (key, aggregate) = (Arc::clone(&keyed.key), Arc::new(aggregate));
        let make = move |_: &Subtask| Ok(windows.operator(Arc::clone(&key), Arc::clone(&aggregate)));
        let node = keyed.rows().node(name, "window", make).detailed(windows.to_string());
        if let Some(late) = late {
            late(Stream::at(node.pipeline.clone(), OutPort { node: node.id, port: 1 }));
        }
        node.main()
    }
}

impl<K, T, W: fmt::Debug> fmt::Debug for WindowedStream<K, T, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WindowedStream({:?}, {:?})", self.keyed, self.windows)
    }
}
