//! The course of a run that keeps no state: micro-batches of outputs, each stored together with where the sources stood behind
//! it, as they come.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{Barrier, Epoch, Fault, FaultKind, Ledger, Outcome, Record, Result, Then, Written};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, sleep};

use super::coordinator::{Coordinator, Ended, wanted};
use super::edges::packed;
use super::forming::{Formed, Forming, Pace};
use super::report::{Command, Report, TaskId};
use super::round::Round;
use super::start::Marking;
use crate::checkpoint::{Manifest, OutputLog, SourcePosition};

/// Where sources stand, by node and subtask.
type Positions = BTreeMap<String, Vec<SourcePosition>>;

/// Where sources stood is written into a checkpoint, too, after so many intervals, or after this time: where the marker is lost,
/// that is where a run may be told to go on from.
const NOTED_AFTER: u32 = 10;
const NOTED_WITHIN: Duration = Duration::from_secs(60);

/// What has come of the run so far.
struct Course {
    node: Arc<str>,
    forming: Forming,
    pace: Pace,
    // The last barrier that was drawn, and whether rows were read behind it.
    drawn: Barrier,
    read: bool,
    exhausted: BTreeSet<TaskId>,
    stopping: bool,
    // The interval is over: a barrier is due, and positions may be stored without outputs.
    due: bool,
    moved: bool,
    // Whether anything was stored since the last interval.
    stored: bool,
    // What the marker says: the epoch, and how many outputs of a log.
    marked: (Epoch, u64),
    acknowledged: Epoch,
    // A source has as much in flight as it may: it hears of all that is stored, up to this epoch.
    asked: Option<Epoch>,
    // When a checkpoint last said where the sources stood, and where.
    noted: (Instant, Positions),
    // Whether it was told of the barrier that is under way for too long.
    told: Option<Epoch>,
}

impl Course {
    /// What is to be stored next.
    fn cut(&mut self) -> Option<Formed> {
        let formed = self.forming.cut(self.moved)?;
        self.moved = false;
        Some(formed)
    }
}

/// Something that the ledger does, and what will be stored when it is done.
struct Writing {
    doing: Written,
    formed: Option<Formed>,
    started: Instant,
}

impl Coordinator {
    /// Runs until everything is stored. A barrier is drawn as soon as there are rows for one, and the epochs that are
    /// complete by the time that the last batch is stored are the next.
    pub(super) async fn store_as_they_come(&mut self, marking: Marking) -> Result<Ended> {
        let Marking { node, ledger, marked } = marking;
        let pace = Pace::new(self.sources.len(), ledger.most());
        for source in self.sources.values() {
            let _ = source.send(Command::Go(Some(pace.rows()))).await;
        }
        let mut course = Course {
            node,
            forming: Forming::new(ledger.most()),
            pace,
            drawn: Barrier { epoch: self.manifest.epoch, then: Then::GoOn },
            read: false,
            exhausted: BTreeSet::new(),
            stopping: false,
            due: false,
            moved: false,
            stored: true,
            marked: (marked.epoch, marked.total),
            acknowledged: self.manifest.epoch,
            asked: None,
            noted: (Instant::now(), self.manifest.sources.clone()),
            told: None,
        };
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let (mut idle, mut writing) = (Some(ledger), None);
        loop {
            while let Some(ledger) = idle.take() {
                match course.cut() {
                    None => {
                        idle = Some(ledger);
                        break;
                    }
                    Some(formed) if formed.count == 0 && formed.then != Then::GoOn => {
                        return self.end(&course, formed.sources).await;
                    }
                    // Sources have not moved either.
                    Some(formed) if formed.count == 0 && formed.sources == self.manifest.sources => {
                        idle = Some(ledger);
                    }
                    Some(formed) if course.forming.is_one_step(&formed) => {
                        writing = Some(store(ledger, formed, &self.manifest.sources)?);
                    }
                    Some(formed) => idle = Some(self.log(&mut course, ledger, formed).await?),
                }
            }
            if course.drawn.then != Then::GoOn && idle.is_some() && course.forming.is_empty() {
                return self.end(&course, self.manifest.sources.clone()).await;
            }
            self.draw(&mut course).await;
            let mut stop = self.stop.clone();
            let look_within = idle.as_ref().and_then(|ledger| ledger.look_within());
            tokio::select! {
                biased;
                () = wanted(&mut stop), if !course.stopping => course.stopping = true,
                written = written(&mut writing) => {
                    let (ledger, outcome) = written?;
                    idle = Some(match (writing.take(), outcome) {
                        (Some(Writing { formed: Some(formed), .. }), Outcome::TooLarge) => {
                            course.forming.bound(ledger.most());
                            course.pace.bound(ledger.most());
                            tell(&self.sources, || Command::Pace(course.pace.rows()));
                            self.log(&mut course, ledger, formed).await?
                        }
                        (Some(Writing { formed: Some(formed), started, .. }), Outcome::Done) => {
                            course.marked = (formed.epoch, 0);
                            course.stored = true;
                            self.stored(formed, started);
                            ledger
                        }
                        (_, _) => ledger,
                    });
                    self.answer(&mut course);
                }
                () = sleep(look_within.unwrap_or_default()), if look_within.is_some() => {
                    writing = idle.take().map(look);
                }
                report = self.reports.recv() => match report {
                    Some(Report::Passed(task, epoch, part)) => {
                        let member = self.tasks.get(&task).ok_or_else(|| Fault::bug("a task that is not there reports"))?;
                        for seen in course.forming.take(task, member, epoch, part)? {
                            let before = course.pace.rows();
                            course.pace.saw(seen);
                            if course.pace.rows() != before {
                                tell(&self.sources, || Command::Pace(course.pace.rows()));
                            }
                        }
                    }
                    Some(Report::Read) => (course.read, self.has_read) = (true, true),
                    Some(Report::Exhausted(task)) => { course.exhausted.insert(task); }
                    Some(Report::Open(..) | Report::Resumed(..) | Report::Published) => {}
                    // Whoever joins the tasks knows why.
                    None => std::future::pending().await,
                },
                () = self.nudge.notified() => {
                    // What was read before is part of the next barrier's epoch at the latest.
                    course.asked = Some(course.drawn.epoch.next());
                    self.answer(&mut course);
                }
                _ = ticks.tick() => {
                    self.acknowledge(&mut course);
                    self.warn_if_late(&mut course);
                    (course.due, course.moved) = (true, true);
                    if idle.is_some() {
                        self.note(&mut course).await?;
                    }
                    if !std::mem::take(&mut course.stored) && let Some(ledger) = idle.take() {
                        // Whoever stores nothing would not find out that another run has taken over.
                        writing = Some(look(ledger));
                    }
                }
            }
        }
    }

