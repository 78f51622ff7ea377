//! [`Frame`]: rows of declared columns on their way, and the verbs that change them with SQL expressions.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_operators::columnar::{
    Clock, Encode, EncodeError, Encoding, Explode, Filter, Route as RouteRows, Select, describe,
};
use millstream_operators::rows::{Merge, Sample, ThrottleDrop};
use millstream_operators::{Operator, PortType, Problem, Record, Result};

use super::node::{Setting, built, frame_port, idle, words};
use crate::dsl::{OnRejected, Pipeline, Stream, ends};
use crate::graph::{InPort, Make, Node, NodeId, OutPort, Rate, Role, Route, Subtask};

/// Rows of declared columns on their way through a pipeline: what a pipeline file is made of, and usable in Rust as well.
///
/// Verbs take it and give another; each takes the name of its node first. Expressions are SQL over the columns (see
/// [`Expression`](millstream_operators::columnar::Expression)). What is wrong with one
/// is noted, and [`Pipeline::build`] reports it with all else. Behind a verb that would have left the columns as they are
/// the others go on with those; where the columns are not known they do nothing, so that one mistake is not reported as
/// many.
///
/// A clone is a second reader of the same rows, which share their columns.
#[derive(Clone)]
pub struct Frame {
    pub(super) pipeline: Pipeline,
    pub(super) port: OutPort,
    pub(super) route: Route,
    pub(super) schema: SchemaRef,
    pub(super) rejected: Option<OnRejected>,
    pub(super) broken: bool,
}

impl Frame {
    /// The rows of an output port: for authors of connectors.
    pub fn at(pipeline: Pipeline, port: OutPort, schema: SchemaRef) -> Self {
        Frame { pipeline, port, route: Route::Forward, schema, rejected: None, broken: false }
    }

