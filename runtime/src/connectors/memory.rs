//! [`ListSource`] and [`CollectSink`]: ends of a pipeline that live in memory.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use millstream_operators::{
    AnyBatch, Batch, Epoch, Fault, Origin, Origins, Place, PortType, Result, Sink, Source, Timestamp,
};
use millstream_pipelines::dsl::{IntoSink, IntoSource, Pipeline, Stream};
use millstream_pipelines::graph::{Node, OutPort, Role, erase_sink, erase_source};

/// A source that gives a list, and waits or ends when it has given all.
///
/// Its position is how many rows it has given. Rows carry an origin whose sequence is their place in the list, from 1.
#[derive(Clone, Debug)]
pub struct ListSource<T> {
    rows: Arc<Mutex<Vec<(Timestamp, T)>>>,
    given: usize,
    at_once: usize,
    ends: bool,
    fails_at: Option<usize>,
    place: Arc<Place>,
    grown: Arc<tokio::sync::Notify>,
}

impl<T> ListSource<T> {
    /// A source of these rows, which ends behind the last.
    pub fn new(rows: impl IntoIterator<Item = (Timestamp, T)>) -> Self {
        let place = Arc::new(Place { node: "list".into(), stream: "list".into() });
        let rows = Arc::new(Mutex::new(rows.into_iter().collect()));
        ListSource { rows, given: 0, at_once: usize::MAX, ends: true, fails_at: None, place, grown: Arc::default() }
    }

    /// The same source, which gives at most so many rows a batch.
    #[must_use]
    pub fn at_once(mut self, rows: usize) -> Self {
        self.at_once = rows.max(1);
        self
    }

    /// The same source, which waits for more behind the last row.
    #[must_use]
    pub fn endless(mut self) -> Self {
        self.ends = false;
        self
    }

    /// The same source, which fails when it comes to row number `row`, each time it does.
    #[must_use]
    pub fn failing_at(mut self, row: usize) -> Self {
        self.fails_at = Some(row);
        self
    }

    /// Adds rows behind the others; clones of the source see them.
    pub fn feed(&self, rows: impl IntoIterator<Item = (Timestamp, T)>) {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).extend(rows);
        self.grown.notify_waiters();
        self.grown.notify_one();
    }
}

impl<T: Clone + Send + 'static> Source for ListSource<T> {
    type Out = Vec<T>;
    type Position = usize;

    async fn open(&mut self, from: Option<usize>) -> Result {
        self.given = from.unwrap_or(0);
        Ok(())
    }

    async fn next(&mut self, max_rows: usize) -> Result<Option<Batch<Vec<T>>>> {
        loop {
            let grown = Arc::clone(&self.grown);
            let more = grown.notified();
            let rows: Vec<_> = {
                let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
                rows.iter().skip(self.given).take(max_rows.min(self.at_once)).cloned().collect()
            };
            if rows.is_empty() {
                if self.ends {
                    return Ok(None);
                }
                more.await;
                continue;
            }
            if let Some(row) = self.fails_at
                && (self.given..self.given + rows.len()).contains(&row)
            {
                return Err(Fault::operator(format!("the list source fails at row {row}, as it was told")));
            }
            let first = self.given as u64 + 1;
            let origin = |i| Origin { sequence: first + i, payload: Bytes::new(), ..Origin::default() };
            let messages: Vec<_> = (0..rows.len() as u64).map(origin).collect();
            self.given += rows.len();
            let batch: Batch<Vec<T>> = rows.into_iter().collect();
            return batch.with_origins(Origins::one_each(Arc::clone(&self.place), messages)).map(Some);
        }
    }

    fn is_endless(&self) -> bool {
        !self.ends
    }

    fn position(&self) -> usize {
        self.given
    }
}

impl<T: Clone + Send + Sync + 'static> IntoSource for ListSource<T> {
    type Row = T;

    fn wire(self, pipeline: &Pipeline, name: &str) -> Stream<T> {
        let make = move |_: &_| Ok(erase_source(self.clone()));
        let mut node = Node::new(name, "list", Role::Source(Arc::new(make)));
        node.outputs = vec![PortType::of::<Vec<T>>(PortType::MAIN).copied_by(AnyBatch::copied::<Vec<T>>)];
        // There is one list, and each subtask would give all of it.
        node.parallelism = Some(1);
        Stream::at(pipeline.clone(), OutPort { node: pipeline.add(node), port: 0 })
    }
}

/// What a [`CollectSink`] has taken; clones share it.
#[derive(Debug)]
pub struct Collected<T>(Arc<Mutex<Vec<T>>>);

impl<T> Default for Collected<T> {
    fn default() -> Self {
        Collected(Arc::default())
    }
}

impl<T> Clone for Collected<T> {
    fn clone(&self) -> Self {
        Collected(Arc::clone(&self.0))
    }
}

impl<T: Clone> Collected<T> {
    /// All rows so far, in the order in which they came.
    pub fn rows(&self) -> Vec<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds rows, for sinks of your own.
    pub fn add(&self, rows: impl IntoIterator<Item = T>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(rows);
    }
}

/// A sink that keeps what it is given.
#[derive(Debug, Clone)]
pub struct CollectSink<T>(Collected<T>);

impl<T> CollectSink<T> {
    /// A sink into `collected`.
    pub fn new(collected: Collected<T>) -> Self {
        CollectSink(collected)
    }
}

impl<T: Clone + Send + Sync + 'static> IntoSink<T> for CollectSink<T> {
    fn wire(self, stream: Stream<T>, name: &str) {
        let make = move |_: &_| Ok(erase_sink(self.clone()));
        let mut node = Node::new(name, "collect", Role::Sink(Arc::new(make)));
        node.inputs = vec![PortType::of::<Vec<T>>("in")];
        node.parallelism = Some(1);
        stream.wire(node);
    }
}

impl<T: Clone + Send + 'static> Sink for CollectSink<T> {
    type In = Vec<T>;

    async fn write(&mut self, batch: Batch<Vec<T>>) -> Result {
        self.0.add(batch.into_parts().rows);
        Ok(())
    }

    async fn flush(&mut self, _: Epoch) -> Result {
        Ok(())
    }
}
