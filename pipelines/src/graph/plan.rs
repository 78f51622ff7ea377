//! [`Plan`]: which nodes run together as one stage, and what leads from stage to stage.

use std::collections::HashMap;

use super::{Graph, InPort, Node, NodeId, OutPort, Role, Route};

/// How a graph runs. Plain data: the engine makes tasks of it, `explain` prints it.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The stages, in the order of their first nodes.
    pub stages: Vec<Stage>,
}

/// Nodes that run as one task a subtask.
///
/// A stage is a maximal run of operators joined by forward edges, each the only reader of the one before it. Sources,
/// sinks, async operators and throttles are stages of their own.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The nodes, in order.
    pub nodes: Vec<NodeId>,
    /// How many subtasks.
    pub parallelism: u32,
    /// What is done one after the other.
    pub steps: Vec<Step>,
    /// What leaves the stage: main outputs of the last node, side outputs of any.
    pub outputs: Vec<Output>,
}

/// One thing that a stage does to a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The work of one node.
    One(NodeId),
    /// The work of several nodes in one pass over the batch.
    Pass {
        /// Which of the graph's passes.
        index: usize,
        /// The nodes that it does the work of.
        nodes: Vec<NodeId>,
    },
}

/// An output port whose rows leave a stage. One that nobody reads drops them.
#[derive(Clone, Debug)]
pub struct Output {
    /// The node.
    pub node: NodeId,
    /// Its port.
    pub port: usize,
    /// Who reads it.
    pub edges: Vec<PlannedEdge>,
}

/// An edge between stages.
#[derive(Clone, Debug)]
pub struct PlannedEdge {
    /// The stage that it leads to.
    pub stage: usize,
    /// The input port there.
    pub port: usize,
    /// To which subtask: forward only where there are no more of them than of the one before, each of which then keeps to one of
    /// them, so that what is in order stays so.
    pub route: Route,
}

/// Plans a graph that [`check`](super::check) has found nothing wrong with.
pub fn plan(graph: &Graph) -> Plan {
    let mut stages: Vec<Stage> = Vec::new();
    let mut stage_of: HashMap<NodeId, usize> = HashMap::new();
    for id in (0..graph.nodes.len()).map(NodeId) {
        if stage_of.contains_key(&id) || joins(graph, id).is_some() {
            continue;
        }
        let mut nodes = vec![id];
        while let Some(next) = nodes.last().and_then(|last| follower(graph, *last)) {
            nodes.push(next);
        }
        for node in &nodes {
            stage_of.insert(*node, stages.len());
        }
        let (parallelism, steps) = (graph.parallelism(id), steps(graph, &nodes));
        stages.push(Stage { nodes, parallelism, steps, outputs: Vec::new() });
    }
    let parallelism: Vec<u32> = stages.iter().map(|stage| stage.parallelism).collect();
    for stage in &mut stages {
        stage.outputs = outputs(graph, stage, &stage_of, &parallelism);
    }
    Plan { stages }
}

/// The operator whose stage a node goes on with, if it does.
fn joins(graph: &Graph, id: NodeId) -> Option<NodeId> {
    let is_operator = |id| matches!(graph.node(id), Some(Node { role: Role::Operator(_), .. }));
    let mut into = graph.edges.iter().filter(|edge| edge.to.node == id);
    let edge = into.next().filter(|_| into.next().is_none())?;
    let alone = graph.readers(edge.from).count() == 1;
    let before = edge.from.node;
    let fits = edge.from.port == 0 && edge.to == InPort { node: id, port: 0 } && matches!(edge.route, Route::Forward);
    let same = graph.parallelism(before) == graph.parallelism(id);
    (is_operator(id) && is_operator(before) && alone && fits && same).then_some(before)
}

fn follower(graph: &Graph, id: NodeId) -> Option<NodeId> {
    let next = graph.readers(OutPort { node: id, port: 0 }).next()?.to.node;
    (joins(graph, next) == Some(id)).then_some(next)
}

/// The nodes one by one, but for the longest passes that apply.
fn steps(graph: &Graph, nodes: &[NodeId]) -> Vec<Step> {
    let (mut steps, mut rest) = (Vec::new(), nodes);
    while let Some(first) = rest.first() {
        let applies = |pass: &super::Pass| {
            let inner = pass.nodes.len().saturating_sub(1);
            let unread = |id: &NodeId| !graph.edges.iter().any(|edge| edge.from.node == *id && edge.from.port > 0);
            pass.nodes.len() > 1 && rest.starts_with(&pass.nodes) && pass.nodes.iter().take(inner).all(unread)
        };
        let longest =
            graph.passes.iter().enumerate().filter(|(_, pass)| applies(pass)).max_by_key(|(_, pass)| pass.nodes.len());
        let step = match longest {
            Some((index, pass)) => Step::Pass { index, nodes: pass.nodes.clone() },
            None => Step::One(*first),
        };
        rest = rest.get(step.nodes().len()..).unwrap_or_default();
        steps.push(step);
    }
    steps
}

impl Step {
    /// The nodes that it does the work of.
    pub fn nodes(&self) -> &[NodeId] {
        match self {
            Step::One(node) => std::slice::from_ref(node),
            Step::Pass { nodes, .. } => nodes,
        }
    }
}

