//! [`check`]: everything that is wrong with a graph, found before anything runs.

use millstream_operators::Problem;

use super::timed::timed;
use super::{Edge, Graph, Guarantee, InPort, Node, NodeId, OutPort, Role, Touch};

/// How it begins what is said of an output that leads nowhere.
pub(crate) const UNREAD: &str = "nobody reads its";

/// What is said of a node whose rejected rows nobody takes.
pub(crate) const UNSAID: &str = "it is not said what becomes of the rows that it rejects";

/// All that is wrong with a graph; nothing if it can run.
pub fn check(graph: &Graph) -> Vec<Problem> {
    let mut problems = Vec::new();
    names(graph, &mut problems);
    ends(graph, &mut problems);
    for edge in &graph.edges {
        types(graph, edge, &mut problems);
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        outputs(graph, NodeId(index), node, &mut problems);
        inputs(graph, NodeId(index), node, &mut problems);
    }
    timed(graph, &mut problems);
    cycles(graph, &mut problems);
    feedback(graph, &mut problems);
    promises(graph, &mut problems);
    sharing(graph, &mut problems);
    problems
}

/// Names become parts of asset names and metrics, so they are plain; one `/` sets off what a node is made of.
fn is_plain(name: &str, slashes: usize) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let plain =
        |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    parts.len() <= slashes + 1 && name.len() <= 64 && parts.iter().all(plain)
}

fn names(graph: &Graph, problems: &mut Vec<Problem>) {
    const HELP: &str = "use letters, digits, `_` and `-`, at most 64 of them";
    if !is_plain(&graph.name, 0) {
        problems.push(Problem::of_pipeline(format!("the pipeline's name {:?} cannot be used", graph.name)).help(HELP));
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        if !is_plain(&node.name, 1) {
            problems.push(Problem::at(&node.name, format!("the name {:?} cannot be used", node.name)).help(HELP));
        }
        if graph.nodes.iter().take(index).any(|other| other.name == node.name) {
            let what = "two nodes have this name";
            problems.push(Problem::at(&node.name, what).help("rename one: state and metrics are found by name"));
        }
    }
}

fn ends(graph: &Graph, problems: &mut Vec<Problem>) {
    if !graph.nodes.iter().any(|node| matches!(node.role, Role::Source(_))) {
        problems.push(Problem::of_pipeline("the pipeline has no source").help("a pipeline begins with a source"));
    } else if !graph.nodes.iter().any(|node| matches!(node.role, Role::Sink(_))) {
        problems.push(Problem::of_pipeline("the pipeline has no sink").help("a pipeline ends in a sink"));
    }
}

fn types(graph: &Graph, edge: &Edge, problems: &mut Vec<Problem>) {
    let (Some(from), Some(to)) = (graph.node(edge.from.node), graph.node(edge.to.node)) else {
        return problems.push(Problem::of_pipeline("an edge leads to a node that is not there"));
    };
    let (Some(gives), Some(takes)) = (from.outputs.get(edge.from.port), to.inputs.get(edge.to.port)) else {
        let what = format!("there is no such port between it and `{}`", from.name);
        return problems.push(Problem::at(&to.name, what));
    };
    if gives.payload() != takes.payload() {
        let what = format!("it takes {}, but `{}` gives {}", takes.rows(), from.name, gives.rows());
        problems.push(Problem::at(&to.name, what));
    }
}

fn outputs(graph: &Graph, id: NodeId, node: &Node, problems: &mut Vec<Problem>) {
    for (port, output) in node.outputs.iter().enumerate() {
        let readers = graph.readers(OutPort { node: id, port }).count();
        if readers == 0 && output.must_connect() {
            problems.push(match output.name() {
                "rejected" => {
                    let owner = node.name.split('/').next().unwrap_or_default();
                    Problem::at(owner, UNSAID).help("send them to a dead letter sink, ignore them, or stop")
                }
                name if port == 0 => Problem::at(&node.name, format!("{UNREAD} rows (port `{name}`)"))
                    .help("end the stream in a sink, or discard it"),
                name => {
                    Problem::at(&node.name, format!("{UNREAD} output `{name}`")).help("end it in a sink, or discard it")
                }
            });
        }
        if readers > 1 && output.copy().is_none() {
            let what = format!("{readers} nodes read its output `{}`, whose rows cannot be copied", output.name());
            problems.push(Problem::at(&node.name, what).help("clone the stream, which needs rows that are `Clone`"));
        }
    }
}

