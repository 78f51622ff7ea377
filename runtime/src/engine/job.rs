//! [`Job`]: one run of a graph, from a checkpoint until it ends or something goes wrong.

use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{Fault, FaultKind, PortType, Result, Saved, Spill};
use millstream_pipelines::graph::{
    Graph, NodeId, Plan, PlannedEdge, Resources, Role, Route, Stage, Step, Subtask, Uses,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::async_stage::AsyncTask;
use super::beside::Beside;
use super::chain::{Chain, LinkSpec};
use super::channel::{Capacity, Receiver};
use super::coordinator::{Coordinator, Ended};
use super::edges::{SinkTask, SourceTask};
use super::inbox::Inbox;
use super::kept::LeftOut;
use super::latch::Latch;
use super::ownership::Ownership;
use super::report::{Command, Line, TaskId};
use super::round::Member;
use super::router::{Lane, Router};
use super::run::Environment;
use super::snapshots::{Snapshots, Uploads};
use super::stage::StageTask;
use super::stop::Stop;
use super::throttle::{Pace, ThrottleTask};
use crate::checkpoint::{Manifest, Restored, Retention, Revision};

/// One run of a graph.
pub(crate) struct Job<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) plan: &'a Plan,
    pub(crate) environment: &'a Environment,
    pub(crate) from: Restored,
    pub(crate) revision: Revision,
    /// What the checkpoint that it begins from had besides.
    pub(crate) left_out: Option<LeftOut>,
    pub(crate) ownership: Arc<Ownership>,
    /// Where state goes that does not fit in memory.
    pub(crate) spill: Option<Arc<Spill>>,
    /// The sink that may store positions beside its outputs, if the pipeline keeps no state.
    pub(crate) stateless: Option<Arc<str>>,
}

/// The subtasks of a stage: where their inputs end, while the graph is being wired.
struct Inlet {
    receiver: Receiver,
    ports: Vec<usize>,
}

