//! [`JoinedFrame`]: rows of columns of two streams, put together.

use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use millstream_operators::columnar::{Bound, ExprError, Join, JoinKind, JoinMistakes, JoinPlan};
use millstream_operators::{Operator, PortType, Problem, Rejected};

use super::node::{frame_port, routed};
use super::{Frame, KeyedFrame};
use crate::dsl::pipeline::of_node;
use crate::dsl::{OnRejected, Stream};
use crate::graph::{DynOperator, InPort, Make, Node, OutPort, Role, Subtask, erase_join};

/// Rows of two frames that have the same key: the verbs say which of them belong together, and what is given. See
/// [`Join`](millstream_operators::columnar::Join) for what comes when.
///
/// ```
/// use std::time::Duration;
/// use millstream_operators::{columnar::{Bound, schema}, watermarks::ascending};
/// # use millstream_operators::{Fault, PortType};
/// # use millstream_pipelines::{dsl::{Frame, OnRejected, Pipeline}, graph::{Node, OutPort, Role}};
/// # fn declared(pipeline: &Pipeline, name: &str, schema: arrow::datatypes::SchemaRef) -> Frame {
/// #     let mut node = Node::new(name, "list", Role::Source(std::sync::Arc::new(|_| Err(Fault::bug("only declared")))));
/// #     node.outputs = vec![PortType::of::<arrow::array::RecordBatch>("out")];
/// #     let frame = Frame::at(pipeline.clone(), OutPort { node: pipeline.add(node), port: 0 }, schema);
/// #     frame.on_rejected(OnRejected::Drop).event_time(&format!("{name}_at"), "at", ascending())
/// # }
///
/// let orders = [("id", "utf8"), ("amount", "float64"), ("at", "timestamp")];
/// let payments = [("order_id", "utf8"), ("amount", "float64"), ("at", "timestamp")];
/// let pipeline = Pipeline::new("paid");
/// # let orders = declared(&pipeline, "orders", schema(orders).unwrap());
/// # let payments = declared(&pipeline, "payments", schema(payments).unwrap());
/// let both = orders.key_by(["id"]).join(payments.key_by(["order_id"])).prefix("payment_");
/// let paid = both.inner("paid", Bound::within(Duration::ZERO, Duration::from_secs(3_600)));
/// assert!(paid.schema().column_with_name("payment_amount").is_some());
/// paid.discard("out");
/// pipeline.build().unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct JoinedFrame {
    left: KeyedFrame,
    right: KeyedFrame,
    prefix: String,
    late: OnRejected,
}

impl KeyedFrame {
    /// Rows of this frame (the left) and of another (the right) that have the same key are put together.
    pub fn join(self, right: KeyedFrame) -> JoinedFrame {
        JoinedFrame { left: self, right, prefix: String::new(), late: OnRejected::Drop }
    }
}

impl JoinedFrame {
    /// What goes before the names of the right's columns, where there would be two of one name.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// What becomes of rows that come when what they could be joined with is gone: they are counted and dropped unless
    /// this says otherwise.
    #[must_use]
    pub fn late(mut self, late: OnRejected) -> Self {
        self.late = late;
        self
    }

    /// Rows that have partners, with each of them.
    #[must_use]
    pub fn inner(self, name: &str, bound: Bound) -> Frame {
        self.of_kind(name, JoinKind::Inner, bound)
    }

    /// All rows of the left, with their partners or none.
    #[must_use]
    pub fn left(self, name: &str, bound: Bound) -> Frame {
        self.of_kind(name, JoinKind::Left, bound)
    }

    /// All rows of the right, with their partners or none.
    #[must_use]
    pub fn right(self, name: &str, bound: Bound) -> Frame {
        self.of_kind(name, JoinKind::Right, bound)
    }

    /// All rows of both sides, with their partners or none.
    #[must_use]
    pub fn full(self, name: &str, bound: Bound) -> Frame {
        self.of_kind(name, JoinKind::Full, bound)
    }

    /// The rows of the left that have a partner, each once.
    #[must_use]
    pub fn semi(self, name: &str, bound: Bound) -> Frame {
        self.of_kind(name, JoinKind::Semi, bound)
    }

