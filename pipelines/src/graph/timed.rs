//! [`timed`]: what goes by event time gets no rows without one, whichever way they come.

use std::collections::{BTreeSet, HashMap, HashSet};

use millstream_operators::{Problem, TimeKeeping};

use super::{Graph, Node, NodeId, Resources, Role, Subtask};

const HELP: &str = "say `event_time = { column = \"…\", max_lateness = \"5s\" }` where they begin, or in a step before; `processing_time = { every = \"100ms\" }` goes by the clock";

const IN_RUST: &str = "say `.event_time(…)` of the stream where it begins, or `.processing_time(…)` to go by the clock";

/// Each source whose rows have no event time when they come to a node that goes by it.
pub(super) fn timed(graph: &Graph, problems: &mut Vec<Problem>) {
    let mut known = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate().filter(|(_, node)| node.by_event_time) {
        for source in timeless(graph, NodeId(index), &mut known) {
            let what = format!("it goes by event time, and the rows of `{source}` have none");
            let problem = Problem::at(&node.name, what);
            problems.push(match is_columnar(node) {
                // Nodes of these kinds are said by a setting of that name.
                true => problem.in_setting(node.kind.clone()).help(HELP),
                false => problem.help(IN_RUST),
            });
        }
    }
}

#[cfg(feature = "columnar")]
fn is_columnar(node: &Node) -> bool {
    node.inputs.iter().any(|port| port.payload() == std::any::TypeId::of::<arrow::array::RecordBatch>())
}

#[cfg(not(feature = "columnar"))]
fn is_columnar(_: &Node) -> bool {
    false
}

/// The sources from which a way leads to a node on which nobody gives rows a time.
fn timeless<'g>(graph: &'g Graph, id: NodeId, known: &mut HashMap<NodeId, bool>) -> BTreeSet<&'g str> {
    let (mut open, mut seen, mut found) = (vec![id], HashSet::from([id]), BTreeSet::new());
    while let Some(id) = open.pop() {
        for edge in graph.edges.iter().filter(|edge| edge.to.node == id) {
            let from = edge.from.node;
            let Some(node) = graph.node(from).filter(|_| seen.insert(from)) else { continue };
            match node.role {
                Role::Source(_) => drop(found.insert(node.name.as_str())),
                _ if *known.entry(from).or_insert_with(|| gives_time(node)) => {}
                _ => open.push(from),
            }
        }
    }
    found
}

/// Whether a node tells how far event time has come. That only an operator can tell; who cannot be asked is believed.
fn gives_time(node: &Node) -> bool {
    let Role::Operator(make) = &node.role else { return false };
    let (pipeline, name, resources) = ("".into(), node.name.as_str().into(), Resources::on_paper());
    let trial = Subtask { pipeline, node: name, index: 0, of: 1, resources };
    // What stands in for a node with a mistake is asked for what it would have been.
    node.kind == "event_time" || make(&trial).map_or(true, |made| made.time_keeping() == TimeKeeping::Makes)
}
