//! [`TransactionalSink`]: records into a stream, each stored once.

use std::sync::Arc;

use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{Batch, Epoch, Fault, FaultKind, Ledger, Marked, Outputs, Record, Result, Sink, SizeLimit};
use millstream_pipelines::graph::Subtask;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, sleep_until};

use super::batch::HEADERS;
use super::ledger::MarkerLedger;
use super::marker::{marker_subject, marker_subjects};
use super::publisher::{At, Most, Publisher};
use super::stream::{holds, prepare, renewal};
use crate::broker::Subject;
use crate::connectors::jetstream::JetStreamWrite;
use crate::connectors::jetstream::messages::Messages;
use crate::connectors::{Connections, Purpose};
use crate::engine::{Metrics, NodeMetrics, Nudge, Rewind};

/// A sink whose records become part of the checkpoint, and are published when that is durable: nobody who reads the stream
/// sees one twice, whatever fails.
///
/// Its protocol: records of an epoch are kept, and the checkpoint has them. When it is durable they go out in atomic
/// batches, each behind a marker that says how many of them are there then. The marker is written by comparing: a run that
/// takes over writes it anew with its own name, and then no batch of another run is stored. Where marker and checkpoint
/// contradict each other at the start, the run ends: something was restored, purged or lost. Where there is nothing to publish
/// and limits of the stream could let go of the marker, it is rewritten as it is, by comparing too.
///
/// What readers see is about a checkpoint interval behind. Where the pipeline keeps no state, the sink hands over a
/// [`Ledger`] in place of all that: it stores micro-batches as they come, with the positions of the sources in the marker.
pub struct TransactionalSink {
    messages: Messages,
    connections: Arc<Connections>,
    place: Place,
    node: Option<Arc<NodeMetrics>>,
    nudge: Option<Arc<Nudge>>,
    rewind: bool,
    // How old the marker may become in the stream.
    renewal: Option<Duration>,
    publisher: Option<Publisher>,
    at: Option<At>,
    // What came since the last barrier, and what the checkpoint on its way has.
    kept: Vec<Record>,
    bytes: usize,
    nudged: bool,
    closed: Arc<[Record]>,
    publishing: Option<Publishing>,
    // Whether what is kept goes out by a ledger.
    hands_over: bool,
    limit: SizeLimit,
    // How large a message may be, without the headers of a batch.
    max: usize,
    most: Most,
}

/// Which subtask of which sink it is.
struct Place {
    pipeline: Arc<str>,
    node: Arc<str>,
    index: u32,
}

/// So many records, or bytes, are kept before a checkpoint is asked for.
const MOST: usize = 65_536;
const MOST_BYTES: usize = 16 << 20;

impl TransactionalSink {
    /// The sink of the node of `subtask`.
    ///
    /// # Errors
    /// There are no NATS connections among its resources.
    pub fn new(subtask: &Subtask, write: JetStreamWrite) -> Result<Self> {
        let (pipeline, node) = (Arc::<str>::from(&*subtask.pipeline), Arc::<str>::from(&*subtask.node));
        // Stored once, a message needs no id; and in a batch one that is known already would refuse the others.
        let write = JetStreamWrite { dedup: false, ..write };
        Ok(TransactionalSink {
            messages: Messages::of("", write),
            connections: Connections::of(subtask)?,
            node: subtask.resources.get::<Metrics>().map(|metrics| metrics.node(&node)),
            nudge: subtask.resources.get(),
            rewind: subtask.resources.get::<Rewind>().is_some_and(|rewind| rewind.0),
            place: Place { pipeline, node, index: subtask.index },
            renewal: None,
            publisher: None,
            at: None,
            kept: Vec::new(),
            bytes: 0,
            nudged: false,
            closed: Arc::from([]),
            publishing: None,
            hands_over: false,
            limit: SizeLimit::default(),
            max: usize::MAX,
            most: Most::default(),
        })
    }

    /// The same sink, which says there what the server takes.
    #[must_use]
    pub fn telling(mut self, limit: SizeLimit) -> Self {
        self.limit = limit;
        self
    }

    /// The publisher of a subtask, this one or one that is no more.
    async fn publisher(&self, subtask: u32) -> Result<Publisher> {
        let js = self.connections.js(Purpose::Write).await?;
        let Place { pipeline, node, .. } = &self.place;
        let inbox = js.connection().new_inbox();
        Ok(Publisher {
            subject: Subject::from(marker_subject(pipeline, node, subtask)),
            stream: self.messages.write().stream.clone(),
            owner: inbox.rsplit('.').next().unwrap_or(&inbox).to_owned(),
            rewind: self.rewind,
            renewal: self.renewal,
            node: self.node.clone(),
            most: self.most.clone(),
            js,
        })
    }

    /// Waits until what is being published is. Cancel-safe.
    async fn published(&mut self) -> Result {
        let Some(publishing) = &mut self.publishing else { return Ok(()) };
        let ended = (&mut publishing.task).await;
        self.publishing = None;
        let ended = ended.unwrap_or_else(|error| {
            Err(Fault::new(FaultKind::Panic, "the task that publishes outputs is gone").because(error))
        });
        self.at = Some(ended?);
        Ok(())
    }

    /// When the marker is to be rewritten, where this sink writes it.
    fn due(&self) -> Option<Instant> {
        match (&self.publisher, &self.at) {
            (Some(publisher), Some(at)) if !self.hands_over => publisher.due(at),
            _ => None,
        }
    }

