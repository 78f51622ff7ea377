//! The coordinator: draws barriers, gathers what the tasks say, commits the manifest, and tells sources and sinks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{Barrier, Epoch, Fault, FaultKind, Outputs, Result, Retry, Then, Timestamp};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::clock::Clock;
use super::kept::LeftOut;
use super::metrics::Metrics;
use super::ownership::{Ownership, fenced};
use super::report::{Command, Report, TaskId};
use super::round::{Member, Round};
use super::start::Begun;
use super::stop::Stop;
use super::workers::Workers;
use crate::checkpoint::{BlobId, Manifest, OutputLog, Retention, Revision, Store, StoreError, as_stored};

/// How a run that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to stop, and everything read is in the last checkpoint.
    Drained,
    /// Every source came to its end, and everything is written.
    Finished,
    /// It was asked to stop at once; the next run goes on from the last checkpoint.
    Stopped,
}

pub(crate) struct Coordinator {
    pub(crate) pipeline: Arc<str>,
    pub(crate) key_groups: u32,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) revision: Revision,
    pub(crate) ownership: Arc<Ownership>,
    /// What the run starts from; from then on what the newest durable checkpoint holds.
    pub(crate) manifest: Manifest,
    /// What the run leaves out of that, until its first checkpoint is there.
    pub(crate) left_out: Option<LeftOut>,
    pub(crate) retention: Retention,
    /// Bytes of segments that a checkpoint which failed did not store.
    pub(crate) unwritten: BTreeMap<BlobId, Bytes>,
    pub(crate) tasks: BTreeMap<TaskId, Member>,
    pub(crate) sources: BTreeMap<TaskId, mpsc::Sender<Command>>,
    /// Whether one of them goes on for ever: known when all are made, before the first row.
    pub(crate) endless: Arc<AtomicBool>,
    /// How many tasks have state to restore before the run may take over: only then is it known to fit.
    pub(crate) restoring: usize,
    pub(crate) sinks: BTreeMap<TaskId, mpsc::Sender<Command>>,
    /// The sink that may store positions beside its outputs, if the pipeline keeps no state.
    pub(crate) stateless: Option<Arc<str>>,
    /// What of the checkpoint that the run starts from each sink has to see to.
    pub(crate) outputs: BTreeMap<TaskId, Vec<Outputs>>,
    pub(crate) reports: mpsc::Receiver<Report>,
    /// Whether a source has given rows in this run.
    pub(crate) has_read: bool,
    pub(crate) nudge: Arc<Notify>,
    pub(crate) stop: watch::Receiver<Stop>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) workers: Workers,
}

