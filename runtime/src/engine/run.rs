//! [`run`]: the supervisor: runs a graph, and again from the last checkpoint when something goes wrong.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millstream_operators::{Fault, FaultKind, Result, Retry};
use millstream_pipelines::graph::{Graph, Now, Protocol, Resources, plan, protocol};
use tokio::sync::{Notify, watch};

use super::claim::{claim, newest_written};
use super::clock::Clock;
use super::coordinator::Ended;
use super::fits::{self, Fitted};
use super::job::Job;
use super::kept::Keeping;
use super::latch::Latch;
use super::metrics::Metrics;
use super::ownership::{Ownership, fenced};
use super::spill::Spilling;
use super::stop::{Stop, Stopper};
use super::workers::Workers;
use crate::checkpoint::{self, Manifest, MemoryStore, OutputLog, Restored, Revision, StateIn, Store, StoreError};

/// What a run works with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Environment {
    /// Connections and whatever else nodes ask for by type.
    pub resources: Resources,
    /// Where checkpoints are kept.
    pub store: Arc<dyn Store>,
    /// Where the run counts.
    pub metrics: Metrics,
    /// Where time comes from.
    pub clock: Clock,
    /// Where tasks run.
    pub workers: Workers,
    /// How the run is asked to end.
    pub stopper: Stopper,
    /// The savepoint to start from, in place of the newest checkpoint.
    pub savepoint: Option<String>,
    /// Whether outputs that are stored already may be stored again; see [`Rewind`].
    pub rewind: bool,
    /// The nodes that the pipeline no longer has and whose places or state may be forgotten.
    pub forget: Vec<String>,
    /// How many bytes of memory state may use where the pipeline does not say; as much as there is if nobody does.
    pub state_memory: Option<usize>,
    /// Where state goes that does not fit there: a local directory.
    pub spill_to: PathBuf,
    /// The run's name, unlike that of any other run of the pipeline, which its checkpoints bear: a random one unless it is
    /// given, as a simulation does that is to be the same each time.
    pub run: Option<Arc<str>>,
    /// Asks for a checkpoint before the interval is over; sources find it among the resources.
    pub(crate) nudge: Arc<Notify>,
}

impl Environment {
    /// An environment that keeps checkpoints in `store` and runs tasks on `workers`.
    pub fn new(store: Arc<dyn Store>, workers: Workers) -> Self {
        let nudge = Arc::new(Notify::new());
        let (metrics, clock) = (Metrics::default(), Clock::system());
        let resources = Resources::default().with(Nudge(Arc::clone(&nudge))).with(metrics.clone()).with(clock);
        let resources = resources.with(Now(Arc::new(move || clock.now()))).with(Latch::default());
        let (stopper, savepoint, rewind) = (Stopper::default(), None, false);
        let (state_memory, spill_to) = (None, std::env::temp_dir().join("millstream-spill"));
        Environment {
            resources,
            store,
            metrics,
            clock,
            workers,
            stopper,
            savepoint,
            rewind,
            forget: Vec::new(),
            state_memory,
            spill_to,
            run: None,
            nudge,
        }
    }

    /// The same environment, which counts in `metrics`.
    #[must_use]
    pub fn counting(mut self, metrics: Metrics) -> Self {
        self.resources = self.resources.with(metrics.clone());
        self.metrics = metrics;
        self
    }

    /// The same environment, with another clock.
    #[must_use]
    pub fn on_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self.resources = self.resources.with(clock).with(Now(Arc::new(move || clock.now())));
        self
    }

    /// The same environment with one more resource for nodes, which others hold too.
    #[must_use]
    pub fn with_shared<T: std::any::Any + Send + Sync>(mut self, resource: Arc<T>) -> Self {
        self.resources = self.resources.with_shared(resource);
        self
    }

    /// The same environment with one more resource for nodes.
    #[must_use]
    pub fn with<T: std::any::Any + Send + Sync>(mut self, resource: T) -> Self {
        self.resources = self.resources.with(resource);
        self
    }
}