    /// Begins to rewrite the marker, if it is due and nothing is being published.
    fn renew(&mut self) {
        if self.publishing.is_some() || self.due().is_none_or(|due| due > Instant::now()) {
            return;
        }
        if let (Some(publisher), Some(at)) = (self.publisher.clone(), self.at.clone()) {
            let task = tokio::spawn(async move { publisher.renew_if_there(at).await });
            self.publishing = Some(Publishing { task, renews: true });
        }
    }
}

impl Sink for TransactionalSink {
    type In = Vec<Record>;

    async fn open(&mut self) -> Result {
        let js = self.connections.js(Purpose::Write).await?;
        let markers = marker_subjects(&self.place.pipeline, &self.place.node);
        let config = prepare(&js, self.messages.write(), &markers).await?;
        let of_stream = usize::try_from(config.max_msg_size).ok().filter(|most| *most > 0).unwrap_or(usize::MAX);
        self.renewal = renewal(&config);
        self.most = Most::of_stream(holds(&config));
        self.max = js.connection().max_payload().min(of_stream).saturating_sub(HEADERS);
        self.limit.set(self.max);
        Ok(())
    }

    async fn check(&mut self, from: &[Outputs]) -> Result {
        if self.rewind {
            return Ok(());
        }
        let (mine, others): (Vec<_>, Vec<_>) = from.iter().partition(|outputs| outputs.subtask == self.place.index);
        for outputs in others {
            self.publisher(outputs.subtask).await?.check(Some(outputs)).await?;
        }
        self.publisher(self.place.index).await?.check(mine.into_iter().next()).await
    }

    async fn resume(&mut self, from: Vec<Outputs>) -> Result<Option<Marked>> {
        let (mine, others): (Vec<_>, Vec<_>) =
            from.into_iter().partition(|outputs| outputs.subtask == self.place.index);
        for outputs in others {
            let publisher = self.publisher(outputs.subtask).await?;
            let at = publisher.take_over(Some(&outputs)).await?;
            if !outputs.published && !at.is_behind(&outputs) {
                publisher.publish(at, outputs.epoch, &outputs.records).await?;
            }
        }
        let publisher = self.publisher(self.place.index).await?;
        let mine = mine.into_iter().next();
        let mut at = publisher.take_over(mine.as_ref()).await?;
        let skips = planted(Bug::SkipRestOfLog);
        if let Some(outputs) = mine.filter(|outputs| !outputs.published && !skips && !at.is_behind(outputs)) {
            at = publisher.publish(at, outputs.epoch, &outputs.records).await?;
        }
        let marked = at.marked();
        (self.publisher, self.at) = (Some(publisher), Some(at));
        Ok(Some(marked))
    }

    fn ledger(&mut self) -> Option<Box<dyn Ledger>> {
        self.hands_over = true;
        Some(Box::new(MarkerLedger::new(self.publisher.clone()?, self.at.clone()?)))
    }

    async fn write(&mut self, batch: Batch<Vec<Record>>) -> Result {
        let parts = batch.into_parts();
        for (row, record) in parts.rows.into_iter().enumerate() {
            let message = self.messages.message(record, parts.origins.as_ref(), row, self.max)?;
            self.bytes += message.size();
            self.kept.push(message.into_record());
        }
        if !self.nudged && (self.kept.len() >= MOST || self.bytes >= MOST_BYTES) {
            self.nudged = true;
            if let Some(nudge) = &self.nudge {
                nudge.checkpoint();
            }
        }
        Ok(())
    }

    async fn flush(&mut self, _: Epoch) -> Result {
        // No checkpoint waits for a marker that only stays as it is.
        if self.publishing.as_ref().is_some_and(|publishing| publishing.renews && !publishing.task.is_finished()) {
            return Ok(());
        }
        self.published().await
    }

    fn outputs(&mut self) -> Option<Arc<[Record]>> {
        // Those of a checkpoint that failed are part of the next.
        let kept = std::mem::take(&mut self.kept);
        if self.hands_over {
            self.bytes = 0;
            return Some(Arc::from(kept));
        }
        self.closed = match self.closed.is_empty() {
            true => Arc::from(kept),
            false => self.closed.iter().cloned().chain(kept).collect(),
        };
        (self.bytes, self.nudged) = (0, false);
        Some(Arc::clone(&self.closed))
    }

    async fn commit(&mut self, epoch: Epoch) -> Result {
        let records = std::mem::replace(&mut self.closed, Arc::from([]));
        if records.is_empty() {
            // Where rows keep coming, `drive` may not be asked.
            self.renew();
            return Ok(());
        }
        self.published().await?;
        let (Some(publisher), Some(at)) = (self.publisher.clone(), self.at.clone()) else {
            return Err(Fault::bug("a checkpoint was completed before its sink had taken over"));
        };
        let task = tokio::spawn(async move { publisher.publish(at, epoch, &records).await });
        self.publishing = Some(Publishing { task, renews: false });
        Ok(())
    }

    async fn drive(&mut self) -> Result {
        loop {
            self.published().await?;
            match self.due() {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
            self.renew();
        }
    }
}

/// A task that publishes; it ends with the sink.
struct Publishing {
    task: JoinHandle<Result<At>>,
    // Whether it only rewrites the marker.
    renews: bool,
}

impl Drop for Publishing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for TransactionalSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Place { node, index, .. } = &self.place;
        write!(f, "TransactionalSink({node}/{index} into {})", self.messages.write().stream)
    }
}
