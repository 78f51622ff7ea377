//! [`ColumnsFrom`] and [`ColumnsTo`]: connectors with a format of declared columns, for [`Frame`]s.

use std::fmt;

use arrow::datatypes::SchemaRef;
use millstream_operators::columnar::{
    Decode, DecodeFormat, EncodeFormat, EncodeTimes, Encoding, Meta, TypeError, schema,
};
use millstream_operators::{Fault, Operator, PortType, Problem, SizeLimit, Template};

use super::{Frame, OnRejected, Pipeline, ReadFrom, WriteTo};
use crate::graph::{Access, InPort, Make, Node, OutPort, Role, Route, erase};

/// A connector that reads, and how its messages are rows of declared columns.
#[must_use]
pub struct ColumnsFrom<C> {
    connector: C,
    format: DecodeFormat,
    schema: Result<Option<SchemaRef>, Vec<(String, TypeError)>>,
    meta: Vec<(String, Meta)>,
    strict: bool,
    rejected: Option<OnRejected>,
}

/// Reads rows of declared columns by a connector.
pub fn columns_from<C: ReadFrom>(connector: C, format: DecodeFormat) -> ColumnsFrom<C> {
    ColumnsFrom { connector, format, schema: Ok(None), meta: Vec::new(), strict: false, rejected: None }
}

impl<C: ReadFrom> ColumnsFrom<C> {
    /// The columns and their types, such as `("amount", "float64 not null")`; see
    /// [`schema`](millstream_operators::columnar::schema).
    pub fn schema<'a>(mut self, columns: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        self.schema = schema(columns).map(Some);
        self
    }

    /// The columns, made elsewhere.
    pub fn schema_ref(mut self, columns: Option<SchemaRef>) -> Self {
        self.schema = Ok(columns);
        self
    }

    /// One more column: something about the message that is not in its payload.
    pub fn meta(mut self, column: impl Into<String>, meta: Meta) -> Self {
        self.meta.push((column.into(), meta));
        self
    }

    /// Rejects messages that have what the columns do not name.
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// What becomes of messages that are no such rows, and of rows that a verb behind cannot compute something for.
    pub fn on_rejected(mut self, rejected: OnRejected) -> Self {
        self.rejected = Some(rejected);
        self
    }
}

/// Something that gives rows of declared columns by itself, with no messages to make them of.
pub trait IntoFrame {
    /// Adds its nodes to a pipeline; the first is called `name`.
    fn wire(self, pipeline: &Pipeline, name: &str) -> Frame;
}

impl Pipeline {
    /// Begins rows of declared columns that come from no messages, such as generated ones.
    pub fn rows(&self, name: &str, from: impl IntoFrame) -> Frame {
        from.wire(self, name)
    }

    /// Begins a stream of rows with declared columns.
    ///
    /// The connector's node is called `name`, the one that reads its messages `<name>/<format>`. `None` when something
    /// is wrong with the columns; it is noted, and [`build`](Pipeline::build) reports it.
    pub fn frame<C: ReadFrom>(&self, name: &str, from: ColumnsFrom<C>) -> Option<Frame> {
        let ColumnsFrom { connector, format, schema, meta, strict, rejected } = from;
        let node = connector.source_node(name);
        let schema = match schema {
            Ok(schema) => schema,
            Err(wrong) => {
                for (column, error) in wrong {
                    let problem = Problem::at(name, error.what).in_setting(format!("schema.{column}"));
                    let mut problem = problem.within(error.within);
                    problem.help = error.help;
                    self.problem(problem);
                }
                node.problems.into_iter().for_each(|problem| self.problem(problem));
                return None;
            }
        };
        let make = move || {
            let decode = Decode::new(format, schema.as_ref()).map_err(|error| ("schema", error))?;
            let decode = decode.with_meta(meta.clone()).map_err(|error| ("meta", error))?;
            Ok(if strict { decode.strict() } else { decode })
        };
        let made: Decode = match make() {
            Ok(made) => made,
            Err((setting, error)) => {
                let mut problem = Problem::at(name, error.what).in_setting(setting);
                problem.help = error.help;
                self.problem(problem);
                node.problems.into_iter().for_each(|problem| self.problem(problem));
                return None;
            }
        };
        let columns = SchemaRef::clone(made.schema());
        let raw = self.source_node(name, node);
        let again: Make<dyn crate::graph::DynOperator> = std::sync::Arc::new(move |_| {
            let made = make().map_err(|(_, error)| Fault::bug(format!("cannot decode any more: {error}")))?;
            Ok(erase(made))
        });
        let mut decode = Node::new(format!("{name}/{}", format.word()), format.word(), Role::Operator(again));
        decode.inputs = vec![PortType::of::<Vec<bytes::Bytes>>("in")];
        decode.outputs = std::iter::once(super::frame::frame_port(&columns)).chain(made.sides()).collect();
        let id = self.add(decode);
        self.connect(raw.port(), InPort { node: id, port: 0 }, Route::Forward);
        let frame = Frame::at(self.clone(), OutPort { node: id, port: 0 }, columns);
        Some(match rejected {
            Some(rest) => {
                rest.end(super::Stream::at(self.clone(), OutPort { node: id, port: 1 }), name);
                frame.on_rejected(rest)
            }
            None => frame,
        })
    }
}