/// Asks for a checkpoint before the interval is over: for sources that have as much in flight as they may.
#[derive(Clone, Debug)]
pub struct Nudge(Arc<Notify>);

impl Nudge {
    /// Asks for a checkpoint now; nothing happens if one is under way.
    pub fn checkpoint(&self) {
        self.0.notify_one();
    }
}

/// How a run differs from one that goes on for ever; sources find it among the resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunMode {
    /// A source without an end of its own ends at what was there when it was opened.
    pub until_end: bool,
}

impl RunMode {
    /// A run that ends when everything that is there now is processed.
    pub fn until_end() -> Self {
        RunMode { until_end: true }
    }
}

/// How many copies servers keep of what a run makes there; sinks find it among the resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas(pub usize);

/// Whether a run may start from a checkpoint that is older than the outputs that are stored already, and so store some
/// again; sinks that store each row once find it among the resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewind(pub bool);

/// From where a run starts; sinks find it among the resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Begin {
    /// From no checkpoint: nothing was written before, or it is not to be gone on with.
    pub(crate) anew: bool,
    /// The sources are shared: a new process starts from no checkpoint too, and others may have written before.
    pub(crate) shared: bool,
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
// The same fault at the same place so often in a row will come again for ever.
const SAME_FAULT: u32 = 10;
// So many checkpoints of another run may come before the first of a start; after some of them it is ended before this one
// is ready.
const OVERTAKEN: u32 = 100;
const OVERTAKEN_OFTEN: u32 = 3;

