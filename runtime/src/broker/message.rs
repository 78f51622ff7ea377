//! [`Outgoing`] and [`Incoming`]: a message on its way to the broker, and one that came from it.

use bytes::Bytes;
use millstream_operators::Headers;

use super::Subject;

/// A message to publish.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where to.
    pub subject: Subject,
    /// Where an answer (for a stream: the acknowledgement) shall go.
    pub reply: Option<Subject>,
    /// Names and values that travel along.
    pub headers: Headers,
    /// The content.
    pub payload: Bytes,
}

impl Outgoing {
    /// A message without reply subject and headers.
    pub fn new(subject: impl Into<Subject>, payload: impl Into<Bytes>) -> Self {
        Outgoing { subject: subject.into(), reply: None, headers: Headers::NONE, payload: payload.into() }
    }

    /// The same, to be answered on `reply`.
    #[must_use]
    pub fn reply_to(mut self, reply: impl Into<Subject>) -> Self {
        self.reply = Some(reply.into());
        self
    }

    /// The same, with these headers.
    #[must_use]
    pub fn headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// What counts against the server's `max_payload`: headers as they go over the wire, and payload.
    pub fn size(&self) -> usize {
        headers_len(&self.headers) + self.payload.len()
    }
}

/// A message from the broker.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Where it was published to.
    pub subject: Subject,
    /// Where an answer goes; on a delivery by a consumer, its acknowledgement.
    pub reply: Option<Subject>,
    /// Names and values.
    pub headers: Headers,
    /// The status of a message that a server made itself, such as 404 on a pull with nothing to give.
    pub status: Option<u16>,
    /// What the server says to its status.
    pub description: Option<Box<str>>,
    /// The content.
    pub payload: Bytes,
    /// What it weighed on the wire: subjects, headers and payload.
    pub wire_len: usize,
}

impl Incoming {
    /// Whether a server made this message itself (end of a pull, heartbeat, nobody listens).
    pub fn is_status(&self) -> bool {
        self.status.is_some()
    }
}

/// What headers count against `max_payload`.
pub(super) fn headers_len(headers: &Headers) -> usize {
    headers.wire_len()
}
