//! [`Protocol`]: how each output of a pipeline that promises effectively-once comes to be stored once.

use std::fmt;

use millstream_operators::StateVisitor;

use super::{Access, Graph, Guarantee, Node, NodeId, Resources, Role, Subtask};

/// How outputs are stored once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// In micro-batches as they come, each together with where the sources stood behind it: nothing else is to be kept.
    Stateless {
        /// The sink that keeps the positions in its stream.
        sink: String,
    },
    /// When the checkpoint that has them is durable: about a checkpoint interval later.
    Stateful {
        /// What keeps the pipeline from the other.
        because: Vec<String>,
    },
}

/// The protocol of a graph, unless it promises less than effectively-once. Operators are made with these resources, and
/// asked for their state.
pub fn protocol(graph: &Graph, resources: &Resources) -> Option<Protocol> {
    if graph.settings.guarantee != Guarantee::EffectivelyOnce {
        return None;
    }
    let mut because = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        because.extend(keeps(graph, NodeId(index), node, resources));
    }
    let writes = |node: &&Node| node.access.iter().any(|access| matches!(access, Access::Write { .. }));
    let (sinks, others): (Vec<_>, Vec<_>) = sinks(graph).partition(writes);
    because.extend(others.into_iter().map(|sink| format!("the sink `{}` does not write to a stream", sink.name)));
    match sinks.as_slice() {
        [sink] if because.is_empty() => return Some(Protocol::Stateless { sink: sink.name.clone() }),
        [_] => {}
        [] => because.push("no sink writes to a stream".to_owned()),
        several => {
            let names: Vec<_> = several.iter().map(|sink| format!("`{}`", sink.name)).collect();
            because.push(format!("it has {} sinks ({})", several.len(), names.join(", ")));
        }
    }
    Some(Protocol::Stateful { because })
}

/// The sinks that store anything.
fn sinks(graph: &Graph) -> impl Iterator<Item = &Node> {
    let drops = |node: &Node| matches!(&*node.kind, "discard" | "stop");
    graph.nodes.iter().filter(move |node| matches!(node.role, Role::Sink(_)) && !drops(node))
}

/// What a node keeps that would have to be in a checkpoint, or why it does not do with a barrier a micro-batch.
fn keeps(graph: &Graph, id: NodeId, node: &Node, resources: &Resources) -> Option<String> {
    let name = &node.name;
    let make = match &node.role {
        Role::Operator(make) => make,
        Role::Async(..) => return Some(format!("`{name}` calls elsewhere, and its calls would wait for each other")),
        Role::Throttle(_) => return Some(format!("`{name}` holds rows back")),
        Role::Source(_) | Role::Sink(_) => return None,
    };
    let subtask = Subtask {
        pipeline: graph.name.as_str().into(),
        node: name.as_str().into(),
        index: 0,
        of: graph.parallelism(id),
        resources: resources.clone().with(graph.settings.clone()),
    };
    let mut names = Vec::new();
    match make(&subtask).and_then(|mut operator| operator.state(&mut StateVisitor::list(&mut names))) {
        Ok(()) if names.is_empty() => None,
        Ok(()) => Some(format!("`{name}` keeps state ({})", names.join(", "))),
        Err(fault) => Some(format!("whether `{name}` keeps state is not known ({fault})")),
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protocol::Stateless { sink } => {
                write!(f, "outputs are stored as they come, with the positions of the sources beside them in `{sink}`")
            }
            Protocol::Stateful { because } => {
                write!(f, "outputs are stored when their checkpoint is durable, because {}", because.join("; "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millstream_operators::rows::Dedup;
    use millstream_operators::window::KeyOf;
    use millstream_operators::{Fault, PortType};

    use super::*;
    use crate::graph::{InPort, OutPort, Route, erase};

    fn graph(sinks: &[(&str, &'static str)]) -> Graph {
        let mut graph = Graph::default();
        graph.settings.guarantee = Guarantee::EffectivelyOnce;
        for (name, kind) in sinks {
            let mut node = Node::new(*name, *kind, Role::Sink(Arc::new(|_| Err(Fault::bug("only declared")))));
            if *kind == "jetstream" {
                node.access = vec![Access::Write {
                    stream: "OUT".to_owned(),
                    subjects: None,
                    create: None,
                    extend: false,
                    dedup: false,
                }];
            }
            graph.add(node);
        }
        graph
    }

    fn told(graph: &Graph) -> String {
        protocol(graph, &Resources::default()).unwrap().to_string()
    }

    #[test]
    fn one_sink_and_no_state_make_it_stateless() {
        let graph = graph(&[("out", "jetstream"), ("in/rejected", "stop"), ("rest", "discard")]);
        let stateless = Some(Protocol::Stateless { sink: "out".to_owned() });
        assert_eq!(protocol(&graph, &Resources::default()), stateless);
        let less = Graph { settings: crate::graph::Settings::default(), ..graph };
        assert_eq!(protocol(&less, &Resources::default()), None);
    }

    #[test]
    fn several_sinks_and_state_are_named() {
        let mut graph = graph(&[("out", "jetstream"), ("dead", "jetstream"), ("shown", "stdout")]);
        let make = Arc::new(|_: &Subtask| {
            let key: KeyOf<u64, u64> = Arc::new(|row| *row);
            Ok(erase(Dedup::new(key, std::time::Duration::MAX)))
        });
        let mut node = Node::new("seen", "dedup", Role::Operator(make));
        node.inputs = vec![PortType::of::<Vec<u64>>("in")];
        let id = graph.add(node);
        graph.connect(OutPort { node: id, port: 0 }, InPort { node: NodeId(0), port: 0 }, Route::Forward);
        let told = told(&graph);
        for part in ["`seen` keeps state (", "2 sinks (`out`, `dead`)", "`shown` does not write to a stream"] {
            assert!(told.contains(part), "{part} is not in {told}");
        }
    }
}
