//! [`Frame`]: rows of declared columns on their way, and the verbs that change them with SQL expressions.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use millstream_operators::columnar::{
    Clock, Encode, Encoding, Explode, ExprError, Expression, Filter, REJECTED, Route as RouteRows, Select, describe,
};
use millstream_operators::rows::Merge;
use millstream_operators::{AnyBatch, Fault, Operator, PortType, Problem, Record, Rejected, Result, Timestamp};

use super::{OnRejected, Pipeline, Stream};
use crate::graph::{DynOperator, InPort, Make, Node, NodeId, Now, OutPort, Rate, Role, Route, Subtask, erase};

/// Rows of declared columns on their way through a pipeline: what a pipeline file is made of, and usable in Rust as well.
///
/// Verbs take it and give another; each takes the name of its node first. Expressions are SQL over the columns (see
/// [`Expression`]). What is wrong with one is noted, and [`Pipeline::build`] reports it with all else; the verbs behind
/// it then do nothing, so that one mistake is not reported as many.
///
/// A clone is a second reader of the same rows, which share their columns.
#[derive(Clone)]
pub struct Frame {
    pipeline: Pipeline,
    port: OutPort,
    route: Route,
    schema: SchemaRef,
    rejected: Option<OnRejected>,
    broken: bool,
}