fn inputs(graph: &Graph, id: NodeId, node: &Node, problems: &mut Vec<Problem>) {
    for (port, input) in node.inputs.iter().enumerate() {
        if !graph.edges.iter().any(|edge| edge.to == InPort { node: id, port }) {
            problems.push(Problem::at(&node.name, format!("nothing leads to its input `{}`", input.name())));
        }
    }
}

fn cycles(graph: &Graph, problems: &mut Vec<Problem>) {
    // Nodes that only ends lead to are taken away until none is left; what stays is on a cycle or behind one.
    let mut rest: Vec<NodeId> = (0..graph.nodes.len()).map(NodeId).collect();
    loop {
        let before = rest.len();
        let fed = |id: &NodeId, rest: &[NodeId]| {
            graph.edges.iter().any(|edge| edge.to.node == *id && rest.contains(&edge.from.node))
        };
        let snapshot = rest.clone();
        rest.retain(|id| fed(id, &snapshot));
        if rest.len() == before {
            break;
        }
    }
    // And the same from the other side, so that what is only behind a cycle is not blamed.
    loop {
        let before = rest.len();
        let snapshot = rest.clone();
        rest.retain(|id| graph.edges.iter().any(|edge| edge.from.node == *id && snapshot.contains(&edge.to.node)));
        if rest.len() == before {
            break;
        }
    }
    let name = |id: &NodeId| graph.node(*id).map_or("", |node| node.name.as_str());
    if let Some(first) = rest.first() {
        let names: Vec<_> = rest.iter().map(|id| format!("`{}`", name(id))).collect();
        let what = format!("rows would go round for ever through {}", names.join(", "));
        problems.push(Problem::at(name(first), what).help("a pipeline must not lead back to itself"));
    }
}

fn feedback(graph: &Graph, problems: &mut Vec<Problem>) {
    let all = |sources: bool| {
        graph.nodes.iter().filter(move |node| {
            if sources { matches!(node.role, Role::Source(_)) } else { matches!(node.role, Role::Sink(_)) }
        })
    };
    for sink in all(false) {
        for source in all(true) {
            let meet = sink
                .touches
                .iter()
                .find_map(|to| source.touches.iter().find(|from| feeds(to, from)).map(|from| (to, from)));
            if let Some((to, from)) = meet {
                let what = format!(
                    "it writes to {}, which the source `{}` reads as {}: the pipeline would feed itself",
                    named(to),
                    source.name,
                    named(from)
                );
                problems.push(Problem::at(&sink.name, what).help("write to other subjects, or read fewer"));
            }
        }
    }
}

/// Whether what is written to `to` is read from `from`. Where it is not known what a sink writes to, only a source that
/// reads all of the same stream surely reads it.
fn feeds(to: &Touch, from: &Touch) -> bool {
    if to.system != from.system {
        return false;
    }
    let same_stream = match (&to.stream, &from.stream) {
        (Some(to), Some(from)) if to != from => return false,
        (Some(_), Some(_)) => true,
        _ => false,
    };
    match (&to.subject, &from.subject) {
        (Some(to), Some(from)) => overlap(to, from),
        (_, None) => same_stream,
        (None, Some(_)) => false,
    }
}

fn named(touch: &Touch) -> String {
    match (&touch.subject, &touch.stream) {
        (Some(subject), _) => format!("`{subject}`"),
        (None, Some(stream)) => format!("the stream `{stream}`"),
        (None, None) => touch.system.clone(),
    }
}

/// Whether some subject matches both patterns.
fn overlap(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        match (a.next(), b.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(x), Some(y)) if x == y || x == "*" || y == "*" => {}
            _ => return false,
        }
    }
}

fn promises(graph: &Graph, problems: &mut Vec<Problem>) {
    let once = graph.settings.guarantee == Guarantee::EffectivelyOnce;
    if once {
        once_promised(graph, problems);
    }
    if graph.settings.guarantee == Guarantee::AtMostOnce || (graph.settings.accept_loss && !once) {
        return;
    }
    for node in &graph.nodes {
        if let Some(why) = &node.at_most_once {
            let (promise, help) = match once {
                true => ("effectively-once", "use JetStream here, or promise less"),
                false => ("at-least-once", "use JetStream here, or accept the loss in words: `accept_loss = true`"),
            };
            problems.push(Problem::at(&node.name, format!("the pipeline promises {promise}, but {why}")).help(help));
        }
    }
}

