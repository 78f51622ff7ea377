//! [`Publisher`]: takes the marker of a sink over, and publishes the outputs of checkpoints behind it.

use std::sync::Arc;
use std::time::Duration;

use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{Epoch, Fault, FaultKind, Outputs, Record, Result};

use super::batch::{Fence, publish};
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
const MOST_BYTES: usize = 8 << 20;
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
            let (ckpt, next, total) = match (self.rewind, kept) {
                (true, Some(kept)) => (kept.epoch, kept.total, kept.total),
                (true, None) => (Epoch(0), 0, 0),
                (false, kept) => reconcile(found.as_ref().map(|at| &at.marker), kept, &self.place())?,
            };
            let marker = Marker::of(&self.owner, ckpt, next, total);
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
            at = self.store(at, marker, batch).await?;
        }
        Ok(at)
    }

    /// Stores a marker and outputs in the place of the marker that is there.
    async fn store(&self, at: At, marker: Marker, batch: &[Record]) -> Result<At> {
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
                Some(found) if found.marker.owner != self.owner => {
                    let words = format!("another instance has taken over {}; this one stops", self.place());
                    return Err(Fault::new(FaultKind::Fenced, words));
                }
                // What is published is in the checkpoint: a new start compares.
                found => {
                    let there = found.map_or("gone".to_owned(), |found| format!("another one: {:?}", found.marker));
                    let words = format!("the marker on {} is {there}", self.place());
                    return Err(Fault::new(FaultKind::Connection, words));
                }
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