// So many checkpoints in a row may fail before the run does.
const FAILURES: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl Coordinator {
    /// Runs until the last checkpoint is durable.
    pub(crate) async fn run(&mut self) -> Result<Ended> {
        match self.begin().await? {
            Begun::Stopped => return Ok(Ended::Stopped),
            Begun::Marking(marking) => return self.store_as_they_come(marking).await,
            Begun::WithCheckpoints => {}
        }
        for source in self.sources.values() {
            let _ = source.send(Command::Go(None)).await;
        }
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let mut exhausted = BTreeSet::new();
        // Whether the round that is under way, and whether the newest checkpoint, is behind the last row of all sources.
        let (mut is_last, mut all_is_kept) = (false, false);
        let (mut round, mut started): (Option<Round>, _) = (None, Instant::now());
        let (mut late, mut failures) = (false, 0);
        loop {
            let idle = round.is_none();
            let mut then = None;
            let mut stop = self.stop.clone();
            tokio::select! {
                biased;
                () = wanted(&mut stop), if idle => then = Some(Then::Stop),
                report = self.reports.recv() => match report {
                    Some(Report::Passed(task, epoch, part)) => {
                        let member = self.tasks.get(&task).cloned();
                        match (&mut round, member) {
                            _ if planted(Bug::CommitWithoutSinks) && self.sinks.contains_key(&task) => {}
                            (Some(round), Some(member)) if round.barrier.epoch == epoch => round.take(task, &member, part)?,
                            _ => return Err(Fault::bug(format!("{task:?} reports on checkpoint {epoch}, which is not open"))),
                        }
                    }
                    Some(Report::Exhausted(task)) => { exhausted.insert(task); }
                    Some(Report::Read) => self.has_read = true,
                    Some(Report::Open(..) | Report::Resumed(..) | Report::Published) => {}
                    // Whoever joins the tasks knows why.
                    None => std::future::pending().await,
                },
                () = self.nudge.notified(), if idle => then = Some(Then::GoOn),
                () = tokio::time::sleep_until(started + self.timeout), if !idle && !late => {
                    late = true;
                    let missing: Vec<_> = round.iter().flat_map(Round::missing).collect();
                    tracing::warn!(pipeline = %self.pipeline, ?missing, "a checkpoint takes longer than {:?}: something downstream is slow or stalled", self.timeout);
                }
                _ = ticks.tick(), if idle => then = Some(Then::GoOn),
                // The end need not wait, unless something is wrong.
                () = std::future::ready(()), if idle && failures == 0 && exhausted.len() == self.sources.len() => {}
            }
            let at_end = exhausted.len() == self.sources.len();
            if round.is_none() && at_end && then != Some(Then::Stop) {
                then = Some(match all_is_kept {
                    // What is given at the end leaves no trace in any state: the next run goes on from before it.
                    false => Then::GoOn,
                    // It was given before, and nothing has come since.
                    true if self.manifest.finished => Then::Stop,
                    true => Then::Finish,
                });
            }
            if let Some(then) = then {
                is_last = at_end;
                let barrier = Barrier { epoch: self.manifest.epoch.next(), then };
                let waits = |task: &TaskId| !planted(Bug::CommitWithoutSinks) || !self.sinks.contains_key(task);
                round = Some(Round::new(barrier, self.tasks.keys().copied().filter(waits)));
                (started, late) = (Instant::now(), false);
                for source in self.sources.values() {
                    let _ = source.send(Command::Barrier(barrier)).await;
                }
            }
            if round.as_ref().is_some_and(Round::is_complete)
                && let Some(mut done) = round.take()
            {
                let barrier = done.barrier;
                if barrier.then == Then::Finish {
                    done.operators = self.manifest.operators.clone();
                }
                let sinks = self.all_published(std::mem::take(&mut done.outputs));
                let skips = barrier.then == Then::Stop && planted(Bug::DrainWithoutCheckpoint);
                for source in self.sources.values().filter(|_| planted(Bug::AckBeforeDurable)) {
                    let _ = source.send(Command::Committed(barrier.epoch)).await;
                }
                match if skips { Ok(()) } else { self.commit(done, sinks, started).await } {
                    Ok(()) => (failures, all_is_kept) = (0, is_last),
                    Err(fault)
                        if fault.kind() == FaultKind::Checkpoint
                            && fault.retry() != Retry::Never
                            && failures < FAILURES
                            && barrier.then == Then::GoOn =>
                    {
                        failures += 1;
                        tracing::warn!(pipeline = %self.pipeline, epoch = %barrier.epoch, "a checkpoint failed, and the one before stays the newest: {}", fault.chain());
                        self.manifest.epoch = barrier.epoch;
                        continue;
                    }
                    Err(fault) => return Err(fault),
                }
                for line in self.sources.values().chain(self.sinks.values()) {
                    let _ = line.send(Command::Committed(barrier.epoch)).await;
                }
                // Whatever was read before the end is before it.
                self.has_read &= barrier.then != Then::Finish;
                let ended = match barrier.then {
                    Then::GoOn => continue,
                    Then::Stop if !at_end || !self.manifest.finished => Ended::Drained,
                    Then::Stop | Then::Finish => Ended::Finished,
                };
                self.published().await?;
                return Ok(ended);
            }
        }
    }

    /// Waits until the sinks have stored what the last checkpoint has, and keeps that this is so: the next run need not
    /// look, and none is needed to complete this one.
    pub(super) async fn published(&mut self) -> Result {
        let mut waiting = self.sinks.len();
        while waiting > 0 {
            match self.reports.recv().await {
                Some(Report::Published) => waiting -= 1,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
        if !self.manifest.sinks.values().flatten().all(|log| log.published) {
            let Manifest { epoch, sources, operators, .. } = self.manifest.clone();
            let mut round = Round::new(Barrier { epoch: epoch.next(), then: Then::GoOn }, []);
            (round.sources, round.operators) = (sources, operators);
            let sinks = self.all_published(Vec::new());
            self.commit(round, sinks, Instant::now()).await?;
        }
        self.sinks.clear();
        Ok(())
    }

    /// What the next manifest says of sinks: all outputs of the one before are stored, and these are to be.
    pub(super) fn all_published(&self, outputs: Vec<(Arc<str>, OutputLog)>) -> BTreeMap<String, Vec<OutputLog>> {
        let mut sinks = self.manifest.sinks.clone();
        sinks.values_mut().flatten().for_each(|log| log.published = true);
        for (node, log) in outputs.into_iter().filter(|(_, log)| log.total > 0) {
            let logs = sinks.entry(node.to_string()).or_default();
            let place = logs.iter().position(|other| other.subtask == log.subtask);
            let before = place.map(|place| logs.swap_remove(place)).map(|before| (before.epoch, before.total));
            logs.push(OutputLog { before, ..log });
            logs.sort_by_key(|log| log.subtask);
        }
        sinks
    }

    /// Makes a checkpoint durable that says this of sinks.
    pub(super) async fn commit(
        &mut self,
        round: Round,
        sinks: BTreeMap<String, Vec<OutputLog>>,
        started: Instant,
    ) -> Result {
        if let Some(refused) = round.refused {
            return Err(refused);
        }
        let at = self.clock.now();
        let Round { barrier, sources, operators, blobs, .. } = round;
        let finished = barrier.then == Then::Finish || self.manifest.finished && !self.has_read;
        let manifest = Manifest {
            pipeline: self.pipeline.to_string(),
            epoch: barrier.epoch,
            after: Some(self.revision.0),
            at,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            run: self.ownership.run().to_owned(),
            key_groups: self.key_groups,
            sources,
            operators,
            sinks,
            finished,
        };
        self.unwritten.extend(blobs);
        let mut ids: BTreeSet<BlobId> = manifest.segments().map(|segment| segment.sha256).collect();
        self.unwritten.retain(|id, _| ids.contains(id));
        let (bytes, beside) = as_stored(manifest.encode()?);
        ids.extend(beside.iter().map(|(id, _)| *id));
        self.unwritten.extend(beside);
        if planted(Bug::ManifestFirst) {
            self.write(bytes.clone()).await?;
        }
        let size = bytes.len() + self.put_blobs().await?;
        if !planted(Bug::ManifestFirst) {
            self.write(bytes).await?;
        }
        self.manifest = manifest;
        self.retention.committed(ids);
        self.checkpointed(barrier.epoch, at, started.elapsed(), size);
        Ok(())
    }

    /// Stores what the manifest names and is not stored yet; how many bytes that was.
    async fn put_blobs(&mut self) -> Result<usize> {
        let mut written = 0;
        while let Some((id, bytes)) = self.unwritten.first_key_value().map(|(id, bytes)| (*id, bytes.clone())) {
            if !self.retention.has(id) {
                self.retention.settled().await;
                written += bytes.len();
                self.put(id, bytes).await?;
            }
            self.unwritten.remove(&id);
        }
        Ok(written)
    }

    async fn put(&self, id: BlobId, bytes: Bytes) -> Result {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.store.put(&self.pipeline, id, bytes.clone()).await {
                Ok(()) => return Ok(()),
                Err(StoreError::Failed(fault)) => return Err(fault),
                Err(StoreError::Fenced) => return Err(fenced(&self.pipeline)),
                Err(StoreError::Unknown(fault)) => {
                    tracing::warn!(pipeline = %self.pipeline, "state is not stored, trying again in {pause:?}: {}", fault.chain());
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    pub(super) fn checkpointed(&self, epoch: Epoch, at: Timestamp, took: Duration, bytes: usize) {
        self.metrics.checkpoint_done(epoch.0, at.as_micros(), took, bytes);
        tracing::debug!(pipeline = %self.pipeline, %epoch, ?took, bytes, "checkpoint done");
    }

    /// Writes until it is known whether the manifest is durable. While the store is away the pipeline waits: sources
    /// stall when they have as much in flight as they may.
    async fn write(&mut self, bytes: Bytes) -> Result {
        let mut pause = FIRST_PAUSE;
        let mut unknown = false;
        let is_first = !self.ownership.may_have_written();
        self.ownership.writes();
        loop {
            let mut refused = None;
            match self.store.write(&self.pipeline, self.revision, bytes.clone()).await {
                Ok(revision) => {
                    self.revision = revision;
                    self.ownership.wrote(revision);
                    return Ok(());
                }
                Err(StoreError::Fenced) if planted(Bug::IgnoreFence) => return Ok(()),
                Err(StoreError::Fenced) if !unknown => {
                    if is_first {
                        self.ownership.was_refused();
                    }
                    return Err(fenced(&self.pipeline));
                }
                Err(StoreError::Failed(fault)) if !unknown => return Err(fault),
                // The write before this one may have happened.
                Err(StoreError::Failed(fault)) => refused = Some(fault),
                Err(StoreError::Fenced) => {}
                Err(StoreError::Unknown(fault)) => {
                    unknown = true;
                    tracing::warn!(pipeline = %self.pipeline, "a checkpoint is not confirmed, trying again in {pause:?}: {}", fault.chain());
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    // A store may know more of its own write than whoever reads: it is asked first.
                    continue;
                }
            }
            match self.store.read(&self.pipeline).await {
                Ok(Some((revision, stored))) if stored == bytes => {
                    self.revision = revision;
                    self.ownership.wrote(revision);
                    return Ok(());
                }
                Ok(found) if found.as_ref().map(|(revision, _)| *revision).unwrap_or_default() == self.revision => {
                    if let Some(refused) = refused {
                        return Err(refused);
                    }
                }
                Ok(_) => return Err(fenced(&self.pipeline)),
                Err(StoreError::Failed(fault)) => return Err(fault),
                Err(StoreError::Unknown(_) | StoreError::Fenced) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

pub(super) async fn wanted(stop: &mut watch::Receiver<Stop>) {
    if stop.wait_for(|stop| *stop != Stop::No).await.is_err() {
        // Nobody is left who could ask.
        std::future::pending::<()>().await;
    }
}
