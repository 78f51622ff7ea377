//! [`Encoding`]: what messages are made of, and [`EncodeError`], what may be wrong with that.

use std::fmt;
use std::ops::Range;

use crate::{SizeLimit, Template};

/// How rows are written into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeFormat {
    /// One JSON object a message. Nulls are written, times are RFC 3339 in UTC, bytes are base64, spans are
    /// microseconds; NaN and the infinities, which JSON cannot write, are null.
    Json,
    /// One JSON object a line, as many lines a message as rows came together: where messages end depends on where batches
    /// are cut, as it does in an Arrow IPC stream.
    Ndjson,
    /// An Arrow IPC stream a message, of as many rows as came together.
    ArrowIpc,
    /// One MessagePack map a message. Times and spans are microseconds.
    Msgpack,
    /// One text column is the message; null is an empty one. Columns that subject or headers name are not counted.
    Text,
    /// One binary column is the message; null is an empty one. Columns that subject or headers name are not counted.
    Raw,
}

impl EncodeFormat {
    /// The word for it, as in a pipeline file.
    pub fn word(self) -> &'static str {
        match self {
            EncodeFormat::Json => "json",
            EncodeFormat::Ndjson => "ndjson",
            EncodeFormat::ArrowIpc => "arrow",
            EncodeFormat::Msgpack => "msgpack",
            EncodeFormat::Text => "text",
            EncodeFormat::Raw => "raw",
        }
    }

    /// Whether many rows share one message.
    pub fn is_of_many(self) -> bool {
        matches!(self, EncodeFormat::Ndjson | EncodeFormat::ArrowIpc)
    }
}

/// How times are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EncodeTimes {
    /// As the format does: RFC 3339 text in JSON, microseconds in MessagePack.
    #[default]
    Usual,
    /// Whole seconds since the epoch, rounded down.
    Seconds,
    /// Whole milliseconds since the epoch, rounded down.
    Millis,
    /// Microseconds since the epoch.
    Micros,
}

impl EncodeTimes {
    /// The microseconds that 1 stands for, where times are numbers.
    pub(in crate::columnar) fn unit(self) -> Option<i64> {
        match self {
            EncodeTimes::Usual => None,
            EncodeTimes::Seconds => Some(1_000_000),
            EncodeTimes::Millis => Some(1_000),
            EncodeTimes::Micros => Some(1),
        }
    }
}

/// What messages are made of.
#[derive(Clone, Debug)]
pub struct Encoding {
    /// How rows are written.
    pub format: EncodeFormat,
    /// How times are written, in messages, subjects and headers; Arrow has a type for them.
    pub times: EncodeTimes,
    /// The subject; none for sinks that have no subjects.
    pub subject: Option<Template>,
    /// Names and values of headers.
    pub headers: Vec<(String, Template)>,
    /// Bytes of headers and payload that one message may have.
    pub max_size: usize,
    /// How many the sink takes, which may be fewer.
    pub limit: SizeLimit,
    /// Whether each message becomes a line of a file, or lines, and so must not hold line breaks of its own.
    pub lines: bool,
}

/// Something that is wrong with an [`Encoding`]: the setting, what about it, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeError {
    /// The setting: `format`, `subject`, `headers.name`.
    pub setting: String,
    /// The bytes of its text that are to blame, where a part of it is.
    pub within: Option<Range<usize>>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.what)?;
        self.help.iter().try_for_each(|help| write!(f, " ({help})"))
    }
}

impl std::error::Error for EncodeError {}
