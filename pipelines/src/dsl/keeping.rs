//! [`Keeping`]: keyed rows whose next node keeps state for a time, or in a version.

use std::fmt;
use std::sync::Arc;

use millstream_operators::rows::{Fold, Kept, Process, Visit};
use millstream_operators::{Side, StateKey, StateValue};

use super::{KeyedStream, Stream};
use crate::graph::{Now, OutPort, Subtask};

/// Keyed rows, and how the state of the next node is kept; see [`KeyedStream::keeping`].
pub struct Keeping<K, T, S> {
    stream: KeyedStream<K, T>,
    kept: Kept<S>,
}

impl<K: StateKey, T: Send + 'static, S: StateValue> Keeping<K, T, S> {
    pub(super) fn new(stream: KeyedStream<K, T>, kept: Kept<S>) -> Self {
        Keeping { stream, kept }
    }

    /// As [`KeyedStream::fold`]; see [`Fold`] for what becomes of a key behind a silence.
    pub fn fold<F>(self, name: &str, first: S, change: F) -> Stream<(K, S)>
    where
        S: Sync,
        F: Fn(&mut S, T) + Send + Sync + 'static,
    {
        let Keeping { stream, kept } = self;
        let by_event_time = kept.by_event_time();
        let (key, change, detail) = (Arc::clone(&stream.key), Arc::new(change), kept.to_string());
        let make = move |subtask: &Subtask| {
            let key = Arc::clone(&key);
            let fold = Fold::new(Arc::new(move |row: &T| key(row)), first.clone(), Arc::clone(&change));
            Ok(fold.kept(on_clock(&kept, subtask)))
        };
        let node = stream.rows().node(name, "fold", make).detailed(detail);
        node.pipeline.change(node.id, |node| node.by_event_time = by_event_time);
        node.main()
    }

    /// As [`KeyedStream::process`].
    pub fn process<U, R, W>(self, name: &str, on_row: R, on_timer: W) -> Stream<U>
    where
        U: Send + 'static,
        R: Fn(&mut Visit<'_, '_, K, S, U>, T) + Send + Sync + 'static,
        W: Fn(&mut Visit<'_, '_, K, S, U>) + Send + Sync + 'static,
    {
        self.process_with_sides(name, [] as [Side<()>; 0], on_row, on_timer).0
    }

    /// As [`KeyedStream::process_with_sides`].
    pub fn process_with_sides<U, V, R, W, const N: usize>(
        self,
        name: &str,
        sides: [Side<V>; N],
        on_row: R,
        on_timer: W,
    ) -> (Stream<U>, [Stream<V>; N])
    where
        U: Send + 'static,
        V: Send + 'static,
        R: Fn(&mut Visit<'_, '_, K, S, U>, T) + Send + Sync + 'static,
        W: Fn(&mut Visit<'_, '_, K, S, U>) + Send + Sync + 'static,
    {
        let Keeping { stream, kept } = self;
        let by_event_time = kept.by_event_time();
        let (key, on_row, on_timer) = (Arc::clone(&stream.key), Arc::new(on_row), Arc::new(on_timer));
        let (detail, ports) = (kept.to_string(), sides.iter().map(Side::port).collect::<Vec<_>>());
        let make = move |subtask: &Subtask| {
            let process = Process::new(Arc::clone(&key), Arc::clone(&on_row), Arc::clone(&on_timer));
            Ok(process.kept(on_clock(&kept, subtask)).with_sides(&sides).operator())
        };
        let node = stream.rows().node(name, "process", make).detailed(detail);
        node.pipeline.change(node.id, |node| node.by_event_time = by_event_time);
        let side = |at: usize| {
            let port = ports.get(at).copied().unwrap_or_default();
            Stream::at(node.pipeline.clone(), OutPort { node: node.id, port })
        };
        let sides = std::array::from_fn(side);
        (node.main(), sides)
    }
}

/// The same, by the clock of the engine where it goes by one.
fn on_clock<S>(kept: &Kept<S>, subtask: &Subtask) -> Kept<S> {
    match subtask.resources.get::<Now>() {
        Some(now) => kept.clone().on_clock(Arc::clone(&now.0)),
        None => kept.clone(),
    }
}

impl<K, T, S> fmt::Debug for Keeping<K, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keeping({:?}, {:?})", self.stream, self.kept)
    }
}
