//! [`Publisher`]: takes the marker of a sink over, and publishes the outputs of checkpoints behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{Epoch, Fault, FaultKind, Marked, Outputs, Record, Result};
use serde_json::Value;
use tokio::time::Instant;

use super::batch::{Fence, HEADERS, PATIENCE, publish};
#[cfg(feature = "cli")]
use super::marker::marker_subject;
use super::marker::{Marker, reconcile, rewound};
use crate::broker::{BrokerError, Js, Subject, codes, is_gone, matches};
use crate::connectors::fault;
use crate::engine::NodeMetrics;

/// The marker as it is in the stream.
#[derive(Clone, Debug)]
pub(super) struct At {
    seq: u64,
    marker: Marker,
    /// It was not written before.
    since: Instant,
}

/// Since when it is known of changes nothing.
impl PartialEq for At {
    fn eq(&self, other: &Self) -> bool {
        (self.seq, &self.marker) == (other.seq, &other.marker)
    }
}

impl At {
    /// How many outputs of its checkpoint are published.
    pub(super) fn next(&self) -> u64 {
        self.marker.next
    }

    /// What the marker says.
    pub(super) fn marked(&self) -> Marked {
        self.marker.marked()
    }

    /// Whether a checkpoint's outputs were published long ago, and others since.
    pub(super) fn is_behind(&self, kept: &Outputs) -> bool {
        self.marker.is_ahead_of(Some(kept))
    }
}

/// Publishes what one subtask of a sink gives.
#[derive(Clone)]
pub(super) struct Publisher {
    pub(super) js: Js,
    pub(super) stream: String,
    pub(super) subject: Subject,
    /// This run of the subtask, unlike any other.
    pub(super) owner: String,
    /// Whether outputs may come twice where marker and checkpoint contradict each other.
    pub(super) rewind: bool,
    /// The marker is rewritten when it is so old, before the stream's limits let go of it.
    pub(super) renewal: Option<Duration>,
    pub(super) node: Option<Arc<NodeMetrics>>,
    pub(super) most: Most,
}

/// How many outputs the server takes in a batch, behind the marker, as far as it has said.
#[derive(Clone)]
pub(super) struct Most(Arc<AtomicUsize>);

impl Default for Most {
    fn default() -> Self {
        // A batch has 1,000 messages unless the server's limits say less (`limits { batch { max_msgs } }`).
        Most(Arc::new(AtomicUsize::new(999)))
    }
}

impl Most {
    /// That of a stream which holds so many messages, where the last of more would push the marker out before them.
    pub(super) fn of_stream(messages: usize) -> Self {
        let most = Most::default();
        most.0.fetch_min(messages.saturating_sub(1).max(1), Ordering::Relaxed);
        most
    }

    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Learns from the refusal of a batch with so many outputs; how many it takes. None if it takes none.
    fn learn(&self, sent: usize, refusal: &BrokerError) -> Option<usize> {
        let words = refusal.to_string();
        let told = words.rsplit(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty());
        // The number is of messages, of which the marker is one. What is refused is too much in any case.
        let told = told.and_then(|digits| digits.parse::<usize>().ok()).map_or(sent / 2, |most| most.saturating_sub(1));
        let most = told.min(sent.saturating_sub(1));
        (most > 0).then(|| self.0.fetch_min(most, Ordering::Relaxed).min(most))
    }
}

/// What became of a batch.
enum Stored {
    /// It is stored.
    At(At),
    /// Nothing of it is: the server takes fewer messages at once.
    TooLarge,
}

