//! The keys that all nodes of one place in a pipeline file share.

use millstream_operators::columnar::{DecodeFormat, EncodeFormat, EncodeTimes, Meta};
use millstream_operators::watermarks::{Watermarks, bounded_lateness};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Ordered, Size, Span};

/// What becomes of rows that a node rejects.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RejectedWord {
    /// The first one stops the pipeline.
    Stop,
    /// They are counted and dropped.
    Drop,
    /// They go to this sink, which has no `from` of its own.
    SendTo(String),
}

/// One name or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    pub fn names(&self) -> &[String] {
        match self {
            OneOrMany::One(name) => std::slice::from_ref(name),
            OneOrMany::Many(names) => names,
        }
    }
}

/// How messages are read.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReadWord {
    /// One JSON object a message.
    Json,
    /// One JSON object a line, any number of lines a message.
    Ndjson,
    /// An Arrow IPC stream a message.
    Arrow,
    /// One MessagePack map a message.
    Msgpack,
    /// The message is the value of one text column.
    Text,
    /// The message is the value of one binary column.
    Raw,
}

/// How messages are written.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WriteWord {
    /// One JSON object a message.
    #[default]
    Json,
    /// One JSON object a line, as many lines a message as rows came together.
    Ndjson,
    /// An Arrow IPC stream a message, of as many rows as came together.
    Arrow,
    /// One MessagePack map a message.
    Msgpack,
    /// One text column is the message.
    Text,
    /// One binary column is the message.
    Raw,
}

/// How times are written.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TimesWord {
    /// Whole seconds, rounded down.
    S,
    /// Whole milliseconds, rounded down.
    Ms,
    /// Microseconds.
    Us,
}

impl From<TimesWord> for EncodeTimes {
    fn from(word: TimesWord) -> Self {
        match word {
            TimesWord::S => EncodeTimes::Seconds,
            TimesWord::Ms => EncodeTimes::Millis,
            TimesWord::Us => EncodeTimes::Micros,
        }
    }
}

/// Something about a message that is not in its payload.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MetaWord {
    /// The subject that it was published on.
    Subject,
    /// Its sequence in the stream.
    Sequence,
    /// When the stream stored it.
    Time,
    /// The first value of this header.
    Header(String),
}

impl From<ReadWord> for DecodeFormat {
    fn from(word: ReadWord) -> Self {
        match word {
            ReadWord::Json => DecodeFormat::Json,
            ReadWord::Ndjson => DecodeFormat::Ndjson,
            ReadWord::Arrow => DecodeFormat::ArrowIpc,
            ReadWord::Msgpack => DecodeFormat::Msgpack,
            ReadWord::Text => DecodeFormat::Text,
            ReadWord::Raw => DecodeFormat::Raw,
        }
    }
}

impl From<WriteWord> for EncodeFormat {
    fn from(word: WriteWord) -> Self {
        match word {
            WriteWord::Json => EncodeFormat::Json,
            WriteWord::Ndjson => EncodeFormat::Ndjson,
            WriteWord::Arrow => EncodeFormat::ArrowIpc,
            WriteWord::Msgpack => EncodeFormat::Msgpack,
            WriteWord::Text => EncodeFormat::Text,
            WriteWord::Raw => EncodeFormat::Raw,
        }
    }
}

impl From<MetaWord> for Meta {
    fn from(word: MetaWord) -> Self {
        match word {
            MetaWord::Subject => Meta::Subject,
            MetaWord::Sequence => Meta::Sequence,
            MetaWord::Time => Meta::Time,
            MetaWord::Header(name) => Meta::Header(name),
        }
    }
}

/// The keys of a source of messages.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct Payloads {
    /// What it reads.
    #[expect(dead_code, reason = "it is there for the schema; who reads the table has looked at it")]
    kind: String,
    /// How its messages are read.
    pub(crate) format: ReadWord,
    /// The columns and their types: `id = "utf8"`, `amount = "float64 not null"`.
    #[serde(default)]
    pub(crate) schema: Option<Ordered<String>>,
    /// Rejects messages that have fields which the schema does not name.
    #[serde(default)]
    pub(crate) strict: bool,
    /// More columns, about the message: `subject = "subject"`, `trace = { header = "traceparent" }`.
    #[serde(default)]
    pub(crate) meta: Ordered<MetaWord>,
    /// When what a row tells of happened: `{ column = "placed_at", max_lateness = "5s" }`. Windows and joins go by it.
    #[serde(default)]
    pub(crate) event_time: Option<EventTimeKeys>,
    /// What becomes of messages that are no such rows.
    #[serde(default)]
    pub(crate) on_error: Option<RejectedWord>,
}

