//! What the verbs of a frame make of a pipeline, and what they say of mistakes.

use std::sync::Arc;
use std::time::Duration;

use millstream_operators::columnar::{Bound, DecodeFormat, EncodeFormat};
use millstream_operators::watermarks::bounded_lateness;
use millstream_operators::{Fault, SizeLimit};

use crate::dsl::{Frame, OnRejected, Pipeline, SinkNode, SourceNode, columns_from, columns_to};
use crate::graph::{Make, NodeId, View, explain};

fn never<T: ?Sized>() -> Make<T> {
    Arc::new(|_| Err(Fault::bug("only declared")))
}

fn source() -> SourceNode {
    SourceNode {
        kind: "nowhere".into(),
        detail: String::new(),
        make: never(),
        touches: Vec::new(),
        access: Vec::new(),
        shared: false,
        at_most_once: None,
        problems: Vec::new(),
    }
}

fn rows(pipeline: &Pipeline) -> Frame {
    let from = columns_from(source(), DecodeFormat::Json).schema([("id", "int64"), ("amount", "float64")]);
    pipeline.frame("in", from.on_rejected(OnRejected::Drop)).unwrap()
}

fn sink() -> SinkNode {
    SinkNode {
        kind: "nowhere".into(),
        detail: String::new(),
        make: never(),
        touches: Vec::new(),
        access: Vec::new(),
        at_most_once: None,
        repeats: None,
        limit: SizeLimit::default(),
        lines: false,
        problems: Vec::new(),
    }
}

fn end(frame: Frame, name: &str) {
    frame.sink(name, columns_to(sink(), EncodeFormat::Json).subject("out.{id}"));
}

