//! [`Origin`]: the message that a row came from.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Headers, Payload, Timestamp};

/// A message that rows came from: what a dead letter needs to be whole, and what closures and columns can ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origin {
    /// Its place in the source: the stream sequence, the line of a file. Starts at 1; 0 where a source has none.
    pub sequence: u64,
    /// When the source stored it, or, where it has no times of its own, when it was read.
    pub stored_at: Timestamp,
    /// Its headers.
    pub headers: Headers,
    /// Its payload, bit for bit.
    pub payload: Bytes,
    /// Its subject, as UTF-8 bytes; see [`Origin::subject`].
    pub subject_bytes: Bytes,
}

impl Origin {
    /// The subject that it was published on; empty where a source has none.
    pub fn subject(&self) -> &str {
        std::str::from_utf8(&self.subject_bytes).unwrap_or("")
    }

    /// When it was published, or nearly so: a stream has noted that, and what comes past all streams comes at once. Both are so
    /// whenever the row is judged; the lines of a file have no such time.
    pub fn published_at(&self) -> Option<Timestamp> {
        Some(self.stored_at).filter(|at| !self.subject_bytes.is_empty() && *at > Timestamp::from_micros(0))
    }
}

/// Where messages came from: a node of the pipeline, reading a stream, file or other place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The source node.
    pub node: String,
    /// The stream, file or other place that it reads.
    pub stream: String,
}

/// For each row of a batch, the message that it came from.
///
/// Row-wise operators carry it along; windows, joins and aggregates drop it. Many rows may share a message.
#[derive(Clone)]
pub struct Origins {
    place: Arc<Place>,
    of_row: Vec<u32>,
    messages: Arc<[Origin]>,
    gap: Option<Arc<str>>,
}

impl Origins {
    /// One row a message, in order.
    pub fn one_each(place: Arc<Place>, messages: impl Into<Arc<[Origin]>>) -> Self {
        let messages = messages.into();
        Origins {
            place,
            of_row: (0..messages.len()).map(|i| u32::try_from(i).unwrap_or(u32::MAX)).collect(),
            messages,
            gap: None,
        }
    }

    /// Row `i` came from message `of_row[i]`.
    pub fn new(place: Arc<Place>, of_row: Vec<u32>, messages: impl Into<Arc<[Origin]>>) -> Self {
        Origins { place, of_row, messages: messages.into(), gap: None }
    }

    /// Of one row, which is no message: messages are gone that were not read, and it stands in their place. Its origin has
    /// the sequence of the first of them, `words` say what is known. What decodes the row rejects it.
    pub fn of_gap(place: Arc<Place>, origin: Origin, words: impl Into<Arc<str>>) -> Self {
        Origins { place, of_row: vec![0], messages: Arc::new([origin]), gap: Some(words.into()) }
    }

    /// What is gone, where the rows stand in the place of messages that are gone.
    pub fn gap(&self) -> Option<&Arc<str>> {
        self.gap.as_ref()
    }

    /// The node and place that the messages came from.
    pub fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// The message that row `row` came from.
    pub fn get(&self, row: usize) -> Option<&Origin> {
        self.messages.get(*self.of_row.get(row)? as usize)
    }

    /// For each row, the index of its message.
    pub fn of_row(&self) -> &[u32] {
        &self.of_row
    }

    /// All messages of the batch.
    pub fn messages(&self) -> &Arc<[Origin]> {
        &self.messages
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.of_row.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.of_row.is_empty()
    }

    /// The same messages for other rows: new row `i` is what was row `rows[i]`. Rows that were not there have no
    /// origin.
    #[must_use]
    pub fn select(&self, rows: impl IntoIterator<Item = usize>) -> Origins {
        let of_row = rows.into_iter().map(|row| self.of_row.get(row).copied().unwrap_or(u32::MAX)).collect();
        Origins { of_row, ..self.clone_messages() }
    }

    fn clone_messages(&self) -> Origins {
        let (messages, gap) = (Arc::clone(&self.messages), self.gap.clone());
        Origins { place: Arc::clone(&self.place), of_row: Vec::new(), messages, gap }
    }

    pub(crate) fn rows_mut(&mut self) -> &mut Vec<u32> {
        &mut self.of_row
    }

    /// The messages, and for each row the index of its message, to be changed.
    pub(crate) fn split_mut(&mut self) -> (&[Origin], &mut [u32]) {
        (&self.messages, &mut self.of_row)
    }

    pub(crate) fn scatter(self, to: &[u32], parts: usize) -> Vec<Origins> {
        let shared = self.clone_messages();
        self.of_row.scatter(to, parts).into_iter().map(|of_row| Origins { of_row, ..shared.clone_messages() }).collect()
    }

    pub(crate) fn split_off(&mut self, at: usize) -> Origins {
        Origins { of_row: self.of_row.split_off(at.min(self.of_row.len())), ..self.clone_messages() }
    }

    /// Whether both speak of the same messages, so that rows of one may be put behind rows of the other.
    pub(crate) fn same_messages(&self, other: &Origins) -> bool {
        Arc::ptr_eq(&self.messages, &other.messages) && Arc::ptr_eq(&self.place, &other.place)
    }
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origins({} rows of {} messages of {})", self.of_row.len(), self.messages.len(), self.place.stream)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn numbered(n: u64) -> Origins {
        let messages: Vec<_> = (0..n).map(|sequence| Origin { sequence, ..Origin::default() }).collect();
        Origins::one_each(Arc::default(), messages)
    }

    #[test]
    fn many_rows_may_share_a_message() {
        let origins = numbered(3).select([2, 2, 0]);
        assert_eq!((0..3).map(|row| origins.get(row).unwrap().sequence).collect::<Vec<_>>(), [2, 2, 0]);
        assert!(origins.get(3).is_none());
    }

    #[test]
    fn a_row_that_was_not_there_has_no_origin() {
        assert!(numbered(1).select([7]).get(0).is_none());
    }
}
