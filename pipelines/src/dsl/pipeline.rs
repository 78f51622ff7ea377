//! [`Pipeline`]: where a pipeline's declaration is gathered.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use millstream_operators::{BuildError, PortType, Problem};

use super::{IntoSource, SourceNode, Stream};
#[cfg(feature = "columnar")]
use crate::graph::Edge;
use crate::graph::{Graph, InPort, Node, NodeId, OutPort, Pass, Role, Route, Settings, check};

/// A pipeline that is being declared. Clones are the same pipeline.
///
/// ```
/// use millstream_pipelines::dsl::Pipeline;
/// let pipeline = Pipeline::new("empty");
/// assert!(pipeline.build().unwrap_err().to_string().contains("no source"));
/// ```
#[derive(Clone)]
pub struct Pipeline(Arc<Mutex<Building>>);

#[derive(Default)]
struct Building {
    graph: Graph,
    problems: Vec<Problem>,
}

impl Pipeline {
    /// A pipeline without nodes. Its name finds its checkpoints and consumers again, so keep it.
    pub fn new(name: impl Into<String>) -> Self {
        let graph = Graph { name: name.into(), ..Graph::default() };
        Pipeline(Arc::new(Mutex::new(Building { graph, problems: Vec::new() })))
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.lock().graph.name.clone()
    }

    /// Changes what holds for the pipeline as a whole.
    #[must_use]
    pub fn settings(self, change: impl FnOnce(&mut Settings)) -> Self {
        self.configure(change);
        self
    }

    pub(crate) fn configure(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.lock().graph.settings);
    }

    /// The graph as it is, and what was noted as wrong with it.
    #[cfg(feature = "columnar")]
    pub(crate) fn gathered(&self) -> (Graph, Vec<Problem>) {
        let building = self.lock();
        (building.graph.clone(), building.problems.clone())
    }

    /// Begins a stream: `from` is what a connector gives, such as `jetstream("ORDERS").json::<Order>()`.
    pub fn source<S: IntoSource>(&self, name: &str, from: S) -> Stream<S::Row> {
        from.wire(self, name)
    }

    /// Adds the node of a connector that gives raw payloads.
    pub fn source_node(&self, name: &str, source: SourceNode) -> Stream<Bytes> {
        Stream::at(self.clone(), self.begin(name, source, PortType::of::<Vec<Bytes>>(PortType::MAIN)))
    }

    /// Adds the node of a connector that gives record batches with the columns of `schema`.
    #[cfg(feature = "columnar")]
    pub fn rows_node(&self, name: &str, source: SourceNode, schema: &arrow::datatypes::SchemaRef) -> super::Frame {
        let port = self.begin(name, source, super::frame::frame_port(schema));
        super::Frame::at(self.clone(), port, Arc::clone(schema))
    }

    fn begin(&self, name: &str, source: SourceNode, gives: PortType) -> OutPort {
        let mut node = Node::new(name, source.kind, Role::Source(source.make));
        node.detail = source.detail;
        node.touches = source.touches;
        node.access = source.access;
        node.at_most_once = source.at_most_once;
        node.shared = source.shared;
        node.parallelism = Some(1);
        node.outputs = vec![gives];
        source.problems.into_iter().for_each(|problem| self.problem(problem));
        OutPort { node: self.add(node), port: 0 }
    }

    /// Adds a node: for authors of connectors and node kinds.
    pub fn add(&self, node: Node) -> NodeId {
        self.lock().graph.add(node)
    }

    /// Connects two ports: for authors of connectors and node kinds.
    pub fn connect(&self, from: OutPort, to: InPort, route: Route) {
        self.lock().graph.connect(from, to, route);
    }

    /// Notes something that is wrong; [`build`](Pipeline::build) reports it with all else.
    pub fn problem(&self, problem: Problem) {
        self.lock().problems.push(problem);
    }

    /// Changes a node that was added.
    pub fn change(&self, id: NodeId, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.lock().graph.nodes.get_mut(id.0) {
            change(node);
        }
    }

    /// Gives the nodes that a table of a pipeline file has become so many subtasks; false if one of them has another number.
    #[cfg(feature = "columnar")]
    pub(crate) fn share_out(&self, table: &str, subtasks: u32) -> bool {
        let is_of_it =
            |name: &str| name.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let mut inner = self.lock();
        let mut nodes = inner.graph.nodes.iter_mut().filter(|node| is_of_it(&node.name));
        nodes.all(|node| *node.parallelism.get_or_insert(subtasks) == subtasks)
    }

    #[cfg(feature = "columnar")]
    pub(super) fn first_reader(&self, port: OutPort) -> Option<InPort> {
        self.lock().graph.readers(port).next().map(|edge| edge.to)
    }

    /// The edge that was added last to a port.
    #[cfg(feature = "columnar")]
    pub(super) fn last_edge(&self, port: OutPort) -> Option<Edge> {
        self.lock().graph.readers(port).last().cloned()
    }

    /// The node of this name, if there is one already.
    #[cfg(feature = "columnar")]
    pub(super) fn node_named(&self, name: &str) -> Option<NodeId> {
        self.lock().graph.nodes.iter().position(|node| node.name == name).map(NodeId)
    }

    pub(super) fn name_of(&self, id: NodeId) -> String {
        self.lock().graph.node(id).map(|node| node.name.clone()).unwrap_or_default()
    }

    pub(super) fn pass(&self, pass: Pass) {
        self.lock().graph.passes.push(pass);
    }

    /// The graph, if nothing is wrong with it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn build(&self) -> Result<Graph, BuildError> {
        let building = self.lock();
        let problems = building.problems.iter().cloned().chain(check(&building.graph));
        match BuildError::of(problems) {
            Some(error) => Err(error),
            None => Ok(building.graph.clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Building> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is wrong with something that a node was given, as problems of the node; `before` stands before the settings.
pub(super) fn of_node(node: &str, before: &str, problems: Vec<Problem>) -> impl Iterator<Item = Problem> {
    problems.into_iter().map(move |mut problem| {
        node.clone_into(&mut problem.node);
        problem.setting = problem.setting.map(|setting| format!("{before}{setting}"));
        problem
    })
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let building = self.lock();
        write!(f, "Pipeline({}, {} nodes)", building.graph.name, building.graph.nodes.len())
    }
}
