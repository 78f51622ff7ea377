//! Sources and sinks for pipelines in Rust, beside those of JetStream: `file_source("in.ndjson").json::<Order>()`.

use std::path::PathBuf;
use std::sync::Arc;

use millstream_operators::SizeLimit;
use millstream_pipelines::dsl::{SinkNode, SourceNode};
use millstream_pipelines::graph::{Touch, erase_sink, erase_source};

use super::{
    Connections, CoreNatsSink, CoreNatsSource, FileSink, FileSource, FileStart, StdoutSink, clock, refuse_until_end,
};
use crate::engine::Begin;

/// A source of what is published on a core NATS subject, which may have wildcards, while the pipeline listens: at most once.
/// The pipeline must accept that in words, with the setting `accept_loss`.
///
/// ```
/// use millstream::prelude::*;
/// let pipeline = Pipeline::new("echo").settings(|settings| settings.accept_loss = true);
/// let texts = pipeline.source("heard", core_nats("say.>").text().ignore_rejected());
/// texts.sink("said", core_nats_to().text().subject("said").stop_on_rejected());
/// assert!(pipeline.build().is_ok());
/// ```
pub fn core_nats(subject: impl Into<String>) -> SourceNode {
    core_nats_node(subject.into(), None)
}

/// As [`core_nats`], of the messages that this member of a queue group gets.
pub fn core_nats_group(subject: impl Into<String>, group: impl Into<String>) -> SourceNode {
    core_nats_node(subject.into(), Some(group.into()))
}

pub(super) fn core_nats_node(subject: String, group: Option<String>) -> SourceNode {
    let touches = vec![Touch { system: "nats".into(), stream: None, subject: Some(subject.clone()) }];
    SourceNode {
        kind: "core_nats".into(),
        detail: subject.clone(),
        make: Arc::new(move |subtask| {
            refuse_until_end(
                subtask,
                "core NATS has no such end: it keeps nothing, and what will be published is not known. Leave that out, and \
                 stop the process with SIGTERM, which drains it",
            )?;
            let connections = Connections::of(subtask)?;
            let (node, group) = (&subtask.node, group.clone());
            Ok(erase_source(CoreNatsSource::new(node, connections, &subject, group, clock(subtask))))
        }),
        touches,
        access: Vec::new(),
        shared: false,
        at_most_once: Some("core NATS keeps nothing that is published while nobody listens".to_owned()),
        problems: Vec::new(),
    }
}

/// A sink that publishes on core NATS, at most once: what nobody hears is lost. The pipeline must accept that in words, with
/// the setting `accept_loss`. Say where with [`subject`](millstream_pipelines::dsl::Encoding::subject).
pub fn core_nats_to() -> SinkNode {
    let limit = SizeLimit::default();
    let told = limit.clone();
    SinkNode {
        kind: "core_nats".into(),
        detail: String::new(),
        make: Arc::new(move |subtask| {
            Ok(erase_sink(CoreNatsSink::new(Connections::of(subtask)?).telling(told.clone())))
        }),
        touches: vec![Touch { system: "nats".into(), stream: None, subject: None }],
        access: Vec::new(),
        at_most_once: Some("core NATS does not say whether anybody has heard".to_owned()),
        repeats: Some("core NATS keeps nothing that could be looked at after a failure".to_owned()),
        limit,
        lines: false,
        problems: Vec::new(),
    }
}

/// A sink that prints a line a message.
///
/// ```
/// use millstream::prelude::*;
/// let pipeline = Pipeline::new("show");
/// let lines = pipeline.source("lines", file_source("orders.ndjson").text().ignore_rejected());
/// lines.sink("shown", stdout().text().stop_on_rejected());
/// assert!(pipeline.build().is_ok());
/// ```
pub fn stdout() -> SinkNode {
    stdout_node(false)
}

/// As [`stdout`], with the subject before each message.
pub fn stdout_with_subjects() -> SinkNode {
    stdout_node(true)
}

fn stdout_node(subjects: bool) -> SinkNode {
    SinkNode {
        kind: "stdout".into(),
        detail: String::new(),
        make: Arc::new(move |_| Ok(erase_sink(StdoutSink::new(subjects)))),
        touches: Vec::new(),
        access: Vec::new(),
        at_most_once: None,
        repeats: Some("what is printed is printed, and again after a failure".to_owned()),
        limit: SizeLimit::default(),
        lines: true,
        problems: Vec::new(),
    }
}

/// A source of the lines of a file.
pub fn file_source(path: impl Into<PathBuf>) -> SourceNode {
    let path = path.into();
    SourceNode {
        kind: "file".into(),
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
#[cfg(feature = "columnar")]
pub(crate) fn output_file(path: impl Into<PathBuf>, several: bool) -> SinkNode {
    file_node(path.into(), several, |begin| begin.anew)
}

fn file_node(path: PathBuf, several: bool, truncates: impl Fn(Begin) -> bool + Send + Sync + 'static) -> SinkNode {
    SinkNode {
        kind: "file".into(),
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
        repeats: Some("lines are written as they come, and again after a failure".to_owned()),
        limit: SizeLimit::default(),
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
