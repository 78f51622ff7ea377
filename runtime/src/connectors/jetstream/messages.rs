//! [`Messages`]: records as the messages that a sink publishes.

use bytes::Bytes;
use millstream_operators::{Fault, FaultKind, Headers, Origins, Record, Result};

use super::JetStreamWrite;
use super::letters;
use super::message_ids::MessageIds;
use super::window::Waiting;
use crate::broker::{Subject, is_publishable};

/// What an id adds at most, with the name of its header: names of pipeline, sink and source, and three numbers.
const LONGEST_ID: usize = 320;

/// Makes messages of records: subjects are checked, reserved headers are the sink's alone, and what is larger than the
/// server takes is refused, or shortened where it is a dead letter.
pub(super) struct Messages {
    write: JetStreamWrite,
    subject: Option<(Bytes, Subject)>,
    ids: MessageIds,
}

impl Messages {
    /// Those of a sink that message ids call `name`.
    pub(super) fn of(name: &str, write: JetStreamWrite) -> Self {
        Messages { write, subject: None, ids: MessageIds::of(name) }
    }

    /// What is written to, and how.
    pub(super) fn write(&self) -> &JetStreamWrite {
        &self.write
    }

    /// The message of a record, which is row `row` of a batch with these origins; the server takes `max` bytes.
    ///
    /// # Errors
    /// It is too large, or there is no such subject: what made the record should have seen to it.
    pub(super) fn message(
        &mut self,
        record: Record,
        origins: Option<&Origins>,
        row: usize,
        max: usize,
    ) -> Result<Waiting> {
        let Record { subject, mut headers, payload } = record;
        // Whoever made the record: reserved headers are the sink's to add.
        if headers.iter().any(|(name, _)| Headers::is_reserved(name)) {
            headers = headers.filtered(|name| !Headers::is_reserved(name));
        }
        let origin = origins.and_then(|all| Some((all.place().as_ref(), all.get(row)?)));
        if self.write.dedup {
            let id = origin.and_then(|origin| self.ids.next(origin, &subject, &headers, &payload));
            match id {
                Some(id) => headers.push("Nats-Msg-Id", id).map_err(|error| Fault::bug(error.to_string()))?,
                None => self.ids.warn_of_none(&self.write.stream),
            }
        }
        let mut message = Waiting { subject: self.subject(subject)?, headers, payload };
        if self.write.by_reference && letters::is_too_large(&message.headers, &message.payload, max) {
            let known = origin.filter(|(_, origin)| origin.sequence > 0);
            let whole = known.map(|(place, origin)| format!("{}/{}", place.stream, origin.sequence));
            let fitting = letters::fit(&message.headers, &message.payload, max, whole.as_deref());
            (message.headers, message.payload) = fitting.map_err(|error| Fault::bug(error.to_string()))?;
        }
        let size = message.size();
        if size > max {
            let words = format!(
                "a message of {size} bytes for {} is over the server's max_payload of {max}: set the sink's max_size to it, so that such rows are rejected",
                message.subject
            );
            return Err(Fault::new(FaultKind::Setup, words));
        }
        Ok(message)
    }

    /// A record's subject, checked. Records often share the memory of it: then it was checked before.
    fn subject(&mut self, bytes: Bytes) -> Result<Subject> {
        if let Some((known, subject)) = &self.subject
            && known.as_ptr() == bytes.as_ptr()
            && known.len() == bytes.len()
        {
            return Ok(subject.clone());
        }
        let checked = Subject::try_from(bytes.clone()).ok().filter(|subject| is_publishable(subject));
        let subject = checked.ok_or_else(|| {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            Fault::new(FaultKind::Setup, format!("nothing can be published to the subject {text:?}"))
        })?;
        self.subject = Some((bytes, subject.clone()));
        Ok(subject)
    }

    /// What is left for a record where the server takes `max` bytes.
    pub(super) fn room(&self, max: usize) -> usize {
        max.saturating_sub(if self.write.dedup { LONGEST_ID } else { 0 })
    }

    /// The subject of the last message, if there was one.
    pub(super) fn last_subject(&self) -> Option<Subject> {
        self.subject.as_ref().map(|(_, subject)| subject.clone())
    }

    /// An epoch is over: whether ids come again is told by epochs.
    pub(super) fn end_epoch(&mut self) {
        self.ids.end_epoch();
    }
}