    /// The rows of the left that have no partner.
    #[must_use]
    pub fn anti(self, name: &str, bound: Bound) -> Frame {
        self.of_kind(name, JoinKind::Anti, bound)
    }

    /// Rows put together as a kind of join says.
    #[must_use]
    pub fn of_kind(self, name: &str, kind: JoinKind, bound: Bound) -> Frame {
        let (left, right) = (self.left.frame().clone(), self.right.frame().clone());
        if left.is_broken() || right.is_broken() {
            // Nobody reads the other any more, which is no mistake of its own.
            return [&left, &right].map(|side| if side.is_broken() { side.clone() } else { side.broken() })[0].clone();
        }
        let columns = (self.left.columns(), self.right.columns());
        let on: Vec<(String, String)> = columns.0.iter().cloned().zip(columns.1.iter().cloned()).collect();
        let mut mistakes = Vec::new();
        if columns.0.len() != columns.1.len() {
            let what =
                format!("the left has {} columns of the key, and the right {}", columns.0.len(), columns.1.len());
            mistakes.push(Problem::at(name, what).in_setting("join.on").help("name the same number on both sides"));
        }
        mistakes.extend(of_node(name, "join.", bound.problems()));
        let detail = {
            let same = on.iter().map(|(left, right)| format!("{left} = {right}")).collect::<Vec<_>>().join(" and ");
            format!("{kind}, {same}, {bound}")
        };
        let made = JoinPlan::new((left.schema(), right.schema()), &on, kind, &self.prefix, bound);
        let made = made.map_err(|JoinMistakes { all, schema }| {
            for (setting, ExprError { what, within, help }) in all {
                let mut problem = Problem::at(name, what).in_setting(format!("join.{setting}"));
                (problem.within, problem.help) = (within, help);
                mistakes.push(problem);
            }
            schema
        });
        let is_whole = mistakes.is_empty();
        mistakes.into_iter().for_each(|problem| left.pipeline().problem(problem));
        match made {
            Ok(plan) if is_whole => self.add(name, detail, plan),
            Ok(plan) => stand_in(name, &left, &right, plan.schema()),
            Err(Some(schema)) => stand_in(name, &left, &right, &schema),
            Err(None) => {
                drop(right.broken());
                left.broken()
            }
        }
    }

    fn add(self, name: &str, detail: String, plan: JoinPlan) -> Frame {
        let (left, right) = (self.left.frame(), self.right.frame());
        let [of_left, of_right] = plan.keys().map(Clone::clone);
        let schema = Arc::clone(plan.schema());
        // What its sides are, only an operator can tell.
        let sides = Join::new(plan.clone()).map(|join| join.sides()).unwrap_or_default();
        let make: Make<dyn DynOperator> = Arc::new(move |_: &Subtask| Join::new(plan.clone()).map(erase_join));
        let mut node = Node::new(name, "join", Role::Operator(make));
        node.detail = detail;
        node.by_event_time = true;
        node.inputs = ["left", "right"].map(PortType::of::<RecordBatch>).to_vec();
        node.outputs = std::iter::once(frame_port(&schema)).chain(sides).collect();
        let id = left.pipeline().add(node);
        // The left last: what else is led to where its rows go finds it there.
        for (port, frame, keys) in [(1, right, of_right), (0, left, of_left)] {
            left.pipeline().connect(frame.port, InPort { node: id, port }, routed(keys));
        }
        if !matches!(self.late, OnRejected::Drop) {
            let late = Stream::<Rejected<Bytes>>::at(left.pipeline().clone(), OutPort { node: id, port: 1 });
            self.late.end(late, name);
        }
        left.behind(OutPort { node: id, port: 0 }, schema)
    }
}

/// A node that stands in for one that something is wrong with, so that what is behind it can be looked at as well.
fn stand_in(name: &str, left: &Frame, right: &Frame, schema: &arrow::datatypes::SchemaRef) -> Frame {
    let made = left.stand_in(name, "join", []);
    right.pipeline().connect(right.port, InPort { node: made.id, port: 0 }, right.route.clone());
    left.pipeline().change(made.id, |node| node.by_event_time = true);
    made.main(left, Arc::clone(schema))
}
