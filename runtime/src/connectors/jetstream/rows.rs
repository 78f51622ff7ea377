//! [`Rows`]: deliveries as a batch of payloads with their origins.

use std::sync::Arc;

use bytes::Bytes;
use millstream_operators::{Batch, Origin, Origins, Place, Result, Timestamp};

use super::delivery::Delivery;
use super::transactional::is_marker;
use crate::broker::Incoming;

/// A batch of payloads, if there are any.
pub(super) type Given = Option<Batch<Vec<Bytes>>>;

/// A batch as it grows.
pub(super) struct Rows {
    times: Vec<Timestamp>,
    rows: Vec<Bytes>,
    messages: Vec<Origin>,
    weight: usize,
}

impl Rows {
    /// Room for so many deliveries.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        let (times, rows) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        Rows { times, rows, messages: Vec::with_capacity(capacity), weight: 0 }
    }

    /// Adds a message, whose bytes are shared with the row's origin and not copied; but for the marker of a sink, which is
    /// no data.
    pub(super) fn push(&mut self, delivery: &Delivery, message: Incoming) {
        if is_marker(&message.subject) {
            return;
        }
        let stored_at = Timestamp::from_micros(delivery.stored_at / 1000);
        self.weight += message.wire_len;
        self.times.push(stored_at);
        self.rows.push(message.payload.clone());
        self.messages.push(Origin {
            sequence: delivery.stream_seq,
            stored_at,
            headers: message.headers,
            payload: message.payload,
            subject_bytes: message.subject.into_bytes(),
        });
    }

    /// When the last message was stored.
    pub(super) fn last_stored_at(&self) -> Option<Timestamp> {
        self.times.last().copied()
    }

    /// The batch, read at `place`; nothing if there are no rows.
    pub(super) fn into_batch(self, place: &Arc<Place>) -> Result<Given> {
        if self.rows.is_empty() {
            return Ok(None);
        }
        let batch = Batch::new(self.times, self.rows)?.weighing(self.weight);
        batch.with_origins(Origins::one_each(Arc::clone(place), self.messages)).map(Some)
    }
}
