//! [`MessageIds`]: the ids by which a stream knows a message that it has already.
//!
//! An id must be the same when a row comes again after a restart, and never that of another row. A row has no number of its
//! own: in which order the branches of a pipeline meet differs from run to run. So an id says from which message the row came
//! and, by a digest, what it says; only rows that are equal in all of that are counted, and which of them is the first does
//! not matter.
//!
//! All rows of a message are written within one epoch, and after a restart all of them come again. So the counts of an epoch
//! are forgotten at its end.

use std::collections::HashMap;
use std::fmt::Write as _;

use millstream_operators::{Headers, Origin, Place};
use sha2::{Digest, Sha256};

/// Makes message ids for one subtask of a sink.
#[derive(Debug)]
pub(super) struct MessageIds {
    // The writer: two sinks, or two subtasks of one, may write equal rows of one message into one stream.
    writer: String,
    // How many rows of this epoch have a digest.
    times: HashMap<u64, u32>,
    id: String,
    warned: bool,
}

impl MessageIds {
    /// Ids of what `writer` writes: the pipeline, the sink's node and its subtask.
    pub(super) fn of(writer: &str) -> Self {
        MessageIds { writer: writer.into(), times: HashMap::new(), id: String::new(), warned: false }
    }

    /// The id of a row that came from `origin`; none if that has no place in its source, by which it could be known again.
    pub(super) fn next(
        &mut self,
        (place, origin): (&Place, &Origin),
        subject: &[u8],
        headers: &Headers,
        payload: &[u8],
    ) -> Option<&str> {
        if origin.sequence == 0 {
            return None;
        }
        let digest = digest(place, origin, subject, headers, payload);
        let times = self.times.entry(digest).or_default();
        let before = *times;
        *times = times.saturating_add(1);
        let (writer, node, sequence) = (&self.writer, &place.node, origin.sequence);
        self.id.clear();
        // Writing to a string does not fail.
        let _ = write!(self.id, "{writer}:{node}:{sequence}:{digest:016x}");
        if before > 0 {
            let _ = write!(self.id, ":{before}");
        }
        Some(&self.id)
    }

    /// An epoch ends.
    pub(super) fn end_epoch(&mut self) {
        self.times.clear();
    }

    /// Says once that there are rows which nothing can be known again by.
    pub(super) fn warn_of_none(&mut self, stream: &str) {
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                stream,
                "`dedup` cannot give a message id to rows that came from no single message (totals, many rows in one message) or from a source without sequences (core NATS): after a restart they may come twice"
            );
        }
    }
}

/// What a row says and where it came from. A message of a stream is known by its time too: a stream that was made again gives
/// its sequences a second time. Sources without subjects, such as files, have no times of their own.
fn digest(place: &Place, origin: &Origin, subject: &[u8], headers: &Headers, payload: &[u8]) -> u64 {
    let mut digest = Sha256::new();
    let mut add = |part: &[u8]| {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    };
    add(place.node.as_bytes());
    add(place.stream.as_bytes());
    add(&origin.sequence.to_le_bytes());
    add(if origin.subject_bytes.is_empty() { [0; 8] } else { origin.stored_at.as_micros().to_le_bytes() }.as_slice());
    add(subject);
    for (name, value) in headers.iter() {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    add(payload);
    let digest: [u8; 32] = digest.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millstream_operators::Timestamp;

    use super::*;

    fn place(node: &str) -> Place {
        Place { node: node.into(), stream: "IN".into() }
    }

    fn at(sequence: u64) -> Origin {
        Origin {
            sequence,
            stored_at: Timestamp::from_millis(7),
            subject_bytes: Bytes::from_static(b"in"),
            ..Origin::default()
        }
    }

    fn id(ids: &mut MessageIds, sequence: u64, payload: &str) -> String {
        ids.next((&place("in"), &at(sequence)), b"out", &Headers::NONE, payload.as_bytes()).unwrap().to_owned()
    }

    #[test]
    fn whatever_the_order_rows_have_the_same_ids_and_different_ones() {
        let rows = [(1, "a"), (2, "a"), (1, "b"), (1, "a"), (2, "a"), (3, "c")];
        let all = |rows: &[(u64, &str)]| {
            let mut ids = MessageIds::of("p:out:0");
            let mut all: Vec<_> = rows.iter().map(|(sequence, row)| id(&mut ids, *sequence, row)).collect();
            all.sort();
            all
        };
        let first = all(&rows);
        let mut distinct = first.clone();
        distinct.dedup();
        assert_eq!(distinct.len(), rows.len());
        for turn in 1..rows.len() {
            assert_eq!(all(&[&rows[turn..], &rows[..turn]].concat()), first);
        }
    }

    #[test]
    fn whatever_differs_gives_another_id() {
        let mut headers = Headers::NONE;
        headers.push("a", "b").unwrap();
        let none = Headers::NONE;
        let later = Origin { stored_at: Timestamp::from_millis(8), ..at(1) };
        let variants = [
            ("p:out:0", "in", at(1), "s", &none, "x"),
            ("p:out:1", "in", at(1), "s", &none, "x"),
            ("p:in:0", "in", at(1), "s", &none, "x"),
            ("p:out:0", "other", at(1), "s", &none, "x"),
            ("p:out:0", "in", at(2), "s", &none, "x"),
            ("p:out:0", "in", later, "s", &none, "x"),
            ("p:out:0", "in", at(1), "t", &none, "x"),
            ("p:out:0", "in", at(1), "s", &headers, "x"),
            ("p:out:0", "in", at(1), "s", &none, "y"),
        ];
        let mut ids: Vec<_> = variants
            .iter()
            .map(|(writer, node, origin, subject, headers, payload)| {
                let mut ids = MessageIds::of(writer);
                let of = (&place(node), origin);
                ids.next(of, subject.as_bytes(), headers, payload.as_bytes()).unwrap().to_owned()
            })
            .collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), variants.len());
    }

    #[test]
    fn a_new_epoch_counts_anew_and_a_line_of_a_file_is_known_by_its_number() {
        let mut ids = MessageIds::of("p:out:0");
        let first = id(&mut ids, 1, "a");
        ids.end_epoch();
        assert_eq!(id(&mut ids, 1, "a"), first);
        let line = |millis| Origin { subject_bytes: Bytes::new(), stored_at: Timestamp::from_millis(millis), ..at(1) };
        let of = |millis| {
            let mut ids = MessageIds::of("p:out:0");
            ids.next((&place("in"), &line(millis)), b"s", &Headers::NONE, b"x").unwrap().to_owned()
        };
        assert_eq!(of(1), of(2));
        assert!(MessageIds::of("w").next((&place("in"), &at(0)), b"s", &Headers::NONE, b"x").is_none());
    }
}
