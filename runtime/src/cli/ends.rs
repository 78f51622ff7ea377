//! [`replace`]: files of lines in place of a graph's sources and sinks.

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
        match find(graph, name, "sink", fits, ends.outputs.as_slice()) {
            Ok(node) => put(node, "file", path, Role::Sink(output_file(path).make)),
            Err(problem) => problems.push(problem),
        }
    }
    BuildError::of(problems).map_or(Ok(()), Err)
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
    fn every_wrong_name_is_told_with_the_right_ones() {
        let error = replace(&mut graph(), &Ends { inputs: pair("copies"), outputs: pair("liens") }).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no source `copies`") && text.contains("there are: lines"), "{text}");
        assert!(text.contains("no sink `liens`") && text.contains("there are: copies"), "{text}");
    }
}
