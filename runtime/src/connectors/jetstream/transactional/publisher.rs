//! [`Publisher`]: takes the marker of a sink over, and publishes the outputs of checkpoints behind it.

use std::sync::Arc;
use std::time::Duration;

use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{Epoch, Fault, FaultKind, Marked, Outputs, Record, Result};
use serde_json::Value;

use super::batch::{Fence, publish};
#[cfg(feature = "cli")]
use super::marker::marker_subject;
use super::marker::{Marker, reconcile};
use crate::broker::{BrokerError, Js, Subject, codes};
use crate::connectors::fault;
use crate::engine::NodeMetrics;

/// The marker as it is in the stream.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct At {
    seq: u64,
    marker: Marker,
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
    /// Whether to believe that all outputs are published, whatever the marker says.
    pub(super) rewind: bool,
    pub(super) node: Option<Arc<NodeMetrics>>,
}

/// A batch has so many outputs at most, and so many bytes.
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
            let found = self.read().await?;
            let marker = match (&found, self.rewind, kept) {
                (Some(At { marker, .. }), _, kept) if marker.is_ahead_of(kept) => marker.clone().owned_by(&self.owner),
                (_, true, Some(kept)) => Marker::of(&self.owner, kept.epoch, kept.total, kept.total),
                (_, true, None) => Marker::of(&self.owner, Epoch(0), 0, 0),
                (found, false, kept) => {
                    let (ckpt, next, total) = reconcile(found.as_ref().map(|at| &at.marker), kept, &self.place())?;
                    Marker::of(&self.owner, ckpt, next, total)
                }
            };
            let fence =
                Fence { subject: &self.subject, expected: found.map_or(0, |at| at.seq), payload: marker.bytes() };
            match self.js.publish(self.subject.clone(), fence.headers(), fence.payload.clone()).await {
                Ok(ack) => {
                    self.going_on();
                    return Ok(At { seq: ack.seq, marker });
                }
                // Somebody else wrote it meanwhile, which may be right up to now: look again.
                Err(error) => self.wait(error, &mut pause).await?,
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
            let batch = rest.get(..fitting(rest)).unwrap_or(rest);
            next += batch.len();
            let marker = Marker::of(&self.owner, ckpt, next as u64, total);
            at = self.store(at, marker, &[batch]).await?;
        }
        Ok(at)
    }

    /// Stores outputs, and where the sources stood behind them.
    ///
    /// # Errors
    /// As [`publish`](Publisher::publish).
    pub(super) async fn store_ahead(
        &self,
        at: At,
        epoch: Epoch,
        positions: Value,
        outputs: &[Arc<[Record]>],
    ) -> Result<At> {
        let batch: Vec<&[Record]> = outputs.iter().map(|outputs| &**outputs).collect();
        self.store(at, Marker::ahead(&self.owner, epoch, positions), &batch).await
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
                let there = found.map_or("gone".to_owned(), |found| format!("another one: {:?}", found.marker));
                Fault::new(FaultKind::Connection, format!("the marker on {} is {there}", self.place()))
            }
        }
    }

    /// Stores a marker and outputs in the place of the marker that is there.
    async fn store(&self, at: At, marker: Marker, batch: &[&[Record]]) -> Result<At> {
        let mut pause = FIRST_PAUSE;
        loop {
            let fence = Fence { subject: &self.subject, expected: at.seq, payload: marker.bytes() };
            let error = match publish(self.js.connection(), fence, batch).await {
                Ok(seq) => {
                    self.going_on();
                    return Ok(At { seq, marker });
                }
                Err(error) => error,
            };
            self.wait(error, &mut pause).await?;
            // Whether it is stored, the marker tells: it is there with the outputs, or none of them is.
            match self.read().await? {
                Some(found) if found.marker == marker => {
                    self.going_on();
                    return Ok(found);
                }
                Some(found) if found == at && planted(Bug::SwallowUnknown) => return Ok(At { marker, ..at }),
                Some(found) if found == at => {}
                found => return Err(self.contradicted(found)),
            }
        }
    }

    /// Reads the marker, where writes are decided; tries again while nobody answers.
    async fn read(&self) -> Result<Option<At>> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.js.last_message(&self.stream, &self.subject).await {
                Ok(None) => return Ok(None),
                Ok(Some(message)) => {
                    let marker = Marker::read(&message.payload, &self.place())?;
                    return Ok(Some(At { seq: message.seq, marker }));
                }
                Err(error) => self.wait(error, &mut pause).await?,
            }
        }
    }

    /// Waits a moment after an error, if it may pass.
    async fn wait(&self, error: BrokerError, pause: &mut Duration) -> Result {
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
        if expected {
            tracing::debug!(stream = self.stream, "looking at the marker again: {error}");
        } else {
            tracing::warn!(stream = self.stream, "the output waits, trying again in {pause:?}: {error}");
            if let Some(node) = &self.node {
                node.stalled(Some(error.to_string()));
            }
        }
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }

    fn going_on(&self) {
        if let Some(node) = &self.node {
            node.stalled(None);
        }
    }
}

/// What the marker of a sink says next to what a checkpoint has kept, without taking it over.
///
/// # Errors
/// They contradict each other, or nobody answers.
#[cfg(feature = "cli")]
pub(crate) async fn marked(js: &Js, stream: &str, pipeline: &str, node: &str, kept: &Outputs) -> Result<Marked> {
    let subject = marker_subject(pipeline, node, 0);
    let place = format!("{subject} of stream {stream}");
    let found = js.last_message(stream, &subject).await.map_err(fault)?;
    let marker = found.map(|message| Marker::read(&message.payload, &place)).transpose()?;
    if let Some(marker) = marker.as_ref().filter(|marker| marker.is_ahead_of(Some(kept))) {
        return Ok(marker.marked());
    }
    let (epoch, _, total) = reconcile(marker.as_ref(), Some(kept), &place)?;
    Ok(Marked { epoch, total, positions: None })
}

/// How many of the records fit in one batch: at least one.
fn fitting(records: &[Record]) -> usize {
    let mut bytes = 0;
    let fits = |record: &&Record| {
        bytes += record.subject.len() + record.headers.wire_len() + record.payload.len();
        bytes <= MOST_BYTES
    };
    records.iter().take(MOST).take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_bounded_in_messages_and_bytes_and_takes_one_of_any_size() {
        let records = |count: usize, size: usize| vec![Record::of(vec![0_u8; size]); count];
        for (count, size, wanted) in [(1, 1, 1), (501, 1, 500), (3, 16 << 20, 1), (9, 4 << 20, 2), (9, 2 << 20, 4)] {
            assert_eq!(fitting(&records(count, size)), wanted, "{count} of {size}");
        }
    }
}
