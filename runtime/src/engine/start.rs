//! How a run begins: from its first checkpoint to the moment in which its sources may read.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{Barrier, Fault, FaultKind, Ledger, Marked, Result, Retry, Then};
use tokio::time::Instant;

use super::coordinator::{Coordinator, wanted};
use super::job::rescaled;
use super::report::{Command, Report};
use super::round::{Member, Round};
use crate::checkpoint::Manifest;

/// How a run goes on once it has begun.
pub(super) enum Begun {
    /// It was asked to stop before.
    Stopped,
    /// With a checkpoint at each interval.
    WithCheckpoints,
    /// With micro-batches that have the positions in them.
    Marking(Marking),
}

/// What stores micro-batches.
pub(super) struct Marking {
    /// The sink that it belongs to.
    pub(super) node: Arc<str>,
    pub(super) ledger: Box<dyn Ledger>,
    /// What its marker says.
    pub(super) marked: Marked,
}

/// The first subtask of each sink, with what it said when it had seen to its outputs.
type Resumed = BTreeMap<Arc<str>, (Option<Marked>, Option<Box<dyn Ledger>>)>;

impl Coordinator {
    /// Takes over: the first checkpoint ends what others could complete, then the sinks see to what it has of outputs.
    ///
    /// Where sources stand is in the manifest, and then the first checkpoint makes "from now on" a position for ever. Or
    /// the marker of a sink tells: then the first checkpoint only says that this run is the one, and sources are opened when
    /// the marker is its own.
    pub(super) async fn begin(&mut self) -> Result<Begun> {
        let started = Instant::now();
        let ahead = self.manifest.ahead().map(Arc::<str>::from);
        let mut round = self.next_round();
        // State that does not fit must not end whoever runs with it.
        let mut opening = self.sinks.len() + self.restoring;
        if ahead.is_none() {
            opening += self.open_sources().await?;
        } else {
            round.sources = self.manifest.sources.clone();
        }
        if !self.opened(opening, &mut round).await? {
            return Ok(Begun::Stopped);
        }
        round.operators = self.manifest.operators.clone();
        let (has_segments, sinks) = (self.manifest.segments().next().is_some(), self.manifest.sinks.clone());
        self.commit(round, sinks, started).await?;
        if let Some(left_out) = self.left_out.take() {
            left_out.settle(&*self.store, &self.pipeline).await;
        }
        if has_segments {
            self.retention.sweep_orphans(self.clock.now());
        }
        let Some(mut resumed) = self.resume().await? else { return Ok(Begun::Stopped) };
        let mut round = self.next_round();
        (round.sources, round.operators) = (self.manifest.sources.clone(), self.manifest.operators.clone());
        if let Some(node) = &ahead {
            let marked = resumed.get(node).and_then(|(marked, _)| marked.clone());
            self.go_on_from(node, marked.as_ref())?;
            let opening = self.open_sources().await?;
            round = self.next_round();
            if !self.opened(opening, &mut round).await? {
                return Ok(Begun::Stopped);
            }
        }
        let marking = self.stateless.clone().and_then(|node| match resumed.remove(&node)? {
            (Some(marked), Some(ledger)) => Some(Marking { node, ledger, marked }),
            _ => None,
        });
        if marking.is_none() && ahead.is_none() {
            return Ok(Begun::WithCheckpoints);
        }
        // From here on positions are in the marker, or no longer are.
        let mut next = Manifest { sinks: self.all_published(Vec::new()), ..Manifest::default() };
        if let Some((node, (Some(marked), _))) = ahead.as_ref().and_then(|node| resumed.get_key_value(node)) {
            next.mark(node, marked.epoch, marked.total, false);
        }
        if let Some(Marking { node, marked, .. }) = &marking {
            next.mark(node, marked.epoch, marked.total, true);
        }
        self.commit(round, next.sinks, started).await?;
        Ok(marking.map_or(Begun::WithCheckpoints, Begun::Marking))
    }

