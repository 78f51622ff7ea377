//! The tasks of sources and sinks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{
    AnyBatch, Epoch, Fault, FaultKind, Message, Outputs, Record, Result, Then, Timestamp, Watermark,
};
use millstream_pipelines::graph::{DynSink, DynSource};
use tokio::sync::mpsc;

use super::clock::Clock;
use super::inbox::{Event, Inbox};
use super::latch::Latch;
use super::metrics::NodeMetrics;
use super::ownership::Ownership;
use super::report::{Command, Line, Part, Report};
use super::router::{Router, Stopped};
use super::workers::Workers;
use crate::checkpoint::{BlobId, OutputLog};

/// One subtask of a source.
pub(crate) struct SourceTask {
    pub(crate) node: Arc<str>,
    pub(crate) source: Box<dyn DynSource>,
    pub(crate) router: Router,
    pub(crate) line: Line,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) metrics: Arc<NodeMetrics>,
    pub(crate) batch_rows: usize,
    pub(crate) latch: Arc<Latch>,
    /// Whether a source of the run goes on for ever.
    pub(crate) endless: Arc<AtomicBool>,
    // Where the source stood at each barrier whose checkpoint is not durable yet.
    pub(crate) open_epochs: BTreeMap<Epoch, Bytes>,
}

impl SourceTask {
    /// Runs until the last barrier is durable, something goes wrong, or a task downstream is gone.
    pub(crate) async fn run(mut self) -> Result {
        let node = Arc::clone(&self.node);
        match self.work().await {
            Ok(()) | Err(Stopped::Downstream) => Ok(()),
            Err(Stopped::Fault(fault)) => Err(fault.at(&node)),
        }
    }

