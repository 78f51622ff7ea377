//! [`Played`]: the operators of a graph without an engine.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_operators::{AnyBatch, Batch, Emit, Frozen, KeyGroup, StateVisitor, Timestamp, Turn, Watermark};

use super::{Given, Row};
use crate::graph::{DynOperator, Graph, InPort, Node, NodeId, OutPort, Resources, Role, Subtask};

/// What operators give in one call.
pub(super) struct Out {
    batches: Vec<(usize, AnyBatch)>,
    // There is never room downstream.
    is_full: bool,
}

impl Emit for Out {
    fn emit(&mut self, port: usize, batch: AnyBatch) {
        self.batches.push((port, batch));
    }

    // What is behind a join here does not look at event time.
    fn watermark(&mut self, _: Watermark) {}

    fn has_room(&self) -> bool {
        !self.is_full
    }

    fn wake_after(&mut self, _: Duration) {}
}

/// The operators of a graph behind its event times, without an engine.
pub(super) struct Played<'g> {
    graph: &'g Graph,
    operators: BTreeMap<usize, Box<dyn DynOperator>>,
    pub(super) given: BTreeMap<String, Vec<Given>>,
    is_full: bool,
}

impl<'g> Played<'g> {
    pub(super) fn new(graph: &'g Graph, is_full: bool) -> Self {
        let subtask = |node: &Node| {
            let (pipeline, node) = (graph.name.as_str().into(), node.name.as_str().into());
            Subtask { pipeline, node, index: 0, of: 1, resources: Resources::default() }
        };
        let operators = graph.nodes.iter().enumerate().filter_map(|(id, node)| match &node.role {
            Role::Operator(make) if node.kind != "event_time" => Some((id, make(&subtask(node)).unwrap())),
            _ => None,
        });
        Played { graph, operators: operators.collect(), given: BTreeMap::new(), is_full }
    }

    fn call(&mut self, node: usize, call: impl FnOnce(&mut dyn DynOperator, &mut Out) -> Turn) -> Turn {
        let mut out = Out { batches: Vec::new(), is_full: self.is_full };
        let turn = call(self.operators.get_mut(&node).unwrap().as_mut(), &mut out);
        for (port, batch) in out.batches {
            self.give(OutPort { node: NodeId(node), port }, batch);
        }
        turn
    }

    /// A batch goes to the node that reads a port.
    fn give(&mut self, from: OutPort, batch: AnyBatch) {
        let Some(InPort { node: NodeId(node), port }) = self.graph.readers(from).next().map(|edge| edge.to) else {
            return;
        };
        if !self.operators.contains_key(&node) {
            let times: Vec<i64> = batch.times().iter().map(|time| time.as_micros()).collect();
            let rows = times.into_iter().zip(batch.typed::<Vec<(u32, u32)>>().unwrap());
            let given = self.given.entry(self.graph.nodes[node].name.clone()).or_default();
            given.extend(rows.map(|(time, (_, (left, right)))| (time, left, right)));
            return;
        }
        let mut turn = self.call(node, |operator, out| operator.on_batch(port, batch, out).unwrap());
        while turn == Turn::Again {
            turn = self.call(node, |operator, out| operator.on_more(out).unwrap());
        }
    }

    /// Rows of one side, as they come from its event time.
    pub(super) fn rows(&mut self, is_left: bool, rows: Vec<(Timestamp, Row)>) {
        let name = if is_left { "left_time" } else { "right_time" };
        let node = self.graph.nodes.iter().position(|node| node.name == name).unwrap();
        self.give(OutPort { node: NodeId(node), port: 0 }, rows.into_iter().collect::<Batch<Vec<Row>>>().into());
    }

    /// Calls each operator, in the order in which they stand behind each other, until it has nothing more to do.
    pub(super) fn each(&mut self, call: impl Fn(&mut dyn DynOperator, &mut Out) -> Turn) {
        for node in self.operators.keys().copied().collect::<Vec<_>>() {
            while self.call(node, &call) == Turn::Again {}
        }
    }

    pub(super) fn restarted(mut self) -> Self {
        let mut restarted = Played::new(self.graph, self.is_full);
        for (node, operator) in &mut self.operators {
            let mut frozen = Frozen::default();
            operator.state(&mut StateVisitor::freeze(&mut frozen)).unwrap();
            let saved = frozen.encode(KeyGroup::DEFAULT_COUNT).unwrap();
            let operator = restarted.operators.get_mut(node).unwrap();
            operator.state(&mut StateVisitor::restore(&saved)).unwrap();
        }
        Played { given: self.given, ..restarted }
    }
}