/// A batch of a checkpoint's outputs has so many at most, and so many bytes.
const MOST: usize = 500;
pub(super) const MOST_BYTES: usize = 8 << 20;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl Publisher {
    fn place(&self) -> String {
        format!("{} of stream {}", self.subject, self.stream)
    }

    /// Makes the marker this run's: from then on no batch of another one is stored. Gives it as it is then, next to
    /// what a checkpoint has kept.
    ///
    /// # Errors
    /// Marker and checkpoint contradict each other, or the server refuses for good.
    pub(super) async fn take_over(&self, kept: Option<&Outputs>) -> Result<At> {
        let mut pause = FIRST_PAUSE;
        loop {
            let (last, found) = self.look_up().await?;
            let marker = match (&found, self.rewind, kept) {
                (Some(At { marker, .. }), _, kept) if marker.is_ahead_of(kept) => marker.clone().owned_by(&self.owner),
                (found, true, Some(kept)) => {
                    let next = rewound(found.as_ref().map(|at| &at.marker), kept);
                    Marker::of(&self.owner, kept.epoch, next, kept.total)
                }
                (_, true, None) => Marker::of(&self.owner, Epoch(0), 0, 0),
                (found, false, kept) => {
                    let (ckpt, next, total) = reconcile(found.as_ref().map(|at| &at.marker), kept, &self.place())?;
                    Marker::of(&self.owner, ckpt, next, total)
                }
            };
            let since = Instant::now();
            let fence = Fence { subject: &self.subject, expected: last, payload: marker.bytes() };
            match self.js.publish(self.subject.clone(), fence.headers(), fence.payload.clone()).await {
                Ok(ack) => {
                    self.going_on();
                    return Ok(At { seq: ack.seq, marker, since });
                }
                // Somebody else wrote it meanwhile, which may be right up to now: look again.
                Err(error) => self.wait(error, &mut pause, false).await?,
            }
        }
    }

    /// Publishes the records of a checkpoint from number `at.next()` on.
    ///
    /// # Errors
    /// Another run has taken over, the marker is gone, or the server refuses for good.
    pub(super) async fn publish(&self, mut at: At, ckpt: Epoch, records: &[Record]) -> Result<At> {
        let total = records.len() as u64;
        let goes_on = at.marker.ckpt == ckpt && !planted(Bug::LogFromStart);
        let mut next = if goes_on { usize::try_from(at.next()).unwrap_or(usize::MAX) } else { 0 };
        while let Some(rest) = records.get(next..).filter(|rest| !rest.is_empty()) {
            let batch = rest.get(..fitting(rest, MOST.min(self.most.get()))).unwrap_or(rest);
            let behind = next + batch.len();
            let marker = Marker::of(&self.owner, ckpt, behind as u64, total);
            if let Stored::At(now) = self.store(&at, marker, &[batch]).await? {
                (at, next) = (now, behind);
            }
        }
        Ok(at)
    }

    /// Stores outputs, and where the sources stood behind them; nothing if they are more than the server takes at once.
    ///
    /// # Errors
    /// As [`publish`](Publisher::publish).
    pub(super) async fn store_ahead(
        &self,
        at: &At,
        epoch: Epoch,
        positions: Value,
        outputs: &[Arc<[Record]>],
    ) -> Result<Option<At>> {
        let batch: Vec<&[Record]> = outputs.iter().map(|outputs| &**outputs).collect();
        Ok(match self.store(at, Marker::ahead(&self.owner, epoch, positions), &batch).await? {
            Stored::At(at) => Some(at),
            Stored::TooLarge => None,
        })
    }

    /// When the marker is to be rewritten, if nothing else is stored before.
    pub(super) fn due(&self, at: &At) -> Option<Instant> {
        self.renewal.map(|renewal| at.since + renewal)
    }

    /// Whether the marker is to be rewritten now.
    pub(super) fn is_due(&self, at: &At) -> bool {
        self.due(at).is_some_and(|due| due <= Instant::now())
    }

    /// How long to wait for something after which the marker is looked at again: not until it may be gone.
    fn at_most(&self, span: Duration) -> Duration {
        self.renewal.map_or(span, |renewal| span.min(renewal))
    }

    /// As [`renew`](Publisher::renew), of a marker that is of use to the next start only: that it is gone is said, and the run
    /// goes on without it until it has something to store.
    ///
    /// # Errors
    /// As [`publish`](Publisher::publish).
    pub(super) async fn renew_if_there(&self, at: At) -> Result<At> {
        if self.read().await?.is_some() {
            return self.renew(at).await;
        }
        tracing::warn!(
            stream = self.stream,
            "the marker on {} is gone, purged or by the stream's limits: as it is, the next outputs will not be stored",
            self.place()
        );
        Ok(At { since: Instant::now(), ..at })
    }

    /// Rewrites the marker as it is, so that limits of the stream do not let go of it where there is nothing to store.
    ///
    /// # Errors
    /// As [`publish`](Publisher::publish).
    pub(super) async fn renew(&self, at: At) -> Result<At> {
        Ok(match self.store(&at, at.marker.clone(), &[]).await? {
            Stored::At(now) => now,
            Stored::TooLarge => at,
        })
    }

    /// Looks whether a run can go on from the marker and what a checkpoint has kept; changes nothing.
    ///
    /// # Errors
    /// They contradict each other, or the server refuses for good.
    pub(super) async fn check(&self, kept: Option<&Outputs>) -> Result {
        let found = self.read().await?.map(|at| at.marker);
        if found.as_ref().is_some_and(|marker| marker.is_ahead_of(kept)) {
            return Ok(());
        }
        reconcile(found.as_ref(), kept, &self.place()).map(drop)
    }

    /// Looks whether the marker is still as this run has written it.
    ///
    /// # Errors
    /// Another run has taken over, or the marker is gone.
    pub(super) async fn look(&self, at: &At) -> Result {
        let found = self.read().await?;
        if found.as_ref() == Some(at) { Ok(()) } else { Err(self.contradicted(found)) }
    }

    /// The fault of a marker that is not what this run left there.
    fn contradicted(&self, found: Option<At>) -> Fault {
        match found {
            Some(found) if found.marker.owner != self.owner => {
                let words = format!("another instance has taken over {}; this one stops", self.place());
                Fault::new(FaultKind::Fenced, words)
            }
            // What is published, checkpoint and marker tell together: a new start compares.
            found => {
                let there = found.map_or("gone, purged or by the stream's limits".to_owned(), |found| {
                    format!("another one: {:?}", found.marker)
                });
                Fault::new(FaultKind::Connection, format!("the marker on {} is {there}", self.place()))
            }
        }
    }

    /// Stores a marker and outputs in the place of the marker that is there.
    async fn store(&self, at: &At, marker: Marker, batch: &[&[Record]]) -> Result<Stored> {
        let (mut pause, mut incomplete) = (FIRST_PAUSE, 0);
        // An attempt whose outcome was not known may be the one that is stored: as old as the first it is at most.
        let (mut at, since) = (at.clone(), Instant::now());
        loop {
            let fence = Fence { subject: &self.subject, expected: at.seq, payload: marker.bytes() };
            let error = match publish(self.js.connection(), fence, batch, self.at_most(PATIENCE)).await {
                Ok(seq) => {
                    self.going_on();
                    return Ok(Stored::At(At { seq, marker, since }));
                }
                Err(error) => error,
            };
            if error.api_code() == Some(codes::ATOMIC_TOO_LARGE) {
                return self.smaller(batch, error);
            }
            // Whether it is one in the middle or the last.
            let is_missing =
                error.api_code() == Some(codes::ATOMIC_INCOMPLETE) || matches!(error, BrokerError::NoResponders { .. });
            incomplete = if is_missing { incomplete + 1 } else { 0 };
            let why = error.to_string();
            // What is missing was said already, in better words.
            self.wait(error, &mut pause, incomplete > 2).await?;
            // Whether it is stored, the marker tells: it is there with the outputs, or none of them is.
            match self.read().await? {
                Some(found) if found.marker == marker && found.seq != at.seq => {
                    tracing::info!(stream = self.stream, "a batch of outputs is stored that was not confirmed: {why}");
                    self.going_on();
                    return Ok(Stored::At(At { since, ..found }));
                }
                Some(found) if found == at && planted(Bug::SwallowUnknown) => {
                    return Ok(Stored::At(At { marker, ..found }));
                }
                // As it was, or as this run has rewritten it below.
                Some(found) if found.marker == at.marker => {
                    at.seq = found.seq;
                    // Once, a leader may have gone in the middle of it.
                    if incomplete > 1 {
                        self.say_what_is_missing(batch).await?;
                    } else {
                        tracing::info!(
                            stream = self.stream,
                            "nothing of a batch of outputs is stored, sending it again: {why}"
                        );
                    }
                    self.renew_meanwhile(&mut at).await;
                }
                found => {
                    // The run may end with what else notices it first.
                    tracing::warn!(stream = self.stream, "nothing of a batch of outputs is stored, nor will be: {why}");
                    return Err(self.contradicted(found).because(why));
                }
            }
        }
    }

    /// Rewrites the marker while outputs wait for long. What comes of it the next attempt finds out: of two that expect the
    /// same marker one is stored at most.
    async fn renew_meanwhile(&self, at: &mut At) {
        if self.is_due(at) {
            let since = Instant::now();
            let fence = Fence { subject: &self.subject, expected: at.seq, payload: at.marker.bytes() };
            if let Ok(seq) = publish(self.js.connection(), fence, &[], self.at_most(PATIENCE)).await {
                (at.seq, at.since) = (seq, since);
            }
        }
    }

    /// Learns how many messages the server takes at once.
    fn smaller(&self, batch: &[&[Record]], refusal: BrokerError) -> Result<Stored> {
        let sent = batch.iter().map(|records| records.len()).sum();
        let Some(most) = self.most.learn(sent, &refusal) else {
            let words = "effectively-once needs batches of at least two messages, a marker and an output: let the server take more (`limits { batch { max_msgs } }`)";
            return Err(Fault::new(FaultKind::Setup, words).because(refusal));
        };
        tracing::info!(stream = self.stream, "the server takes batches of {} messages", most + 1);
        Ok(Stored::TooLarge)
    }

    /// Of a batch all outputs but the last are stored without an answer of their own, so one that the stream does not take
    /// is known from nothing but that the batch has a hole: says which one it is.
    ///
    /// # Errors
    /// The user may not publish it.
    async fn say_what_is_missing(&self, batch: &[&[Record]]) -> Result {
        let records = || batch.iter().copied().flatten();
        if let Some(error) = records().find_map(|record| self.js.connection().denied(record.subject())) {
            return Err(fault(error));
        }
        let Ok(info) = self.js.stream(&self.stream).await else { return Ok(()) };
        let most = usize::try_from(info.config.max_msg_size).ok().filter(|most| *most > 0).unwrap_or(usize::MAX);
        let taken = |record: &Record| info.config.subjects.iter().any(|pattern| matches(pattern, record.subject()));
        let size = |record: &Record| record.payload.len() + record.headers.wire_len() + HEADERS;
        let why = if let Some(record) = records().find(|record| !taken(record)) {
            format!("it takes no {}, only {}", record.subject(), info.config.subjects.join(", "))
        } else if let Some(record) = records().find(|record| size(record) > most) {
            let (subject, size) = (record.subject(), size(record));
            format!(
                "it takes {most} bytes in a message (max_msg_size), and one on {subject} has {size} with its headers"
            )
        } else {
            "a part of the batch does not arrive".to_owned()
        };
        let why = format!("stream {} does not take a batch of outputs: {why}", self.stream);
        tracing::warn!(stream = self.stream, "the output waits, and goes on when that is changed: {why}");
        if let Some(node) = &self.node {
            node.stalled(Some(why));
        }
        Ok(())
    }

    async fn read(&self) -> Result<Option<At>> {
        Ok(self.look_up().await?.1)
    }

    /// Reads the marker, where writes are decided, and the sequence of the last message in its place, which is another one
    /// where the server has removed it and says so there. Tries again while nobody answers.
    async fn look_up(&self) -> Result<(u64, Option<At>)> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.js.last_message(&self.stream, &self.subject).await {
                Ok(None) => return Ok((0, None)),
                Ok(Some(message)) if is_gone(&message.headers) => return Ok((message.seq, None)),
                Ok(Some(message)) => {
                    let marker = Marker::read(&message.payload, &self.place())?;
                    return Ok((message.seq, Some(At { seq: message.seq, marker, since: Instant::now() })));
                }
                Err(error) => self.wait(error, &mut pause, false).await?,
            }
        }
    }

    /// Waits a moment after an error, if it may pass.
    async fn wait(&self, error: BrokerError, pause: &mut Duration, quietly: bool) -> Result {
        let for_good = matches!(
            error,
            BrokerError::Permission { .. }
                | BrokerError::MaxPayload { .. }
                | BrokerError::BadSubject { .. }
                | BrokerError::Protocol { .. }
        );
        if for_good {
            return Err(fault(error));
        }
        let expected = matches!(
            error.api_code(),
            Some(codes::WRONG_LAST_SEQUENCE | codes::WRONG_LAST_SEQUENCE_IN_PROCESS | codes::ATOMIC_INCOMPLETE)
        );
        if expected || quietly {
            tracing::debug!(stream = self.stream, "looking at the marker again: {error}");
        } else {
            tracing::warn!(stream = self.stream, "the output waits, trying again in {pause:?}: {error}");
            if let Some(node) = &self.node {
                node.stalled(Some(error.to_string()));
            }
        }
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(self.at_most(LONGEST_PAUSE));
        Ok(())
    }

    fn going_on(&self) {
        if let Some(node) = &self.node {
            node.stalled(None);
        }
    }
}

