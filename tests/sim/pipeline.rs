//! The pipeline that is simulated: something of everything that must survive.

use millstream::pipelines::graph::{Graph, Guarantee};
use millstream::prelude::*;

use std::sync::Arc;

use super::beside::Beside;
use super::meeting::{Meet, Meeting, Tap};
use super::monitor::Monitor;
use super::oracle::{AHEAD, LATE, NEAR, WINDOW, rows_of};
use super::owners::{Owner, Owners};
use super::scenario::Scenario;

#[derive(Clone, Serialize, Deserialize)]
struct Row {
    id: u64,
    key: u64,
    at: i64,
    value: u64,
    old: bool,
    #[serde(default)]
    words: String,
}

#[derive(Serialize, Deserialize)]
struct Plain {
    id: u64,
    twice: u64,
}

#[derive(Serialize, Deserialize)]
struct LateRow {
    id: u64,
}

#[derive(Serialize, Deserialize)]
struct Met {
    left: u64,
    right: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct InWindow {
    key: u64,
    start: i64,
    count: u64,
    sum: u64,
}

/// An empty one, with the settings of a scenario.
fn pipeline(scenario: &Scenario, subtasks: u32) -> Pipeline {
    Pipeline::new("sim").settings(|settings| {
        settings.guarantee = if scenario.once { Guarantee::EffectivelyOnce } else { Guarantee::AtLeastOnce };
        settings.checkpoint_interval = Duration::from_millis(scenario.interval);
        settings.parallelism = subtasks;
        (settings.batch_rows, settings.channel_rows, settings.channel_bytes) = scenario.bounds;
    })
}

/// Events from IN as rows to ROWS, without any state; `paced` by a step with which outputs wait for checkpoints all the same.
pub(super) fn stateless(scenario: &Scenario, subtasks: u32, paced: bool) -> Graph {
    let pipeline = pipeline(scenario, subtasks);
    let mut events =
        pipeline.source("events", jetstream("IN").max_ack_pending(64).text().stop_on_rejected()).rebalance();
    if paced {
        events = events.throttle("paced", 1_000_000, Duration::from_secs(1));
    }
    events
        .flat_map("rows", |payload: String| rows_of(&payload))
        .sink("out", jetstream_to("ROWS").create(["rows.>"]).text().subject("rows.all").stop_on_rejected());
    pipeline.build().unwrap()
}

/// Events from IN: one row for each to OUT, running totals of each key to TOTALS, sums of each key and window to WINDOWS,
/// rows that are too late for those to LATE, even numbers with the odd ones near them to MET, and what is no event, or one that
/// is far ahead of when it was stored, to DEAD. Windows have those from SIDE as well, if there is a second stream.
pub(super) fn graph(scenario: &Scenario, run: usize, subtasks: u32) -> (Graph, Option<Arc<Meet>>) {
    let pipeline = pipeline(scenario, subtasks);
    let dead = dead_letters("DEAD").create();
    let watermarks = bounded_lateness(Duration::from_millis(LATE)).max_ahead(Duration::from_millis(AHEAD));
    let (rows, untimed) = pipeline
        .source("events", jetstream("IN").max_ack_pending(64).json::<Row>().rejected_to("dead", dead))
        .event_time("timed", |row| Timestamp::from_millis(row.at), watermarks);
    untimed.sink("untimed", dead_letters("DEAD").create());
    let rows = rows.operator("monitor", "monitor", |_| Ok(Monitor::default()));
    let (plain, owners) = (rows.clone(), Arc::<Owners>::default());
    let plain = if scenario.keyed { plain.key_by(|row| row.key).rows() } else { plain.rebalance() };
    plain
        .map("twice", |row| Plain { id: row.id, twice: row.value * 2 })
        .sink("plain", jetstream_to("OUT").create(["out.>"]).json().subject("out.all").stop_on_rejected());
    rows.clone()
        .key_by(|row| row.key)
        .fold("sums", (0, 0), |(count, sum), row| {
            *count += 1;
            *sum += row.value;
        })
        .operator("total", "owner", move |its| Ok(Owner::new(&owners, run, its.index, its.of)))
        .sink("totals", jetstream_to("TOTALS").create(["totals.>"]).json().subject("totals.all").stop_on_rejected());
    let near = Duration::from_millis(NEAR);
    let of_value = |name: &str, parity| {
        rows.clone().filter(name, move |row: &Row| !row.old && row.value % 2 == parity).key_by(|row| row.key)
    };
    of_value("even", 0)
        .join(of_value("odd", 1))
        .left("met", within(near, near))
        .map("pair", |(left, right)| Met { left: left.id, right: right.map(|right| right.id) })
        .sink("pairs", jetstream_to("MET").create(["met.>"]).json().subject("met.all").stop_on_rejected());
    let (both, meet) = match &scenario.beside {
        Some(beside) => {
            let meet = Arc::new(Meet::new(Duration::from_millis(beside.idle_after)));
            let side = pipeline
                .source("beside", jetstream("SIDE").max_ack_pending(64).json::<Row>().stop_on_rejected())
                .event_time(
                    "beside_timed",
                    |row| Timestamp::from_millis(row.at),
                    watermarks.idle_after(meet.idle_after),
                );
            side.1.stop("beside_untimed");
            let tapped = |rows: Stream<Row>, name: &str, number| {
                let meet = Arc::clone(&meet);
                rows.operator(name, "tap", move |_| Ok(Tap::new(&meet, number)))
            };
            let met = tapped(rows, "tap", 0).merge("both", [tapped(side.0, "beside_tap", 1)]);
            let own = Arc::clone(&meet);
            let of = |row: &Row| Beside::stream_of(row.id);
            (met.operator("meeting", "meeting", move |_| Ok(Meeting::new(&own, of))), Some(meet))
        }
        None => (rows, None),
    };
    both.rebalance()
        .map("spread", |row| row)
        .key_by(|row| row.key)
        .window(tumbling(Duration::from_millis(WINDOW)).allowed_lateness(Duration::from_millis(scenario.allowed)))
        .late(|late| {
            late.map("late_row", |late| LateRow { id: late.row.id })
                .sink("late", jetstream_to("LATE").create(["late.>"]).json().subject("late.all").stop_on_rejected());
        })
        .aggregate("windowed", (count(), sum(|row: &Row| row.value)))
        .map("result", |w: Windowed<u64, (u64, u64)>| InWindow {
            key: w.key,
            start: w.start.as_micros() / 1_000,
            count: w.value.0,
            sum: w.value.1,
        })
        .sink(
            "windows",
            jetstream_to("WINDOWS").create(["windows.>"]).json().subject("windows.all").stop_on_rejected(),
        );
    (pipeline.build().unwrap(), meet)
}
