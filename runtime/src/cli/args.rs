//! The command line: what can be asked for, and its help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::place::Place;

const EXAMPLES: &str = "\
Examples:
  millstream demo                           the main job, shown
  millstream dev                            a NATS server for trying things
  millstream check orders.toml              every mistake, before anything runs
  millstream run orders.toml                until SIGTERM, which drains

Exit codes: 0 drained or done, 1 a fault, 2 a wrong pipeline or usage, 3 another instance has taken over, 4 the source \
lost messages or was recreated, 130 stopped before it was drained";

/// Stream processing for NATS JetStream: runs pipelines that are written as files.
#[derive(Debug, Parser)]
#[command(name = "millstream", version, after_help = EXAMPLES, arg_required_else_help = true, max_term_width = 100)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Common {
    /// Settings file [default: millstream.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// What to log: error, warn, info, debug or trace [default: info]
    ///
    /// error: the run ends. warn: something needs attention, and the run goes on. info: start, end and summaries.
    /// debug: every checkpoint, consumer and connection. Per module as in `warn,millstream::engine=debug`. Also
    /// MILLSTREAM_LOG.
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(super) log: Option<String>,
    /// How to log; logs go to the standard error [default: text on a terminal, else json]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(super) log_format: Option<LogFormat>,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Run(Run),
    Check(Check),
    Explain(Explain),
    Test(Test),
    Schema(Schema),
    Demo(Demo),
    Dev(Dev),
    Doctor(Doctor),
    Permissions(Permissions),
    Checkpoint(super::checkpoint::Checkpoint),
    Savepoint(super::checkpoint::Savepoint),
    Remove(Remove),
}

/// Which server, and who to be there.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct Server {
    /// NATS server, or several with commas; also NATS_URL [default: nats://127.0.0.1:4222]
    #[arg(long, value_name = "URL")]
    pub(super) nats: Option<String>,
    /// Context of the `nats` tool, by name or path; also NATS_CONTEXT
    #[arg(long, value_name = "NAME")]
    pub(super) context: Option<String>,
    /// Credentials file; also NATS_CREDS
    #[arg(long, value_name = "FILE")]
    pub(super) creds: Option<PathBuf>,
}

/// Run a pipeline until its sources end or SIGTERM comes
///
/// SIGTERM or Ctrl-C drains: what was read passes through, a last checkpoint is written, and the next start repeats
/// nothing. A second signal stops at once, without loss.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millstream run orders.toml
  millstream run large-orders.toml --input orders=some.ndjson \\
    --output out=out.ndjson --output dead=dead.ndjson     a trial on files, without a server")]
pub(super) struct Run {
    /// Pipeline file; a process runs one
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    // Only to say what else than "unexpected argument" is wrong with them.
    #[arg(hide = true)]
    pub(super) more: Vec<PathBuf>,
    /// Read this file of lines in place of a source; checkpoints stay in memory
    #[arg(long, value_name = "NODE=FILE", value_parser = node_and_file)]
    pub(super) input: Vec<(String, PathBuf)>,
    /// Write this file of lines in place of a sink; checkpoints stay in memory
    ///
    /// Where nothing is read from a server, name all sinks that would write to one, those of dead letters included, or
    /// none: then rows of files go to the real outputs.
    #[arg(long, value_name = "NODE=FILE", value_parser = node_and_file)]
    pub(super) output: Vec<(String, PathBuf)>,
    /// Start from this savepoint, not from the newest checkpoint: what came since is read and written again
    #[arg(long, value_name = "NAME", conflicts_with_all = ["input", "output"])]
    pub(super) from: Option<String>,
    /// Where outputs are stored once: start from a checkpoint that is older than they are, and store what came since again
    ///
    /// What the checkpoint has of outputs that may not be published is published, too, and what of it was there already comes twice.
    #[arg(long, conflicts_with_all = ["input", "output"])]
    pub(super) rewind: bool,
    /// Go on without the place or state of this node, which the pipeline no longer has
    #[arg(long, value_name = "NODE", conflicts_with_all = ["input", "output"])]
    pub(super) forget: Vec<String>,
    /// End when everything that the sources have now is processed
    ///
    /// Windows and joins then give what they have. The next run goes on from before that: what was open is given again when more
    /// of it has come.
    ///
    /// Sources that have no such end are refused: shared streams, core NATS, and `generate` without a `count`.
    #[arg(long)]
    pub(super) until_end: bool,
    /// Keep checkpoints in this directory or bucket (s3://BUCKET/PREFIX), not in the server's key-value store
    #[arg(long, value_name = "PLACE")]
    pub(super) checkpoints: Option<Place>,
    /// Copies of the checkpoints that the servers keep [default: 1]
    #[arg(long, value_name = "N")]
    pub(super) replicas: Option<usize>,
    /// Threads that do the work [default: 1]
    #[arg(long, value_name = "N")]
    pub(super) workers: Option<usize>,
    /// Subtasks of steps behind `key_by` and `rebalance` that say nothing else [default: what the pipeline says, or 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) parallelism: Option<u32>,
    /// How long draining may take before the run stops where it stands
    #[arg(long, value_name = "SECONDS", default_value_t = 25)]
    pub(super) drain_timeout: u64,
    #[command(flatten)]
    pub(super) server: Server,
}

