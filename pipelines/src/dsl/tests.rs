//! What the DSL makes of chains of verbs, and what it says of mistakes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_operators::aggregate::count;
use millstream_operators::join::unbounded;
use millstream_operators::rows::{Group, Json, kept};
use millstream_operators::watermarks::ascending;
use millstream_operators::window::{Emit, count_windows, session, sliding, tumbling, until};
use millstream_operators::{Fault, Rejected, SizeLimit, Timestamp};

use super::*;
use crate::graph::{Make, Settings, Step, Touch, View, explain, plan};

fn touch(subject: &str) -> Vec<Touch> {
    vec![Touch { system: "nats".into(), subject: Some(subject.into()), stream: None }]
}

/// A connector that is only declared.
struct Nowhere(&'static str);

fn never<T: ?Sized>() -> Make<T> {
    Arc::new(|_| Err(Fault::bug("only declared")))
}

impl ReadFrom for Nowhere {
    fn source_node(self, _: &str) -> SourceNode {
        let (touches, problems) = (touch(self.0), Vec::new());
        SourceNode {
            kind: "nowhere".into(),
            detail: self.0.into(),
            make: never(),
            touches,
            access: Vec::new(),
            shared: false,
            at_most_once: None,
            problems,
        }
    }
}

impl WriteTo for Nowhere {
    fn sink_node(self, _: &str) -> SinkNode {
        let (touches, problems) = (touch(self.0), Vec::new());
        SinkNode {
            kind: "nowhere".into(),
            detail: self.0.into(),
            make: never(),
            touches,
            access: Vec::new(),
            at_most_once: None,
            repeats: None,
            limit: SizeLimit::default(),
            lines: false,
            problems,
        }
    }
}

fn numbers() -> Decoding<Nowhere, i64, Json> {
    Decoding::new(Nowhere("in.>"), Json)
}

fn out(subject: &str) -> Encoding<Nowhere, i64, Json> {
    Encoding::new(Nowhere("out"), Json).subject(subject)
}

#[test]
fn a_chain_of_row_verbs_is_planned_as_one_pass_and_counted_by_name() {
    let pipeline = Pipeline::new("p");
    pipeline
        .source("in", numbers().ignore_rejected())
        .map("double", |n| n * 2)
        .filter("small", |n| *n < 10)
        .flat_map("twice", |n| [n, n])
        .sink("out", out("out").stop_on_rejected());
    let graph = pipeline.build().unwrap();
    let planned = plan(&graph);
    let passes: Vec<usize> = planned
        .stages
        .iter()
        .flat_map(|stage| &stage.steps)
        .filter_map(|step| if let Step::Pass { nodes, .. } = step { Some(nodes.len()) } else { None })
        .collect();
    assert_eq!(passes, [3]);
    assert_eq!(
        explain(&graph, View::Text),
        "pipeline p\n\
         in            source nowhere  Bytes\n  -> in/json (forward)\n\
         in/json       operator json  i64\n  -> double (forward)\n  rejected -> in/rejected (forward)\n\
         double        operator map  i64\n  -> small (forward)\n\
         small         operator filter  i64\n  -> twice (forward)\n\
         twice         operator flat_map  i64\n  -> out/json (forward)\n\
         out/json      operator json  Record\n  -> out (forward)\n  rejected -> out/rejected (forward)\n\
         out           sink nowhere\n\
         out/rejected  sink stop\n\
         in/rejected   sink discard\n\
         stages\n  1 x in\n  1 x in/json | double + small + twice | out/json\n  1 x out\n  1 x out/rejected\n  1 x in/rejected\n"
    );
    assert!(explain(&graph, View::Mermaid).contains("n1 -->|rejected| n2"));
    assert!(explain(&graph, View::Dot).starts_with("digraph \"p\""));
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let pipeline = Pipeline::new("not a name");
    let numbers = pipeline.source("in", numbers());
    let (halves, _odd) =
        numbers.try_map("halve", |n: &i64| if n % 2 == 0 { Ok(n / 2) } else { Err(format!("{n} is odd")) });
    let ([_big], rest) = halves.route("by_size", [("big", when(|n| *n > 100))]);
    rest.sink("in", Encoding::new(Nowhere("in.x"), Json).subject("bad subject").ignore_rejected());
    let text = pipeline.build().unwrap_err().to_string();
    for part in [
        "the pipeline's name \"not a name\" cannot be used",
        "in: two nodes have this name",
        "in: it is not said what becomes of the rows that it rejects",
        "halve: it is not said what becomes of the rows that it rejects",
        "by_size: nobody reads its output `big`",
        "in.subject: its subject cannot be used: a subject must not hold a space",
        "it writes to `in.x`, which the source `in` reads as `in.>`",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
}

#[test]
fn a_clone_is_a_second_reader() {
    let pipeline = Pipeline::new("p");
    let numbers = pipeline.source("in", numbers().ignore_rejected());
    numbers.clone().discard("first");
    numbers.discard("second");
    pipeline.build().unwrap();
}

#[test]
fn streams_meet_and_part_by_key() {
    let pipeline = Pipeline::new("p").settings(|settings: &mut Settings| settings.parallelism = 2);
    let left = pipeline.source("left", numbers().ignore_rejected());
    let right = pipeline.source("right", numbers().ignore_rejected());
    left.merge("both", [right])
        .key_by(|n| n % 3)
        .fold("sums", 0, |sum, n| *sum += n)
        .map("sum", |(_, sum)| sum)
        .batch("groups", Group::of(3))
        .discard("end");
    let text = explain(&pipeline.build().unwrap(), View::Text);
    assert!(text.contains("both            operator merge  i64\n  -> sums (hash)"), "{text}");
}

#[test]
fn what_may_lose_messages_needs_the_users_word() {
    let declare = |accept| {
        let pipeline = Pipeline::new("p").settings(|settings| settings.accept_loss = accept);
        let mut node = Nowhere("x").source_node("in");
        node.at_most_once = Some("core NATS keeps nothing".into());
        let raw = pipeline.source_node("in", node);
        let (rows, rejected): (Stream<i64>, Stream<Rejected<Bytes>>) = raw.decode("in/json", Json);
        rows.discard("end");
        rejected.stop("bad");
        pipeline.build().map(drop).map_err(|error| error.to_string())
    };
    assert!(declare(false).unwrap_err().contains("promises at-least-once, but core NATS keeps nothing"));
    declare(true).unwrap();
}

/// The settings for which a join is refused that is bounded so.
fn refused(how: impl How<i64, i64>) -> Vec<String> {
    let pipeline = Pipeline::new("p");
    let rows = |name: &str| {
        let numbers = pipeline.source(name, numbers().ignore_rejected());
        let time = |n: &i64| Timestamp::from_micros(*n);
        let (rows, rejected) = numbers.event_time(&format!("{name}_time"), time, ascending());
        rejected.discard(&format!("{name}_rejected"));
        rows.key_by(|n| *n)
    };
    let pairs = rows("left").join(rows("right")).inner("pairs", how);
    pairs.map("sum", |(left, right)| left + right).sink("out", out("out").stop_on_rejected());
    let error = pipeline.build().unwrap_err();
    assert!(error.problems().iter().all(|problem| problem.node == "pairs" && problem.help.is_some()), "{error}");
    error.problems().iter().filter_map(|problem| problem.setting.clone()).collect()
}

#[test]
fn a_join_that_would_give_results_again_or_never_is_refused_with_the_way_out() {
    let minute = Duration::from_secs(60);
    let again = tumbling(minute).emit(Emit::OnChange).allowed_lateness(minute);
    assert_eq!(refused(again), ["emit", "allowed_lateness"]);
    assert_eq!(refused(session(minute).allowed_lateness(minute)), ["allowed_lateness"]);
    assert_eq!(refused(until(|n: &i64| Timestamp::from_micros(*n)).emit(Emit::OnChange)), ["emit"]);
    assert_eq!(refused(session(Duration::ZERO)), ["session"]);
    assert_eq!(refused(sliding(minute, minute * 2)), ["every"]);
    assert_eq!(refused(unbounded(Duration::ZERO)), ["ttl"]);
}

#[test]
fn a_join_needs_an_event_time_of_both_sides() {
    let pipeline = Pipeline::new("p");
    let rows = |name: &str| pipeline.source(name, numbers().ignore_rejected()).key_by(|n| *n);
    let pairs = rows("left").join(rows("right")).inner("pairs", unbounded(Duration::from_secs(1)));
    pairs.map("sum", |(left, right)| left + right).sink("out", out("out").stop_on_rejected());
    let error = pipeline.build().unwrap_err();
    let words: Vec<String> = error.problems().iter().map(ToString::to_string).collect();
    let missing = |name| format!("pairs: it goes by event time, and the rows of `{name}` have none");
    assert!(words.len() == 2 && words[0].starts_with(&missing("left")) && words[1].starts_with(&missing("right")));
}

#[test]
fn windows_of_no_length_are_refused() {
    let pipeline = Pipeline::new("p");
    let rows = pipeline.source("in", numbers().ignore_rejected()).key_by(|n| *n);
    let counts = rows.window(sliding(Duration::from_secs(1), Duration::ZERO)).aggregate("counts", count());
    counts.map("count", |window| window.key).sink("out", out("out").stop_on_rejected());
    let error = pipeline.build().unwrap_err().to_string();
    assert!(error.contains("counts.every: windows would begin all the time"), "{error}");
}

#[test]
fn what_goes_by_event_time_needs_one() {
    let pipeline = Pipeline::new("p");
    let minute = Duration::from_secs(60);
    let rows = |name: &str| pipeline.source(&format!("{name}_in"), numbers().ignore_rejected()).key_by(|n| *n);
    let end = |stream: Stream<i64>, name: &str| {
        stream.sink(&format!("{name}_out"), out(name).stop_on_rejected());
    };
    end(rows("minutes").window(tumbling(minute)).aggregate("minutes", count()).map("m", |w| w.key).boxed(), "minutes");
    end(rows("tens").window(count_windows(10)).aggregate("tens", count()).map("t", |w| w.key).boxed(), "tens");
    end(rows("once").dedup("once", minute), "once");
    end(rows("ids").distinct("ids", minute), "ids");
    let fold = |name: &str, kept| rows(name).keeping(kept).fold(name, 0, |sum, n| *sum += n);
    end(fold("kept", kept().ttl(minute)).map("k", |(key, _)| key).boxed(), "kept");
    end(fold("clock", kept().ttl_by_clock(minute)).map("c", |(key, _)| key).boxed(), "clock");
    let error = pipeline.build().unwrap_err();
    let named: Vec<&str> = error.problems().iter().map(|problem| problem.node.as_str()).collect();
    assert_eq!(named, ["minutes", "once", "ids", "kept"], "{error}");
    assert!(error.problems().iter().all(|problem| problem.what.starts_with("it goes by event time")), "{error}");
}
