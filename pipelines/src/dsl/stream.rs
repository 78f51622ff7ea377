//! [`Stream`]: rows on their way, and the verbs that change them.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_operators::rows::{
    Batching, Decode, Encode, Filter, FilterMap, FlatMap, Format, Group, Inspect, Map, MapWith, Merge, Predicate,
    Route as RouteRows, RowContext, RowFn, RowPass, Sample, ThrottleDrop, TryMap, Whole,
};
use millstream_operators::{
    AsyncOperator, Cause, Key, KeyGroup, Operator, Payload, PortType, Record, Rejected, Result,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{IntoSink, KeyedStream, Pipeline};
use crate::graph::{
    AsyncLimits, InPort, Make, Node, NodeId, OutPort, Pass, Rate, Role, Route, Subtask, erase, erase_async,
};

/// Rows of type `T` on their way through a pipeline. Verbs take it and give another; every verb that makes a node takes
/// the node's name first, because state and metrics are found by it.
///
/// A clone is a second reader of the same rows, which are then copied.
///
/// `R` remembers a chain of verbs that can be done in one pass; in a signature write `Stream<Order>` and give it
/// [`boxed`](Stream::boxed).
pub struct Stream<T, R = Whole<T>> {
    pipeline: Pipeline,
    port: OutPort,
    route: Route,
    chain: R,
    nodes: Vec<NodeId>,
    rows: PhantomData<fn() -> T>,
}

/// A predicate for [`Stream::route`].
pub fn when<T>(holds: impl Fn(&T) -> bool + Send + Sync + 'static) -> Predicate<T> {
    Arc::new(holds)
}

impl<T: Send + 'static> Stream<T> {
    /// The rows of an output port: for authors of connectors.
    pub fn at(pipeline: Pipeline, port: OutPort) -> Self {
        Stream { pipeline, port, route: Route::Forward, chain: Whole::default(), nodes: Vec::new(), rows: PhantomData }
    }
}