/// What the marker of a sink says next to what a checkpoint has kept, without taking it over, and whether all outputs that the
/// checkpoint has are published.
///
/// # Errors
/// They contradict each other, or nobody answers.
#[cfg(feature = "cli")]
pub(crate) async fn marked(
    js: &Js,
    stream: &str,
    pipeline: &str,
    node: &str,
    kept: &Outputs,
) -> Result<(Marked, bool)> {
    let subject = marker_subject(pipeline, node, 0);
    let place = format!("{subject} of stream {stream}");
    let found = js.last_message(stream, &subject).await.map_err(fault)?;
    let marker = found
        .filter(|message| !is_gone(&message.headers))
        .map(|message| Marker::read(&message.payload, &place))
        .transpose()?;
    if let Some(marker) = marker.as_ref().filter(|marker| marker.is_ahead_of(Some(kept))) {
        return Ok((marker.marked(), true));
    }
    let (epoch, next, total) = reconcile(marker.as_ref(), Some(kept), &place)?;
    Ok((Marked { epoch, total, positions: None }, next == total))
}

/// How many of the records, of so many at most, fit in one batch: at least one.
fn fitting(records: &[Record], most: usize) -> usize {
    let mut bytes = 0;
    let fits = |record: &&Record| {
        bytes += record.subject.len() + record.headers.wire_len() + record.payload.len();
        bytes <= MOST_BYTES
    };
    records.iter().take(most).take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_bounded_in_messages_and_bytes_and_takes_one_of_any_size() {
        let records = |count: usize, size: usize| vec![Record::of(vec![0_u8; size]); count];
        for (count, size, wanted) in [(1, 1, 1), (501, 1, 500), (3, 16 << 20, 1), (9, 4 << 20, 2), (9, 2 << 20, 4)] {
            assert_eq!(fitting(&records(count, size), MOST), wanted, "{count} of {size}");
        }
        assert_eq!(fitting(&records(9, 1), 4), 4);
    }
}