/// What keeps a pipeline from storing what comes of each message once.
fn once_promised(graph: &Graph, problems: &mut Vec<Problem>) {
    for node in &graph.nodes {
        if let Some(why) = &node.repeats {
            let what = format!("the pipeline promises effectively-once, but {why}");
            problems.push(Problem::at(&node.name, what).help("write to JetStream here, or promise at-least-once"));
        }
        if node.shared {
            let what = "the pipeline promises effectively-once, but a shared source has no position: what a process had in hand when it was killed is done again by another";
            let help = "read without `share`, or promise at-least-once";
            problems.push(Problem::at(&node.name, what).in_setting("share").help(help));
        }
    }
}

/// A source with a position belongs to one process at a time, a shared one to any number: together they could be neither.
fn sharing(graph: &Graph, problems: &mut Vec<Problem>) {
    let sources = || graph.nodes.iter().filter(|node| matches!(node.role, Role::Source(_)));
    let Some(shared) = sources().find(|node| node.shared) else { return };
    for alone in sources().filter(|node| !node.shared) {
        let what = format!(
            "it is read by one process at a time, but the source `{}` is shared among all processes of the pipeline",
            shared.name
        );
        let help = "share all sources or none, or make two pipelines of it";
        problems.push(Problem::at(&alone.name, what).in_setting("share").help(help));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millstream_operators::Fault;

    use super::*;

    #[test]
    fn sources_are_shared_all_or_none() {
        let source = |name: &str, shared| {
            let mut node = Node::new(name, "test", Role::Source(Arc::new(|_| Err(Fault::bug("only declared")))));
            node.shared = shared;
            node
        };
        let blamed = |nodes: Vec<Node>| {
            let mut problems = Vec::new();
            sharing(&Graph { nodes, ..Graph::default() }, &mut problems);
            problems.into_iter().map(|problem| problem.node).collect::<Vec<_>>()
        };
        assert_eq!(blamed(vec![source("a", true), source("b", false)]), ["b"]);
        assert_eq!(blamed(vec![source("a", true), source("b", true)]), [""; 0]);
        assert_eq!(blamed(vec![source("a", false), source("b", false)]), [""; 0]);
    }

    #[test]
    fn patterns_overlap_where_a_subject_matches_both() {
        for (a, b) in [("a.b", "a.b"), ("a.*", "a.b"), ("a.>", "a.b.c"), (">", "x"), ("a.*.c", "*.b.c"), ("*.>", "a.b")]
        {
            assert!(overlap(a, b) && overlap(b, a), "{a} {b}");
        }
        for (a, b) in [("a.b", "a.c"), ("a", "a.b"), ("a.>", "a"), ("a.*.d", "*.b.c")] {
            assert!(!overlap(a, b) && !overlap(b, a), "{a} {b}");
        }
    }

    #[test]
    fn a_sink_feeds_a_source_of_the_same_stream_or_subject() {
        let touch = |stream: &str, subject: &str| {
            let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            Touch { system: "nats".into(), stream: given(stream), subject: given(subject) }
        };
        for (to, from, expected) in [
            (touch("", "a.b"), touch("", "a.*"), true),
            (touch("S", "a.b"), touch("S", "a.*"), true),
            (touch("S", "a.b"), touch("S", "c"), false),
            (touch("S", "a.b"), touch("S", ""), true),
            (touch("S", ""), touch("S", ""), true),
            // It is not known, and a pipeline within one stream is a good one.
            (touch("S", ""), touch("S", "a.*"), false),
            // A subject belongs to one stream; another holds copies of it.
            (touch("S", "a.b"), touch("T", "a.*"), false),
            (touch("S", ""), touch("T", ""), false),
            (touch("S", "a.b"), touch("", "a.*"), true),
            (touch("", "a.b"), touch("S", ""), false),
            (Touch { system: "file".into(), ..touch("", "a") }, touch("", "a"), false),
        ] {
            assert_eq!(feeds(&to, &from), expected, "{to:?} {from:?}");
        }
    }

    #[test]
    fn names_are_plain() {
        assert!(is_plain("a-b_9", 0) && is_plain("a/json", 1));
        for bad in ["", "a b", "ä", "a.b", "a/b", &"x".repeat(65)] {
            assert!(!is_plain(bad, 0), "{bad}");
        }
    }
}