    fn next_round(&self) -> Round {
        Round::new(Barrier { epoch: self.manifest.epoch.next(), then: Then::GoOn }, [])
    }

    /// Opens the sources where the manifest says; how many there are.
    async fn open_sources(&self) -> Result<usize> {
        for (task, source) in &self.sources {
            let from = self.tasks.get(task).map(|member| position_of(&self.manifest, member)).transpose()?.flatten();
            let _ = source.send(Command::Open(from)).await;
        }
        Ok(self.sources.len())
    }

    /// Waits until so many sources, sinks and stages are open, and notes where sources stand. False when the run is asked to stop
    /// before.
    async fn opened(&mut self, mut waiting: usize, round: &mut Round) -> Result<bool> {
        let mut stop = self.stop.clone();
        while waiting > 0 {
            let report = tokio::select! {
                biased;
                () = wanted(&mut stop) => return Ok(false),
                report = self.reports.recv() => report,
            };
            match report {
                Some(Report::Open(task, position)) => {
                    waiting -= 1;
                    if let (Some(position), Some(member)) = (position, self.tasks.get(&task)) {
                        round.position(member, &position)?;
                    }
                }
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
        Ok(true)
    }

    /// Lets the sinks see to the outputs of the checkpoint that the run starts from: from the first checkpoint on, nobody
    /// else can complete one. Nothing when the run is asked to stop meanwhile.
    async fn resume(&mut self) -> Result<Option<Resumed>> {
        for (task, sink) in &self.sinks {
            let _ = sink.send(Command::Resume(self.outputs.remove(task).unwrap_or_default())).await;
        }
        let (mut waiting, mut resumed) = (self.sinks.len(), Resumed::new());
        let mut stop = self.stop.clone();
        while waiting > 0 {
            tokio::select! {
                biased;
                () = wanted(&mut stop) => return Ok(None),
                report = self.reports.recv() => match report {
                    Some(Report::Resumed(task, marked, ledger)) => {
                        waiting -= 1;
                        let member = self.tasks.get(&task).filter(|member| member.subtask == 0);
                        if let Some(node) = member.and_then(|member| member.sink.clone()) {
                            resumed.insert(node, (marked, ledger));
                        }
                    }
                    Some(_) => {}
                    None => std::future::pending().await,
                },
            }
        }
        Ok(Some(resumed))
    }

    /// Goes on where the marker says that the sources stood, if it says more than the checkpoint.
    fn go_on_from(&mut self, node: &str, marked: Option<&Marked>) -> Result {
        let Some(marked) = marked else {
            return Err(Fault::bug("a sink that kept positions has no marker").at(node));
        };
        if !planted(Bug::ReuseEpoch) {
            self.manifest.epoch = self.manifest.epoch.max(marked.epoch);
        }
        let positions = marked.positions.clone().filter(|_| !planted(Bug::ForgetMarker));
        if let Some(positions) = positions {
            let sources = serde_json::from_value(positions).map_err(|error| {
                let words = "the positions in its marker cannot be read";
                Fault::new(FaultKind::Checkpoint, words).because(error).retry_with(Retry::Never).at(node)
            })?;
            self.manifest.finished &= self.manifest.sources == sources;
            self.manifest.sources = sources;
        }
        Ok(())
    }
}

/// Where a subtask of a source stood, as a source takes it.
fn position_of(manifest: &Manifest, member: &Member) -> Result<Option<Bytes>> {
    let Member { source: Some(node), subtask, of, .. } = member else { return Ok(None) };
    let Some(all) = manifest.sources.get(&**node) else { return Ok(None) };
    if let Some(other) = all.iter().find(|position| position.of != *of) {
        return Err(rescaled(node, other.of, *of));
    }
    let position = all.iter().find(|position| position.subtask == *subtask).map(|position| &position.position);
    let encoded = position.map(serde_json::to_vec).transpose();
    encoded
        .map(|position| position.map(Bytes::from))
        .map_err(|error| Fault::bug("a position cannot be encoded").because(error))
}
