//! [`registry`]: the kinds of sources and sinks that a pipeline file may name.

use std::path::PathBuf;

use millstream_operators::Timestamp;
use millstream_pipelines::dsl::{ReadFrom, WriteTo};
use millstream_pipelines::registry::{OneOrMany, Registry, Span, Spec, Subjects, Wiring};
use schemars::JsonSchema;
use serde::Deserialize;

use super::generate::Generate;
use super::lookup::LookUp;
use super::nodes::{core_nats_node, core_nats_to, file_sink, file_source, stdout, stdout_with_subjects};
use super::{Share, dead_letters, jetstream, jetstream_to};

/// All kinds that there are: the steps, and the connectors of this crate. Add your own with its methods.
pub fn registry() -> Registry {
    let registry = Registry::default();
    #[cfg(feature = "jetstream")]
    let registry = registry.table::<crate::broker::ConnectOptions>("nats");
    let registry = registry.source::<ReadJetStream>().source::<ReadCoreNats>().source::<ReadFile>();
    let registry = registry.rows_source::<Generate>();
    let registry = registry.sink::<WriteJetStream>().sink::<WriteCoreNats>().sink::<WriteFile>();
    registry.sink::<WriteStdout>().rejected_sink::<DeadLetter>().step::<LookUp>()
}

/// Reads a JetStream stream: every message at least once, in order.
#[derive(Deserialize, JsonSchema)]
struct ReadJetStream {
    /// The stream.
    stream: String,
    /// Which of its subjects, with wildcards; all if not given.
    #[serde(default)]
    subjects: Option<OneOrMany>,
    /// Where to begin when there is no checkpoint; with the first message if not given.
    #[serde(default)]
    start: Option<StartWord>,
    /// What happens when messages are gone that were not read yet; `fail` if not given.
    #[serde(default)]
    on_gap: Option<GapWord>,
    /// How many messages may be delivered and not yet part of a checkpoint; 100,000 if not given.
    #[serde(default)]
    #[schemars(range(min = 2, max = 1_000_000))]
    max_ack_pending: Option<u32>,
    /// Shares the stream with other processes of this pipeline, each message handled by one of them, in no order: `true`, or
    /// a table of settings.
    #[serde(default)]
    share: Option<ShareWord>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum ShareWord {
    Is(bool),
    With(ShareKeys),
}

/// How a stream is shared.
#[derive(Deserialize, JsonSchema)]
#[serde(default)]
struct ShareKeys {
    /// How long the server waits for a sign of life before it gives a message to another process; 30s if not given.
    ack_wait: Span,
    /// How often a message is delivered at most; until it is done if not given.
    max_deliver: Option<u32>,
    /// What to wait in place of `ack_wait` after the first, the second, ... delivery.
    backoff: Vec<Span>,
    /// How many messages one process may have in hand; 4096 if not given.
    prefetch: u32,
}

impl Default for ShareKeys {
    fn default() -> Self {
        let Share { ack_wait, max_deliver, prefetch, .. } = Share::default();
        ShareKeys { ack_wait: Span(ack_wait), max_deliver, backoff: Vec::new(), prefetch }
    }
}

impl From<ShareKeys> for Share {
    fn from(keys: ShareKeys) -> Self {
        let ShareKeys { ack_wait, max_deliver, backoff, prefetch } = keys;
        Share { ack_wait: ack_wait.0, max_deliver, backoff: backoff.iter().map(|span| span.0).collect(), prefetch }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum StartWord {
    /// With the first message that the stream has.
    Earliest,
    /// With what comes from now on.
    Latest,
    /// With this stream sequence.
    Sequence(u64),
    /// With the first message stored at or after this time, in RFC 3339.
    Time(String),
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum GapWord {
    /// The pipeline stops and says what is missing.
    Fail,
    /// The loss is logged, and reading goes on behind it.
    Skip,
    /// As `skip`, and a record of the loss goes where `on_error` sends rejected rows, such as the dead letters.
    RecordAndSkip,
}

impl Spec for ReadJetStream {
    const KIND: &'static str = "jetstream";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let mut from = jetstream(self.stream);
        if let Some(subjects) = &self.subjects {
            from = from.subjects(subjects.names().iter().cloned());
        }
        from = match self.start {
            None | Some(StartWord::Earliest) => from,
            Some(StartWord::Latest) => from.from_latest(),
            Some(StartWord::Sequence(sequence)) => from.from_sequence(sequence),
            Some(StartWord::Time(time)) => match chrono::DateTime::parse_from_rfc3339(&time) {
                Ok(time) => from.from_time(Timestamp::from_micros(time.timestamp_micros())),
                Err(why) => {
                    let wrong = wiring.wrong(format!("`{time}` is no time: {why}")).in_setting("start.time");
                    wiring.problem(wrong.help("write it as in 2026-01-31T12:00:00Z"));
                    from
                }
            },
        };
        from = match self.on_gap {
            None | Some(GapWord::Fail) => from,
            Some(GapWord::Skip) => from.skip_gaps(),
            Some(GapWord::RecordAndSkip) => from.record_gaps(),
        };
        if let Some(messages) = self.max_ack_pending {
            from = from.max_ack_pending(messages);
        }
        from = match self.share {
            None | Some(ShareWord::Is(false)) => from,
            Some(ShareWord::Is(true)) => from.shared(),
            Some(ShareWord::With(keys)) => from.share(keys.into()),
        };
        wiring.reads(from.source_node(wiring.name()));
    }
}

/// Writes to a JetStream stream: every message is confirmed before its checkpoint completes.
#[derive(Deserialize, JsonSchema)]
struct WriteJetStream {
    /// The stream.
    stream: String,
    /// Creates the stream with these subjects if there is none.
    #[serde(default)]
    create: Option<OneOrMany>,
    /// Gives each message an id made of its origin and of what it says, so that the stream drops repeats within its
    /// duplicate window: for formats of one row a message. It costs the server 3 to 4 microseconds a message.
    #[serde(default)]
    dedup: bool,
}

impl Spec for WriteJetStream {
    const KIND: &'static str = "jetstream";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let mut to = jetstream_to(self.stream);
        if let Some(subjects) = &self.create {
            to = to.create(subjects.names().iter().cloned());
        }
        if self.dedup {
            to = to.dedup();
        }
        wiring.writes(to.sink_node(wiring.name()), Subjects::Needed);
    }
}

/// Writes rejected rows to a stream, each as the message that it came from, on the subject `mill.dlq.<pipeline>.<node>`
/// and with what happened in its headers.
#[derive(Deserialize, JsonSchema)]
struct DeadLetter {
    /// The stream; `mill_dlq` if not given.
    #[serde(default)]
    stream: Option<String>,
    /// Creates the stream if there is none, and adds the pipeline's subject to one that does not take it; `true` if not
    /// given, unlike with other sinks: what was refused should have a place.
    #[serde(default)]
    create: Option<bool>,
}

impl Spec for DeadLetter {
    const KIND: &'static str = "dead_letter";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let letters = dead_letters(self.stream.unwrap_or_else(|| "mill_dlq".to_owned()));
        wiring.takes_rejected(if self.create == Some(false) { letters } else { letters.create() });
    }
}

/// Listens on a core NATS subject, at most once: what is published while nobody listens is lost.
#[derive(Deserialize, JsonSchema)]
struct ReadCoreNats {
    /// The subject, with wildcards.
    subject: String,
    /// Shares the subject's messages with the other members of this queue group.
    #[serde(default)]
    group: Option<String>,
}

impl Spec for ReadCoreNats {
    const KIND: &'static str = "core_nats";