impl Job<'_> {
    /// Runs until everything has ended. What the newest durable checkpoint is comes back in any case.
    pub(crate) async fn run(self, stop: watch::Receiver<Stop>) -> (Manifest, Result<Ended>) {
        let before = self.from.manifest.clone();
        let mut tasks = JoinSet::new();
        let (beside, mut left) = Beside::here();
        let mut coordinator = match self.start(&mut tasks, &beside, stop.clone()) {
            Ok(coordinator) => coordinator,
            Err(fault) => return (before, Err(fault)),
        };
        drop(beside);
        let ended = oversee(&mut coordinator, &mut tasks, stop).await;
        // Before another run starts, nothing of this one may be left: not even a task that is about to write.
        tasks.shutdown().await;
        left.none().await;
        (coordinator.manifest, ended)
    }

    fn start(&self, tasks: &mut JoinSet<Result>, beside: &Beside, stop: watch::Receiver<Stop>) -> Result<Coordinator> {
        let Environment { store, clock, metrics, workers, nudge, .. } = self.environment;
        let settings = &self.graph.settings;
        // Nodes that are made last may look at something that is not there yet.
        let latch: Arc<Latch> = self.environment.resources.get().unwrap_or_default();
        let seated = latch.hold();
        latch.rest(self.from.manifest.finished);
        let (reports, inbound) = mpsc::channel(1_024);
        let named = self.from.manifest.segments().map(|segment| segment.sha256).collect();
        let mut coordinator = Coordinator {
            pipeline: self.graph.name.as_str().into(),
            key_groups: settings.key_groups,
            interval: settings.checkpoint_interval,
            timeout: settings.checkpoint_timeout,
            store: Arc::clone(store),
            revision: self.revision,
            ownership: Arc::clone(&self.ownership),
            manifest: self.from.manifest.clone(),
            left_out: self.left_out.clone(),
            retention: Retention::new(Arc::clone(store), self.graph.name.as_str().into(), named),
            unwritten: BTreeMap::new(),
            tasks: BTreeMap::new(),
            sources: BTreeMap::new(),
            endless: Arc::default(),
            restoring: 0,
            sinks: BTreeMap::new(),
            stateless: self.stateless.clone(),
            outputs: BTreeMap::new(),
            reports: inbound,
            has_read: false,
            nudge: Arc::clone(nudge),
            stop,
            clock: *clock,
            metrics: metrics.clone(),
            workers: workers.clone(),
        };
        metrics.forget_queues();
        let mut inlets: HashMap<(usize, u32), Inlet> = HashMap::new();
        for (index, stage) in self.plan.stages.iter().enumerate() {
            for subtask in 0..stage.parallelism {
                inlets.insert((index, subtask), Inlet { receiver: Receiver::new(), ports: Vec::new() });
            }
        }
        let mut routers = Vec::new();
        for stage in &self.plan.stages {
            for subtask in 0..stage.parallelism {
                routers.push(self.router(stage, subtask, &mut inlets)?);
            }
        }
        let mut routers = routers.into_iter();
        for (index, stage) in self.plan.stages.iter().enumerate() {
            for subtask in 0..stage.parallelism {
                let task = TaskId(coordinator.tasks.len());
                let line = Line { task, reports: reports.clone() };
                let inlet = inlets.remove(&(index, subtask));
                let (Some(router), Some(Inlet { receiver, ports })) = (routers.next(), inlet) else { continue };
                let seat =
                    Seat { stage, subtask, line, router, inbox: Inbox::new(receiver, ports), beside: beside.clone() };
                self.seat(seat, &mut coordinator, workers, tasks)?;
            }
        }
        seated.open();
        Ok(coordinator)
    }

    /// The edges out of one subtask.
    fn router(&self, stage: &Stage, subtask: u32, inlets: &mut HashMap<(usize, u32), Inlet>) -> Result<Router> {
        let settings = &self.graph.settings;
        let capacity = Capacity::new(settings.channel_rows, settings.channel_bytes);
        let mut router = Router::new(settings.key_groups);
        for output in &stage.outputs {
            let mut lanes = Vec::new();
            for edge in &output.edges {
                let target =
                    self.plan.stages.get(edge.stage).ok_or_else(|| Fault::bug("an edge of the plan leads nowhere"))?;
                let behind = match edge.route {
                    Route::Forward => {
                        let to = forward(subtask, stage.parallelism, target.parallelism);
                        to..to + 1
                    }
                    _ => 0..target.parallelism,
                };
                let mut senders = Vec::new();
                for to in behind {
                    let inlet = inlets
                        .get_mut(&(edge.stage, to))
                        .ok_or_else(|| Fault::bug("an edge of the plan leads nowhere"))?;
                    let sender =
                        inlet.receiver.connect(capacity).ok_or_else(|| Fault::bug("an edge was wired too late"))?;
                    inlet.ports.push(edge.port);
                    if let Some(node) = target.nodes.first().and_then(|id| self.graph.node(*id)) {
                        self.environment.metrics.watch_queue(&node.name, sender.budget().clone());
                    }
                    senders.push(sender);
                }
                // Subtasks start their turns apart, so that rebalancing spreads from the first batch on.
                lanes.push(Lane { route: edge.route.clone(), senders, turn: subtask as usize });
            }
            let node = self.graph.node(output.node);
            if let Some((node, port)) = node.and_then(|node| Some((node, node.outputs.get(output.port)?))) {
                // A reader knows as well as the port itself that rows are rejected ones.
                let name_causes = port
                    .name_causes()
                    .or_else(|| output.edges.iter().find_map(|edge| self.reader(edge)?.name_causes()));
                let name_causes = name_causes.map(|name_causes| (name_causes, node.name.as_str().into()));
                router.add(link_of(stage, output.node), output.port, port.copy(), name_causes, lanes);
            }
        }
        Ok(router)
    }

    /// The input port that an edge of the plan leads to.
    fn reader(&self, edge: &PlannedEdge) -> Option<&PortType> {
        let first = self.plan.stages.get(edge.stage)?.nodes.first()?;
        self.graph.node(*first)?.inputs.get(edge.port)
    }

    /// Makes the task of one subtask and starts it.
    fn seat(
        &self,
        seat: Seat<'_>,
        coordinator: &mut Coordinator,
        workers: &super::workers::Workers,
        tasks: &mut JoinSet<Result>,
    ) -> Result {
        let Seat { stage, subtask, line, router, inbox, beside } = seat;
        let task = line.task;
        let Some((id, node)) = stage.nodes.first().and_then(|id| Some((*id, self.graph.node(*id)?))) else {
            return Ok(());
        };
        let (environment, name) = (self.environment, Arc::<str>::from(node.name.as_str()));
        let (clock, metrics) = (environment.clock, environment.metrics.node(&name));
        let latch: Arc<Latch> = environment.resources.get().unwrap_or_default();
        let of = stage.parallelism;
        let mut member = Member { source: None, sink: None, subtask, of };
        match &node.role {
            Role::Source(make) => {
                let source = make(&self.subtask(id, subtask, of))?;
                let (commands, received) = mpsc::channel(16);
                coordinator.sources.insert(task, commands);
                coordinator.endless.fetch_or(source.is_endless(), Ordering::Relaxed);
                member.source = Some(Arc::clone(&name));
                let batch_rows = self.graph.settings.batch_rows;
                let task = SourceTask {
                    node: name,
                    source,
                    router,
                    line,
                    commands: received,
                    metrics,
                    batch_rows,
                    latch,
                    endless: Arc::clone(&coordinator.endless),
                    open_epochs: BTreeMap::new(),
                };
                workers.spawn(subtask, tasks, task.run());
            }
            Role::Sink(make) => {
                let sink = make(&self.subtask(id, subtask, of))?;
                let (commands, received) = mpsc::channel::<Command>(16);
                coordinator.sinks.insert(task, commands);
                // Those of subtasks that are no more are shared out among those that are.
                let outputs = self.from.outputs.get(&*name).into_iter().flatten();
                let mine = outputs.filter(|outputs| outputs.subtask % of.max(1) == subtask);
                let kept: Vec<_> = mine.cloned().collect();
                coordinator.outputs.insert(task, kept.clone());
                member.sink = Some(Arc::clone(&name));
                let stateless = coordinator.stateless.as_ref() == Some(&name);
                let (ownership, commands) = (Arc::clone(&self.ownership), received);
                let task = SinkTask {
                    node: name,
                    sink,
                    subtask,
                    stateless,
                    kept,
                    ownership,
                    workers: workers.clone(),
                    inbox,
                    line,
                    commands,
                    metrics,
                    clock,
                };
                workers.spawn(subtask, tasks, task.run());
            }
            Role::Async(make, limits) => {
                let operator = make(&self.subtask(id, subtask, of))?;
                let task = AsyncTask { node: name, operator, limits: *limits, inbox, router, line, metrics };
                workers.spawn(subtask, tasks, task.run());
            }
            Role::Throttle(rate) => {
                let task = ThrottleTask { inbox, router, line, metrics, pace: Pace::new(*rate, of) };
                workers.spawn(subtask, tasks, task.run());
            }
            Role::Operator(_) => {
                let mut chain = self.chain(stage, subtask)?.within(self.spill.clone());
                self.may_keep_state(&mut chain)?;
                let mut snapshots = Snapshots::new(self.graph.settings.key_groups, beside.clone());
                let (mut restore, mut blocks) = (None, false);
                match &self.spill {
                    None => self.restore(&mut chain, &snapshots, stage, subtask)?,
                    Some(spill) => {
                        blocks = !chain.freeze()?.is_empty();
                        self.warn_of_what_stays(&mut chain, subtask)?;
                        snapshots = snapshots.storing(Uploads {
                            store: Arc::clone(&environment.store),
                            pipeline: self.graph.name.as_str().into(),
                            settled: coordinator.retention.lock(),
                        });
                        restore = self.restored_within((spill, &beside), &snapshots, stage, subtask)?;
                        coordinator.restoring += usize::from(restore.is_some());
                    }
                }
                let timers = BinaryHeap::new();
                let (saving, unfitted) = (None, 0);
                let task = StageTask {
                    inbox,
                    chain,
                    router,
                    clock,
                    snapshots,
                    line,
                    metrics: environment.metrics.clone(),
                    timers,
                    latch,
                    restore,
                    unfitted,
                    saving,
                };
                match blocks {
                    true => workers.spawn_apart(subtask, tasks, task.run()),
                    false => workers.spawn(subtask, tasks, task.run()),
                }
            }
        }
        coordinator.tasks.insert(task, member);
        Ok(())
    }

    fn subtask(&self, node: NodeId, index: u32, of: u32) -> Subtask {
        let node = self.graph.node(node);
        let name = node.map(|node| node.name.as_str()).unwrap_or_default();
        let uses = Uses(node.map(|node| node.access.clone()).unwrap_or_default());
        let resources: Resources = self.environment.resources.clone().with(self.graph.settings.clone()).with(uses);
        let resources = resources.with_shared(Arc::clone(&self.ownership));
        Subtask { pipeline: self.graph.name.as_str().into(), node: name.into(), index, of, resources }
    }

    fn chain(&self, stage: &Stage, subtask: u32) -> Result<Chain> {
        let mut links = Vec::new();
        for step in &stage.steps {
            let (nodes, make): (Vec<NodeId>, _) = match step {
                Step::One(id) => match self.graph.node(*id).map(|node| &node.role) {
                    Some(Role::Operator(make)) => (vec![*id], make),
                    _ => return Err(Fault::bug("a stage of the plan has a node that is no operator")),
                },
                Step::Pass { index, .. } => {
                    let pass = self
                        .graph
                        .passes
                        .get(*index)
                        .ok_or_else(|| Fault::bug("a pass of the plan is not in the graph"))?;
                    (pass.nodes.clone(), &pass.make)
                }
            };
            let first = nodes.first().copied().ok_or_else(|| Fault::bug("a pass of the plan has no nodes"))?;
            let operator = make(&self.subtask(first, subtask, stage.parallelism))?;
            let names = nodes.iter().filter_map(|id| self.graph.node(*id)).map(|node| node.name.as_str());
            let metrics = names.map(|name| self.environment.metrics.node(name)).collect();
            let node: Arc<str> = link_name(self.graph, &nodes).into();
            links.push(LinkSpec { node, operator, metrics });
        }
        Ok(Chain::new(links))
    }

    /// Where sources are shared nothing is restored, and rows of one key come to any process: state would be wrong from
    /// the start and lost at the end.
    fn may_keep_state(&self, chain: &mut Chain) -> Result {
        if !self.graph.is_shared() {
            return Ok(());
        }
        match chain.freeze()?.into_iter().next() {
            None => Ok(()),
            Some((node, _)) => {
                let words = "it keeps state, which a pipeline with shared sources cannot: read without `share`, or keep the state in a second pipeline behind this one";
                Err(Fault::new(FaultKind::Setup, words).at(&node))
            }
        }
    }

    fn restore(&self, chain: &mut Chain, snapshots: &Snapshots, stage: &Stage, subtask: u32) -> Result {
        let (of, Restored { manifest, states, .. }) = (stage.parallelism, &self.from);
        chain.restore(|node| {
            let (Some(all), Some(saved)) = (manifest.operators.get(node), states.get(node)) else { return Ok(None) };
            let Some(other) = all.iter().find(|state| state.of != of) else {
                let mine = all.iter().zip(saved).find(|(state, _)| state.subtask == subtask);
                return Ok(mine.map(|(state, (_, saved))| {
                    snapshots.resume(node, state);
                    saved.clone()
                }));
            };
            let known = if planted(Bug::LoseSharesOfState) { 1 } else { saved.len() };
            let share =
                Saved::share(saved.iter().take(known).map(|(_, saved)| saved), manifest.key_groups, subtask, of);
            share.map(Some).map_err(|unsplittable| rescaled(node, other.of, of).because(unsplittable))
        })
    }
}

