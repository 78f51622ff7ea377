//! [`replace`]: files of lines in place of a graph's sources and sinks; [`left_over`]: what a trial would still write to
//! a server.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use millstream_operators::{BuildError, Payload, PortType, Problem, Record};
use millstream_pipelines::graph::{Graph, Node, Role, erase_source};

use super::file::Ends;
use crate::connectors::{FileSource, output_file};
use crate::engine::Clock;

/// Puts files in place of the sources and sinks that `ends` names. What the nodes touched outside is forgotten: they no
/// longer do.
///
/// # Errors
/// Every name that is no source or sink, with those that there are.
pub(super) fn replace(graph: &mut Graph, ends: &Ends) -> Result<(), BuildError> {
    let mut problems = Vec::new();
    for (name, path) in &ends.inputs {
        let fits = |node: &Node| matches!(node.role, Role::Source(_)) && carries::<Vec<Bytes>>(&node.outputs);
        match find(graph, name, "source", fits, ends.inputs.as_slice()) {
            Ok(node) => put(node, "file", path, source(path)),
            Err(problem) => problems.push(problem),
        }
    }
    for (name, path) in &ends.outputs {
        let fits = |node: &Node| matches!(node.role, Role::Sink(_)) && carries::<Vec<Record>>(&node.inputs);
        let format = format_of(graph, name);
        if let Some(word @ ("msgpack" | "arrow")) = format.as_deref() {
            let what = format!("its messages are `{word}`, which cannot be lines of a file");
            problems.push(Problem::at(name, what).help("leave it where it is, or give it the format `json`"));
            continue;
        }
        match find(graph, name, "sink", fits, ends.outputs.as_slice()) {
            Ok(node) => {
                let several = format.as_deref() == Some("ndjson");
                put(node, "file", path, Role::Sink(output_file(path, several).make));
            }
            Err(problem) => problems.push(problem),
        }
    }
    BuildError::of(problems).map_or(Ok(()), Err)
}

/// What is wrong with a trial that writes some outputs to files, needs no server to read, and would still write to one:
/// whoever tries a pipeline on files has forgotten an output, or has no server.
pub(super) fn left_over(graph: &Graph, ends: &Ends) -> Option<String> {
    let outside = |node: &&Node| !node.touches.is_empty();
    let reads = graph.nodes.iter().filter(|node| matches!(node.role, Role::Source(_))).any(|node| outside(&node));
    let sinks = || graph.nodes.iter().filter(|node| matches!(node.role, Role::Sink(_))).filter(outside);
    if ends.outputs.is_empty() || reads || sinks().next().is_none() {
        return None;
    }
    let names: Vec<_> = sinks().map(|node| format!("`{}`", node.name)).collect();
    let flags: Vec<_> = sinks().map(|node| format!("--output {0}={0}.ndjson", node.name)).collect();
    let (names, flags) = (names.join(", "), flags.join(" "));
    Some(format!(
        "nothing is read from a server and an output is a file, but {names} would still be written to the server\n  \
         help: add {flags}; without any --output all outputs are written to where the pipeline says"
    ))
}

/// The kind of the node that makes a sink's messages: the word of their format.
fn format_of(graph: &Graph, sink: &str) -> Option<String> {
    let place = graph.nodes.iter().position(|node| node.name == sink)?;
    let edge = graph.edges.iter().find(|edge| edge.to.node.0 == place)?;
    graph.node(edge.from.node).map(|node| node.kind.clone().into_owned())
}

fn carries<P: Payload>(ports: &[PortType]) -> bool {
    ports.first().is_some_and(|port| port.payload() == std::any::TypeId::of::<P>())
}

fn find<'g>(
    graph: &'g mut Graph,
    name: &str,
    word: &str,
    fits: impl Fn(&Node) -> bool,
    all: &[(String, PathBuf)],
) -> Result<&'g mut Node, Problem> {
    if all.iter().filter(|(other, _)| other == name).count() > 1 {
        return Err(Problem::of_pipeline(format!("the {word} `{name}` is replaced twice")).help("give it one file"));
    }
    let known: Vec<String> = graph.nodes.iter().filter(|node| fits(node)).map(|node| node.name.clone()).collect();
    match graph.nodes.iter_mut().find(|node| node.name == name && fits(node)) {
        Some(node) => Ok(node),
        None if known.is_empty() => Err(Problem::of_pipeline(format!("there is no {word} that a file could replace"))),
        None => Err(Problem::of_pipeline(format!("there is no {word} `{name}` that a file could replace"))
            .help(format!("there are: {}", known.join(", ")))),
    }
}

