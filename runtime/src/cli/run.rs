//! `millstream run`: a pipeline until it ends.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use millstream_pipelines::graph::Node;

use super::args::Run;
use super::ends;
use super::file::{Ends, File};
use super::live::{Screen, Shape, Watch};
use super::settings::Settings;
use super::{Failure, Program};
use crate::Launch;
use crate::broker::NO_SERVER;
use crate::engine::{Ended, Metrics, Stopper};

pub(super) async fn run(program: &Program, args: Run, settings: Settings, screen: Screen) -> Result<ExitCode, Failure> {
    if !args.more.is_empty() {
        return Err(Failure::usage("one process runs one pipeline for now: start one for each file"));
    }
    let path = &args.file;
    let settings = settings
        .with_server(&args.server)
        .with_checkpoints(args.checkpoints.as_ref(), args.replicas)
        .with_workers(args.workers);
    let ends = Ends { inputs: args.input, outputs: args.output };
    let mut file = program.load(path, &ends)?;
    let memory = &mut file.graph.settings.state_memory;
    *memory = settings.state_memory(*memory);
    if let Some(subtasks) = args.parallelism {
        file.graph.settings.parallelism = subtasks;
    }
    if let Some(text) = ends::left_over(&file.graph, &ends) {
        return Err(Failure::usage(format!("{}: {text}", path.display())));
    }
    let mut launch = Launch::default()
        .replicas(settings.replicas())
        .workers(settings.workers())
        .drain_within(Duration::from_secs(args.drain_timeout));
    // A trial on files must leave the real pipeline's checkpoints alone.
    match settings.checkpoints() {
        _ if !ends.is_empty() => launch = launch.without_checkpoints(),
        Some(place) => launch = launch.checkpoints_at(settings.store_at(place)?),
        None => {}
    }
    if let Some(directory) = settings.spill() {
        launch = launch.spill_to(directory);
    }
    if let Some(name) = args.from {
        launch = launch.from_savepoint(name);
    }
    if args.rewind {
        launch = launch.rewind();
    }
    for node in args.forget {
        launch = launch.forget(node);
    }
    if args.until_end {
        launch = launch.until_end();
    }
    let launch = launch.nats(settings.connect_options(file.nats.clone()));
    let needless = ends.is_empty() && settings.checkpoints().is_none() && file.graph.nodes.iter().all(serverless);
    match show(&file, launch, screen).await {
        Err(failure) if needless && failure.text.contains(NO_SERVER) => Err(Failure {
            text: format!(
                "{}\n  help: only its checkpoints need a server: `--checkpoints DIR` keeps them in a directory",
                failure.text
            ),
            ..failure
        }),
        shown => shown,
    }
}

/// Whether a node touches nothing on a server.
fn serverless(node: &Node) -> bool {
    node.touches.is_empty() && node.access.is_empty()
}

/// Runs a pipeline and shows it on `screen`; gives the exit code of how it ended.
pub(super) async fn show(file: &File, launch: Launch, screen: Screen) -> Result<ExitCode, Failure> {
    let File { path, graph, .. } = file;
    let (metrics, stopper) = (launch.metrics(), launch.stopper());
    // Rows on the same terminal would be torn up by a line that is drawn anew.
    let live = !graph.nodes.iter().any(|node| node.kind == "stdout");
    let mut watch = Watch::new(Shape::of(graph), metrics.clone(), stopper.clone(), screen, live);
    tracing::info!(pipeline = graph.name, file = %path.display(), nodes = graph.nodes.len(), "starting");
    let ended = tokio::select! {
        biased;
        ended = launch.run_graph(graph) => ended,
        never = watch.follow() => match never {},
    };
    watch.end();
    match ended {
        Ok(how) => ending(path, how, &metrics, &stopper),
        Err(error) => Err(Failure { code: error.exit_code(), text: error.to_string() }),
    }
}

fn ending(path: &Path, how: Ended, metrics: &Metrics, stopper: &Stopper) -> Result<ExitCode, Failure> {
    let place = path.display();
    match how {
        Ended::Drained | Ended::Finished => Ok(ExitCode::SUCCESS),
        Ended::Stopped if stopper.is_stopping_now() => Err(Failure {
            code: Launch::INTERRUPTED,
            text: format!(
                "{place}: stopped before it was drained; nothing is lost, and the next run repeats what came after the \
                 last checkpoint"
            ),
        }),
        // Asked to stop before it had read anything, there is nothing to drain; what is left to the next start the log tells.
        Ended::Stopped if metrics.checkpoint().completed == 0 || metrics.restarts() == 0 => Ok(ExitCode::SUCCESS),
        Ended::Stopped => Err(Failure::fault(format!(
            "{place}: stopped while it waited to start again after a fault; the next run repeats what came after the \
             last checkpoint"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_spoken_of_only_where_there_was_one() {
        let (metrics, stopper) = (Metrics::default(), Stopper::default());
        let ended =
            || ending(Path::new("orders.toml"), Ended::Stopped, &metrics, &stopper).map_err(|failure| failure.code);
        metrics.checkpoint_done(0, 0, Duration::ZERO, 0);
        assert_eq!(ended().unwrap(), ExitCode::SUCCESS, "it was asked to stop while it started");
        metrics.count_restart();
        assert_eq!(ended().unwrap_err(), 1);
        stopper.now();
        assert_eq!(ended().unwrap_err(), Launch::INTERRUPTED);
    }
}