/// Runs a graph until it is asked to stop, its sources end, or it cannot go on.
///
/// A graph whose sources are shared has nothing to restore: its checkpoints live as long as the process, and any number
/// of processes may run it at once.
///
/// After a fault it starts again from the last checkpoint, after 100 ms at first and 30 s at most. Faults that a retry
/// cannot help, and the same fault ten times in a row without a step forward, end the run.
///
/// # Errors
/// The fault that ended the run.
pub async fn run(graph: &Graph, environment: &Environment) -> Result<Ended> {
    let plan = plan(graph);
    let stateless = match protocol(graph, &environment.resources) {
        None => None,
        Some(protocol) => {
            tracing::info!(pipeline = %graph.name, "effectively once: {protocol}");
            match protocol {
                Protocol::Stateless { sink } => Some(Arc::<str>::from(sink)),
                _ => None,
            }
        }
    };
    let mut environment = environment.clone();
    environment.metrics.expect(graph);
    if graph.is_shared() {
        match newest(graph, &environment, (None, StateIn::Memory), &mut environment.stopper.watch()).await? {
            Found::Stopped => return Ok(Ended::Stopped),
            Found::Here(_, before) if before.manifest.sources.is_empty() => {}
            Found::Here(..) | Found::Overtaken => return Err(kept_without_shared(graph, &environment)),
        }
        if environment.savepoint.is_some() {
            let words = format!("the pipeline {} shares its sources: it has no savepoints to start from", graph.name);
            return Err(Fault::new(FaultKind::Setup, words));
        }
        // Nothing is restored and any number of processes may run: each has checkpoints of its own, which only say how
        // far its outputs are confirmed.
        environment.store = Arc::new(MemoryStore::default());
    }
    let spilling = match graph.settings.state_memory.or(environment.state_memory) {
        // It keeps no state.
        Some(_) if graph.is_shared() => None,
        Some(budget) => {
            environment.workers = environment.workers.with_some_apart()?;
            Some(Spilling::open(&environment.spill_to, &graph.name, budget, graph.settings.key_groups)?)
        }
        None => None,
    };
    let environment = &environment;
    let state = if spilling.is_some() { StateIn::Store } else { StateIn::Memory };
    let mut pause = FIRST_PAUSE;
    let mut last: Option<(String, Manifest, u32)> = None;
    let mut savepoint = environment.savepoint.as_deref();
    let mut rewind = environment.rewind;
    let mut has_forgotten = false;
    let mut keeping = Keeping::new(&*environment.store, &graph.name);
    let name = environment.run.clone().unwrap_or_else(Ownership::name_run);
    let (mut before, mut overtaken) = (None::<Arc<Ownership>>, 0_u32);
    // The run whose place this one takes.
    let mut whose = None::<Arc<str>>;
    loop {
        let mut stop = environment.stopper.watch();
        if let Some(whose) = whose.as_ref().filter(|_| overtaken >= OVERTAKEN_OFTEN) {
            claim(&*environment.store, &graph.name, (&name, whose), environment.clock.now()).await;
        }
        let (revision, mut from) = match newest(graph, environment, (savepoint, state), &mut stop).await? {
            Found::Stopped => return Ok(Ended::Stopped),
            Found::Here(revision, from) => (revision, *from),
            Found::Overtaken if overtaken >= OVERTAKEN => return Err(fenced(&graph.name)),
            Found::Overtaken => {
                overtaken += 1;
                if let Some((revision, manifest)) = newest_written(&*environment.store, &graph.name).await {
                    match &before {
                        Some(before) => before.may_restart_from(revision, &manifest)?,
                        None => whose = whose.or_else(|| Some(manifest.run.into())),
                    }
                }
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(FIRST_PAUSE) => {}
                    _ = stop.wait_for(|stop| *stop != Stop::No) => return Ok(Ended::Stopped),
                }
                continue;
            }
        };
        if let Some(before) = &before {
            before.may_restart_from(revision, &from.manifest)?;
        }
        whose = Some(from.manifest.run.as_str().into());
        let now = fits::Now { graph, plan: &plan, forget: &environment.forget, has_forgotten };
        let left_out = match fits::fit(now, &mut from, revision, &mut keeping, &mut stop).await? {
            Fitted::Fits(left_out) => left_out,
            Fitted::Stopped => return Ok(Ended::Stopped),
            Fitted::Overtaken if overtaken >= OVERTAKEN => return Err(fenced(&graph.name)),
            Fitted::Overtaken => {
                overtaken += 1;
                tokio::time::sleep(FIRST_PAUSE).await;
                continue;
            }
        };
        // Nothing is written before the first checkpoint is there.
        let begin = Begin { anew: revision == Revision(0) && savepoint.is_none(), shared: graph.is_shared() };
        let environment = &environment.clone().with(begin).with(Rewind(rewind));
        let first = from.manifest.epoch;
        let (store, pipeline) = (Arc::clone(&environment.store), graph.name.as_str().into());
        let runs = (Arc::clone(&name), from.manifest.run.as_str().into());
        let ownership = Arc::new(Ownership::new(store, pipeline, runs, revision));
        before = Some(Arc::clone(&ownership));
        let spill = match spilling.as_ref().map(Spilling::begin).transpose() {
            Ok(spill) => spill,
            Err(fault) => {
                keeping.take_back().await;
                return Err(fault);
            }
        };
        environment.metrics.watch_state(spill.as_ref().map(|spill| spill.gauge()));
        let stateless = stateless.clone();
        let job = Job { graph, plan: &plan, environment, from, revision, left_out, ownership, stateless, spill };
        let (reached, ended) = job.run(stop.clone()).await;
        let has_begun = reached.epoch != first;
        if has_begun || before.as_ref().is_some_and(|before| before.may_have_written()) {
            keeping.may_have_written();
        }
        if has_begun {
            keeping.stays();
        } else {
            keeping.take_back().await;
        }
        has_forgotten |= has_begun;
        // From its first checkpoint on, the newest goes on from the savepoint.
        savepoint = savepoint.filter(|_| !has_begun);
        rewind &= !has_begun;
        overtaken *= u32::from(!has_begun);
        let fault = match ended {
            Ok(Ended::Stopped) if last.is_none() && !environment.stopper.is_stopping_now() => {
                return Ok(ended_before_reading(&graph.name, savepoint, &reached));
            }
            Ok(ended) => return Ok(ended),
            // The run whose place it takes, or an earlier attempt of its own, has written one more checkpoint meanwhile; who
            // it was is looked at before the next attempt.
            Err(fault) if fault.kind() == FaultKind::Fenced && !has_begun && overtaken < OVERTAKEN => {
                overtaken += 1;
                continue;
            }
            Err(fault) if fault.retry() == Retry::Never => return Err(fault),
            Err(fault) => fault,
        };
        let text = fault.chain();
        let times = match &last {
            Some((before, at, times)) if *before == text && at.sources == reached.sources => times + 1,
            _ => 1,
        };
        if times == 1 {
            pause = FIRST_PAUSE;
        }
        if times >= SAME_FAULT {
            let words = format!("the same fault came {times} times at the same place, so the pipeline stops");
            return Err(Fault::new(fault.kind(), words).because(fault).retry_with(Retry::Never));
        }
        last = Some((text, reached, times));
        environment.metrics.count_restart();
        tracing::warn!(pipeline = %graph.name, node = fault.node().unwrap_or(""), "restarting from the last checkpoint in {pause:?}: {}", fault.chain());
        tokio::select! {
            biased;
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop != Stop::No) => return Ok(Ended::Stopped),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// How a run has ended that was asked to before it had read anything, without a fault: what there was is in the checkpoint that it
/// began from, unless that has outputs which are still to be published.
fn ended_before_reading(pipeline: &str, savepoint: Option<&str>, reached: &Manifest) -> Ended {
    let is_open = |log: &OutputLog| !log.published;
    match savepoint {
        Some(name) => {
            tracing::warn!(
                pipeline,
                "stopped before its first checkpoint: a start without `--from {name}` goes on from the newest one"
            );
            Ended::Stopped
        }
        None if reached.is_published() => Ended::Drained,
        None if reached.sinks.values().flatten().any(is_open) => {
            tracing::warn!(
                pipeline,
                "stopped before it had read anything, while outputs of the last checkpoint were published: the next start publishes those that are not"
            );
            Ended::Stopped
        }
        None => {
            tracing::info!(
                pipeline,
                "stopped before it had read anything: the next start goes on where this one would have"
            );
            Ended::Stopped
        }
    }
}

/// What there is to begin from.
enum Found {
    /// The run was asked to stop while the store was away.
    Stopped,
    /// A run goes on, and has let go of what was being read.
    Overtaken,
    Here(Revision, Box<Restored>),
}

/// The newest checkpoint, or the savepoint of this name, or a first one.
async fn newest(
    graph: &Graph,
    environment: &Environment,
    (savepoint, state): (Option<&str>, StateIn),
    stop: &mut watch::Receiver<Stop>,
) -> Result<Found> {
    let store = &environment.store;
    let mut pause = FIRST_PAUSE;
    loop {
        let found = match savepoint {
            Some(name) => checkpoint::savepoint(&**store, &graph.name, name, state).await.map(Some),
            None => checkpoint::newest(&**store, &graph.name, state).await,
        };
        match found {
            Ok(None) => {
                let first = Manifest {
                    pipeline: graph.name.clone(),
                    key_groups: graph.settings.key_groups,
                    ..Manifest::default()
                };
                return Ok(Found::Here(Revision(0), Restored { manifest: first, ..Restored::default() }.into()));
            }
            Ok(Some((revision, restored))) => return Ok(Found::Here(revision, restored.into())),
            Err(StoreError::Failed(fault)) => return Err(fault),
            Err(StoreError::Unknown(fault)) => {
                tracing::warn!(pipeline = %graph.name, "the last checkpoint cannot be read yet, looking again in {pause:?}: {}", fault.chain());
            }
            Err(StoreError::Fenced) => return Ok(Found::Overtaken),
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop != Stop::No) => return Ok(Found::Stopped),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Why sources are not shared whose positions a checkpoint knows: the server would give everything again.
fn kept_without_shared(graph: &Graph, environment: &Environment) -> Fault {
    let (name, place) = (&graph.name, environment.store.describe(&graph.name));
    let words = format!(
        "the pipeline {name} has run without shared sources, and its checkpoint ({place}) knows how far it came, which shared sources cannot go on from; start under a new pipeline name, or remove the checkpoint to read all again"
    );
    Fault::new(FaultKind::Setup, words)
}
