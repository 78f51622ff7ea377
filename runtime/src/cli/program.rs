//! [`Program`]: the command line, with the pipelines that a program brings along.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use millstream_pipelines::dsl::Pipeline;
use millstream_pipelines::registry::Registry;

use super::args::{Cli, Command};
use super::file::{Ends, File, Report};
use super::live::Screen;
use super::settings::Settings;
use super::{
    Failure, check, checkpoint, demo, dev, doctor, ends, explain, file, logging, output, permissions, remove, run,
    schema, test,
};

type Declare = Arc<dyn Fn() -> Pipeline + Send + Sync>;

/// A command line program: the commands of `millstream`, for pipeline files and for pipelines of its own.
#[derive(Clone)]
pub struct Program {
    own: Vec<(String, Declare)>,
    pub(super) registry: Registry,
}

impl Default for Program {
    fn default() -> Self {
        Program { own: Vec::new(), registry: crate::connectors::registry() }
    }
}

impl Program {
    /// The commands, for pipeline files only.
    pub fn new() -> Self {
        Program::default()
    }

    /// The same program with one more pipeline: its name may stand wherever a command takes a file.
    #[must_use]
    pub fn pipeline(mut self, name: impl Into<String>, declare: impl Fn() -> Pipeline + Send + Sync + 'static) -> Self {
        self.own.push((name.into(), Arc::new(declare)));
        self
    }

    /// The same program, whose pipeline files may name these kinds of nodes: those of
    /// [`registry`](crate::connectors::registry), and your own.
    #[must_use]
    pub fn kinds(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// Does what the program was called for, and gives the exit code for the end of `main`. Must not be called inside
    /// of a tokio runtime: it makes its own.
    pub fn main(self) -> ExitCode {
        let cli = match Cli::try_parse() {
            Ok(cli) => cli,
            Err(error) => {
                // Help and version are no mistakes; a closed pipe is none of ours.
                let _ = error.print();
                return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let ended = match runtime {
            Ok(runtime) => runtime.block_on(self.perform(cli)),
            Err(error) => Err(Failure::fault(format!("the runtime cannot be made: {error}"))),
        };
        match ended {
            Ok(code) => code,
            Err(failure) => {
                output::error(&failure.text);
                ExitCode::from(failure.code)
            }
        }
    }

    async fn perform(&self, cli: Cli) -> Result<ExitCode, Failure> {
        let settings = Settings::load(&cli.common)?;
        let screen = Screen::stderr();
        logging::init(&settings, &screen)?;
        // Commands are large futures, and one is enough.
        match cli.command {
            Command::Run(args) => Box::pin(run::run(self, args, settings, screen)).await,
            Command::Check(args) => check::check(self, &args),
            Command::Explain(args) => explain::explain(self, &args),
            Command::Test(args) => test::test(self, &args).await,
            Command::Schema(_) => schema::schema(self),
            Command::Demo(args) => Box::pin(demo::demo(self, args, settings, screen)).await,
            Command::Dev(args) => Box::pin(dev::dev(args)).await,
            Command::Doctor(args) => Box::pin(doctor::doctor(self, args, settings)).await,
            Command::Permissions(args) => permissions::permissions(self, &args, &settings),
            Command::Checkpoint(args) => Box::pin(checkpoint::checkpoint(self, args, settings)).await,
            Command::Savepoint(args) => Box::pin(checkpoint::savepoint(self, args, settings)).await,
            Command::Remove(args) => Box::pin(remove::remove(self, args, settings)).await,
        }
    }

    /// The pipeline of a file, or the one that the program has under this name.
    pub(super) fn load(&self, path: &Path, with: &Ends) -> Result<File, Report> {
        let Some((name, declare)) = self.own.iter().find(|(name, _)| Path::new(name) == path) else {
            return file::load(path, &self.registry, with);
        };
        let wrong = |error: millstream_operators::BuildError| Report {
            mistakes: error.problems().len(),
            text: error.problems().iter().map(|problem| format!("{name}: {problem}")).collect::<Vec<_>>().join("\n"),
        };
        let mut graph = declare().build().map_err(wrong)?;
        ends::replace(&mut graph, with).map_err(wrong)?;
        Ok(File { path: path.to_owned(), graph, nats: None })
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.own.iter().map(|(name, _)| name)).finish()
    }
}
