//! [`Launch`]: a pipeline in this process, with its connections, its checkpoint store and its signals.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use millstream_operators::{BuildError, Fault, FaultKind};
use millstream_pipelines::dsl::Pipeline;
use millstream_pipelines::graph::Graph;

use crate::broker::{ConnectOptions, Embedded};
use crate::checkpoint::{KvStore, LocalStore, MemoryStore, Store};
use crate::connectors::{Connections, Settlements, Tables};
use crate::engine::{Ended, Environment, Metrics, Replicas, RunMode, Stopper, Workers, run as run_graph};

/// How a pipeline runs in this process. [`run`] is the short form.
#[derive(Debug, Default)]
pub struct Launch {
    nats: Option<ConnectOptions>,
    embedded: Option<Embedded>,
    checkpoints: Checkpoints,
    replicas: usize,
    workers: usize,
    mode: RunMode,
    savepoint: Option<String>,
    rewind: bool,
    forget: Vec<String>,
    state_memory: Option<usize>,
    spill_to: Option<PathBuf>,
    drain_within: Option<Duration>,
    stopper: Stopper,
    metrics: Metrics,
}

/// Where checkpoints are kept.
#[derive(Debug, Default)]
enum Checkpoints {
    /// In the server's key-value store.
    #[default]
    Server,
    /// In a directory.
    Directory(PathBuf),
    /// In a store that was made before.
    Store(Arc<dyn Store>),
    /// In memory, for a run that is not to be gone on with.
    Memory,
}

/// Why a run ended badly.
#[derive(Debug)]
pub enum RunError {
    /// The pipeline is wrong: everything that is.
    Build(BuildError),
    /// The run is wrong.
    Fault(Fault),
}

impl RunError {
    /// The exit code of a program that ends with it: 2 wrong pipeline or usage, 3 fenced, 4 source lost, 1 all else.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunError::Build(_) => 2,
            RunError::Fault(fault) => match fault.kind() {
                FaultKind::Setup => 2,
                FaultKind::Fenced => 3,
                FaultKind::SourceLost => 4,
                _ => 1,
            },
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Build(error) => write!(f, "the pipeline is wrong: {error}"),
            RunError::Fault(fault) => f.write_str(&fault.chain()),
        }
    }
}

impl std::error::Error for RunError {}

impl From<BuildError> for RunError {
    fn from(error: BuildError) -> Self {
        RunError::Build(error)
    }
}

impl From<Fault> for RunError {
    fn from(fault: Fault) -> Self {
        RunError::Fault(fault)
    }
}

/// Runs a pipeline until its sources end or SIGTERM or Ctrl-C comes, which drain it. The server is `NATS_URL`, or the one
/// on this machine; checkpoints are kept in its key-value store.
///
/// # Errors
/// What is wrong with the pipeline, or the fault that ended the run.
pub async fn run(pipeline: &Pipeline) -> Result<Ended, RunError> {
    Launch::default().run(pipeline).await
}

/// As [`run`], for a `main` function: prints an error as people read it, and gives the exit code. A second signal stops
/// without draining, with exit code 130.
pub async fn main(pipeline: &Pipeline) -> ExitCode {
    let launch = Launch::default();
    let stopper = launch.stopper();
    exit_code(launch.run(pipeline).await, &stopper)
}

/// As [`main`], for a graph that was built before: that of a pipeline file.
pub async fn main_graph(graph: &Graph) -> ExitCode {
    let launch = Launch::default();
    let stopper = launch.stopper();
    exit_code(launch.run_graph(graph).await, &stopper)
}