    fn wire(self, wiring: &mut Wiring<'_>) {
        wiring.reads(core_nats_node(self.subject, self.group));
    }
}

/// Publishes on core NATS subjects, at most once: what nobody hears is lost.
#[derive(Deserialize, JsonSchema)]
struct WriteCoreNats {}

impl Spec for WriteCoreNats {
    const KIND: &'static str = "core_nats";

    fn wire(self, wiring: &mut Wiring<'_>) {
        wiring.writes(core_nats_to(), Subjects::Needed);
    }
}

/// Reads the lines of a file, and ends with it.
#[derive(Deserialize, JsonSchema)]
struct ReadFile {
    /// The file.
    path: PathBuf,
}

impl Spec for ReadFile {
    const KIND: &'static str = "file";

    fn wire(self, wiring: &mut Wiring<'_>) {
        wiring.reads(file_source(self.path));
    }
}

/// Writes a line a message to a file: `json`, `ndjson`, or `text` and `raw` without line breaks.
#[derive(Deserialize, JsonSchema)]
struct WriteFile {
    /// The file.
    path: PathBuf,
    /// Begins the file anew when the pipeline starts for the first time, from no checkpoint; not when it goes on, and not
    /// where sources are shared, as nobody knows there which start is the first.
    #[serde(default)]
    truncate: bool,
}

impl Spec for WriteFile {
    const KIND: &'static str = "file";

    fn wire(self, wiring: &mut Wiring<'_>) {
        wiring.writes(file_sink(self.path, self.truncate), Subjects::None);
    }
}

/// Prints a line a message: `json`, `ndjson`, or `text` and `raw` without line breaks.
#[derive(Deserialize, JsonSchema)]
struct WriteStdout {
    /// Prints the subject before each message.
    #[serde(default)]
    subjects: bool,
}

impl Spec for WriteStdout {
    const KIND: &'static str = "stdout";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let subjects = self.subjects;
        let node = if subjects { stdout_with_subjects() } else { stdout() };
        wiring.writes(node, if subjects { Subjects::Needed } else { Subjects::None });
    }
}