/// A column that is computed: its name and an SQL expression.
type Computed = Vec<(String, Expression)>;

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

    /// Rows for which the expression is true go on.
    #[must_use]
    pub fn filter(self, name: &str, predicate: &str) -> Frame {
        let make = |frame: &Frame| {
            let predicate = frame.compile(name, "filter", predicate)?;
            let made =
                Filter::new(predicate.clone(), idle()).map_err(|error| frame.wrong(name, "filter", error)).ok()?;
            let schema = Arc::clone(made.schema());
            let detail = predicate.sql().to_owned();
            let make = move |clock| Filter::new(predicate.clone(), clock).map_err(built);
            Some(frame.node(name, "filter", detail, &schema, &made.sides(), make).main(frame, schema))
        };
        self.then(make)
    }

    /// Columns are computed and set: those that are there are replaced where they stand, new ones come last. All
    /// expressions see the columns as they were.
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

    /// These columns and no others, in this order.
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

    /// One row for each item of a list column; see [`Explode`].
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

    /// Rows part: each goes to the first of the routes whose expression is true, and to the last frame if none is.
    pub fn route<N: Into<String>, S: AsRef<str>>(
        self,
        name: &str,
        routes: impl IntoIterator<Item = (N, S)>,
    ) -> (Vec<Frame>, Frame) {
        let routes: Vec<(String, S)> = routes.into_iter().map(|(route, sql)| (route.into(), sql)).collect();
        let count = routes.len();
        let make = |frame: &Frame| {
            let compiled = frame.compile_all(name, "route", routes)?;
            let schema = Arc::clone(&frame.schema);
            let detail = words(&compiled);
            let make = move |clock| RouteRows::new(&schema, compiled.clone(), clock);
            let made = make(idle()).map_err(|error| frame.wrong(name, "route", error)).ok()?;
            let make = move |clock| make(clock).map_err(built);
            let schema = Arc::clone(&frame.schema);
            let node = frame.node(name, "route", detail, &schema, &made.sides(), make);
            let port = |port| node.port(frame, port, Arc::clone(&schema));
            Some(((1..=count).map(port).collect(), port(0)))
        };
        if self.broken {
            return (vec![self.clone(); count], self);
        }
        make(&self).unwrap_or_else(|| {
            let broken = self.broken();
            (vec![broken.clone(); count], broken)
        })
    }

    /// This frame and others with the same columns become one.
    #[must_use]
    pub fn merge(self, name: &str, others: impl IntoIterator<Item = Frame>) -> Frame {
        let frames: Vec<Frame> = std::iter::once(self.clone()).chain(others).collect();
        let make = |frame: &Frame| {
            let schema = Arc::clone(&frame.schema);
            let node = frame.node(name, "merge", String::new(), &schema, &[], |_| Ok(Merge::<RecordBatch>::default()));
            for other in frames.iter().skip(1) {
                other.enter(&frame.schema, name, InPort { node: node.id, port: 0 });
            }
            Some(node.main(frame, schema))
        };
        self.then(make)
    }

    /// The input that took these rows first.
    pub(crate) fn taken_by(&self) -> Option<InPort> {
        if self.broken { None } else { self.pipeline.last_reader(self.port) }
    }

    /// Adds an edge to an input that takes rows with these columns; others are noted as a mistake of `name`.
    pub(crate) fn enter(&self, schema: &SchemaRef, name: &str, to: InPort) {
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
        self.pipeline.connect(self.port, to, self.route.clone());
    }

    /// No more than so many rows pass in a span of time; the others wait, and what is upstream with them.
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
        let made = match Encode::new(&self.schema, encoding.clone()) {
            Ok(made) => made,
            Err(errors) => {
                for error in errors {
                    let mut problem = Problem::at(owner, error.what).in_setting(error.setting);
                    (problem.within, problem.help) = (error.within, error.help);
                    self.pipeline.problem(problem);
                }
                self.broken();
                return None;
            }
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

    /// Ends the rows: they are counted and dropped.
    pub fn discard(self, name: &str) {
        self.end(name, "discard", super::ends::discard_rows::<RecordBatch>());
    }

    /// Ends the rows in a sink that takes record batches.
    pub fn end(self, name: &str, kind: &'static str, make: Make<dyn crate::graph::DynSink>) {
        if self.broken {
            return;
        }
        let mut node = Node::new(name, kind, Role::Sink(make));
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

    fn then(self, add: impl FnOnce(&Frame) -> Option<Frame>) -> Frame {
        if self.broken {
            return self;
        }
        add(&self).unwrap_or_else(|| self.broken())
    }

    fn behind(&self, port: OutPort, schema: SchemaRef) -> Frame {
        Frame { port, schema, route: Route::Forward, ..self.clone() }
    }
}

/// Which setting an error of a whole list belongs to.
enum Setting<'a> {
    Keys(&'a Computed),
    Names(&'a [String]),
}

impl Frame {
    fn map<M>(&self, name: &str, setting: &str, of: Setting<'_>, make: M) -> Option<Frame>
    where
        M: Fn(Clock) -> std::result::Result<Select, ExprError> + Send + Sync + 'static,
    {
        let made = make(idle()).map_err(|error| self.wrong(name, setting, error)).ok()?;
        let detail = match of {
            Setting::Keys(computed) => words(computed),
            Setting::Names(names) => format!("without {}", names.join(", ")),
        };
        let schema = Arc::clone(made.schema());
        let make = move |clock| make(clock).map_err(built);
        Some(self.node(name, "map", detail, &schema, &made.sides(), make).main(self, schema))
    }

    fn compile(&self, name: &str, setting: &str, sql: &str) -> Option<Expression> {
        Expression::compile(sql, &self.schema).map_err(|error| self.wrong(name, setting, error)).ok()
    }

    /// Compiles all of them, so that all that is wrong is noted.
    fn compile_all<N: Into<String>, S: AsRef<str>>(
        &self,
        name: &str,
        setting: &str,
        columns: impl IntoIterator<Item = (N, S)>,
    ) -> Option<Computed> {
        let compiled: Vec<_> = columns
            .into_iter()
            .map(|(column, sql)| {
                let column = column.into();
                let compiled = self.compile(name, &format!("{setting}.{column}"), sql.as_ref())?;
                Some((column, compiled))
            })
            .collect();
        compiled.into_iter().collect()
    }

    fn wrong(&self, name: &str, setting: &str, error: ExprError) {
        let mut problem = Problem::at(name, error.what).in_setting(setting);
        (problem.within, problem.help) = (error.within, error.help);
        self.pipeline.problem(problem);
    }

    /// Adds an operator that gives record batches, and ends its rejected rows as was said.
    fn node<O, M>(
        &self,
        name: &str,
        kind: &'static str,
        detail: String,
        schema: &SchemaRef,
        sides: &[PortType],
        make: M,
    ) -> Made
    where
        O: Operator<In = RecordBatch, Out = RecordBatch>,
        M: Fn(Clock) -> Result<O> + Send + Sync + 'static,
    {
        let made = self.add(name, kind, detail, frame_port(schema), sides, make);
        made.reject(self, name);
        made
    }

    fn add<O, M>(
        &self,
        name: &str,
        kind: &'static str,
        detail: String,
        main: PortType,
        sides: &[PortType],
        make: M,
    ) -> Made
    where
        O: Operator<In = RecordBatch>,
        M: Fn(Clock) -> Result<O> + Send + Sync + 'static,
    {
        let make: Make<dyn DynOperator> = Arc::new(move |subtask: &Subtask| make(clock_of(subtask)).map(erase));
        let mut node = Node::new(name, kind, Role::Operator(make));
        node.detail = detail;
        node.inputs = vec![PortType::of::<RecordBatch>("in")];
        node.outputs = std::iter::once(main).chain(sides.iter().cloned()).collect();
        let rejected = node.outputs.iter().position(|port| port.name() == REJECTED && port.must_connect());
        let id = self.pipeline.add(node);
        self.pipeline.connect(self.port, InPort { node: id, port: 0 }, self.route.clone());
        Made { id, rejected }
    }
}

/// A node that was just added, and its port of rejected rows where there can be any.
struct Made {
    id: NodeId,
    rejected: Option<usize>,
}

impl Made {
    fn port(&self, of: &Frame, port: usize, schema: SchemaRef) -> Frame {
        of.behind(OutPort { node: self.id, port }, schema)
    }

    fn main(&self, of: &Frame, schema: SchemaRef) -> Frame {
        self.port(of, 0, schema)
    }

    fn reject(&self, of: &Frame, owner: &str) {
        if let (Some(port), Some(rest)) = (self.rejected, &of.rejected) {
            let rejected = Stream::<Rejected<Bytes>>::at(of.pipeline.clone(), OutPort { node: self.id, port });
            rest.end(rejected, owner);
        }
    }
}

/// A port of rows with these columns; several nodes may read it, as copies share their columns.
pub(super) fn frame_port(schema: &SchemaRef) -> PortType {
    let port = PortType::of::<RecordBatch>(PortType::MAIN).describing(describe(schema));
    port.copied_by(AnyBatch::copied::<RecordBatch>)
}

/// The engine's clock, where the engine runs it.
fn clock_of(subtask: &Subtask) -> Clock {
    subtask.resources.get::<Now>().map_or_else(idle, |now| Arc::clone(&now.0))
}

/// A clock for operators that are made to be examined and not to run.
fn idle() -> Clock {
    Arc::new(Timestamp::default)
}

/// What was checked when the pipeline was declared cannot fail when it runs.
#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` calls")]
fn built(error: ExprError) -> Fault {
    Fault::bug(format!("an expression that was checked cannot be compiled: {error}"))
}

/// Names and expressions, for people.
fn words(computed: &Computed) -> String {
    computed.iter().map(|(name, made)| format!("{name} = {}", made.sql())).collect::<Vec<_>>().join(", ")
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:?} of {:?}: {})", self.port, self.pipeline, describe(&self.schema))
    }
}