fn exit_code(ended: Result<Ended, RunError>, stopper: &Stopper) -> ExitCode {
    match ended {
        Ok(Ended::Stopped) if stopper.is_stopping_now() => ExitCode::from(Launch::INTERRUPTED),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the last word of a program")]
            {
                eprintln!("error: {error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

impl Launch {
    /// The exit code of a program that stopped before it was drained: it was interrupted twice, or took too long.
    pub const INTERRUPTED: u8 = 130;

    /// The server to work with.
    #[must_use]
    pub fn nats(mut self, options: ConnectOptions) -> Self {
        self.nats = Some(options);
        self
    }

    /// A broker in this process, in place of a server: what it holds goes with it.
    #[must_use]
    pub fn embedded(mut self, broker: Embedded) -> Self {
        self.embedded = Some(broker);
        self
    }

    /// Keeps checkpoints in this directory, in place of the server's key-value store.
    #[must_use]
    pub fn checkpoints_in(mut self, directory: impl Into<PathBuf>) -> Self {
        self.checkpoints = Checkpoints::Directory(directory.into());
        self
    }

    /// Keeps checkpoints in this store, such as a bucket: `S3Store::new(S3Options::to("s3://BUCKET/PREFIX")?)?`, with the
    /// feature `s3`.
    #[must_use]
    pub fn checkpoints_at(mut self, store: Arc<dyn Store>) -> Self {
        self.checkpoints = Checkpoints::Store(store);
        self
    }

    /// Keeps checkpoints in memory: the run begins anew, and no later one goes on from it.
    #[must_use]
    pub fn without_checkpoints(mut self) -> Self {
        self.checkpoints = Checkpoints::Memory;
        self
    }

    /// Starts from the savepoint of this name, in place of the newest checkpoint: what was read since is read again.
    #[must_use]
    pub fn from_savepoint(mut self, name: impl Into<String>) -> Self {
        self.savepoint = Some(name.into());
        self
    }

    /// Lets a pipeline that promises effectively-once start from a checkpoint that is older than its outputs, or whose
    /// outputs were purged: from a savepoint, or after a loss. What came since is stored again, and so is what the checkpoint
    /// has of outputs, unless it is known that they are published.
    #[must_use]
    pub fn rewind(mut self) -> Self {
        self.rewind = true;
        self
    }

    /// Goes on without the place or state of a node that the pipeline no longer has: should it come back, it begins anew. The
    /// state of an operator needs no such word where outputs may be stored again: the whole checkpoint is kept as a savepoint, of
    /// which the log tells.
    #[must_use]
    pub fn forget(mut self, node: impl Into<String>) -> Self {
        self.forget.push(node.into());
        self
    }

    /// Ends the run when everything that its sources have now is processed. A source that has no such end refuses to be
    /// made: a shared stream, core NATS, or generated rows without a count.
    #[must_use]
    pub fn until_end(mut self) -> Self {
        self.mode = RunMode::until_end();
        self
    }

    /// How many bytes of memory the state of the pipeline may use where its own settings do not say. What does not fit is
    /// kept in a local directory; see [`spill_to`](Launch::spill_to).
    ///
    /// Entries in memory have a half of it, buffers of what is on the disk up to a half of the other, and the rest is for
    /// what a checkpoint shares while it is written. Memory that has nothing to do with state comes in addition.
    #[must_use]
    pub fn state_memory(mut self, bytes: usize) -> Self {
        self.state_memory = Some(bytes);
        self
    }

    /// The local directory for state that does not fit in memory; one of the system's for temporary files unless this is
    /// called, which should not be in memory itself. It is a cache: a run empties what it uses of it, and no later one needs
    /// it.
    #[must_use]
    pub fn spill_to(mut self, directory: impl Into<PathBuf>) -> Self {
        self.spill_to = Some(directory.into());
        self
    }

    /// How long draining may take after a signal before the run stops where it stands, without loss; for ever unless
    /// this is called.
    #[must_use]
    pub fn drain_within(mut self, longest: Duration) -> Self {
        self.drain_within = Some(longest);
        self
    }

    /// How many copies the servers keep of what the run makes there: the store of its checkpoints, and streams that sinks
    /// create; 1 unless this is called.
    #[must_use]
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// How many threads do the work; 1 unless this is called.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Asks the run to end, from elsewhere in the program.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// What the run counts, for elsewhere in the program.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Runs a pipeline until its sources end, a signal comes, or it cannot go on.
    ///
    /// # Errors
    /// What is wrong with the pipeline, or the fault that ended the run.
    pub async fn run(self, pipeline: &Pipeline) -> Result<Ended, RunError> {
        self.run_graph(&pipeline.build()?).await
    }

    /// As [`run`](Launch::run), for a graph that was built before.
    ///
    /// # Errors
    /// As [`run`](Launch::run).
    pub async fn run_graph(self, graph: &Graph) -> Result<Ended, RunError> {
        let connections = match self.embedded {
            Some(broker) => Connections::to_embedded(broker),
            None => {
                let options = self.nats.unwrap_or_else(from_environment);
                Connections::to_nats(options.named(format!("millstream {}", graph.name)))?
            }
        };
        let connections = Arc::new(connections);
        let store: Arc<dyn Store> = match self.checkpoints {
            Checkpoints::Directory(directory) => Arc::new(LocalStore::new(directory)),
            Checkpoints::Store(store) => store,
            Checkpoints::Memory => Arc::new(MemoryStore::default()),
            Checkpoints::Server => Arc::new(KvStore::new(Arc::clone(&connections), self.replicas)),
        };
        let mut environment = Environment::new(store, Workers::threads(self.workers)?);
        environment.stopper = self.stopper.clone();
        environment.savepoint = self.savepoint;
        environment.rewind = self.rewind;
        environment.forget = self.forget;
        let tables = Tables::of_server(Arc::clone(&connections));
        environment = environment.with(tables);
        environment.state_memory = self.state_memory;
        if let Some(directory) = self.spill_to {
            environment.spill_to = directory;
        }
        environment =
            environment.counting(self.metrics).with_shared(connections).with(self.mode).with(Settlements::default());
        environment = environment.with(Replicas(self.replicas.max(1)));
        let mut signals = Signals::listen()?;
        // Nobody is obeyed any more once the run is over.
        tokio::select! {
            biased;
            ended = run_graph(graph, &environment) => Ok(ended?),
            never = signals.obey(&self.stopper, self.drain_within) => match never {},
        }
    }
}

fn from_environment() -> ConnectOptions {
    match std::env::var("NATS_URL") {
        Ok(urls) => ConnectOptions { urls: urls.split(',').map(str::to_owned).collect(), ..Default::default() },
        Err(_) => ConnectOptions::default(),
    }
}

/// SIGTERM and Ctrl-C.
#[derive(Debug)]
pub(crate) struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Hears signals from now on; until then, and on a system without them, they end the process.
    #[cfg(unix)]
    pub(crate) fn listen() -> Result<Self, Fault> {
        use tokio::signal::unix::{SignalKind, signal};
        let deaf = |error| Fault::new(FaultKind::Setup, "signals cannot be heard").because(error);
        Ok(Signals {
            terminate: signal(SignalKind::terminate()).map_err(deaf)?,
            interrupt: signal(SignalKind::interrupt()).map_err(deaf)?,
        })
    }

    #[cfg(not(unix))]
    pub(crate) fn listen() -> Result<Self, Fault> {
        Ok(Signals {})
    }

    /// Waits for the next one.
    #[cfg(unix)]
    pub(crate) async fn heard(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    #[cfg(not(unix))]
    pub(crate) async fn heard(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The first signal drains, the second stops where it stands; so does the end of the time to drain in.
    async fn obey(&mut self, stopper: &Stopper, drain_within: Option<Duration>) -> Infallible {
        self.heard().await;
        tracing::info!("draining: a second signal stops at once, without loss");
        stopper.drain();
        let over = async {
            match drain_within {
                Some(longest) => tokio::time::sleep(longest).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.heard() => tracing::warn!("interrupted twice: stopping where it stands, without loss"),
            () = over => tracing::warn!("draining takes longer than it may: stopping where it stands, without loss"),
        }
        stopper.now();
        std::future::pending().await
    }
}