impl<T: Send + 'static, R: RowFn<Out = T>> Stream<T, R> {
    /// The same stream, of the type that can be written in a signature. Verbs that follow begin a new pass.
    pub fn boxed(self) -> Stream<T> {
        Stream { route: self.route, ..Stream::at(self.pipeline, self.port) }
    }

    /// The pipeline that it belongs to.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The name of the node that gives these rows.
    pub fn node_name(&self) -> String {
        self.pipeline.name_of(self.port.node)
    }

    #[cfg(feature = "columnar")]
    pub(super) fn port(&self) -> OutPort {
        self.port
    }

    /// Each row becomes another, with its time and message: see [`Map`]. What may fail goes through [`try_map`](Stream::try_map).
    pub fn map<U, F>(self, name: &str, f: F) -> Stream<U, Map<R, F>>
    where
        U: Send + 'static,
        F: Fn(T) -> U + Send + Sync + 'static,
    {
        let f = Arc::new(f);
        let alone = Map::shared(Whole::default(), Arc::clone(&f));
        self.step(name, "map", alone, |before| Map::shared(before, f))
    }

    /// Each row becomes another; the closure also sees its event time and the message that it came from: see [`MapWith`].
    pub fn map_with<U, F>(self, name: &str, f: F) -> Stream<U, MapWith<R, F>>
    where
        U: Send + 'static,
        F: Fn(T, RowContext<'_>) -> U + Send + Sync + 'static,
    {
        let f = Arc::new(f);
        let alone = MapWith::shared(Whole::default(), Arc::clone(&f));
        self.step(name, "map", alone, |before| MapWith::shared(before, f))
    }

    /// Rows for which `f` holds go on, the others are gone: see [`Filter`].
    pub fn filter<F>(self, name: &str, f: F) -> Stream<T, Filter<R, F>>
    where
        F: Fn(&T) -> bool + Send + Sync + 'static,
    {
        let f = Arc::new(f);
        let alone = Filter::shared(Whole::default(), Arc::clone(&f));
        self.step(name, "filter", alone, |before| Filter::shared(before, f))
    }

    /// Each row becomes another, or is gone where `f` gives none: see [`FilterMap`].
    pub fn filter_map<U, F>(self, name: &str, f: F) -> Stream<U, FilterMap<R, F>>
    where
        U: Send + 'static,
        F: Fn(T) -> Option<U> + Send + Sync + 'static,
    {
        let f = Arc::new(f);
        let alone = FilterMap::shared(Whole::default(), Arc::clone(&f));
        self.step(name, "filter_map", alone, |before| FilterMap::shared(before, f))
    }

    /// Each row becomes the rows of an iterator, with its time and message: see [`FlatMap`].
    pub fn flat_map<I, F>(self, name: &str, f: F) -> Stream<I::Item, FlatMap<R, F>>
    where
        I: IntoIterator,
        I::Item: Send + 'static,
        F: Fn(T) -> I + Send + Sync + 'static,
    {
        let f = Arc::new(f);
        let alone = FlatMap::shared(Whole::default(), Arc::clone(&f));
        self.step(name, "flat_map", alone, |before| FlatMap::shared(before, f))
    }

    /// A closure sees each row, which goes on as it is: see [`Inspect`].
    pub fn inspect<F>(self, name: &str, f: F) -> Stream<T, Inspect<R, F>>
    where
        F: Fn(&T) + Send + Sync + 'static,
    {
        let f = Arc::new(f);
        let alone = Inspect::shared(Whole::default(), Arc::clone(&f));
        self.step(name, "inspect", alone, |before| Inspect::shared(before, f))
    }

    /// Each row becomes another, or goes to the second stream, whole, with the words of the error: see [`TryMap`].
    pub fn try_map<U, E, F>(self, name: &str, f: F) -> (Stream<U>, Stream<Rejected<T>>)
    where
        U: Send + 'static,
        E: fmt::Display + 'static,
        F: Fn(&T) -> std::result::Result<U, E> + Send + Sync + 'static,
    {
        let f = Arc::new(f);
        let [main, rejected] = self.node(name, "try_map", move |_| Ok(TryMap::new(Arc::clone(&f)))).ports();
        (main.of(), rejected.of())
    }

    /// Rows part: each goes to the first stream whose predicate ([`when`]) holds, and to the last one if none does; see
    /// [`Route`](RouteRows).
    pub fn route<const N: usize>(
        self,
        name: &str,
        routes: [(&'static str, Predicate<T>); N],
    ) -> ([Stream<T>; N], Stream<T>) {
        let routes = routes.map(|(name, holds)| (Cow::Borrowed(name), holds));
        let node = self.node(name, "route", move |_| Ok(RouteRows::new(routes.clone())));
        let port = |port| Stream::at(node.pipeline.clone(), OutPort { node: node.id, port });
        (std::array::from_fn(|i| port(i + 1)), port(0))
    }

    /// This stream and others become one, as their rows come; event time is where it has come least. See [`Merge`].
    pub fn merge(self, name: &str, others: impl IntoIterator<Item = Stream<T>>) -> Stream<T> {
        let node = self.node(name, "merge", |_| Ok(Merge::<Vec<T>>::default()));
        for other in others {
            other.pipeline.connect(other.port, InPort { node: node.id, port: 0 }, other.route);
        }
        node.main()
    }

    /// Rows are gathered into groups by count, bytes and time: see [`Batching`]. What is not given yet is saved with a
    /// checkpoint. A row weighs what it takes in memory, without what it points to; see [`batch_sized`](Stream::batch_sized).
    pub fn batch(self, name: &str, limit: Group) -> Stream<Vec<T>>
    where
        T: Serialize + DeserializeOwned,
    {
        self.batch_sized(name, limit, |_| size_of::<T>())
    }

    /// As [`batch`](Stream::batch), with the bytes of each row as `size` tells them.
    pub fn batch_sized<F>(self, name: &str, limit: Group, size: F) -> Stream<Vec<T>>
    where
        T: Serialize + DeserializeOwned,
        F: Fn(&T) -> usize + Send + Sync + 'static,
    {
        let size: Arc<dyn Fn(&T) -> usize + Send + Sync> = Arc::new(size);
        self.node(name, "batch", move |_| Ok(Batching::new(limit, Arc::clone(&size)))).main()
    }

    /// No more than so many rows pass in a span of time, by the engine's clock; the others wait, and what is upstream with
    /// them. None is lost.
    pub fn throttle(self, name: &str, rows: u64, per: Duration) -> Stream<T> {
        let mut node = Node::new(name, "throttle", Role::Throttle(Rate { rows, per }));
        node.detail = format!("{rows} rows in {per:?}");
        node.inputs = vec![PortType::of::<Vec<T>>("in")];
        node.outputs = vec![PortType::of::<Vec<T>>(PortType::MAIN)];
        self.wire(node).main()
    }

    /// No more than so many rows pass in a span of time, by the engine's clock; the others are dropped and counted: see
    /// [`ThrottleDrop`].
    pub fn throttle_drop(self, name: &str, rows: u64, per: Duration) -> Stream<T> {
        self.node(name, "throttle_drop", move |_| Ok(ThrottleDrop::<Vec<T>>::new(rows, per))).main()
    }

    /// The first of every `n` rows passes: see [`Sample`].
    pub fn sample(self, name: &str, n: u64) -> Stream<T> {
        self.node(name, "sample", move |_| Ok(Sample::<Vec<T>>::new(n))).main()
    }

    /// A call elsewhere for each row, so many at once as `limits` say; a row whose call fails, panics or takes too long goes to
    /// the second stream. Calls that were not confirmed by a checkpoint are made again after a failure.
    ///
    /// ```text
    /// rows (2 at once)   1       2       3          4
    /// calls take         3s      1s      too long   1s, and fail
    /// given, in order    at 3s   at 3s
    /// in any order       at 3s   at 1s
    /// second stream                      timeout    the words
    /// ```
    pub fn map_async<U, E, Fut, F>(self, name: &str, limits: AsyncLimits, f: F) -> (Stream<U>, Stream<Rejected<T>>)
    where
        T: Clone,
        U: Send + 'static,
        E: fmt::Display + 'static,
        Fut: Future<Output = std::result::Result<U, E>> + Send + 'static,
        F: Fn(T) -> Fut + Send + Sync + 'static,
    {
        let f = Arc::new(f);
        let make: Make<dyn crate::graph::DynAsync> = Arc::new(move |_: &Subtask| {
            Ok(erase_async(Calls { f: Arc::clone(&f), types: PhantomData::<fn(T) -> (U, E)> }))
        });
        let mut node = Node::new(name, "map_async", Role::Async(make, limits));
        let order = if limits.ordered { "in order" } else { "in any order" };
        node.detail = format!("{} at once, {order}, {:?} at most", limits.concurrency, limits.timeout);
        node.inputs = vec![PortType::of::<Vec<T>>("in")];
        let rejected = PortType::of::<Vec<Rejected<T>>>("rejected");
        node.outputs = vec![PortType::of::<Vec<U>>(PortType::MAIN), rejected];
        let [main, rejected] = self.wire(node).ports();
        (main.of(), rejected.of())
    }

    /// Your own operator: `make` makes one for each subtask. Side outputs are had with
    /// [`operator_with_sides`](Stream::operator_with_sides).
    pub fn operator<U, O, M>(self, name: &str, kind: &'static str, make: M) -> Stream<U>
    where
        U: Send + 'static,
        O: Operator<In = Vec<T>, Out = Vec<U>>,
        M: Fn(&Subtask) -> Result<O> + Send + Sync + 'static,
    {
        self.node(name, kind, make).main()
    }

    /// Your own operator with side outputs of one type, such as rejected or late rows.
    pub fn operator_with_sides<U, S, O, M, const N: usize>(
        self,
        name: &str,
        kind: &'static str,
        sides: [millstream_operators::Side<S>; N],
        make: M,
    ) -> (Stream<U>, [Stream<S>; N])
    where
        U: Send + 'static,
        S: Send + 'static,
        O: Operator<In = Vec<T>, Out = Vec<U>>,
        M: Fn(&Subtask) -> Result<O> + Send + Sync + 'static,
    {
        let node = self.node(name, kind, make);
        let sides = sides.map(|side| Stream::at(node.pipeline.clone(), OutPort { node: node.id, port: side.port() }));
        (node.main(), sides)
    }

    /// Rows of one key keep their order and meet in one subtask of the next node.
    pub fn key_by<K: Key>(self, key: impl Fn(&T) -> K + Send + Sync + 'static) -> KeyedStream<K, T> {
        KeyedStream::new(self.boxed(), Arc::new(key))
    }

    pub(super) fn hashed<K: Key>(mut self, key: Arc<dyn Fn(&T) -> K + Send + Sync>) -> Self {
        self.route = Route::Hash(Arc::new(move |batch, groups, out| {
            if let Some(rows) = batch.rows::<Vec<T>>() {
                out.extend(rows.iter().map(|row| KeyGroup::of(&key(row), groups).0));
            }
        }));
        self
    }

    /// Batches go to the subtasks of the next node in turn.
    #[must_use]
    pub fn rebalance(self) -> Stream<T> {
        Stream { route: Route::Rebalance, ..self.boxed() }
    }

    /// The node that gives these rows runs as so many subtasks.
    #[must_use]
    pub fn parallelism(self, subtasks: u32) -> Self {
        self.pipeline.change(self.port.node, |node| node.parallelism = Some(subtasks));
        self
    }

    /// Bytes of the rows with their subjects, for a sink; what cannot be written goes to the second stream: see [`Encode`].
    pub fn encode<F: Format<T>>(
        self,
        name: &str,
        make: impl Fn() -> Encode<T, F> + Send + Sync + 'static,
    ) -> (Stream<Record>, Stream<Rejected<T>>) {
        let [main, rejected] = self.node(name, F::NAME, move |_| Ok(make())).ports();
        (main.of(), rejected.of())
    }

    /// Ends the stream in a sink, such as `jetstream_to("TOTALS").subject("totals").json()`.
    pub fn sink(self, name: &str, to: impl IntoSink<T>) {
        to.wire(self.boxed(), name);
    }

    /// Ends the stream: its rows are counted and dropped.
    pub fn discard(self, name: &str) {
        self.sink(name, super::Discard);
    }

    pub(super) fn node<U, O, M>(self, name: &str, kind: &'static str, make: M) -> Added
    where
        U: Payload,
        O: Operator<In = Vec<T>, Out = U>,
        M: Fn(&Subtask) -> Result<O> + Send + Sync + 'static,
    {
        let mut outputs = vec![PortType::of::<U>(PortType::MAIN)];
        // What an operator's sides are, only an operator can tell.
        let trial = Subtask { pipeline: "".into(), node: name.into(), index: 0, of: 1, resources: Default::default() };
        match make(&trial) {
            Ok(operator) => outputs.extend(operator.sides()),
            Err(fault) => self.pipeline.problem(millstream_operators::Problem::at(name, fault.chain())),
        }
        let make: Make<dyn crate::graph::DynOperator> = Arc::new(move |subtask| make(subtask).map(erase));
        let mut node = Node::new(name, kind, Role::Operator(make));
        node.inputs = vec![PortType::of::<Vec<T>>("in")];
        node.outputs = outputs;
        self.wire(node)
    }

    /// Lets these rows into an input of a node that is there already.
    pub(super) fn enter(self, to: InPort) {
        self.pipeline.connect(self.port, to, self.route);
    }

    /// Adds a node that takes these rows at port 0: for authors of connectors and node kinds.
    pub fn wire(self, node: Node) -> Added {
        let id = self.pipeline.add(node);
        self.pipeline.connect(self.port, InPort { node: id, port: 0 }, self.route);
        Added { pipeline: self.pipeline, id }
    }

    fn step<U, A, C>(self, name: &str, kind: &'static str, alone: A, chain: impl FnOnce(R) -> C) -> Stream<U, C>
    where
        U: Send + 'static,
        A: RowFn<In = T, Out = U>,
        C: RowFn<Out = U>,
    {
        let make: Make<dyn crate::graph::DynOperator> = Arc::new(move |_| Ok(erase(RowPass::new(alone.clone()))));
        let mut node = Node::new(name, kind, Role::Operator(make));
        node.inputs = vec![PortType::of::<Vec<T>>("in")];
        node.outputs = vec![PortType::of::<Vec<U>>(PortType::MAIN)];
        let id = self.pipeline.add(node);
        self.pipeline.connect(self.port, InPort { node: id, port: 0 }, self.route);
        let chain = chain(self.chain);
        let mut nodes = self.nodes;
        nodes.push(id);
        if nodes.len() > 1 {
            let all = chain.clone();
            let make: Make<dyn crate::graph::DynOperator> = Arc::new(move |_| Ok(erase(RowPass::new(all.clone()))));
            self.pipeline.pass(Pass { nodes: nodes.clone(), make });
        }
        let port = OutPort { node: id, port: 0 };
        Stream { pipeline: self.pipeline, port, route: Route::Forward, chain, nodes, rows: PhantomData }
    }
}

impl Stream<Bytes> {
    /// Rows of raw payloads by a format; what does not decode goes to the second stream: see [`Decode`].
    pub fn decode<T: Send + 'static, F: Format<T>>(
        self,
        name: &str,
        format: F,
    ) -> (Stream<T>, Stream<Rejected<Bytes>>) {
        let [main, rejected] = self.node(name, F::NAME, move |_| Ok(Decode::<T, F>::new(format.clone()))).ports();
        (main.of(), rejected.of())
    }
}

impl<T: Send + 'static> Stream<Rejected<T>> {
    /// Ends the stream: the first rejected row stops the pipeline, with its cause and where it came from.
    pub fn stop(self, name: &str) {
        self.sink(name, super::ends::Halt);
    }
}

impl<T: Clone + Send + 'static, R: Clone> Clone for Stream<T, R> {
    fn clone(&self) -> Self {
        let port = self.port.port;
        self.pipeline.change(self.port.node, |node| {
            if let Some(output) = node.outputs.get_mut(port) {
                *output = output.clone().copied_by(millstream_operators::AnyBatch::copied::<Vec<T>>);
            }
        });
        Stream {
            pipeline: self.pipeline.clone(),
            port: self.port,
            route: self.route.clone(),
            chain: self.chain.clone(),
            nodes: self.nodes.clone(),
            rows: PhantomData,
        }
    }
}

impl<T, R> fmt::Debug for Stream<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({:?} of {:?})", self.port, self.pipeline)
    }
}

