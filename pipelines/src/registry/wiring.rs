//! [`Wiring`]: what a [`Spec`](super::Spec) sees of the pipeline that it becomes a part of.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use millstream_operators::columnar::{Decode, DecodeFormat, EncodeFormat, Meta, RejectedColumns};
use millstream_operators::{Problem, Rejected};

use super::RejectedWord;
use super::common::{EventTimeKeys, Payloads, Records};
use super::outlets::{Outlets, Unknown};
use crate::dsl::{
    ColumnsTo, Frame, IntoSink, OnRejected, Outlet, Pipeline, SinkNode, SourceNode, Stream, columns_from, columns_to,
};

/// The place in a pipeline that a node of the file is wired at: its name, its input, and where its outputs go.
pub struct Wiring<'a> {
    pipeline: &'a Pipeline,
    name: &'a str,
    input: Option<Frame>,
    others: HashMap<&'a str, Frame>,
    common: Common,
    on_rejected: Option<OnRejected>,
    ends: &'a Ends,
    outlets: &'a mut Outlets,
    outputs: Vec<(String, Frame)>,
    outlet: Option<Outlet>,
}

/// The shared keys that a node was given.
pub(crate) enum Common {
    Payloads(Box<Payloads>),
    Records(Box<Records>),
    Other,
}

/// Whether messages of a sink have subjects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subjects {
    /// Every message needs one.
    Needed,
    /// There are none.
    None,
}

/// What stands in for sources and sinks, by name, when a pipeline is tried without a broker.
#[derive(Clone, Default)]
pub(crate) struct Ends {
    pub(crate) sources: HashMap<String, StandIn>,
    pub(crate) sinks: HashMap<String, Arc<dyn Fn() -> SinkNode>>,
}

/// What stands in for a source.
#[derive(Clone)]
pub(crate) struct StandIn {
    pub(crate) make: Arc<dyn Fn() -> SourceNode>,
    /// Whether it gives messages in the format of the source it stands for, and not rows as JSON.
    pub(crate) messages: bool,
}

impl<'a> Wiring<'a> {
    pub(crate) fn new(
        pipeline: &'a Pipeline,
        name: &'a str,
        (input, others): (Option<Frame>, HashMap<&'a str, Frame>),
        common: Common,
        on_rejected: Option<OnRejected>,
        ends: &'a Ends,
        outlets: &'a mut Outlets,
    ) -> Self {
        let (outputs, outlet) = (Vec::new(), None);
        Wiring { pipeline, name, input, others, common, on_rejected, ends, outlets, outputs, outlet }
    }

    /// The outputs by name, the main one under the empty name; and the sink of rejected rows, if it is one.
    pub(crate) fn finish(self) -> (Vec<(String, Frame)>, Option<Outlet>) {
        (self.outputs, self.outlet)
    }

    /// What becomes of rows, as `word` of the node's setting `setting` says.
    pub fn rejected_to(&mut self, setting: &str, word: &RejectedWord) -> OnRejected {
        self.outlets.resolve(word).unwrap_or_else(|Unknown { what, help }| {
            self.pipeline.problem(Problem::at(self.name, what).in_setting(format!("{setting}.send_to")).help(help));
            OnRejected::Drop
        })
    }

    /// The pipeline.
    pub fn pipeline(&self) -> &'a Pipeline {
        self.pipeline
    }

    /// The name of the node.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// A problem of this node, to be told where it is and then to be noted.
    pub fn wrong(&self, what: impl Into<String>) -> Problem {
        Problem::at(self.name, what)
    }

    /// Notes something that is wrong; it is reported with all else.
    pub fn problem(&self, problem: Problem) {
        self.pipeline.problem(problem);
    }

    /// The rows that the node takes, of a step or sink.
    pub fn input(&mut self) -> Frame {
        let input = self.input.clone().unwrap_or_else(|| {
            self.problem(self.wrong("it is no source, and was not given any rows"));
            Frame::nowhere(self.pipeline.clone())
        });
        match &self.on_rejected {
            Some(rejected) => input.on_rejected(rejected.clone()),
            None => input,
        }
    }

    /// The rows that a setting names, one of [`Spec::READS`](super::Spec::READS).
    pub fn rows(&mut self, setting: &str) -> Frame {
        let rows = self.others.remove(setting).unwrap_or_else(|| {
            self.problem(self.wrong("it names no source or step").in_setting(setting));
            Frame::nowhere(self.pipeline.clone())
        });
        match &self.on_rejected {
            Some(rejected) => rows.on_rejected(rejected.clone()),
            None => rows,
        }
    }

    /// What the node gives: others name it by the node's name.
    pub fn output(&mut self, rows: Frame) {
        self.outputs.push((String::new(), rows));
    }

    /// A named output: others name it as `node.output`.
    pub fn side(&mut self, output: String, rows: Frame) {
        self.outputs.push((output, rows));
    }