/// Report every mistake of pipeline files, without connecting anywhere
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  millstream check pipelines/*.toml")]
pub(super) struct Check {
    /// Pipeline files
    #[arg(required = true, value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
}

/// Show what a pipeline file becomes: nodes, rows, routes and stages
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millstream explain orders.toml
  millstream explain orders.toml --view dot | dot -Tsvg > orders.svg")]
pub(super) struct Explain {
    /// Pipeline file
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    pub(super) view: Shown,
}

/// How a graph is shown.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum Shown {
    /// For people.
    #[default]
    Text,
    /// A Mermaid flowchart.
    Mermaid,
    /// A Graphviz digraph.
    Dot,
}

/// Run the `[[tests]]` tables of pipeline files, without a server
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  millstream test orders.toml --filter small")]
pub(super) struct Test {
    /// Pipeline files
    #[arg(required = true, value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// Only tests whose name holds this
    #[arg(long, value_name = "NAME")]
    pub(super) filter: Option<String>,
}

/// Print the JSON Schema of pipeline files, for editors
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  millstream schema > pipeline.schema.json")]
pub(super) struct Schema {}

/// Show the main job: generated orders flow through a pipeline file
///
/// It starts a `nats-server` of its own where it finds one of 2.12 or newer (MILLSTREAM_NATS_SERVER, on PATH, or in
/// .tools/bin of this directory or one above it), and takes the broker inside of this process otherwise.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  millstream demo\n  millstream demo --seconds 60 --rate 20000")]
pub(super) struct Demo {
    /// How long orders come
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) seconds: u64,
    /// Orders a second
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) rate: u32,
    #[command(flatten)]
    pub(super) server: Server,
}

/// Run a NATS server with JetStream on this machine, for development
///
/// It needs `nats-server` (2.12 or newer; 2.14 or newer for everything): MILLSTREAM_NATS_SERVER, on PATH, or in
/// .tools/bin of this directory or one above it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millstream dev
  millstream dev --ephemeral --port 0")]
pub(super) struct Dev {
    /// Port on 127.0.0.1; 0 takes a free one [default: 4222, or a free one if that is taken]
    #[arg(long, value_name = "PORT")]
    pub(super) port: Option<u16>,
    /// Directory for streams and log
    #[arg(long, value_name = "DIR", default_value = super::dev::DEFAULT_STORE, conflicts_with = "ephemeral")]
    pub(super) store: PathBuf,
    /// Keep nothing when it ends
    #[arg(long)]
    pub(super) ephemeral: bool,
    /// Sync every message to the disk before it is confirmed, not every ten seconds
    #[arg(long)]
    pub(super) always_sync: bool,
}

/// Look whether the server fits, and what could lose data
///
/// Shows versions, limits and the streams of a pipeline, and warns with a way out. Exit code 1 when something will not
/// work.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millstream doctor
  millstream doctor orders.toml --nats nats://prod:4222")]
pub(super) struct Doctor {
    /// Pipeline file; without one only the server is looked at
    #[arg(value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) server: Server,
}

/// Print the permissions that a pipeline needs on the server, and no more
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millstream permissions orders.toml            for the user's entry in nats-server.conf
  millstream permissions orders.toml --json     for tools")]
pub(super) struct Permissions {
    /// Pipeline file
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Leave out what only a first start needs, where streams and the checkpoint bucket exist already
    #[arg(long)]
    pub(super) no_create: bool,
    /// The pipeline runs with checkpoints in a directory or bucket
    #[arg(long, value_name = "PLACE")]
    pub(super) checkpoints: Option<Place>,
}

/// Remove what a pipeline left on the server: its consumers and checkpoints
///
/// Streams stay. The next start of the pipeline begins as if it had never run.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  millstream remove orders.toml")]
pub(super) struct Remove {
    /// Pipeline file
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Do not ask
    #[arg(long)]
    pub(super) yes: bool,
    /// Checkpoints are in this directory or bucket
    #[arg(long, value_name = "PLACE")]
    pub(super) checkpoints: Option<Place>,
    #[command(flatten)]
    pub(super) server: Server,
}

fn node_and_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((node, file)) if !node.is_empty() && !file.is_empty() => Ok((node.to_owned(), file.into())),
        _ => Err("write it as NODE=FILE, such as orders=orders.ndjson".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_command_has_an_example() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{} has no example", command.get_name());
            assert!(help.contains(&format!("millstream {}", command.get_name())), "{}", command.get_name());
        }
    }

    #[test]
    fn a_replacement_names_a_node_and_a_file() {
        assert_eq!(node_and_file("a=b=c"), Ok(("a".to_owned(), "b=c".into())));
        assert!(node_and_file("a=").unwrap_err().contains("NODE=FILE"));
    }
}
