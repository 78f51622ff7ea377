//! [`registry`]: the kinds of sources and sinks that a pipeline file may name.

use std::path::PathBuf;
use std::sync::Arc;

use millstream_operators::Timestamp;
use millstream_pipelines::dsl::{ReadFrom, SinkNode, SourceNode, WriteTo};
use millstream_pipelines::graph::{Touch, erase_sink, erase_source};
use millstream_pipelines::registry::{OneOrMany, Registry, Span, Spec, Subjects, Wiring};
use schemars::JsonSchema;
use serde::Deserialize;

use super::generate::Generate;
use super::{
    Connections, CoreNatsSink, CoreNatsSource, FileSink, FileSource, FileStart, Share, StdoutSink, clock, dead_letters,
    jetstream, jetstream_to,
};
use crate::engine::Begin;

/// All kinds that there are: the steps, and the connectors of this crate. Add your own with its methods.
pub fn registry() -> Registry {
    let registry = Registry::default();
    #[cfg(feature = "jetstream")]
    let registry = registry.table::<crate::broker::ConnectOptions>("nats");
    let registry = registry.source::<ReadJetStream>().source::<ReadCoreNats>().source::<ReadFile>();
    let registry = registry.rows_source::<Generate>();
    let registry = registry.sink::<WriteJetStream>().sink::<WriteCoreNats>().sink::<WriteFile>();
    registry.sink::<WriteStdout>().rejected_sink::<DeadLetter>()
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
        if matches!(self.on_gap, Some(GapWord::Skip)) {
            from = from.skip_gaps();
        }
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
    /// given.
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
        let ReadCoreNats { subject, group } = self;
        let touches = vec![Touch { system: "nats".into(), stream: None, subject: Some(subject.clone()) }];
        let node = SourceNode {
            kind: ReadCoreNats::KIND.into(),
            detail: subject.clone(),
            make: Arc::new(move |subtask| {
                let connections = Connections::of(subtask)?;
                let (node, group) = (&subtask.node, group.clone());
                Ok(erase_source(CoreNatsSource::new(node, connections, &subject, group, clock(subtask))))
            }),
            touches,
            access: Vec::new(),
            shared: false,
            at_most_once: Some("core NATS keeps nothing that is published while nobody listens".to_owned()),
            problems: Vec::new(),
        };
        wiring.reads(node);
    }
}

/// Publishes on core NATS subjects, at most once: what nobody hears is lost.
#[derive(Deserialize, JsonSchema)]
struct WriteCoreNats {}

impl Spec for WriteCoreNats {
    const KIND: &'static str = "core_nats";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let node = SinkNode {
            kind: WriteCoreNats::KIND.into(),
            detail: String::new(),
            make: Arc::new(|subtask| Ok(erase_sink(CoreNatsSink::new(Connections::of(subtask)?)))),
            touches: vec![Touch { system: "nats".into(), stream: None, subject: None }],
            access: Vec::new(),
            at_most_once: Some("core NATS does not say whether anybody has heard".to_owned()),
            lines: false,
            problems: Vec::new(),
        };
        wiring.writes(node, Subjects::Needed);
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
        let node = SinkNode {
            kind: WriteStdout::KIND.into(),
            detail: String::new(),
            make: Arc::new(move |_| Ok(erase_sink(StdoutSink::new(subjects)))),
            touches: Vec::new(),
            access: Vec::new(),
            at_most_once: None,
            lines: true,
            problems: Vec::new(),
        };
        wiring.writes(node, if subjects { Subjects::Needed } else { Subjects::None });
    }
}

/// A source of the lines of a file.
pub fn file_source(path: impl Into<PathBuf>) -> SourceNode {
    let path = path.into();
    SourceNode {
        kind: ReadFile::KIND.into(),
        detail: path.display().to_string(),
        make: Arc::new(move |subtask| Ok(erase_source(FileSource::new(&subtask.node, path.clone(), clock(subtask))))),
        touches: Vec::new(),
        access: Vec::new(),
        shared: false,
        at_most_once: None,
        problems: Vec::new(),
    }
}

/// A sink that writes a line a record to a file. With `truncate` it begins the file anew when the pipeline starts from no
/// checkpoint, unless its sources are shared; a run that goes on adds to it. What a format makes must be a line: rows that
/// would be more are rejected.
pub fn file_sink(path: impl Into<PathBuf>, truncate: bool) -> SinkNode {
    file_node(path.into(), true, move |begin| truncate && begin.anew && !begin.shared)
}

/// A sink in place of another, for a run that touches no checkpoints: each process begins the file anew. With `several` a
/// message may be several lines; without it one that would be is a fault.
pub(crate) fn output_file(path: impl Into<PathBuf>, several: bool) -> SinkNode {
    file_node(path.into(), several, |begin| begin.anew)
}

fn file_node(path: PathBuf, several: bool, truncates: impl Fn(Begin) -> bool + Send + Sync + 'static) -> SinkNode {
    SinkNode {
        kind: WriteFile::KIND.into(),
        detail: path.display().to_string(),
        make: Arc::new(move |subtask| {
            let begin = subtask.resources.get().map_or(Begin { anew: true, shared: false }, |begin| *begin);
            let start = match begin {
                begin if truncates(begin) => FileStart::Anew,
                Begin { anew: false, shared: false } => FileStart::Continue,
                _ => FileStart::Append,
            };
            let sink = FileSink::new(path.clone(), start);
            Ok(erase_sink(if several { sink } else { sink.of_single_lines() }))
        }),
        touches: Vec::new(),
        access: Vec::new(),
        at_most_once: None,
        lines: true,
        problems: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use millstream_pipelines::graph::{Resources, Subtask};

    use super::*;

    /// What is left of a file that holds a line and a torn one when a run begins.
    async fn left(node: SinkNode, path: &std::path::Path, anew: bool, shared: bool) -> String {
        std::fs::write(path, "line\ntorn").unwrap();
        let resources = Resources::default().with(Begin { anew, shared });
        let subtask = Subtask { pipeline: "p".into(), node: "out".into(), index: 0, of: 1, resources };
        let mut sink = (node.make)(&subtask).unwrap();
        sink.open().await.unwrap();
        sink.flush(millstream_operators::Epoch(0)).await.unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    #[tokio::test]
    async fn a_file_begins_anew_only_when_nothing_in_it_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        for (truncate, output, anew, shared, wanted) in [
            (true, false, true, false, ""),
            (true, false, false, false, "line\n"),
            (true, false, true, true, "line\ntorn\n"),
            (false, false, true, false, "line\ntorn\n"),
            (false, false, false, false, "line\n"),
            // In place of another sink: the first start of the process, whatever the sources are.
            (false, true, true, true, ""),
            (false, true, true, false, ""),
            (false, true, false, false, "line\n"),
            (false, true, false, true, "line\ntorn\n"),
        ] {
            let node = if output { output_file(&path, false) } else { file_sink(&path, truncate) };
            let what = format!("truncate {truncate}, output {output}, anew {anew}, shared {shared}");
            assert_eq!(left(node, &path, anew, shared).await, wanted, "{what}");
        }
    }
}
