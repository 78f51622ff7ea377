//! What begins and ends a stream: [`IntoSource`], [`IntoSink`], and what connectors build them of.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use millstream_operators::rows::{Address, Encode, Format, SetHeaders, Tokens};
use millstream_operators::{
    Batch, Epoch, Fault, Headers, InvalidHeader, Payload, PortType, Problem, Record, Rejected, Result, Retry, Sink,
    SizeLimit,
};

use super::{Pipeline, Stream};
use crate::graph::{Access, DynSink, DynSource, Make, Node, Role, Touch, erase_sink};

/// Something that a stream can begin with.
pub trait IntoSource {
    /// The rows that it gives.
    type Row: Send + 'static;

    /// Adds its nodes to a pipeline; the first is called `name`.
    fn wire(self, pipeline: &Pipeline, name: &str) -> Stream<Self::Row>;
}

/// Something that a stream of `T` can end in.
pub trait IntoSink<T> {
    /// Adds its nodes behind the stream; the last is called `name`.
    fn wire(self, stream: Stream<T>, name: &str);
}

/// A connector that reads raw payloads.
pub trait ReadFrom {
    /// Its node.
    fn source_node(self, name: &str) -> SourceNode;
}

/// A connector that writes records.
pub trait WriteTo {
    /// Its node.
    fn sink_node(self, name: &str) -> SinkNode;
}

/// The node of a connector that reads.
pub struct SourceNode {
    /// Its kind: `jetstream`.
    pub kind: Cow<'static, str>,
    /// What it reads, for people.
    pub detail: String,
    /// How it is made.
    pub make: Make<dyn DynSource>,
    /// What it reads outside.
    pub touches: Vec<Touch>,
    /// Which streams it reads, and how.
    pub access: Vec<Access>,
    /// Whether it shares what it reads with other processes of the pipeline; see [`Node::shared`].
    pub shared: bool,
    /// Why it may lose messages, if it may.
    pub at_most_once: Option<String>,
    /// What is wrong with its settings.
    pub problems: Vec<Problem>,
}

/// The node of a connector that writes.
pub struct SinkNode {
    /// Its kind: `jetstream`.
    pub kind: Cow<'static, str>,
    /// What it writes to, for people.
    pub detail: String,
    /// How it is made.
    pub make: Make<dyn DynSink>,
    /// Where it writes outside.
    pub touches: Vec<Touch>,
    /// Which streams it writes, and how; subjects that are `None` are filled in where the address is known.
    pub access: Vec<Access>,
    /// Why it may lose messages, if it may.
    pub at_most_once: Option<String>,
    /// Why it may store rows again when something fails, also in a pipeline that promises effectively-once; nothing if it
    /// keeps them for the checkpoint then ([`Sink`]).
    pub repeats: Option<String>,
    /// How large a message may be: the sink sets it when it is open, if it knows, and larger ones are rejected then.
    pub limit: SizeLimit,
    /// Whether each message becomes a line, which not every format can be.
    pub lines: bool,
    /// What is wrong with its settings.
    pub problems: Vec<Problem>,
}

impl ReadFrom for SourceNode {
    fn source_node(self, _: &str) -> SourceNode {
        self
    }
}

impl WriteTo for SinkNode {
    fn sink_node(self, _: &str) -> SinkNode {
        self
    }
}

impl SinkNode {
    /// Says which subjects it publishes to, where that was not known yet.
    pub fn publishes_to(&mut self, to: impl IntoIterator<Item = String>) {
        let to: Vec<String> = to.into_iter().collect();
        for touch in &mut self.touches {
            touch.subject = touch.subject.take().or_else(|| to.first().cloned());
        }
        for access in &mut self.access {
            if let Access::Write { subjects: subjects @ None, .. } = access {
                *subjects = Some(to.clone());
            }
        }
    }
}

impl fmt::Debug for SourceNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceNode({} {})", self.kind, self.detail)
    }
}

impl fmt::Debug for SinkNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SinkNode({} {})", self.kind, self.detail)
    }
}

type Rest<T> = Box<dyn FnOnce(Stream<Rejected<T>>, &str)>;

fn kept<T: Send + 'static>(name: &str, sink: impl IntoSink<Rejected<T>> + 'static) -> Rest<T> {
    let name = name.to_owned();
    Box::new(move |rejected, _| rejected.sink(&name, sink))
}

fn dropped<T: Send + 'static>() -> Rest<T> {
    Box::new(|rejected, of| rejected.discard(&format!("{of}/rejected")))
}