    /// The node is a source of messages, which become rows as its table says.
    pub fn reads(&mut self, node: SourceNode) {
        let Common::Payloads(keys) = &self.common else {
            return self.problem(self.wrong("a kind that gives messages must be registered with `source`"));
        };
        let keys = (**keys).clone();
        let event_time = keys.event_time.clone();
        let (format, stand_in) = (DecodeFormat::from(keys.format), self.ends.sources.get(self.name));
        let columns = keys.schema.as_ref().map(|columns| &columns.0);
        let meta: Vec<(String, Meta)> = keys.meta.0.into_iter().map(|(name, word)| (name, word.into())).collect();
        let known = || {
            let pairs = columns.map(|all| all.iter().map(|(name, text)| (name.as_str(), text.as_str())));
            let schema = pairs.map(millstream_operators::columnar::schema).transpose().ok()?;
            let decode = Decode::new(format, schema.as_ref()).ok()?.with_meta(meta.clone()).ok()?;
            Some(SchemaRef::clone(decode.schema()))
        };
        let from = match stand_in {
            Some(stand_in)
                if !stand_in.messages
                    && let Some(schema) = known() =>
            {
                columns_from((stand_in.make)(), DecodeFormat::Json).schema_ref(Some(schema))
            }
            _ => {
                let node = stand_in.map_or(node, |stand_in| (stand_in.make)());
                let mut from = columns_from(node, format).strict(keys.strict);
                if let Some(columns) = columns {
                    from = from.schema(columns.iter().map(|(name, text)| (name.as_str(), text.as_str())));
                }
                meta.into_iter().fold(from, |from, (column, meta)| from.meta(column, meta))
            }
        };
        self.begin(from, event_time.as_ref());
    }

    /// The node is a source of rows: `node` gives record batches with the columns of `schema`, and `then` makes of them
    /// what the source gives.
    pub fn reads_rows(&mut self, node: SourceNode, schema: &SchemaRef, then: impl Fn(Frame) -> Frame) {
        let named = |frame: Frame| match &self.on_rejected {
            Some(rejected) => then(frame.on_rejected(rejected.clone())),
            None => then(frame),
        };
        if let Some(stand_in) = self.ends.sources.get(self.name) {
            // What the columns will be is tried elsewhere; if that fails, the mistake is found below.
            let scratch = then(Pipeline::new("scratch").rows_node(self.name, (stand_in.make)(), schema));
            if !scratch.is_broken() {
                let schema = Some(SchemaRef::clone(scratch.schema()));
                return self.begin(columns_from((stand_in.make)(), DecodeFormat::Json).schema_ref(schema), None);
            }
        }
        let rows = named(self.pipeline.rows_node(self.name, node, schema));
        self.output(rows);
    }

    fn begin(&mut self, mut from: crate::dsl::ColumnsFrom<SourceNode>, event_time: Option<&EventTimeKeys>) {
        if let Some(rejected) = &self.on_rejected {
            from = from.on_rejected(rejected.clone());
        }
        match self.pipeline.frame(self.name, from) {
            Some(rows) => {
                let rows = match (event_time, &self.on_rejected) {
                    (Some(keys), Some(rejected)) => self.timed(rows.on_rejected(rejected.clone()), keys),
                    (Some(keys), None) => self.timed(rows, keys),
                    (None, _) => rows,
                };
                self.output(rows);
            }
            None => self.output(Frame::nowhere(self.pipeline.clone())),
        }
    }

    fn timed(&self, rows: Frame, keys: &EventTimeKeys) -> Frame {
        rows.event_time(&format!("{}/event_time", self.name), &keys.column, keys.watermarks())
    }

    /// The node is a sink of messages, which rows become as its table says.
    pub fn writes(&mut self, node: SinkNode, subjects: Subjects) {
        let Common::Records(keys) = &self.common else {
            return self.problem(self.wrong("a kind that takes messages must be registered with `sink`"));
        };
        let keys = (**keys).clone();
        match (subjects, &keys.subject) {
            (Subjects::Needed, None) => {
                let help = "add `subject = \"totals.{customer}\"`, where `{customer}` stands for a column";
                self.problem(self.wrong("its messages need a subject").in_setting("subject").help(help));
            }
            (Subjects::None, Some(_)) => {
                self.problem(self.wrong("its messages have no subjects").in_setting("subject").help("take it out"));
            }
            _ => {}
        }
        let has_input = keys.from.is_some();
        let end = self.ends.sinks.get(self.name);
        let format = if end.is_some() { EncodeFormat::Json } else { keys.format.into() };
        let mut to = columns_to(end.map_or(node, |make| make()), format);
        if let Some(subject) = &keys.subject {
            to = to.subject(subject);
        }
        for (name, value) in &keys.headers.0 {
            to = to.header(name, value);
        }
        if let Some(word) = keys.times {
            to = to.times(word.into());
        }
        if let Some(size) = keys.max_size {
            to = to.max_size(size.0);
        }
        if let Some(rejected) = &self.on_rejected {
            to = to.on_rejected(rejected.clone());
        }
        if has_input {
            self.input().sink(self.name, to);
        } else {
            self.outlet = Some(Outlet::new(self.name, AsColumns(to)));
        }
    }

    /// The node is a sink of rejected rows.
    pub fn takes_rejected(&mut self, sink: impl IntoSink<Rejected<Bytes>> + Send + 'static) {
        self.outlet = Some(match self.ends.sinks.get(self.name) {
            Some(make) => Outlet::new(self.name, AsColumns(columns_to(make(), EncodeFormat::Json))),
            None => Outlet::new(self.name, sink),
        });
    }
}

/// Rejected rows as rows of columns, for a sink of any kind.
struct AsColumns(ColumnsTo<SinkNode>);

impl IntoSink<Rejected<Bytes>> for AsColumns {
    fn wire(self, stream: Stream<Rejected<Bytes>>, name: &str) {
        let make = |_: &crate::graph::Subtask| Ok(RejectedColumns);
        let rows = Frame::of(stream, &format!("{name}/columns"), "columns", &RejectedColumns::schema(), make);
        // A rejected row that cannot be written must not vanish in silence, nor be sent round in a circle.
        rows.on_rejected(OnRejected::Stop).sink(name, self.0);
    }
}

impl fmt::Debug for Wiring<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wiring({} of {:?})", self.name, self.pipeline)
    }
}