#[test]
fn a_chain_has_the_nodes_and_columns_that_it_says() {
    let pipeline = Pipeline::new("p");
    let (mut routes, rest) = rows(&pipeline)
        .filter("large", "amount > 1")
        .set("taxed", [("tax", "amount * 0.19")])
        .drop("without_amount", ["amount"])
        .route("by_id", [("even", "id % 2 = 0")]);
    assert_eq!(rest.schema().fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["id", "tax"]);
    end(routes.remove(0), "even");
    end(rest, "odd");
    let text = explain(&pipeline.build().unwrap(), View::Text);
    for line in [
        "large           operator filter",
        "taxed           operator map",
        "  even -> even/json (forward)",
        "in/rejected",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn one_mistake_is_not_reported_as_many() {
    let pipeline = Pipeline::new("p");
    let frame = rows(&pipeline).set("taxed", [("tax", "amuont * 0.19")]).filter("large", "tax > 1");
    assert!(frame.is_broken());
    end(frame, "out");
    let error = pipeline.build().unwrap_err();
    assert!(error.problems().iter().any(|problem| problem.node == "taxed"), "{error}");
    assert!(!error.problems().iter().any(|problem| problem.node == "large" || problem.node == "in"), "{error}");
}

#[test]
fn a_mistake_that_leaves_the_columns_as_they_are_hides_none_behind_it() {
    let pipeline = Pipeline::new("p");
    let frame = rows(&pipeline).filter("large", "amuont > 1").key_by(["idd"]).dedup("once", Duration::from_secs(1));
    let (mut routes, rest) = frame.route("by_id", [("even", "di % 2 = 0")]);
    end(rest, "odd");
    let node = sink();
    routes.remove(0).sink("even", columns_to(node, EncodeFormat::Json).subject("a..b").header("id", "{amuont}"));
    let error = pipeline.build().unwrap_err();
    let places = error.problems().iter().map(|problem| {
        let setting = problem.setting.as_deref().unwrap_or_default();
        format!("{}.{setting}", problem.node)
    });
    let places: Vec<_> = places.collect();
    assert_eq!(places, ["large.filter", "once.dedup.by", "by_id.route.even", "even.subject", "even.headers.id"]);
}

#[test]
fn what_may_fail_must_say_what_becomes_of_the_rows() {
    let declare = |rejected: Option<OnRejected>| {
        let pipeline = Pipeline::new("p");
        let mut frame = rows(&pipeline);
        frame.rejected = rejected;
        end(frame.set("ratio", [("r", "1 / id")]).on_rejected(OnRejected::Stop), "out");
        pipeline.build().map(drop).map_err(|error| error.to_string())
    };
    assert!(declare(None).unwrap_err().starts_with("ratio: it is not said"));
    declare(Some(OnRejected::Drop)).unwrap();
}

#[test]
fn rows_of_other_columns_do_not_become_one() {
    let pipeline = Pipeline::new("p");
    let rows = rows(&pipeline);
    let other = rows.clone().drop("other", ["id"]);
    end(rows.merge("both", [other]).on_rejected(OnRejected::Stop), "out");
    assert!(pipeline.build().unwrap_err().to_string().contains("both.from: its inputs have other columns"));
}

fn timed(pipeline: &Pipeline, name: &str) -> Frame {
    let columns = [("id", "int64"), ("amount", "float64"), ("at", "timestamp")];
    let from = columns_from(source(), DecodeFormat::Json).schema(columns);
    let rows = pipeline.frame(name, from.on_rejected(OnRejected::Drop)).unwrap();
    rows.event_time(&format!("{name}_time"), "at", bounded_lateness(Duration::from_secs(1)))
}

#[test]
fn a_join_gets_the_rows_of_both_sides_by_key() {
    let pipeline = Pipeline::new("p");
    let (orders, payments) = (timed(&pipeline, "orders"), timed(&pipeline, "payments"));
    let paid = orders.key_by(["id"]).join(payments.key_by(["id"])).prefix("paid_");
    end(paid.left("paid", Bound::within(Duration::ZERO, Duration::from_secs(60))), "out");
    let graph = pipeline.build().unwrap();
    let node = graph.nodes.iter().find(|node| node.name == "paid").unwrap();
    assert_eq!(node.detail, "left, id = id, from 0ns before to 60s after");
    let text = explain(&graph, View::Text);
    assert_eq!(text.matches("-> paid (hash)").count(), 2, "{text}");
    let columns = "operator join  id: int64, amount: float64, at: timestamp, paid_amount: float64, paid_at: timestamp";
    assert!(text.contains(columns), "{text}");
}

#[test]
fn what_becomes_lines_is_written_by_one_subtask() {
    let pipeline = Pipeline::new("p").settings(|settings| settings.parallelism = 4);
    let lines = SinkNode { lines: true, ..sink() };
    let sums = timed(&pipeline, "orders").key_by(["id"]).dedup("once", Duration::from_secs(1));
    end(sums.clone(), "messages");
    sums.sink("lines", columns_to(lines, EncodeFormat::Json));
    let graph = pipeline.build().unwrap();
    let subtasks = |name: &str| {
        let place = graph.nodes.iter().position(|node| node.name == name).unwrap();
        graph.parallelism(NodeId(place))
    };
    assert_eq!([subtasks("once"), subtasks("messages"), subtasks("lines")], [4, 4, 1]);
}

#[test]
fn what_is_wrong_with_a_join_does_not_hide_what_is_behind_it() {
    let pipeline = Pipeline::new("p");
    let (orders, timeless) = (timed(&pipeline, "orders"), rows(&pipeline));
    let joined = orders.key_by(["id", "at"]).join(timeless.key_by(["id"])).prefix("in_");
    let paid = joined.full("paid", Bound::unbounded(Duration::from_secs(60)));
    end(paid.filter("large", "in_amuont > 1"), "out");
    let error = pipeline.build().unwrap_err();
    let places: Vec<String> = error
        .problems()
        .iter()
        .map(|problem| format!("{}.{}", problem.node, problem.setting.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!(places, ["paid.join.on", "paid.join.kind", "large.filter", "paid.join"], "{error}");
}
