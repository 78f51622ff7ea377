//! [`Record`]: what a sink writes.

use bytes::Bytes;

use crate::Headers;

/// A row that is ready to leave: its encoded payload, the subject that it goes to, and its headers.
///
/// Encoders make records; JetStream, core NATS and other message sinks write them, and sinks without subjects
/// (stdout, files) write the payload alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The subject, valid UTF-8 and checked token by token; empty for sinks that have none.
    pub subject: Bytes,
    /// The headers; reserved ones (`Nats-*`) are the sink's to add.
    pub headers: Headers,
    /// The payload.
    pub payload: Bytes,
}

impl Record {
    /// A payload without subject and headers.
    pub fn of(payload: impl Into<Bytes>) -> Self {
        Record { payload: payload.into(), ..Record::default() }
    }

    /// The subject as text.
    pub fn subject(&self) -> &str {
        std::str::from_utf8(&self.subject).unwrap_or("")
    }
}
