//! [`Shape`]: which nodes of a graph count as input and output.

use std::collections::HashSet;

use millstream_pipelines::graph::{Graph, NodeId, Role};

/// A graph as its counters are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Shape {
    /// The pipeline.
    pub(super) pipeline: String,
    /// All nodes, in the order of their declaration.
    pub(super) nodes: Vec<String>,
    /// Where rows begin.
    pub(super) sources: Vec<String>,
    /// Where rows end that nobody rejected.
    pub(super) outputs: Vec<String>,
}

impl Shape {
    pub(in crate::cli) fn of(graph: &Graph) -> Self {
        let after_rejection = after_rejection(graph);
        let mut shape = Shape { pipeline: graph.name.clone(), ..Shape::default() };
        for (index, node) in graph.nodes.iter().enumerate() {
            shape.nodes.push(node.name.clone());
            match node.role {
                Role::Source(_) => shape.sources.push(node.name.clone()),
                Role::Sink(_) if !after_rejection.contains(&NodeId(index)) => shape.outputs.push(node.name.clone()),
                _ => {}
            }
        }
        shape
    }
}

/// Nodes that only rejected rows come to.
fn after_rejection(graph: &Graph) -> HashSet<NodeId> {
    let mut after: HashSet<NodeId> = HashSet::new();
    loop {
        let before = after.len();
        for index in 0..graph.nodes.len() {
            let mut inbound = graph.edges.iter().filter(|edge| edge.to.node == NodeId(index)).peekable();
            let rejected = inbound.peek().is_some()
                && inbound.all(|edge| {
                    let port = graph.node(edge.from.node).and_then(|node| node.outputs.get(edge.from.port));
                    after.contains(&edge.from.node) || port.is_some_and(|port| port.name_causes().is_some())
                });
            if rejected {
                after.insert(NodeId(index));
            }
        }
        if after.len() == before {
            return after;
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_pipelines::dsl::Pipeline;

    use super::*;
    use crate::connectors::{dead_letters, jetstream, jetstream_to};

    #[test]
    fn a_dead_letter_is_rejection_and_no_output() {
        let pipeline = Pipeline::new("p");
        pipeline
            .source("in", jetstream("IN").text().rejected_to("dead", dead_letters("DEAD")))
            .filter("some", |text| !text.is_empty())
            .sink("out", jetstream_to("OUT").text().subject("out.all").ignore_rejected());
        let shape = Shape::of(&pipeline.build().unwrap());
        assert_eq!((shape.sources, shape.outputs), (vec!["in".to_owned()], vec!["out".to_owned()]));
    }
}
