//! How a verb of a [`Frame`] becomes a node: expressions compiled, the operator examined, rejected rows ended as was said.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use millstream_operators::columnar::{Clock, ExprError, Expression, KeyColumns, REJECTED, Select, describe};
use millstream_operators::rows::Merge;
use millstream_operators::{AnyBatch, Fault, Operator, PortType, Problem, Rejected, Result, Timestamp};

use super::Frame;
use crate::dsl::Stream;
use crate::graph::{DynOperator, InPort, Make, Node, NodeId, Now, OutPort, Role, Route, Subtask, erase};

/// A column that is computed: its name and an SQL expression.
pub(super) type Computed = Vec<(String, Expression)>;

/// Which setting an error of a whole list belongs to.
#[derive(Clone, Copy)]
pub(super) enum Setting<'a> {
    Keys(&'a Computed),
    Names(&'a [String]),
}

impl Frame {
    pub(super) fn map<M>(&self, name: &str, setting: &str, of: Setting<'_>, make: M) -> Option<Frame>
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

    pub(super) fn compile(&self, name: &str, setting: &str, sql: &str) -> Option<Expression> {
        Expression::compile(sql, &self.schema).map_err(|error| self.wrong(name, setting, error)).ok()
    }

    /// Compiles all of them, so that all that is wrong is noted.
    pub(super) fn compile_all<N: Into<String>, S: AsRef<str>>(
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

    pub(super) fn wrong(&self, name: &str, setting: &str, error: ExprError) {
        let mut problem = Problem::at(name, error.what).in_setting(setting);
        (problem.within, problem.help) = (error.within, error.help);
        self.pipeline.problem(problem);
    }

    /// The rows as they are, behind a node that stands in for one that something is wrong with: what is behind that can
    /// be looked at as well. The pipeline is not built.
    pub(crate) fn unchanged(&self, name: &str, kind: &'static str) -> Frame {
        self.stand_in(name, kind, []).main(self, Arc::clone(&self.schema))
    }

    /// A node that stands in for one that something is wrong with, whose outputs have the columns of its input.
    pub(super) fn stand_in(&self, name: &str, kind: &'static str, outputs: impl IntoIterator<Item = String>) -> Made {
        let sides: Vec<PortType> =
            outputs.into_iter().map(|output| frame_port(&self.schema).named(output).optional()).collect();
        self.add(name, kind, String::new(), frame_port(&self.schema).optional(), &sides, |_| {
            Ok(Merge::<RecordBatch>::default())
        })
    }

    /// Adds an operator that gives record batches, and ends its rejected rows as was said.
    pub(super) fn node<O, M>(
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

    pub(super) fn add<O, M>(
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
        self.enter_node(node)
    }

    /// Adds a node that takes these rows.
    pub(super) fn enter_node(&self, node: Node) -> Made {
        let rejected = node.outputs.iter().position(|port| port.name() == REJECTED && port.must_connect());
        let id = self.pipeline.add(node);
        self.pipeline.connect(self.port, InPort { node: id, port: 0 }, self.route.clone());
        Made { id, rejected }
    }
}

/// A node that was just added, and its port of rejected rows where there can be any.
pub(super) struct Made {
    pub(super) id: NodeId,
    rejected: Option<usize>,
}

impl Made {
    pub(super) fn port(&self, of: &Frame, port: usize, schema: SchemaRef) -> Frame {
        of.behind(OutPort { node: self.id, port }, schema)
    }

    pub(super) fn main(&self, of: &Frame, schema: SchemaRef) -> Frame {
        self.port(of, 0, schema)
    }

    pub(super) fn reject(&self, of: &Frame, owner: &str) {
        if let (Some(port), Some(rest)) = (self.rejected, &of.rejected) {
            let rejected = Stream::<Rejected<Bytes>>::at(of.pipeline.clone(), OutPort { node: self.id, port });
            rest.end(rejected, owner);
        }
    }
}

/// A port of rows with these columns; several nodes may read it, as copies share their columns.
pub(in crate::dsl) fn frame_port(schema: &SchemaRef) -> PortType {
    let port = PortType::of::<RecordBatch>(PortType::MAIN).describing(describe(schema));
    port.copied_by(AnyBatch::copied::<RecordBatch>)
}

/// The route by which rows of one key meet in one subtask.
pub(super) fn routed(keys: KeyColumns) -> Route {
    Route::Hash(Arc::new(move |batch, groups, out| {
        if let Some(rows) = batch.rows::<RecordBatch>() {
            keys.groups(rows, groups, out);
        }
    }))
}

/// The engine's clock, where the engine runs it.
pub(super) fn clock_of(subtask: &Subtask) -> Clock {
    subtask.resources.get::<Now>().map_or_else(idle, |now| Arc::clone(&now.0))
}

/// A clock for operators that are made to be examined and not to run.
pub(super) fn idle() -> Clock {
    Arc::new(Timestamp::default)
}

/// What was checked when the pipeline was declared cannot fail when it runs.
#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` calls")]
pub(super) fn built(error: ExprError) -> Fault {
    Fault::bug(format!("an expression that was checked cannot be compiled: {error}"))
}

/// Names and expressions, for people.
pub(super) fn words(computed: &Computed) -> String {
    computed.iter().map(|(name, made)| format!("{name} = {}", made.sql())).collect::<Vec<_>>().join(", ")
}