    /// Draws the next barrier, if there is something for it and the next batch is not full.
    async fn draw(&self, course: &mut Course) {
        if course.drawn.then != Then::GoOn {
            return;
        }
        let then = if course.stopping {
            Then::Stop
        } else if course.exhausted.len() == self.sources.len() {
            Then::Finish
        } else if (course.read && course.forming.has_room()) || (course.due && course.forming.is_still()) {
            Then::GoOn
        } else {
            return;
        };
        let barrier = Barrier { epoch: course.drawn.epoch.next(), then };
        (course.drawn, course.read, course.due) = (barrier, false, false);
        course.forming.draw(Round::new(barrier, self.tasks.keys().copied()));
        for source in self.sources.values() {
            let _ = source.send(Command::Barrier(barrier)).await;
        }
    }

    /// A batch is stored.
    fn stored(&mut self, formed: Formed, started: Instant) {
        let Formed { epoch, sources, bytes, .. } = formed;
        let at = self.clock.now();
        self.manifest.finished &= !self.has_read;
        (self.manifest.epoch, self.manifest.sources, self.manifest.at) = (epoch, sources, at);
        self.checkpointed(epoch, at, started.elapsed(), bytes);
    }

    /// Stores outputs that are too many for one step: first a checkpoint has them, then they are published from there.
    async fn log(&mut self, course: &mut Course, ledger: Box<dyn Ledger>, formed: Formed) -> Result<Box<dyn Ledger>> {
        let started = Instant::now();
        let Formed { epoch, sources, outputs, .. } = formed;
        let records: Arc<[Record]> = outputs.iter().flat_map(|outputs| outputs.iter()).cloned().collect();
        let (log, blobs) = packed(&self.workers, (0, epoch), Arc::clone(&records)).await?;
        let log = OutputLog { before: Some(course.marked), ahead: true, ..log };
        let total = log.total;
        let mut round = Round::new(Barrier { epoch, then: Then::GoOn }, []);
        (round.sources, round.blobs) = (sources, blobs.into_iter().collect());
        let mut sinks = self.all_published(Vec::new());
        let logs = sinks.entry(course.node.to_string()).or_default();
        logs.retain(|log| log.subtask != 0);
        logs.insert(0, log);
        if !planted(Bug::PublishWithoutLog) {
            self.commit(round, sinks, started).await?;
        }
        let (ledger, _) = ledger.publish(epoch, records).await?;
        (course.marked, course.stored) = ((epoch, total), true);
        course.noted = (Instant::now(), self.manifest.sources.clone());
        Ok(ledger)
    }

