//! [`jetstream`], [`jetstream_to`] and [`dead_letters`]: JetStream in the typed DSL.

use std::sync::Arc;

use bytes::Bytes;
use millstream_operators::rows::{Format, Json, MsgPack, Ndjson, Raw, Text};
use millstream_operators::{PortType, Problem, Record, Rejected, SizeLimit, Timestamp};
use millstream_pipelines::dsl::{Decoding, Encoding, IntoSink, ReadFrom, SinkNode, SourceNode, Stream, WriteTo};
use millstream_pipelines::graph::{
    Access, Guarantee, Node, Role, Settings, Subtask, Touch, Uses, erase, erase_sink, erase_source,
};
use serde::Serialize;

use super::letters::Letters;
use super::until_end::UntilEnd;
use super::{
    JetStreamRead, JetStreamSink, JetStreamSource, JetStreamWrite, OnGap, Share, SharedSource, Start, TransactionalSink,
};
use crate::connectors::{Connections, refuse_until_end};
use crate::engine::{Metrics, Replicas, RunMode};

// Why a run cannot be told to end with what a shared stream has.
const NO_END: &str = "a stream that is shared has no such end: what is left of it may be in the hands of other processes. Leave that out, and stop the process with SIGTERM, which drains it, when its lag is 0; or read without `share` (`.shared()` in Rust)";

/// A stream to read, from its first message unless said otherwise; end with a format, such as
/// [`json`](JetStreamFrom::json).
#[derive(Clone, Debug)]
pub struct JetStreamFrom(JetStreamRead);

/// Reads the stream `stream`.
pub fn jetstream(stream: impl Into<String>) -> JetStreamFrom {
    JetStreamFrom(JetStreamRead::of(stream))
}

impl JetStreamFrom {
    /// Only these subjects; wildcards are allowed.
    #[must_use]
    pub fn subjects<S: Into<String>>(mut self, subjects: impl IntoIterator<Item = S>) -> Self {
        self.0.subjects = subjects.into_iter().map(Into::into).collect();
        self
    }

    /// Begins with what comes from now on, if there is no checkpoint.
    #[must_use]
    pub fn from_latest(mut self) -> Self {
        self.0.start = Start::Latest;
        self
    }

    /// Begins at this stream sequence, if there is no checkpoint.
    #[must_use]
    pub fn from_sequence(mut self, sequence: u64) -> Self {
        self.0.start = Start::Sequence(sequence);
        self
    }

    /// Begins with the first message stored at or after this time, if there is no checkpoint.
    #[must_use]
    pub fn from_time(mut self, time: Timestamp) -> Self {
        self.0.start = Start::Time(time);
        self
    }

    /// Goes on when messages are gone that were not read yet, and logs how many; unless this is called, the pipeline
    /// stops.
    #[must_use]
    pub fn skip_gaps(mut self) -> Self {
        self.0.on_gap = OnGap::Skip;
        self
    }

    /// As [`skip_gaps`](JetStreamFrom::skip_gaps), and a record of each loss goes where payloads go that do not decode,
    /// in the place of what is gone: a dead letter with the reason `gap`, whose payload says which sequences are lost.
    ///
    /// It is given at least once: after a crash, a gap that no checkpoint covers yet is found and recorded again. With
    /// [`stop_on_rejected`](Decoding::stop_on_rejected), the record stops the pipeline.
    #[must_use]
    pub fn record_gaps(mut self) -> Self {
        self.0.on_gap = OnGap::Record;
        self
    }

    /// How many messages may be delivered and not yet part of a checkpoint; 100,000 unless this is called.
    #[must_use]
    pub fn max_ack_pending(mut self, messages: u32) -> Self {
        self.0.max_ack_pending = messages;
        self
    }

    /// Shares the stream among all processes that run the pipeline, any number of them, in no order and without state:
    /// [`Share`] says how.
    #[must_use]
    pub fn shared(self) -> Self {
        self.share(Share::default())
    }