impl<C> fmt::Debug for ColumnsFrom<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ColumnsFrom({:?} {:?})", self.format, self.schema)
    }
}

/// A connector that writes, and how rows become its messages.
#[must_use]
pub struct ColumnsTo<C> {
    connector: C,
    encoding: Encoding,
    problems: Vec<Problem>,
    rejected: Option<OnRejected>,
}

/// Writes rows of declared columns by a connector.
pub fn columns_to<C: WriteTo>(connector: C, format: EncodeFormat) -> ColumnsTo<C> {
    let limit = SizeLimit::default();
    let (times, headers) = (EncodeTimes::Usual, Vec::new());
    let encoding = Encoding { format, times, subject: None, headers, max_size: 1 << 20, limit, lines: false };
    ColumnsTo { connector, encoding, problems: Vec::new(), rejected: None }
}

impl<C: WriteTo> ColumnsTo<C> {
    /// The subject of each message, in which `{column}` stands for the value of a column.
    pub fn subject(mut self, template: &str) -> Self {
        match Template::subject(template) {
            Ok(template) => self.encoding.subject = Some(template),
            Err(wrong) => {
                self.problems.push(Problem::at("", wrong.what).in_setting("subject").within(wrong.within));
            }
        }
        self
    }

    /// A header of each message, in whose value `{column}` stands for the value of a column.
    pub fn header(mut self, name: &str, template: &str) -> Self {
        match Template::header(template) {
            Ok(template) => self.encoding.headers.push((name.to_owned(), template)),
            Err(wrong) => {
                let setting = format!("headers.{name}");
                self.problems.push(Problem::at("", wrong.what).in_setting(setting).within(wrong.within));
            }
        }
        self
    }

    /// How times are written: as the format does unless this is called.
    pub fn times(mut self, times: EncodeTimes) -> Self {
        self.encoding.times = times;
        self
    }

    /// Messages of more bytes, headers included, are rejected; 1 MiB unless this is called.
    pub fn max_size(mut self, bytes: usize) -> Self {
        self.encoding.max_size = bytes;
        self
    }

    /// What becomes of rows that cannot be written; that of the frame unless this is called.
    pub fn on_rejected(mut self, rejected: OnRejected) -> Self {
        self.rejected = Some(rejected);
        self
    }
}

impl Frame {
    /// Ends the rows in a connector. Its node is called `name`, the one that makes its messages `<name>/<format>`.
    pub fn sink<C: WriteTo>(self, name: &str, to: ColumnsTo<C>) {
        let ColumnsTo { connector, mut encoding, problems, rejected } = to;
        let mut node = connector.sink_node(name);
        (encoding.lines, encoding.limit) = (node.lines, node.limit.clone());
        if let Some(subject) = &encoding.subject {
            node.publishes_to([subject.pattern()]);
        }
        let pipeline = self.pipeline().clone();
        if encoding.format.is_of_many()
            && node.access.iter().any(|access| matches!(access, Access::Write { dedup: true, .. }))
        {
            let word = encoding.format.word();
            let what = format!(
                "`dedup` cannot work with the format `{word}`: which rows share a message differs from run to run, so none is known again"
            );
            let help = "write one row a message (`json`, `msgpack`), or leave `dedup` out";
            pipeline.problem(Problem::at(name, what).in_setting("dedup").help(help));
        }
        let broken = !problems.is_empty();
        for mut problem in problems {
            name.clone_into(&mut problem.node);
            pipeline.problem(problem);
        }
        let frame = match rejected {
            Some(rejected) => self.on_rejected(rejected),
            None => self,
        };
        let records = if broken {
            // What is wrong with a template does not hide the others; but which columns it would have named is not known,
            // and so not which are left to be a message.
            if !frame.is_broken() {
                frame.encoder(name, &encoding, |setting| setting != "format");
            }
            frame.broken();
            None
        } else {
            frame.encode(name, encoding)
        };
        match records {
            Some(records) => records.sink(name, node),
            None => node.problems.into_iter().for_each(|problem| pipeline.problem(problem)),
        }
    }
}

impl<C> fmt::Debug for ColumnsTo<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ColumnsTo({:?})", self.encoding)
    }
}
