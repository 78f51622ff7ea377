//! [`Launch`]: a pipeline in this process, with its connections, its checkpoint store and its signals.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use millstream_operators::{BuildError, Fault, FaultKind};
use millstream_pipelines::dsl::Pipeline;
use millstream_pipelines::graph::Graph;

use crate::broker::ConnectOptions;
use crate::checkpoint::{KvStore, LocalStore, Store};
use crate::connectors::{Connections, Settlements};
use crate::engine::{Ended, Environment, Metrics, Stopper, Workers, run as run_graph};

/// How a pipeline runs in this process. [`run`] is the short form.
#[derive(Debug, Default)]
pub struct Launch {
    nats: Option<ConnectOptions>,
    directory: Option<PathBuf>,
    replicas: usize,
    workers: usize,
    stopper: Stopper,
    metrics: Metrics,
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

/// As [`run`], for a `main` function: prints an error as people read it, and gives the exit code.
pub async fn main(pipeline: &Pipeline) -> ExitCode {
    match run(pipeline).await {
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
    /// The server to work with.
    #[must_use]
    pub fn nats(mut self, options: ConnectOptions) -> Self {
        self.nats = Some(options);
        self
    }

    /// Keeps checkpoints in this directory, in place of the server's key-value store.
    #[must_use]
    pub fn checkpoints_in(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// How many copies of its checkpoints the servers keep, where the store is made; 1 unless this is called.
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
        let options = self.nats.unwrap_or_else(|| match std::env::var("NATS_URL") {
            Ok(urls) => ConnectOptions { urls: urls.split(',').map(str::to_owned).collect(), ..Default::default() },
            Err(_) => ConnectOptions::default(),
        });
        let connections = Arc::new(Connections::to_nats(options.named(format!("millstream {}", graph.name)))?);
        let store: Arc<dyn Store> = match self.directory {
            Some(directory) => Arc::new(LocalStore::new(directory)),
            None => Arc::new(KvStore::new(Arc::clone(&connections), self.replicas)),
        };
        let mut environment = Environment::new(store, Workers::threads(self.workers)?);
        environment.stopper = self.stopper.clone();
        environment = environment.counting(self.metrics).with_shared(connections).with(Settlements::default());
        let signals = tokio::spawn(obey_signals(self.stopper));
        let ended = run_graph(graph, &environment).await;
        signals.abort();
        Ok(ended?)
    }
}

/// The first signal drains, the second stops where it stands.
async fn obey_signals(stopper: Stopper) {
    if heard_signal().await {
        tracing::info!("draining: a second signal stops at once, without loss");
        stopper.drain();
        if heard_signal().await {
            stopper.now();
        }
    }
}

#[cfg(unix)]
async fn heard_signal() -> bool {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return false;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    true
}

#[cfg(not(unix))]
async fn heard_signal() -> bool {
    tokio::signal::ctrl_c().await.is_ok()
}