    /// As [`shared`](JetStreamFrom::shared), with settings.
    ///
    /// ```
    /// use millstream::connectors::Share;
    /// use millstream::prelude::*;
    ///
    /// let pipeline = Pipeline::new("mails");
    /// // Each mail takes a second: a process has few in hand, and the others find something to do.
    /// let share = Share { prefetch: 16, ack_wait: Duration::from_secs(60), ..Share::default() };
    /// pipeline
    ///     .source("mails", jetstream("MAILS").share(share).text().stop_on_rejected())
    ///     .sink("sent", jetstream_to("SENT").text().subject("sent").stop_on_rejected());
    /// assert!(pipeline.build().is_ok());
    ///
    /// let share = Share { max_deliver: Some(0), ..Share::default() };
    /// let pipeline = Pipeline::new("never");
    /// pipeline
    ///     .source("mails", jetstream("MAILS").share(share).text().stop_on_rejected())
    ///     .sink("sent", jetstream_to("SENT").text().subject("sent").stop_on_rejected());
    /// assert!(pipeline.build().unwrap_err().to_string().contains("nothing would ever be delivered"));
    /// ```
    #[must_use]
    pub fn share(mut self, share: Share) -> Self {
        self.0.share = Some(share);
        self
    }

    /// One JSON value a message, by serde.
    pub fn json<T>(self) -> Decoding<Self, T, Json> {
        Decoding::new(self, Json)
    }

    /// One JSON value a line, many a message, by serde.
    pub fn ndjson<T>(self) -> Decoding<Self, T, Ndjson> {
        Decoding::new(self, Ndjson)
    }

    /// One MessagePack value a message, by serde.
    pub fn msgpack<T>(self) -> Decoding<Self, T, MsgPack> {
        Decoding::new(self, MsgPack)
    }

    /// Messages of UTF-8 text.
    pub fn text(self) -> Decoding<Self, String, Text> {
        Decoding::new(self, Text)
    }

    /// Payloads as they are.
    pub fn raw(self) -> Decoding<Self, Bytes, Raw> {
        Decoding::new(self, Raw)
    }
}

impl ReadFrom for JetStreamFrom {
    fn source_node(self, name: &str) -> SourceNode {
        let read = self.0;
        let subjects = if read.subjects.is_empty() { String::from("all subjects") } else { read.subjects.join(", ") };
        let touches = match read.subjects.as_slice() {
            [] => vec![touch(&read.stream, None)],
            subjects => subjects.iter().map(|subject| touch(&read.stream, Some(subject.clone()))).collect(),
        };
        let mut problems = read.problems(name);
        check_stream(name, &read.stream, &mut problems);
        let shared = read.share.is_some();
        SourceNode {
            kind: "jetstream".into(),
            detail: format!("stream {}, {subjects}{}", read.stream, if shared { ", shared" } else { "" }),
            touches,
            access: vec![Access::Read {
                stream: read.stream.clone(),
                subjects: read.subjects.clone(),
                from_time: matches!(read.start, Start::Time(_)),
                shared,
                advisories: read.share.as_ref().is_some_and(|share| share.max_deliver.is_some()),
            }],
            shared,
            at_most_once: None,
            problems,
            make: Arc::new(move |subtask| {
                if shared {
                    refuse_until_end(subtask, NO_END)?;
                    return Ok(erase_source(SharedSource::new(subtask, read.clone())?));
                }
                let source = JetStreamSource::new(subtask, read.clone())?;
                Ok(match subtask.resources.get::<RunMode>() {
                    Some(mode) if mode.until_end => {
                        erase_source(UntilEnd::new(source, read.clone(), Connections::of(subtask)?))
                    }
                    _ => erase_source(source),
                })
            }),
        }
    }
}

fn touch(stream: &str, subject: Option<String>) -> Touch {
    Touch { system: "nats".into(), stream: Some(stream.to_owned()), subject }
}

fn check_stream(name: &str, stream: &str, problems: &mut Vec<Problem>) {
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '/' | '\\');
    if stream.is_empty() || stream.chars().any(bad) {
        let what = format!("{stream:?} cannot be the name of a stream");
        let help = "stream names hold no spaces, dots, wildcards or slashes";
        problems.push(Problem::at(name, what).in_setting("stream").help(help));
    }
}