fn stopping<T: Send + 'static>() -> Rest<T> {
    Box::new(|rejected, of| rejected.stop(&format!("{of}/rejected")))
}

/// A connector that reads, with the format of what it reads. What becomes of payloads that do not decode must be said:
/// with one of the three methods here.
pub struct Decoding<C, T, F> {
    connector: C,
    format: F,
    rejected: Option<Rest<Bytes>>,
    rows: std::marker::PhantomData<fn() -> T>,
}

impl<C, T, F> Decoding<C, T, F> {
    /// The connector and the format.
    pub fn new(connector: C, format: F) -> Self {
        Decoding { connector, format, rejected: None, rows: std::marker::PhantomData }
    }

    /// Payloads that do not decode go to this sink.
    #[must_use]
    pub fn rejected_to(mut self, name: &str, sink: impl IntoSink<Rejected<Bytes>> + 'static) -> Self {
        self.rejected = Some(kept(name, sink));
        self
    }

    /// Payloads that do not decode are counted and dropped.
    #[must_use]
    pub fn ignore_rejected(mut self) -> Self {
        self.rejected = Some(dropped());
        self
    }

    /// The first payload that does not decode stops the pipeline.
    #[must_use]
    pub fn stop_on_rejected(mut self) -> Self {
        self.rejected = Some(stopping());
        self
    }
}

impl<C: ReadFrom, T: Send + 'static, F: Format<T>> IntoSource for Decoding<C, T, F> {
    type Row = T;

    fn wire(self, pipeline: &Pipeline, name: &str) -> Stream<T> {
        let raw = pipeline.source_node(name, self.connector.source_node(name));
        let (rows, rejected) = raw.decode(&format!("{name}/{}", F::NAME), self.format);
        if let Some(rest) = self.rejected {
            rest(rejected, name);
        }
        rows
    }
}

impl<C, T, F> fmt::Debug for Decoding<C, T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decoding")
    }
}

/// A connector that writes, with the format and the address of what it writes. What becomes of rows that cannot be
/// written must be said: with one of the three methods here.
pub struct Encoding<C, T, F> {
    connector: C,
    format: F,
    address: Address<T>,
    headers: Option<SetHeaders<T>>,
    keep_headers: bool,
    max_size: usize,
    rejected: Option<Rest<T>>,
}

impl<C, T: Send + 'static, F: Format<T>> Encoding<C, T, F> {
    /// The connector and the format; no subject yet.
    pub fn new(connector: C, format: F) -> Self {
        let (address, headers) = (Address::None, None);
        Encoding { connector, format, address, headers, keep_headers: false, max_size: 1 << 20, rejected: None }
    }

    /// Every row goes to this subject.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.address = Address::Constant(subject.into());
        self
    }

    /// Every row goes to a subject of its own, token by token: `|order, to| { to.token("orders").token(&order.region); }`.
    #[must_use]
    pub fn subject_of(mut self, make: impl Fn(&T, &mut Tokens<'_>) + Send + Sync + 'static) -> Self {
        self.address = Address::Of(Arc::new(make));
        self
    }

    /// Headers made of the row.
    #[must_use]
    pub fn headers(
        mut self,
        set: impl Fn(&T, &mut Headers) -> std::result::Result<(), InvalidHeader> + Send + Sync + 'static,
    ) -> Self {
        self.headers = Some(Arc::new(set));
        self
    }

    /// The headers of the message that a row came from go on with it, but for reserved ones (`Nats-*`).
    #[must_use]
    pub fn keep_headers(mut self) -> Self {
        self.keep_headers = true;
        self
    }

    /// Messages of more bytes, headers included, are rejected; 1 MiB unless this is called.
    #[must_use]
    pub fn max_size(mut self, bytes: usize) -> Self {
        self.max_size = bytes;
        self
    }

    /// Rows that cannot be written go to this sink.
    #[must_use]
    pub fn rejected_to(mut self, name: &str, sink: impl IntoSink<Rejected<T>> + 'static) -> Self {
        self.rejected = Some(kept(name, sink));
        self
    }

    /// Rows that cannot be written are counted and dropped.
    #[must_use]
    pub fn ignore_rejected(mut self) -> Self {
        self.rejected = Some(dropped());
        self
    }

    /// The first row that cannot be written stops the pipeline.
    #[must_use]
    pub fn stop_on_rejected(mut self) -> Self {
        self.rejected = Some(stopping());
        self
    }
}