fn put(node: &mut Node, kind: &'static str, path: &std::path::Path, role: Role) {
    node.kind = kind.into();
    node.detail = path.display().to_string();
    node.role = role;
    node.touches.clear();
    node.access.clear();
    node.at_most_once = None;
    node.repeats = None;
    // Two writers of one file would mix their lines.
    node.parallelism = Some(1);
}

fn source(path: &std::path::Path) -> Role {
    let path = path.to_owned();
    Role::Source(Arc::new(move |subtask| {
        let clock = subtask.resources.get::<Clock>().map_or_else(Clock::system, |clock| *clock);
        Ok(erase_source(FileSource::new(&subtask.node, &path, clock)))
    }))
}

#[cfg(test)]
mod tests {
    use millstream_pipelines::dsl::Pipeline;

    use super::*;
    use crate::connectors::{jetstream, jetstream_to};

    fn graph() -> Graph {
        let pipeline = Pipeline::new("copy");
        pipeline
            .source("lines", jetstream("IN").text().ignore_rejected())
            .sink("copies", jetstream_to("OUT").text().subject("out.all").stop_on_rejected());
        pipeline.build().unwrap()
    }

    fn pair(node: &str) -> Vec<(String, PathBuf)> {
        vec![(node.to_owned(), "file".into())]
    }

    #[test]
    fn a_source_and_a_sink_become_files() {
        let mut graph = graph();
        replace(&mut graph, &Ends { inputs: pair("lines"), outputs: pair("copies") }).unwrap();
        let kinds: Vec<_> = graph.nodes.iter().filter(|node| node.kind == "file").map(|node| &node.name).collect();
        assert_eq!(kinds, ["lines", "copies"]);
        assert!(graph.nodes.iter().all(|node| node.access.is_empty()));
    }

    #[test]
    fn an_output_that_is_left_on_the_server_is_told_when_the_others_are_files() {
        let graph = |inputs, outputs| {
            let pipeline = Pipeline::new("copy");
            let from = jetstream("IN").text().rejected_to("dead", crate::connectors::dead_letters("DEAD"));
            pipeline
                .source("lines", from)
                .sink("copies", jetstream_to("OUT").text().subject("out.all").stop_on_rejected());
            let (mut graph, ends) = (pipeline.build().unwrap(), Ends { inputs, outputs });
            replace(&mut graph, &ends).unwrap();
            left_over(&graph, &ends)
        };
        let said = graph(pair("lines"), pair("copies")).unwrap();
        assert!(said.contains("`dead`") && said.contains("add --output dead=dead.ndjson;"), "{said}");
        assert_eq!(graph(pair("lines"), Vec::new()), None, "real outputs of a file");
        assert_eq!(graph(Vec::new(), pair("copies")), None, "a server is there");
        assert_eq!(graph(pair("lines"), [pair("copies"), pair("dead")].concat()), None);
    }

    #[test]
    fn a_sink_whose_messages_are_no_lines_is_not_replaced() {
        let pipeline = Pipeline::new("copy");
        let to = jetstream_to("OUT").msgpack::<String>().subject("out.all").stop_on_rejected();
        pipeline.source("lines", jetstream("IN").text().ignore_rejected()).sink("copies", to);
        let ends = Ends { inputs: Vec::new(), outputs: pair("copies") };
        let error = replace(&mut pipeline.build().unwrap(), &ends).unwrap_err();
        assert!(error.to_string().contains("`msgpack`, which cannot be lines"), "{error}");
    }

    #[test]
    fn every_wrong_name_is_told_with_the_right_ones() {
        let error = replace(&mut graph(), &Ends { inputs: pair("copies"), outputs: pair("liens") }).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no source `copies`") && text.contains("there are: lines"), "{text}");
        assert!(text.contains("no sink `liens`") && text.contains("there are: copies"), "{text}");
    }
}