    /// Writes a checkpoint that says where the sources stand, if the last one that does is old. Nothing is being stored, so
    /// that this is what the marker says.
    async fn note(&mut self, course: &mut Course) -> Result {
        let (noted, before) = &course.noted;
        if noted.elapsed() < (self.interval * NOTED_AFTER).min(NOTED_WITHIN) || *before == self.manifest.sources {
            return Ok(());
        }
        let mut next = Manifest { sinks: self.all_published(Vec::new()), ..Manifest::default() };
        let (epoch, total) = course.marked;
        next.mark(&course.node, epoch, total, true);
        let mut round = Round::new(Barrier { epoch: self.manifest.epoch, then: Then::GoOn }, []);
        round.sources = self.manifest.sources.clone();
        course.noted = (Instant::now(), self.manifest.sources.clone());
        match self.commit(round, next.sinks, Instant::now()).await {
            Err(fault) if fault.kind() == FaultKind::Checkpoint => {
                tracing::warn!(pipeline = %self.pipeline, "where the sources stand could not be written into a checkpoint; it is beside the outputs: {}", fault.chain());
                Ok(())
            }
            done => done,
        }
    }

    /// Tells sources that have asked for it.
    fn answer(&self, course: &mut Course) {
        if let Some(upto) = course.asked {
            self.acknowledge(course);
            course.asked = Some(upto).filter(|upto| self.manifest.epoch < *upto);
        }
    }

    /// Tells sources how far everything is stored: servers show it as lag, and let more be in flight.
    fn acknowledge(&self, course: &mut Course) {
        let epoch = self.manifest.epoch;
        if std::mem::replace(&mut course.acknowledged, epoch) != epoch {
            tell(&self.sources, || Command::Committed(epoch));
        }
    }

    fn warn_if_late(&self, course: &mut Course) {
        let Some((round, since)) = course.forming.oldest() else { return };
        let epoch = round.barrier.epoch;
        if since.elapsed() >= self.timeout && course.told != Some(epoch) {
            let missing: Vec<_> = round.missing().collect();
            tracing::warn!(pipeline = %self.pipeline, ?missing, "a micro-batch takes longer than {:?}: something downstream is slow or stalled", self.timeout);
            course.told = Some(epoch);
        }
    }

    /// All is stored: the checkpoint has the positions again, and the marker is not needed to go on.
    async fn end(&mut self, course: &Course, sources: Positions) -> Result<Ended> {
        let mut next = Manifest { sinks: self.all_published(Vec::new()), ..Manifest::default() };
        let (epoch, total) = course.marked;
        next.mark(&course.node, epoch, total, false);
        let mut round = Round::new(course.drawn, []);
        round.sources = sources;
        self.commit(round, next.sinks, Instant::now()).await?;
        for line in self.sources.values().chain(self.sinks.values()) {
            let _ = line.send(Command::Committed(course.drawn.epoch)).await;
        }
        self.published().await?;
        Ok(if course.drawn.then == Then::Finish { Ended::Finished } else { Ended::Drained })
    }
}

/// Tells all of them what they need not hear of at any moment.
fn tell(lines: &BTreeMap<TaskId, mpsc::Sender<Command>>, command: impl Fn() -> Command) {
    for line in lines.values() {
        // One that is full has more to do than to listen; it is told again.
        let _ = line.try_send(command());
    }
}

/// Waits until what is being written is; for ever if nothing is.
async fn written(writing: &mut Option<Writing>) -> Result<(Box<dyn Ledger>, Outcome)> {
    match writing {
        Some(Writing { doing, .. }) => doing.await,
        None => std::future::pending().await,
    }
}

fn look(ledger: Box<dyn Ledger>) -> Writing {
    Writing { doing: ledger.look(), formed: None, started: Instant::now() }
}

fn store(ledger: Box<dyn Ledger>, formed: Formed, before: &Positions) -> Result<Writing> {
    let positions = if planted(Bug::PositionsBefore) { before } else { &formed.sources };
    let positions =
        serde_json::to_value(positions).map_err(|error| Fault::bug("positions cannot be encoded").because(error))?;
    let doing = ledger.store(formed.epoch, positions, formed.outputs.clone());
    Ok(Writing { doing, formed: Some(formed), started: Instant::now() })
}