impl<C: WriteTo, T: Send + 'static, F: Format<T>> IntoSink<T> for Encoding<C, T, F> {
    fn wire(self, stream: Stream<T>, name: &str) {
        let pipeline = stream.pipeline().clone();
        if let Err(why) = self.address.check() {
            pipeline.problem(Problem::at(name, format!("its subject cannot be used: {why}")).in_setting("subject"));
        }
        let mut sink = self.connector.sink_node(name);
        if let Address::Constant(subject) = &self.address {
            sink.publishes_to([subject.clone()]);
        }
        let (lines, limit) = (sink.lines, sink.limit.clone());
        if lines && F::BINARY {
            let what = format!("each message becomes a line here, which `{}` cannot be", F::NAME);
            pipeline.problem(Problem::at(name, what).in_setting("format").help("use `Json` or `Text`"));
        }
        let Encoding { format, address, headers, keep_headers, max_size, .. } = self;
        let (records, rejected) = stream.encode(&format!("{name}/{}", F::NAME), move || {
            let encode = Encode::new(format.clone(), address.clone()).headers(headers.clone());
            encode.keep_headers(keep_headers).max_size(max_size).limit(limit.clone()).lines(lines)
        });
        if let Some(rest) = self.rejected {
            rest(rejected, name);
        }
        records.sink(name, sink);
    }
}

impl<C, T, F> fmt::Debug for Encoding<C, T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoding")
    }
}

impl IntoSink<Record> for SinkNode {
    fn wire(self, stream: Stream<Record>, name: &str) {
        self.problems.into_iter().for_each(|problem| stream.pipeline().problem(problem));
        let mut node = Node::new(name, self.kind, Role::Sink(self.make));
        node.detail = self.detail;
        node.touches = self.touches;
        node.access = self.access;
        node.at_most_once = self.at_most_once;
        node.repeats = self.repeats;
        // Several writers of one file would write over each other, and mix their lines.
        node.parallelism = self.lines.then_some(1);
        node.inputs = vec![PortType::of::<Vec<Record>>("in")];
        stream.wire(node);
    }
}

/// A sink that counts its rows and drops them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

struct DiscardRows<P>(std::marker::PhantomData<fn(P)>);

impl<P: Payload> Sink for DiscardRows<P> {
    type In = P;

    async fn write(&mut self, _: Batch<P>) -> Result {
        Ok(())
    }

    async fn flush(&mut self, _: Epoch) -> Result {
        Ok(())
    }
}

pub(super) fn discard_rows<P: Payload>() -> Make<dyn DynSink> {
    Arc::new(|_| Ok(erase_sink(DiscardRows::<P>(std::marker::PhantomData))))
}

impl<T: Send + 'static> IntoSink<T> for Discard {
    fn wire(self, stream: Stream<T>, name: &str) {
        let mut node = Node::new(name, "discard", Role::Sink(discard_rows::<Vec<T>>()));
        node.repeats = None;
        node.inputs = vec![PortType::of::<Vec<T>>("in")];
        stream.wire(node);
    }
}

/// A sink that stops the pipeline at its first row.
pub(super) struct Halt;

struct HaltAt<T>(std::marker::PhantomData<fn(T)>);

impl<T: Send + 'static> Sink for HaltAt<T> {
    type In = Vec<Rejected<T>>;

    async fn write(&mut self, batch: Batch<Vec<Rejected<T>>>) -> Result {
        let Some(first) = batch.rows().first() else { return Ok(()) };
        let from = match batch.origins().and_then(|origins| Some((origins.place(), origins.get(0)?))) {
            Some((place, origin)) => format!("message {} of {}", origin.sequence, place.stream),
            None => "a row".to_owned(),
        };
        let words = format!("{from} was rejected ({}): {}", first.cause.code, first.cause);
        Err(Fault::operator(words).retry_with(Retry::Never))
    }

    async fn flush(&mut self, _: Epoch) -> Result {
        Ok(())
    }
}

impl<T: Send + 'static> IntoSink<Rejected<T>> for Halt {
    fn wire(self, stream: Stream<Rejected<T>>, name: &str) {
        let make: Make<dyn DynSink> = Arc::new(|_| Ok(erase_sink(HaltAt::<T>(std::marker::PhantomData))));
        let mut node = Node::new(name, "stop", Role::Sink(make));
        node.repeats = None;
        node.inputs = vec![PortType::of::<Vec<Rejected<T>>>("in")];
        stream.wire(node);
    }
}