/// A stream to write to; end with a format, and say the subject.
#[derive(Clone, Debug)]
pub struct JetStreamTo(JetStreamWrite);

/// Writes to the stream `stream`, which exists.
pub fn jetstream_to(stream: impl Into<String>) -> JetStreamTo {
    JetStreamTo(JetStreamWrite::to(stream))
}

impl JetStreamTo {
    /// Creates the stream with these subjects if there is none.
    #[must_use]
    pub fn create<S: Into<String>>(mut self, subjects: impl IntoIterator<Item = S>) -> Self {
        self.0.create = Some(subjects.into_iter().map(Into::into).collect());
        self
    }

    /// Gives each message an id made of its origin and of what it says, so that the stream drops repeats within its
    /// duplicate window. It costs the server 3 to 4 microseconds a message.
    ///
    /// What comes twice is known by its id only if it is the same both times, and comes to the same subtask of the sink: not
    /// if the time of the clock is in it, or if rows are rebalanced over several subtasks. Rows that came from no single
    /// message, such as totals, and rows of core NATS, which has no sequences, get no id; that is logged once.
    #[must_use]
    pub fn dedup(mut self) -> Self {
        self.0.dedup = true;
        self
    }

    /// One JSON value a message, by serde.
    pub fn json<T: Send + 'static>(self) -> Encoding<Self, T, Json>
    where
        Json: Format<T>,
    {
        Encoding::new(self, Json)
    }

    /// One MessagePack value a message, by serde.
    pub fn msgpack<T: Send + 'static>(self) -> Encoding<Self, T, MsgPack>
    where
        MsgPack: Format<T>,
    {
        Encoding::new(self, MsgPack)
    }

    /// Messages of UTF-8 text.
    pub fn text(self) -> Encoding<Self, String, Text> {
        Encoding::new(self, Text)
    }

    /// Payloads as they are.
    pub fn raw(self) -> Encoding<Self, Bytes, Raw> {
        Encoding::new(self, Raw)
    }
}

impl WriteTo for JetStreamTo {
    fn sink_node(self, name: &str) -> SinkNode {
        let write = self.0;
        let (limit, mut problems) = (SizeLimit::default(), Vec::new());
        let told = limit.clone();
        check_stream(name, &write.stream, &mut problems);
        SinkNode {
            kind: "jetstream".into(),
            detail: format!("stream {}", write.stream),
            touches: vec![touch(&write.stream, None)],
            access: vec![Access::Write {
                stream: write.stream.clone(),
                subjects: None,
                create: write.create.clone(),
                extend: write.create.is_some() && !write.needs.is_empty(),
                dedup: write.dedup,
            }],
            at_most_once: None,
            repeats: None,
            limit,
            lines: false,
            problems,
            make: Arc::new(move |subtask| {
                let connections = Connections::of(subtask)?;
                let node = subtask.resources.get::<Metrics>().map(|metrics| metrics.node(&subtask.node));
                let settings = subtask.resources.get::<Settings>().unwrap_or_default();
                let mut write = write.clone();
                write.replicas = subtask.resources.get::<Replicas>().map_or(write.replicas, |replicas| replicas.0);
                if let Some(uses) = subtask.resources.get::<Uses>() {
                    write.publishes = uses.publishes();
                }
                if settings.guarantee == Guarantee::EffectivelyOnce {
                    return Ok(erase_sink(TransactionalSink::new(subtask, write)?.telling(told.clone())));
                }
                let name = format!("{}:{}:{}", subtask.pipeline, subtask.node, subtask.index);
                let sink = JetStreamSink::new(&name, write, connections).reporting(node).telling(told.clone());
                Ok(erase_sink(sink))
            }),
        }
    }
}

