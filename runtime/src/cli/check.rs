//! `millstream check`: every mistake of every file.

use std::process::ExitCode;

use millstream_pipelines::graph::{Graph, Guarantee, Protocol, Resources, Role, protocol, stays_in_memory};

use super::args::Check;
use super::file::Ends;
use super::{Failure, Program, output};

pub(super) fn check(program: &Program, args: &Check) -> Result<ExitCode, Failure> {
    let (mut mistakes, mut wrong) = (0, 0);
    for path in &args.files {
        match program.load(path, &Ends::default()) {
            Ok(file) => {
                output::print(&format!("ok  {}: {}", path.display(), summary(&file.graph)));
                beyond_the_budget(&file.graph).into_iter().for_each(|line| output::print(&line));
            }
            Err(report) => {
                mistakes += report.mistakes;
                wrong += 1;
                output::say(&report.text);
            }
        }
    }
    if wrong == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    let (files, found) = (plural(wrong, "file"), plural(mistakes, "mistake"));
    Err(Failure::usage(format!("{found} in {files}")))
}

pub(super) fn plural(number: usize, word: &str) -> String {
    if number == 1 { format!("1 {word}") } else { format!("{number} {word}s") }
}

/// What a budget of memory for state does not count.
fn beyond_the_budget(graph: &Graph) -> Vec<String> {
    if graph.settings.state_memory.is_none() {
        return Vec::new();
    }
    let line = |(node, pieces): (String, Vec<String>)| {
        format!(
            "    note: the state of `{node}` ({}) stays in memory, whatever `[state] memory` says",
            pieces.join(", ")
        )
    };
    stays_in_memory(graph, &Resources::default()).into_iter().map(line).collect()
}

/// A pipeline in one line.
fn summary(graph: &Graph) -> String {
    // What a node is made of has a `/` in its name, and is no node to whoever wrote it.
    let own = |role: fn(&Role) -> bool| {
        graph.nodes.iter().filter(|node| !node.name.contains('/') && role(&node.role)).count()
    };
    let (sources, sinks) = (own(|role| matches!(role, Role::Source(_))), own(|role| matches!(role, Role::Sink(_))));
    let steps = own(|role| !matches!(role, Role::Source(_) | Role::Sink(_)));
    let guarantee = match graph.settings.guarantee {
        Guarantee::AtMostOnce => "at most once",
        Guarantee::AtLeastOnce => "at least once",
        Guarantee::EffectivelyOnce => match protocol(graph, &Resources::on_paper()) {
            Some(Protocol::Stateless { .. }) => "effectively once (stateless)",
            _ => "effectively once (stateful)",
        },
        _ => "",
    };
    let parts = [plural(sources, "source"), plural(steps, "step"), plural(sinks, "sink"), guarantee.to_owned()];
    format!(
        "pipeline {}, {}",
        graph.name,
        parts.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(", ")
    )
}