/// A node that was just added, whose output ports become streams.
#[derive(Debug)]
pub struct Added {
    pub(super) pipeline: Pipeline,
    pub(super) id: NodeId,
}

/// An output port that is not a stream yet, because its row type is known to the caller only.
#[derive(Debug)]
pub struct Open(Pipeline, OutPort);

impl Added {
    /// The same node, with words for people on what it does.
    pub(super) fn detailed(self, detail: String) -> Self {
        self.pipeline.change(self.id, |node| node.detail = detail);
        self
    }

    /// The main output.
    pub fn main<T: Send + 'static>(self) -> Stream<T> {
        Stream::at(self.pipeline, OutPort { node: self.id, port: 0 })
    }

    /// The first `N` output ports.
    pub fn ports<const N: usize>(self) -> [Open; N] {
        std::array::from_fn(|port| Open(self.pipeline.clone(), OutPort { node: self.id, port }))
    }
}

impl Open {
    /// The stream of this port; `check` finds a wrong type before anything runs.
    pub fn of<T: Send + 'static>(self) -> Stream<T> {
        Stream::at(self.0, self.1)
    }
}

struct Calls<T, U, E, F> {
    f: Arc<F>,
    types: PhantomData<fn(T) -> (U, E)>,
}

impl<T, U, E, Fut, F> AsyncOperator for Calls<T, U, E, F>
where
    T: Send + 'static,
    U: Send + 'static,
    E: fmt::Display + 'static,
    Fut: Future<Output = std::result::Result<U, E>> + Send + 'static,
    F: Fn(T) -> Fut + Send + Sync + 'static,
{
    type In = T;
    type Out = U;

    fn call(&self, row: T) -> impl Future<Output = Result<U, Cause>> + Send + 'static {
        let call = (self.f)(row);
        async move { call.await.map_err(Cause::operator) }
    }
}