/// When what a row tells of happened, and how far event time has come.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct EventTimeKeys {
    /// The column of timestamps.
    pub(crate) column: String,
    /// How much out of order rows may be: windows close so much later.
    pub(crate) max_lateness: Span,
    /// An input that is silent for so long holds nobody back.
    #[serde(default)]
    idle_after: Option<Span>,
    /// A row so far ahead of the time at which its message was stored is rejected: 1d if not given.
    #[serde(default)]
    max_ahead: Option<Span>,
    /// Each subject has a watermark of its own, and the slowest that is not idle counts: it needs `idle_after`.
    #[serde(default)]
    per_subject: bool,
}

impl EventTimeKeys {
    pub(crate) fn watermarks(&self) -> Watermarks {
        let mut watermarks = bounded_lateness(self.max_lateness.0);
        if let Some(span) = self.idle_after {
            watermarks = watermarks.idle_after(span.0);
        }
        if let Some(span) = self.max_ahead {
            watermarks = watermarks.max_ahead(span.0);
        }
        if self.per_subject { watermarks.per_subject() } else { watermarks }
    }
}

/// The keys of a source of rows.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct Rows {
    /// What it reads.
    #[expect(dead_code, reason = "it is there for the schema; who reads the table has looked at it")]
    kind: String,
    /// What becomes of rows that cannot be made.
    #[serde(default)]
    pub(crate) on_error: Option<RejectedWord>,
}

/// The keys of a step.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct StepKeys {
    /// The name of the step: others read it under this name, and its metrics are found by it.
    #[expect(dead_code, reason = "it is there for the schema; who reads the table has looked at it")]
    name: String,
    /// Which source or step it reads, or several; `step.output` for a named output.
    #[expect(dead_code, reason = "it is there for the schema; who reads the table has looked at it")]
    from: OneOrMany,
    /// What it does, where no other key says so.
    #[serde(default)]
    #[expect(dead_code, reason = "it is there for the schema; who reads the table has looked at it")]
    kind: Option<String>,
    /// What becomes of rows that something cannot be computed for.
    #[serde(default)]
    pub(crate) on_error: Option<RejectedWord>,
    /// How many instances share the work.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1024))]
    pub(crate) parallelism: Option<u32>,
}

/// The keys of a sink of messages.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct Records {
    /// What it writes to.
    #[expect(dead_code, reason = "it is there for the schema; who reads the table has looked at it")]
    kind: String,
    /// Which source or step it takes, or several. A sink without it takes rejected rows that others send to it.
    #[serde(default)]
    pub(crate) from: Option<OneOrMany>,
    /// How its messages are written.
    #[serde(default)]
    pub(crate) format: WriteWord,
    /// How times are written: as numbers of seconds, milliseconds or microseconds since the epoch. If not given, as RFC 3339
    /// text, or in MessagePack as microseconds.
    #[serde(default)]
    pub(crate) times: Option<TimesWord>,
    /// The subject of each message; `{column}` stands for the value of a column.
    #[serde(default)]
    pub(crate) subject: Option<String>,
    /// Headers of each message; `{column}` stands for the value of a column.
    #[serde(default)]
    pub(crate) headers: Ordered<String>,
    /// Messages of more bytes, headers included, are rejected: 1 MiB if not given.
    #[serde(default)]
    pub(crate) max_size: Option<Size>,
    /// What becomes of rows that cannot be written.
    #[serde(default)]
    pub(crate) on_error: Option<RejectedWord>,
    /// How many instances share the work.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1024))]
    pub(crate) parallelism: Option<u32>,
}

/// The keys of a sink of rejected rows.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct RejectedRows {
    /// What it writes to.
    #[expect(dead_code, reason = "it is there for the schema; who reads the table has looked at it")]
    kind: String,
}
