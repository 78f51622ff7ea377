//! Joins of the DSL, of every kind and with every bound, against the definition, on rows of both sides that come out of order,
//! cut anywhere and restarted anywhere.

mod definition;
mod played;

use std::sync::Arc;
use std::time::Duration;

use millstream_operators::join::{Sided, unbounded, within};
use millstream_operators::testkit::cases;
use millstream_operators::watermarks::ascending;
use millstream_operators::window::{session, sliding, until};
use millstream_operators::{Fault, PortType, Rejected, Timestamp};
use proptest::prelude::*;

use self::definition::{by_definition, came};
use self::played::Played;
use super::*;
use crate::graph::{Graph, Node, OutPort, Role, Subtask};

/// A key, a number of its own, and the time until which it waits.
type Row = (u8, u32, i64);

/// What was given: at what time, and the numbers of the rows of the left and of the right, 0 for none.
type Given = (i64, u32, u32);

#[derive(Clone, Debug)]
enum Step {
    Row { is_left: bool, time: i64, row: Row },
    Watermark(i64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Verb {
    Inner,
    Left,
    Right,
    Full,
    Semi,
    Anti,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bounds {
    Within { before: i64, after: i64, lateness: i64 },
    Until { before: i64 },
    Unbounded { ttl: i64 },
    Windows { size: i64, every: i64, offset: i64 },
    Session { gap: i64 },
    AsOf { ttl: Option<i64> },
}

use Verb::{Anti, Full, Inner, Left, Right, Semi};

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn span(micros: i64) -> Duration {
    Duration::from_micros(micros.unsigned_abs())
}

/// A source that is only declared.
struct Declared;

impl IntoSource for Declared {
    type Row = Row;

    fn wire(self, pipeline: &Pipeline, name: &str) -> Stream<Row> {
        let make = |_: &Subtask| Err(Fault::bug("only declared"));
        let mut node = Node::new(name, "declared", Role::Source(Arc::new(make)));
        node.outputs = vec![PortType::of::<Vec<Row>>(PortType::MAIN)];
        node.parallelism = Some(1);
        Stream::at(pipeline.clone(), OutPort { node: pipeline.add(node), port: 0 })
    }
}

fn side(pipeline: &Pipeline, name: &str) -> KeyedStream<u8, Row> {
    let (rows, rejected) =
        pipeline.source(name, Declared).event_time(&format!("{name}_time"), |_| Timestamp::MIN, ascending());
    rejected.discard(&format!("{name}_rejected"));
    rows.key_by(|row| row.0)
}

/// A graph that joins `left` and `right`; numbers come out at `given`, and those of late rows at `late`.
fn graph(verb: Verb, bounds: Bounds) -> Graph {
    let pipeline = Pipeline::new("joins");
    let join = side(&pipeline, "left").join(side(&pipeline, "right")).late(|late| {
        let number = |late: Rejected<Sided<Row, Row>>| match late.row {
            Sided::Left(row) => (row.1, 0),
            Sided::Right(row) => (0, row.1),
        };
        late.map("late_numbers", number).discard("late");
    });
    let given = match bounds {
        Bounds::Within { before, after, lateness } => {
            bounded(join, verb, within(span(before), span(after)).allowed_lateness(span(lateness)))
        }
        Bounds::Until { before } => bounded(join, verb, until(|row: &Row| at(row.2)).earlier(span(before))),
        Bounds::Windows { size, every, offset } => {
            bounded(join, verb, sliding(span(size), span(every)).offset(span(offset)))
        }
        Bounds::Session { gap } => bounded(join, verb, session(span(gap))),
        Bounds::Unbounded { ttl } if verb == Semi => {
            join.semi("join", unbounded(span(ttl))).map("numbers", |left| (left.1, 0)).boxed()
        }
        Bounds::Unbounded { ttl } => {
            join.inner("join", unbounded(span(ttl))).map("numbers", |(left, right)| (left.1, right.1)).boxed()
        }
        Bounds::AsOf { ttl } => {
            let versions = match ttl {
                Some(ttl) => join.as_of_within("join", span(ttl)),
                None => join.as_of("join"),
            };
            versions.map("numbers", |(left, right)| (left.1, right.map_or(0, |row| row.1))).boxed()
        }
    };
    given.discard("given");
    pipeline.build().unwrap()
}

fn bounded(join: Join<u8, Row, Row>, verb: Verb, how: impl Bounded<Row, Row>) -> Stream<(u32, u32)> {
    let perhaps = |row: Option<Row>| row.map_or(0, |row| row.1);
    match verb {
        Inner => join.inner("join", how).map("numbers", |(left, right)| (left.1, right.1)).boxed(),
        Left => join.left("join", how).map("numbers", move |(left, right)| (left.1, perhaps(right))).boxed(),
        Right => join.right("join", how).map("numbers", move |(left, right)| (perhaps(left), right.1)).boxed(),
        Full => join.full("join", how).map("numbers", move |(left, right)| (perhaps(left), perhaps(right))).boxed(),
        Semi => join.semi("join", how).map("numbers", |left| (left.1, 0)).boxed(),
        Anti => join.anti("join", how).map("numbers", |left| (left.1, 0)).boxed(),
    }
}

/// What a graph gives, in order, at `given` and at `late`; its input comes in batches of the sizes of a way, over and over, and
/// is restarted behind some of them.
fn played(graph: &Graph, steps: &[Step], way: &[(usize, bool)]) -> [Vec<Given>; 2] {
    let mut played = Played::new(graph, way.iter().any(|(_, restarts)| *restarts));
    let mut way = way.iter().cycle();
    // Rows of one side that follow each other are cut into batches.
    let same =
        |a: &Step, b: &Step| matches!((a, b), (Step::Row { is_left: a, .. }, Step::Row { is_left: b, .. }) if a == b);
    for run in steps.chunk_by(same) {
        let mut rows: Vec<(bool, (Timestamp, Row))> = Vec::new();
        for step in run {
            match step {
                Step::Row { is_left, time, row } => rows.push((*is_left, (at(*time), *row))),
                Step::Watermark(now) => played.each(|operator, out| operator.on_watermark(at(*now), out).unwrap()),
            }
        }
        while !rows.is_empty() {
            let (size, restarts) = *way.next().unwrap();
            let piece: Vec<_> = rows.drain(..size.min(rows.len())).collect();
            played.rows(piece[0].0, piece.into_iter().map(|(_, row)| row).collect());
            if restarts {
                played = played.restarted();
            }
        }
    }
    played.each(|operator, out| operator.on_end(out).unwrap());
    ["given", "late"].map(|name| played.given.remove(name).unwrap_or_default())
}

/// Rows of both sides, out of order by less than 20, with watermarks that follow; or that run ahead, so that rows are late.
fn timeline() -> impl Strategy<Value = Vec<Step>> {
    let row = (0u8..3, any::<bool>(), 0i64..120, 0i64..20, 0i64..40);
    prop::collection::vec(row, 1..40).prop_map(|mut rows| {
        rows.sort_by_key(|(_, _, time, jitter, _)| time + jitter);
        let (mut highest, mut steps) = (i64::MIN, Vec::new());
        for (number, (key, is_left, time, jitter, wait)) in (1..).zip(rows) {
            highest = highest.max(time);
            // Some wait until a time before their own.
            steps.push(Step::Row { is_left, time, row: (key, number, time - 5 + wait) });
            if jitter % 3 == 0 {
                steps.push(Step::Watermark(highest - 20));
            }
        }
        steps
    })
}

fn ahead(steps: Vec<Step>, by: i64) -> Vec<Step> {
    let ahead = |step| if let Step::Watermark(now) = step { Step::Watermark(now + by) } else { step };
    steps.into_iter().map(ahead).collect()
}

fn verbs() -> impl Strategy<Value = Verb> {
    prop::sample::select(vec![Inner, Left, Right, Full, Semi, Anti])
}

fn windows() -> impl Strategy<Value = Bounds> {
    let sliding = (1i64..40, 0i64..40, 0i64..40, any::<bool>()).prop_map(|(size, every, offset, tumbles)| {
        let every = if tumbles { size } else { 1 + every % size };
        Bounds::Windows { size, every, offset: offset % every }
    });
    prop_oneof![2 => sliding, 1 => (1i64..25).prop_map(|gap| Bounds::Session { gap })]
}

fn others() -> impl Strategy<Value = (Verb, Bounds)> {
    let within = (0i64..15, 0i64..15, 0i64..15);
    let within = within.prop_map(|(before, after, lateness)| Bounds::Within { before, after, lateness });
    let until = (0i64..15).prop_map(|before| Bounds::Until { before });
    let unbounded = (1i64..60).prop_map(|ttl| Bounds::Unbounded { ttl });
    prop_oneof![
        6 => (verbs(), prop_oneof![within, until]),
        2 => (prop::sample::select(vec![Inner, Semi]), unbounded),
        1 => Just((Left, Bounds::AsOf { ttl: None })),
        1 => (1i64..40).prop_map(|ttl| (Left, Bounds::AsOf { ttl: Some(ttl) })),
    ]
}

/// How an input is cut and where it is restarted; one in twenty is restarted, which costs more than all else.
fn way() -> impl Strategy<Value = Vec<(usize, bool)>> {
    let cut = (1usize..6).prop_map(|size| (size, false));
    prop_oneof![
        14 => Just(vec![(usize::MAX, false)]),
        5 => prop::collection::vec(cut, 1..8),
        1 => prop::collection::vec((1usize..6, any::<bool>()), 1..8),
    ]
}

/// Checks what a join gives, and that where its input is cut and where it is restarted does not matter.
fn check(verb: Verb, bounds: Bounds, steps: &[Step], way: &[(usize, bool)]) -> Result<(), TestCaseError> {
    let graph = graph(verb, bounds);
    let [given, late] = played(&graph, steps, &[(usize::MAX, false)]);
    prop_assert_eq!(&played(&graph, steps, way), &[given.clone(), late.clone()]);
    let [mut expected, expected_late] = by_definition(verb, bounds, &came(steps));
    let has_no_time = verb == Semi && !matches!(bounds, Bounds::Windows { .. } | Bounds::Session { .. });
    let mut given: Vec<Given> =
        given.into_iter().map(|(time, left, right)| (if has_no_time { 0 } else { time }, left, right)).collect();
    given.sort_unstable();
    expected.sort_unstable();
    prop_assert_eq!(given, expected);
    prop_assert_eq!(late, expected_late);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(1_000)))]

    #[test]
    fn joins_in_windows_give_what_nested_loops_give(
        verb in verbs(), bounds in windows(), steps in timeline(), by in prop_oneof![Just(0i64), 0i64..40], way in way(),
    ) {
        check(verb, bounds, &ahead(steps, by), &way)?;
    }

    #[test]
    fn joins_of_rows_near_each_other_give_what_nested_loops_give(
        (verb, bounds) in others(), steps in timeline(), by in prop_oneof![Just(0i64), 0i64..40], way in way(),
    ) {
        // A version that comes late counts for some rows: see the join itself.
        let by = if matches!(bounds, Bounds::AsOf { .. }) { 0 } else { by };
        check(verb, bounds, &ahead(steps, by), &way)?;
    }
}