    async fn work(&mut self) -> Result<(), Stopped> {
        let Some(Command::Open(from)) = self.commands.recv().await else { return Ok(()) };
        self.source.open(from).await.map_err(Stopped::Fault)?;
        let position = self.source.position().map_err(Stopped::Fault)?;
        self.line.tell(Report::Open(self.line.task, Some(position))).await;
        let (mut running, mut open, mut exhausted, mut stopping) = (false, false, false, None);
        let mut paced: Option<Paced> = None;
        let mut has_read = false;
        loop {
            let rows = paced.as_ref().map_or(self.batch_rows, |paced| paced.left().min(self.batch_rows));
            let reading = running && !exhausted && stopping.is_none() && rows > 0;
            let turn = async {
                match reading {
                    true => {
                        if !open {
                            self.latch.opened().await?;
                            open = true;
                        }
                        self.source.next(rows).await
                    }
                    false => Err(driven(self.source.drive().await)),
                }
            };
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(Command::Go(pace)) => (running, paced) = (true, pace.map(Paced::of)),
                    Some(Command::Pace(pace)) => paced.iter_mut().for_each(|paced| paced.pace = pace),
                    Some(Command::Open(_) | Command::Resume(_)) => {}
                    Some(Command::Barrier(barrier)) => {
                        let read = paced.as_ref().map_or(0, |paced| paced.read);
                        paced = paced.map(|paced| Paced::of(paced.pace));
                        if barrier.then == Then::Finish {
                            self.router.control(|| Message::Watermark(Watermark::At(Timestamp::MAX))).await?;
                        }
                        // What goes on beside the rows may have told it, and no batch follow.
                        if let Some(lag) = self.source.lag() {
                            self.metrics.set_lag(lag);
                        }
                        let position = self.source.position().map_err(Stopped::Fault)?;
                        self.open_epochs.insert(barrier.epoch, position.clone());
                        self.router.control(|| Message::Barrier(barrier)).await?;
                        self.line.passed(barrier.epoch, Part::Position(position, read)).await;
                        if barrier.then != Then::GoOn {
                            self.router.control(|| Message::End).await?;
                            self.source.release().await.map_err(Stopped::Fault)?;
                            stopping = Some(barrier.epoch);
                        }
                    }
                    Some(Command::Committed(epoch)) => {
                        self.committed(epoch).await.map_err(Stopped::Fault)?;
                        if stopping == Some(epoch) {
                            return self.source.close().await.map_err(Stopped::Fault);
                        }
                    }
                    None => return Ok(()),
                },
                batch = turn => match batch.map_err(Stopped::Fault)? {
                    Some(batch) if batch.is_empty() => {}
                    Some(batch) => {
                        self.metrics.came_in(batch.len());
                        self.metrics.went_out(0, batch.len());
                        let is_first = !std::mem::replace(&mut has_read, true);
                        if is_first {
                            self.latch.rouse();
                        }
                        if let Some(lag) = self.source.lag() {
                            self.metrics.set_lag(lag);
                        }
                        if let Some(paced) = &mut paced {
                            // Before they are sent, so that the barrier is drawn meanwhile.
                            if paced.read == 0 {
                                self.line.tell(Report::Read).await;
                            }
                            paced.read += batch.len();
                        } else if is_first {
                            self.line.tell(Report::Read).await;
                        }
                        self.send(batch).await?;
                    }
                    None => {
                        exhausted = true;
                        // It holds the time of others back no more, where the end of time that would follow never comes.
                        if self.endless.load(Ordering::Relaxed) {
                            self.router.control(|| Message::Watermark(Watermark::Idle)).await?;
                        }
                        self.line.tell(Report::Exhausted(self.line.task)).await;
                    }
                },
            }
        }
    }

    /// Sends a batch on; while it waits for room, the source shows its peer that it lives.
    async fn send(&mut self, batch: AnyBatch) -> Result<(), Stopped> {
        tokio::select! {
            biased;
            sent = self.router.send(0, 0, batch) => sent,
            ended = self.source.drive() => Err(Stopped::Fault(driven(ended))),
        }
    }

    async fn committed(&mut self, epoch: Epoch) -> Result {
        let later = self.open_epochs.split_off(&epoch.next());
        let durable = std::mem::replace(&mut self.open_epochs, later);
        match durable.into_iter().next_back() {
            Some((_, position)) => self.source.commit(position).await,
            None => Ok(()),
        }
    }
}

/// How much may be read until the next barrier.
struct Paced {
    pace: usize,
    read: usize,
}

impl Paced {
    fn of(pace: usize) -> Self {
        Paced { pace, read: 0 }
    }

    fn left(&self) -> usize {
        self.pace.saturating_sub(self.read)
    }
}

/// The fault behind the end of something that does not end by itself.
fn driven(ended: Result) -> Fault {
    ended.err().unwrap_or_else(|| Fault::bug("the source stopped by itself"))
}

/// One subtask of a sink.
pub(crate) struct SinkTask {
    pub(crate) node: Arc<str>,
    pub(crate) sink: Box<dyn DynSink>,
    pub(crate) subtask: u32,
    /// Whether the pipeline keeps no state, so that outputs may be stored without a checkpoint.
    pub(crate) stateless: bool,
    /// What the checkpoint that the run starts from has of its outputs, until it has looked at them.
    pub(crate) kept: Vec<Outputs>,
    pub(crate) ownership: Arc<Ownership>,
    pub(crate) workers: Workers,
    pub(crate) inbox: Inbox,
    pub(crate) line: Line,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) metrics: Arc<NodeMetrics>,
    pub(crate) clock: Clock,
}

impl SinkTask {
    /// Runs until the last barrier is durable, something goes wrong, or the tasks upstream are gone.
    pub(crate) async fn run(mut self) -> Result {
        let node = Arc::clone(&self.node);
        self.work().await.map_err(|fault| fault.at(&node))
    }