/// A sink for rejected rows: the message that each came from goes to the subject `mill.dlq.<pipeline>.<node>` of the
/// stream `stream`, with its headers and with what happened in `Mill-Dlq-*` headers.
///
/// The payload and the headers are what they were, but for two things. Headers called `Nats-*` or `Mill-Dlq-*` are called
/// `Mill-Orig-Nats-*` and `Mill-Orig-Mill-Dlq-*`, so that they are not taken for the letter's own. And a letter must be a
/// message that the server takes, with the headers that are added: within its `max_payload`, and with no more than 64 KiB of
/// headers. One that would be too large is kept without its payload; `Mill-Dlq-Ref` says in which stream and at which
/// sequence the whole stands. `Mill-Dlq-Truncated` names headers that had to be shortened or left out, and `payload` where
/// that was shortened because no stream holds it.
pub fn dead_letters(stream: impl Into<String>) -> DeadLetters {
    let mut to = jetstream_to(stream);
    to.0.by_reference = true;
    DeadLetters { to, create: false }
}

/// See [`dead_letters`].
#[derive(Clone, Debug)]
pub struct DeadLetters {
    to: JetStreamTo,
    create: bool,
}

impl DeadLetters {
    /// Creates the stream, on `mill.dlq.<pipeline>.>`, if there is none, and adds this subject to one that does not take
    /// it: any number of pipelines may keep their dead letters in one stream.
    #[must_use]
    pub fn create(self) -> Self {
        DeadLetters { create: true, ..self }
    }
}

impl<T: Serialize + Send + 'static> IntoSink<Rejected<T>> for DeadLetters {
    fn wire(self, stream: Stream<Rejected<T>>, name: &str) {
        let (pipeline, mut to) = (stream.pipeline().name(), self.to);
        let subjects = format!("mill.dlq.{pipeline}.*");
        to.0.needs = vec![subjects.clone()];
        if self.create {
            to = to.create([format!("mill.dlq.{pipeline}.>")]);
        }
        let mut sink = to.sink_node(name);
        sink.publishes_to([subjects]);
        let make = Arc::new(move |subtask: &Subtask| Ok(erase(Letters::<T>::of(&subtask.pipeline))));
        let mut node = Node::new(format!("{name}/letter"), "dead_letter", Role::Operator(make));
        node.inputs = vec![PortType::of_rejected::<T>("in")];
        node.outputs = vec![PortType::of::<Vec<Record>>(PortType::MAIN)];
        stream.wire(node).main::<Record>().sink(name, sink);
    }
}

#[cfg(test)]
mod tests {
    use millstream_pipelines::dsl::Pipeline;

    use super::*;

    fn mistakes(from: JetStreamFrom, to: impl IntoSink<Bytes>) -> String {
        let pipeline = Pipeline::new("p");
        pipeline.source("in", from.raw().ignore_rejected()).sink("out", to);
        pipeline.build().err().map(|error| error.to_string()).unwrap_or_default()
    }

    fn to(stream: &str) -> Encoding<JetStreamTo, Bytes, Raw> {
        jetstream_to(stream).raw().stop_on_rejected()
    }

    #[test]
    fn a_pipeline_that_would_feed_itself_is_refused() {
        let told = mistakes(jetstream("S"), to("S").subject("s.out"));
        assert!(told.contains("it writes to `s.out`, which the source `in` reads as the stream `S`"), "{told}");
        let told = mistakes(jetstream("S"), to("S").subject_of(|_, to| _ = to.token("s")));
        assert!(told.contains("it writes to the stream `S`"), "{told}");
        let told = mistakes(jetstream("S").subjects(["s.*"]), to("S").subject("s.out"));
        assert!(told.contains("which the source `in` reads as `s.*`"), "{told}");
        let dead = jetstream("S").raw().rejected_to("dead", dead_letters("S"));
        let pipeline = Pipeline::new("p");
        pipeline.source("in", dead).discard("out");
        assert!(pipeline.build().unwrap_err().to_string().contains("it writes to `mill.dlq.p.*`"));
    }

    #[test]
    fn a_pipeline_within_one_stream_is_not() {
        assert_eq!(mistakes(jetstream("S").subjects(["s.in"]), to("S").subject("s.out")), "");
        assert_eq!(mistakes(jetstream("S").subjects(["s.in"]), to("S").subject_of(|_, to| _ = to.token("s"))), "");
        assert_eq!(mistakes(jetstream("S"), to("T").subject("s.out")), "");
    }
}