fn outputs(graph: &Graph, stage: &Stage, stage_of: &HashMap<NodeId, usize>, parallelism: &[u32]) -> Vec<Output> {
    let mut outputs = Vec::new();
    for (at, id) in stage.nodes.iter().enumerate() {
        let inner = at + 1 < stage.nodes.len();
        let ports = graph.node(*id).map_or(0, |node| node.outputs.len());
        for port in (0..ports).filter(|port| !(inner && *port == 0)) {
            let edges = graph.readers(OutPort { node: *id, port }).filter_map(|edge| {
                let target = *stage_of.get(&edge.to.node)?;
                let widens = parallelism.get(target).is_some_and(|target| *target > stage.parallelism);
                let route = match &edge.route {
                    Route::Forward if widens => Route::Rebalance,
                    route => route.clone(),
                };
                Some(PlannedEdge { stage: target, port: edge.to.port, route })
            });
            outputs.push(Output { node: *id, port, edges: edges.collect() });
        }
    }
    outputs
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millstream_operators::{Fault, PortType};

    use super::*;
    use crate::graph::{Make, Pass};

    fn never<T: ?Sized>() -> Make<T> {
        Arc::new(|_| Err(Fault::bug("only planned")))
    }

    /// A graph from `source -> a -> b`, roles by first letter: s(ource), o(perator), k (sink).
    fn graph(names: &[&str], edges: &[(usize, usize)]) -> Graph {
        let mut graph = Graph::default();
        for name in names {
            let role = match name.chars().next() {
                Some('s') => Role::Source(never()),
                Some('k') => Role::Sink(never()),
                _ => Role::Operator(never()),
            };
            let mut node = Node::new(*name, "test", role);
            node.outputs = vec![PortType::of::<Vec<u8>>("out"), PortType::of::<Vec<u8>>("rejected").optional()];
            graph.add(node);
        }
        for (from, to) in edges {
            graph.connect(
                OutPort { node: NodeId(*from), port: 0 },
                InPort { node: NodeId(*to), port: 0 },
                Route::Forward,
            );
        }
        graph
    }

    fn names(graph: &Graph) -> Vec<Vec<&str>> {
        let name = |id: &NodeId| graph.nodes[id.0].name.as_str();
        plan(graph).stages.iter().map(|stage| stage.nodes.iter().map(name).collect()).collect()
    }

    #[test]
    fn operators_in_a_row_are_one_stage() {
        let graph = graph(&["s", "o1", "o2", "k"], &[(0, 1), (1, 2), (2, 3)]);
        assert_eq!(names(&graph), [vec!["s"], vec!["o1", "o2"], vec!["k"]]);
    }

    #[test]
    fn rows_keep_the_order_of_their_source_until_they_are_shared_out() {
        let mut graph = graph(&["s", "o1", "o2", "o3", "k"], &[(0, 1), (1, 2), (2, 3), (3, 4)]);
        graph.settings.parallelism = 4;
        graph.nodes[0].parallelism = Some(1);
        let all = |graph: &Graph| (0..5).map(|id| graph.parallelism(NodeId(id))).collect::<Vec<_>>();
        assert_eq!(all(&graph), [1, 1, 1, 1, 1]);
        graph.edges[1].route = Route::Rebalance;
        assert_eq!(all(&graph), [1, 1, 4, 4, 4]);
        graph.nodes[3].parallelism = Some(2);
        assert_eq!(all(&graph), [1, 1, 4, 2, 2]);
        // What two branches lead to has as many as the one with fewer.
        graph.connect(OutPort { node: NodeId(1), port: 0 }, InPort { node: NodeId(4), port: 0 }, Route::Forward);
        assert_eq!(all(&graph), [1, 1, 4, 2, 1]);
    }

    #[test]
    fn a_stage_ends_where_two_read_two_are_read_or_numbers_differ() {
        let fan_out = graph(&["s", "o1", "o2", "o3"], &[(0, 1), (1, 2), (1, 3)]);
        assert_eq!(names(&fan_out), [vec!["s"], vec!["o1"], vec!["o2"], vec!["o3"]]);
        let fan_in = graph(&["s", "o1", "o2", "o3"], &[(0, 1), (0, 2), (1, 3), (2, 3)]);
        assert_eq!(names(&fan_in), [vec!["s"], vec!["o1"], vec!["o2"], vec!["o3"]]);
        let mut rescaled = graph(&["s", "o1", "o2"], &[(0, 1), (1, 2)]);
        rescaled.nodes[2].parallelism = Some(2);
        assert_eq!(names(&rescaled), [vec!["s"], vec!["o1"], vec!["o2"]]);
        let route = |graph: &Graph| plan(graph).stages[1].outputs[0].edges[0].route.word();
        assert_eq!(route(&rescaled), "rebalance");
        rescaled.nodes[1].parallelism = Some(3);
        assert_eq!(route(&rescaled), "forward", "rows of a key stay in order where fewer share the work");
    }

    #[test]
    fn the_longest_pass_is_used_unless_a_side_output_inside_it_is_read() {
        let mut graph = graph(&["s", "o1", "o2", "o3", "k"], &[(0, 1), (1, 2), (2, 3), (3, 4)]);
        for nodes in [vec![1, 2], vec![1, 2, 3]] {
            graph.passes.push(Pass { nodes: nodes.into_iter().map(NodeId).collect(), make: never() });
        }
        assert!(matches!(plan(&graph).stages[1].steps.as_slice(), [Step::Pass { index: 1, .. }]));
        graph.connect(OutPort { node: NodeId(2), port: 1 }, InPort { node: NodeId(4), port: 0 }, Route::Forward);
        let planned = plan(&graph);
        assert!(matches!(planned.stages[1].steps.as_slice(), [Step::Pass { index: 0, .. }, Step::One(NodeId(3))]));
        assert_eq!(
            planned.stages[1].outputs.iter().map(|out| (out.node.0, out.port)).collect::<Vec<_>>(),
            [(1, 1), (2, 1), (3, 0), (3, 1)]
        );
    }
}