    async fn work(&mut self) -> Result {
        self.sink.open().await?;
        let kept = std::mem::take(&mut self.kept);
        if let Err(fault) = self.sink.check(&kept).await {
            // The outputs may be those of a run that goes on, and then that is what is wrong.
            return Err(self.ownership.blame(fault).await);
        }
        self.line.tell(Report::Open(self.line.task, None)).await;
        let mut stopping = None;
        loop {
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(Command::Committed(epoch)) => {
                        self.sink.commit(epoch).await?;
                        if stopping == Some(epoch) {
                            // What it was told to store only now, if it keeps rows until then.
                            self.sink.flush(epoch).await?;
                            // The run is over when the coordinator lets go of the other end.
                            self.line.tell(Report::Published).await;
                        }
                    }
                    Some(Command::Resume(outputs)) => {
                        let marked = match self.sink.resume(outputs).await {
                            Ok(marked) => marked,
                            // Between the run's first checkpoint and its look at them another may have taken over.
                            Err(fault) => return Err(self.ownership.blame(fault).await),
                        };
                        let ledger = if self.stateless { self.sink.ledger() } else { None };
                        self.stateless = ledger.is_some();
                        self.line.tell(Report::Resumed(self.line.task, marked, ledger)).await;
                    }
                    Some(Command::Open(_) | Command::Go(_) | Command::Pace(_) | Command::Barrier(_)) => {}
                    None => return Ok(()),
                },
                event = self.inbox.next(), if stopping.is_none() => match event {
                    Some(event) => stopping = self.take(event?).await?,
                    None => return Ok(()),
                },
                // Also while the last checkpoint is awaited, for what must not grow old meanwhile.
                ended = self.sink.drive() => {
                    ended?;
                    return Err(Fault::bug("the sink stopped by itself"));
                }
            }
        }
    }

    async fn take(&mut self, event: Event) -> Result<Option<Epoch>> {
        match event {
            Event::Data(_, batch, room) => {
                let rows = batch.len();
                self.metrics.came_in(rows);
                let stored_at = batch.origins().and_then(|origins| origins.get(0)).map(|origin| origin.stored_at);
                self.sink.write(batch).await?;
                drop(room);
                self.metrics.went_out(0, rows);
                // One row a batch is enough to know, and one clock reading.
                if let Some(stored_at) = stored_at {
                    self.metrics.record_latency(self.clock.since(stored_at));
                }
            }
            Event::Barrier(barrier) => {
                self.sink.flush(barrier.epoch).await?;
                let part = match self.sink.outputs() {
                    None => Part::Flushed,
                    Some(records) if self.stateless => Part::Records(records),
                    Some(records) => {
                        let (log, blobs) = packed(&self.workers, (self.subtask, barrier.epoch), records).await?;
                        Part::Outputs(Arc::clone(&self.node), log, blobs)
                    }
                };
                if planted(Bug::PublishBeforeDurable) {
                    self.sink.commit(barrier.epoch).await?;
                }
                self.line.passed(barrier.epoch, part).await;
                if barrier.then != Then::GoOn {
                    return Ok(Some(barrier.epoch));
                }
            }
            Event::Watermark(_) | Event::End => {}
        }
        Ok(None)
    }
}

/// The outputs of an epoch as a checkpoint keeps them. Where they are many, they are packed on a thread of their own,
/// where there may be one.
pub(super) async fn packed(
    workers: &Workers,
    (subtask, epoch): (u32, Epoch),
    records: Arc<[Record]>,
) -> Result<(OutputLog, Vec<(BlobId, Bytes)>)> {
    let (log, blobs) = if records.len() < MANY {
        OutputLog::pack(subtask, epoch, &records)?
    } else {
        let packing = workers.aside(move || OutputLog::pack(subtask, epoch, &records));
        packing.await.unwrap_or_else(|error| {
            Err(Fault::new(FaultKind::Panic, "outputs could not be packed for a checkpoint").because(error))
        })?
    };
    Ok((log, blobs))
}

const MANY: usize = 1_024;