/// The name of what does the work of some nodes.
pub(super) fn link_name(graph: &Graph, nodes: &[NodeId]) -> String {
    nodes.iter().filter_map(|id| graph.node(*id)).map(|node| node.name.as_str()).collect::<Vec<_>>().join("+")
}

/// What a task gets besides what it is made of.
struct Seat<'a> {
    stage: &'a Stage,
    subtask: u32,
    line: Line,
    router: Router,
    inbox: Inbox,
    beside: Beside,
}

pub(super) fn rescaled(node: &str, was: u32, is: u32) -> Fault {
    let words = format!(
        "{node} had {was} subtasks at the last checkpoint and has {is} now; set its parallelism to {was}, or start a new pipeline name"
    );
    Fault::new(FaultKind::Setup, words)
}

/// Which link of a stage's chain does the work of a node.
/// The only one that a subtask sends to where no more than there are of its own kind share the work; each gets from some.
fn forward(subtask: u32, of: u32, behind: u32) -> u32 {
    let to = u64::from(subtask) * u64::from(behind) / u64::from(of.max(1));
    u32::try_from(to).unwrap_or(u32::MAX)
}

fn link_of(stage: &Stage, node: NodeId) -> usize {
    let mut done = 0;
    for (link, step) in stage.steps.iter().enumerate() {
        done += step.nodes().len();
        if stage.nodes.iter().take(done).any(|id| *id == node) {
            return link;
        }
    }
    0
}

/// Watches the coordinator and the tasks until all have ended, or the first fault.
async fn oversee(
    coordinator: &mut Coordinator,
    tasks: &mut JoinSet<Result>,
    mut stop: watch::Receiver<Stop>,
) -> Result<Ended> {
    let mut ended = None;
    let mut coordinating = pin!(coordinator.run());
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop == Stop::Now) => return Ok(Ended::Stopped),
            joined = tasks.join_next() => match joined {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(fault))) => return Err(fault),
                Some(Err(error)) => return Err(Fault::new(FaultKind::Panic, "a task of the engine panicked").because(error)),
                None => return ended.ok_or_else(|| Fault::bug("all tasks are gone")),
            },
            result = &mut coordinating, if ended.is_none() => match result? {
                Ended::Stopped => return Ok(Ended::Stopped),
                how => ended = Some(how),
            },
        }
    }
}