    /// Rows of columns that an operator makes of typed ones.
    pub fn of<T, O, M>(stream: Stream<T>, name: &str, kind: &'static str, schema: &SchemaRef, make: M) -> Frame
    where
        T: Send + 'static,
        O: Operator<In = Vec<T>, Out = RecordBatch>,
        M: Fn(&Subtask) -> Result<O> + Send + Sync + 'static,
    {
        let pipeline = stream.pipeline().clone();
        let node = stream.node(name, kind, make);
        pipeline.change(node.id, |node| {
            if let Some(main) = node.outputs.first_mut() {
                *main = frame_port(schema);
            }
        });
        Frame::at(pipeline, OutPort { node: node.id, port: 0 }, Arc::clone(schema))
    }

    /// Rows that a mistake has taken the place of; the mistake was noted.
    pub(crate) fn nowhere(pipeline: Pipeline) -> Self {
        let port = OutPort { node: NodeId(usize::MAX), port: 0 };
        Frame { broken: true, ..Frame::at(pipeline, port, Arc::new(arrow::datatypes::Schema::empty())) }
    }

    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The pipeline that it belongs to.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// Whether a mistake upstream makes it meaningless; the mistake is noted.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// What becomes of rows that the verbs behind this cannot compute something for: a division by zero, a text that is
    /// no number. Verbs that cannot fail do not ask for it.
    #[must_use]
    pub fn on_rejected(mut self, rejected: OnRejected) -> Self {
        self.rejected = Some(rejected);
        self
    }

    /// Rows for which the expression is true go on; null is not true. See [`Filter`] for a timeline. Rows that it cannot be
    /// computed for are rejected.
    #[must_use]
    pub fn filter(self, name: &str, predicate: &str) -> Frame {
        let make = |frame: &Frame| {
            let predicate = frame.compile(name, "filter", predicate);
            let made = predicate.and_then(|predicate| {
                let made = Filter::new(predicate.clone(), idle()).map_err(|error| frame.wrong(name, "filter", error));
                Some((predicate, made.ok()?))
            });
            let Some((predicate, made)) = made else { return Some(frame.unchanged(name, "filter")) };
            let schema = Arc::clone(made.schema());
            let detail = predicate.sql().to_owned();
            let make = move |clock| Filter::new(predicate.clone(), clock).map_err(built);
            Some(frame.node(name, "filter", detail, &schema, &made.sides(), make).main(frame, schema))
        };
        self.then(make)
    }

    /// Columns are computed and set: those that are there are replaced where they stand, new ones come last. All
    /// expressions see the columns as they were. Rows that one cannot be computed for are rejected, whole: see [`Select`].
    #[must_use]
    pub fn set<N: Into<String>, S: AsRef<str>>(self, name: &str, columns: impl IntoIterator<Item = (N, S)>) -> Frame {
        self.set_as(name, "set", columns)
    }

    /// As [`set`](Frame::set), where the expressions stand in a setting of another name: for authors of node kinds.
    #[must_use]
    pub fn set_as<N: Into<String>, S: AsRef<str>>(
        self,
        name: &str,
        setting: &str,
        columns: impl IntoIterator<Item = (N, S)>,
    ) -> Frame {
        let make = |frame: &Frame| {
            let computed = frame.compile_all(name, setting, columns)?;
            let input = Arc::clone(&frame.schema);
            frame.map(name, setting, Setting::Keys(&computed), {
                let computed = computed.clone();
                move |clock| Select::with(&input, computed.clone(), clock)
            })
        };
        self.then(make)
    }

    /// These columns and no others, in this order. Rows that one cannot be computed for are rejected, whole: see [`Select`].
    #[must_use]
    pub fn select<N: Into<String>, S: AsRef<str>>(
        self,
        name: &str,
        columns: impl IntoIterator<Item = (N, S)>,
    ) -> Frame {
        self.select_as(name, "select", columns)
    }

    /// As [`select`](Frame::select), where the expressions stand in a setting of another name: for authors of node kinds.
    #[must_use]
    pub fn select_as<N: Into<String>, S: AsRef<str>>(
        self,
        name: &str,
        setting: &str,
        columns: impl IntoIterator<Item = (N, S)>,
    ) -> Frame {
        let make = |frame: &Frame| {
            let computed = frame.compile_all(name, setting, columns)?;
            frame.map(name, setting, Setting::Keys(&computed), {
                let computed = computed.clone();
                move |clock| Select::new(computed.clone(), clock)
            })
        };
        self.then(make)
    }

    /// All columns but these.
    #[must_use]
    pub fn drop<N: Into<String>>(self, name: &str, columns: impl IntoIterator<Item = N>) -> Frame {
        let make = |frame: &Frame| {
            let (input, columns) = (Arc::clone(&frame.schema), columns.into_iter().map(Into::into));
            let columns: Vec<String> = columns.collect();
            frame.map(name, "drop", Setting::Names(&columns), {
                let columns = columns.clone();
                move |_| Select::without(&input, &columns.iter().map(String::as_str).collect::<Vec<_>>())
            })
        };
        self.then(make)
    }

    /// One row for each item of a list column: see [`Explode`] for a timeline, and for `keep_empty` and `flatten`.
    #[must_use]
    pub fn explode(self, name: &str, column: &str, keep_empty: bool, flatten: bool) -> Frame {
        let make = |frame: &Frame| {
            let (input, column) = (Arc::clone(&frame.schema), column.to_owned());
            let detail = column.clone();
            let make = move |_: Clock| Explode::new(&input, &column, keep_empty, flatten);
            let made = make(idle()).map_err(|error| frame.wrong(name, "explode", error)).ok()?;
            let schema = Arc::clone(made.schema());
            let make = move |clock| make(clock).map_err(built);
            Some(frame.node(name, "flat_map", detail, &schema, &made.sides(), make).main(frame, schema))
        };
        self.then(make)
    }

    /// Rows part: each goes to the first of the routes whose expression is true, and to the last frame if none is. Those that an
    /// expression cannot be computed for are rejected: see [`Route`](RouteRows).
    pub fn route<N: Into<String>, S: AsRef<str>>(
        self,
        name: &str,
        routes: impl IntoIterator<Item = (N, S)>,
    ) -> (Vec<Frame>, Frame) {
        let routes: Vec<(String, S)> = routes.into_iter().map(|(route, sql)| (route.into(), sql)).collect();
        let (count, names) = (routes.len(), routes.iter().map(|(route, _)| route.clone()).collect::<Vec<_>>());
        let make = |frame: &Frame| {
            let schema = Arc::clone(&frame.schema);
            let compiled = frame.compile_all(name, "route", routes);
            let made = compiled.and_then(|compiled| {
                let made = RouteRows::new(&schema, compiled.clone(), idle());
                Some((compiled, made.map_err(|error| frame.wrong(name, "route", error)).ok()?))
            });
            let node = match made {
                Some((compiled, made)) => {
                    let (detail, input) = (words(&compiled), Arc::clone(&schema));
                    let make = move |clock| RouteRows::new(&input, compiled.clone(), clock).map_err(built);
                    frame.node(name, "route", detail, &schema, &made.sides(), make)
                }
                None => frame.stand_in(name, "route", names.iter().cloned()),
            };
            let port = |port| node.port(frame, port, Arc::clone(&schema));
            ((1..=count).map(port).collect(), port(0))
        };
        if self.broken {
            return (vec![self.clone(); count], self);
        }
        make(&self)
    }

    /// This frame and others with the same columns become one, as their rows come: see [`Merge`].
    #[must_use]
    pub fn merge(self, name: &str, others: impl IntoIterator<Item = Frame>) -> Frame {
        let frames: Vec<Frame> = std::iter::once(self.clone()).chain(others).collect();
        let make = |frame: &Frame| {
            let schema = Arc::clone(&frame.schema);
            let node = frame.node(name, "merge", String::new(), &schema, &[], |_| Ok(Merge::<RecordBatch>::default()));
            for other in frames.iter().skip(1) {
                other.enter(&frame.schema, name, InPort { node: node.id, port: 0 }, other.route.clone());
            }
            Some(node.main(frame, schema))
        };
        self.then(make)
    }

    /// The input that took these rows last, and how they go there.
    pub(crate) fn taken_by(&self) -> Option<(InPort, Route)> {
        let edge = if self.broken { None } else { self.pipeline.last_edge(self.port) };
        edge.map(|edge| (edge.to, edge.route))
    }

    /// Adds an edge to an input that takes rows with these columns; others are noted as a mistake of `name`.
    pub(crate) fn enter(&self, schema: &SchemaRef, name: &str, to: InPort, route: Route) {
        if self.broken {
            return;
        }
        let same =
            self.schema.fields().len() == schema.fields().len()
                && self.schema.fields().iter().zip(schema.fields()).all(|(a, b)| {
                    (a.name(), a.data_type(), a.is_nullable()) == (b.name(), b.data_type(), b.is_nullable())
                });
        if !same {
            let (ours, theirs) = (describe(&self.schema), describe(schema));
            let what = format!("its inputs have other columns: ({theirs}) and ({ours})");
            let help = "give them the same columns, in one order, with `select`";
            self.pipeline.problem(Problem::at(name, what).in_setting("from").help(help));
        }
        self.pipeline.connect(self.port, to, route);
    }

    /// No more than so many rows pass in a span of time, by the engine's clock; the others wait, and what is upstream with
    /// them. None is lost.
    #[must_use]
    pub fn throttle(self, name: &str, rows: u64, per: Duration) -> Frame {
        let make = |frame: &Frame| {
            let mut node = Node::new(name, "throttle", Role::Throttle(Rate { rows, per }));
            node.detail = format!("{rows} rows in {per:?}");
            node.inputs = vec![PortType::of::<RecordBatch>("in")];
            node.outputs = vec![frame_port(&frame.schema)];
            let id = frame.pipeline.add(node);
            frame.pipeline.connect(frame.port, InPort { node: id, port: 0 }, frame.route.clone());
            Some(frame.behind(OutPort { node: id, port: 0 }, Arc::clone(&frame.schema)))
        };
        self.then(make)
    }

    /// No more than so many rows pass in a span of time, by the engine's clock; the others are dropped and counted: see
    /// [`ThrottleDrop`].
    #[must_use]
    pub fn throttle_drop(self, name: &str, rows: u64, per: Duration) -> Frame {
        let schema = Arc::clone(&self.schema);
        self.operator(name, "throttle_drop", &schema, move |_| Ok(ThrottleDrop::<RecordBatch>::new(rows, per)))
    }

    /// The first of every `n` rows passes: see [`Sample`].
    #[must_use]
    pub fn sample(self, name: &str, n: u64) -> Frame {
        let schema = Arc::clone(&self.schema);
        self.operator(name, "sample", &schema, move |_| Ok(Sample::<RecordBatch>::new(n)))
    }

    /// Batches go to the subtasks of the next node in turn.
    #[must_use]
    pub fn rebalance(mut self) -> Frame {
        self.route = Route::Rebalance;
        self
    }

    /// The node that gives these rows runs as so many subtasks.
    #[must_use]
    pub fn parallelism(self, subtasks: u32) -> Frame {
        if !self.broken {
            self.pipeline.change(self.port.node, |node| node.parallelism = Some(subtasks));
        }
        self
    }

    /// Your own operator over record batches, whose rows have the columns of `schema`.
    #[must_use]
    pub fn operator<O, M>(self, name: &str, kind: &'static str, schema: &SchemaRef, make: M) -> Frame
    where
        O: Operator<In = RecordBatch, Out = RecordBatch>,
        M: Fn(Clock) -> Result<O> + Send + Sync + 'static,
    {
        let add = |frame: &Frame| match make(idle()) {
            Ok(made) => {
                let node = frame.node(name, kind, String::new(), schema, &made.sides(), make);
                Some(node.main(frame, Arc::clone(schema)))
            }
            Err(fault) => {
                frame.pipeline.problem(Problem::at(name, fault.chain()));
                None
            }
        };
        self.then(add)
    }

    /// Bytes of the rows, with subject and headers, for a sink; what cannot be written is rejected. The node is called
    /// `<owner>/<format>`. `None` when something is wrong with it, which is noted.
    pub fn encode(self, owner: &str, encoding: Encoding) -> Option<Stream<Record>> {
        if self.broken {
            return None;
        }
        let Some(made) = self.encoder(owner, &encoding, |_| true) else {
            self.broken();
            return None;
        };
        let (schema, word) = (Arc::clone(&self.schema), encoding.format.word());
        let make = move |_| {
            let wrong = |errors: Vec<_>| millstream_operators::Fault::bug(format!("cannot encode: {errors:?}"));
            Encode::new(&schema, encoding.clone()).map_err(wrong)
        };
        let outputs = PortType::of::<Vec<Record>>(PortType::MAIN);
        let node = self.add(&format!("{owner}/{word}"), word, String::new(), outputs, &made.sides(), make);
        node.reject(&self, owner);
        Some(Stream::at(self.pipeline.clone(), OutPort { node: node.id, port: 0 }))
    }

    /// What encodes the rows. What is wrong with it is noted, as far as it is in a setting that is `told` of.
    pub(in crate::dsl) fn encoder(
        &self,
        owner: &str,
        encoding: &Encoding,
        told: impl Fn(&str) -> bool,
    ) -> Option<Encode> {
        let noted = |errors: Vec<EncodeError>| {
            for error in errors.into_iter().filter(|error| told(&error.setting)) {
                let mut problem = Problem::at(owner, error.what).in_setting(error.setting);
                (problem.within, problem.help) = (error.within, error.help);
                self.pipeline.problem(problem);
            }
        };
        Encode::new(&self.schema, encoding.clone()).map_err(noted).ok()
    }

    /// Ends the rows: they are counted and dropped.
    pub fn discard(self, name: &str) {
        let mut node = Node::new(name, "discard", Role::Sink(ends::discard_rows::<RecordBatch>()));
        node.repeats = None;
        self.end_in(node);
    }

    /// Ends the rows in a sink that takes record batches.
    pub fn end(self, name: &str, kind: &'static str, make: Make<dyn crate::graph::DynSink>) {
        self.end_in(Node::new(name, kind, Role::Sink(make)));
    }

    fn end_in(self, mut node: Node) {
        if self.broken {
            return;
        }
        node.inputs = vec![PortType::of::<RecordBatch>("in")];
        let id = self.pipeline.add(node);
        self.pipeline.connect(self.port, InPort { node: id, port: 0 }, self.route);
    }

    /// The same frame, which other verbs leave alone; nothing has to read what it stands for.
    pub(crate) fn broken(&self) -> Frame {
        self.pipeline.change(self.port.node, |node| {
            if let Some(output) = node.outputs.get_mut(self.port.port) {
                *output = output.clone().optional();
            }
        });
        Frame { broken: true, ..self.clone() }
    }

    pub(crate) fn then(self, add: impl FnOnce(&Frame) -> Option<Frame>) -> Frame {
        if self.broken {
            return self;
        }
        add(&self).unwrap_or_else(|| self.broken())
    }

    pub(super) fn behind(&self, port: OutPort, schema: SchemaRef) -> Frame {
        Frame { port, schema, route: Route::Forward, ..self.clone() }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:?} of {:?}: {})", self.port, self.pipeline, describe(&self.schema))
    }
}
