//! [`explain`]: a graph as text, as a Mermaid drawing or for Graphviz. The same graph always gives the same text.

use std::fmt::Write as _;

use super::{Graph, NodeId, Resources, Role, Stage, plan, protocol, stays_in_memory};

/// How a graph is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// Nodes with their kinds, row types, edges and routes, and the stages that they run in.
    #[default]
    Text,
    /// A Mermaid flowchart.
    Mermaid,
    /// A Graphviz digraph.
    Dot,
}

/// Shows a graph.
pub fn explain(graph: &Graph, view: View) -> String {
    match view {
        View::Text => text(graph),
        View::Mermaid => mermaid(graph),
        View::Dot => dot(graph),
    }
}

fn word(role: &Role) -> &'static str {
    match role {
        Role::Source(_) => "source",
        Role::Operator(_) => "operator",
        Role::Async(..) => "async",
        Role::Throttle(_) => "throttle",
        Role::Sink(_) => "sink",
    }
}

fn name(graph: &Graph, id: NodeId) -> &str {
    graph.node(id).map_or("?", |node| node.name.as_str())
}

/// The nodes in an order that depends on nothing but the graph: each behind those that it reads, the main output of a
/// node before its side outputs, names in order where neither decides.
fn order(graph: &Graph) -> Vec<NodeId> {
    let mut ids: Vec<NodeId> = (0..graph.nodes.len()).map(NodeId).collect();
    ids.sort_by_key(|id| name(graph, *id));
    let begins = |id: &NodeId| !graph.edges.iter().any(|edge| edge.to.node == *id);
    let mut order = Vec::with_capacity(ids.len());
    let mut open: Vec<NodeId> = ids.iter().copied().filter(begins).rev().collect();
    while let Some(id) = open.pop() {
        let waits = graph.edges.iter().any(|edge| edge.to.node == id && !order.contains(&edge.from.node));
        if waits || order.contains(&id) {
            continue;
        }
        order.push(id);
        let mut next: Vec<_> = graph.edges.iter().filter(|edge| edge.from.node == id).collect();
        next.sort_by_key(|edge| (edge.from.port, name(graph, edge.to.node)));
        open.extend(next.iter().rev().map(|edge| edge.to.node));
    }
    // What a circle is made of comes last; `check` refuses it.
    let rest: Vec<NodeId> = ids.into_iter().filter(|id| !order.contains(id)).collect();
    order.extend(rest);
    order
}

fn text(graph: &Graph) -> String {
    let mut out = format!("pipeline {}\n", graph.name);
    let width = graph.nodes.iter().map(|node| node.name.len()).max().unwrap_or(0);
    let order = order(graph);
    for (id, node) in order.iter().filter_map(|id| Some((*id, graph.node(*id)?))) {
        let rows = node.outputs.first().map_or(String::new(), |port| format!("  {}", port.rows()));
        // Writing to a string does not fail.
        let _ = writeln!(out, "{:width$}  {} {}{rows}", node.name, word(&node.role), node.kind);
        let mut lines = Vec::new();
        for edge in graph.edges.iter().filter(|edge| edge.from.node == id) {
            let port = match node.outputs.get(edge.from.port) {
                Some(port) if edge.from.port > 0 => format!("{} ", port.name()),
                _ => String::new(),
            };
            lines.push(format!("  {port}-> {} ({})", name(graph, edge.to.node), edge.route.word()));
        }
        lines.sort();
        lines.iter().for_each(|line| {
            let _ = writeln!(out, "{line}");
        });
    }
    if let Some(bytes) = graph.settings.state_memory {
        let _ =
            writeln!(out, "state: {bytes} bytes of memory for all subtasks together, the rest in a local directory");
        for (node, pieces) in stays_in_memory(graph, &Resources::default()) {
            let _ = writeln!(out, "  {node}: stays in memory, however much it is ({})", pieces.join(", "));
        }
    }
    out.push_str("stages\n");
    let place = |stage: &Stage| order.iter().position(|id| stage.nodes.first() == Some(id));
    let mut stages = plan(graph).stages;
    stages.sort_by_key(place);
    for stage in stages {
        let steps: Vec<String> = stage
            .steps
            .iter()
            .map(|step| step.nodes().iter().map(|id| name(graph, *id)).collect::<Vec<_>>().join(" + "))
            .collect();
        let _ = writeln!(out, "  {} x {}", stage.parallelism, steps.join(" | "));
    }
    if let Some(protocol) = protocol(graph, &Resources::on_paper()) {
        let _ = writeln!(out, "effectively once: {protocol}");
    }
    out
}

fn quoted(text: &str) -> String {
    text.replace('"', "'")
}

fn mermaid(graph: &Graph) -> String {
    let mut out = String::from("flowchart LR\n");
    for (index, node) in graph.nodes.iter().enumerate() {
        let label = quoted(&format!("{}<br/>{}", node.name, node.kind));
        let (open, close) = match node.role {
            Role::Source(_) => ("([", "])"),
            Role::Sink(_) => ("[(", ")]"),
            _ => ("[", "]"),
        };
        let _ = writeln!(out, "  n{index}{open}\"{label}\"{close}");
    }
    for edge in &graph.edges {
        let label = edge_label(graph, edge);
        let arrow = if label.is_empty() { "-->".to_owned() } else { format!("-->|{label}|") };
        let _ = writeln!(out, "  n{} {arrow} n{}", edge.from.node.0, edge.to.node.0);
    }
    out
}

fn dot(graph: &Graph) -> String {
    let mut out = format!("digraph \"{}\" {{\n  rankdir=LR;\n  node [shape=box];\n", quoted(&graph.name));
    for (index, node) in graph.nodes.iter().enumerate() {
        let _ = writeln!(out, "  n{index} [label=\"{}\\n{}\"];", quoted(&node.name), quoted(&node.kind));
    }
    for edge in &graph.edges {
        let label = edge_label(graph, edge);
        let _ = writeln!(out, "  n{} -> n{} [label=\"{label}\"];", edge.from.node.0, edge.to.node.0);
    }
    out.push_str("}\n");
    out
}

fn edge_label(graph: &Graph, edge: &super::Edge) -> String {
    let port = graph.node(edge.from.node).and_then(|node| node.outputs.get(edge.from.port));
    let port = port.filter(|_| edge.from.port > 0).map_or("", |port| port.name());
    let route = if edge.route.word() == "forward" { "" } else { edge.route.word() };
    quoted([port, route].iter().filter(|word| !word.is_empty()).copied().collect::<Vec<_>>().join(" ").as_str())
}
