//! Windows and joins over crashes and other numbers of subtasks: what a whole pipeline gives is what is computed of all
//! rows at once, by code that knows nothing of Millstream.

#![allow(clippy::unwrap_used, reason = "it is test code, though not all inside a test")]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, UInt64Type};
use millstream::checkpoint::{MemoryStore, Store};
use millstream::engine::Ended;
use millstream::operators::columnar::Bound;
use millstream::operators::{Epoch, Sink};
use millstream::pipelines::dsl::{Frame, OnRejected};
use millstream::pipelines::graph::{Graph, erase_sink};
use millstream::prelude::*;
use millstream::testkit::{CollectSink, Collected, Flow, ListSource};
use millstream_tests::support::Dice;

/// A key, a time in microseconds and a number of its own.
type Event = (u64, i64, u64);

const LATE: i64 = 500_000;

// Of a tenth of a second each: the last checkpoint is some pieces old when the run is killed.
const PIECES: usize = 17;

/// Events of 50 keys over a minute, out of order by less than half a second.
fn events(dice: &mut Dice, count: u64) -> Vec<Event> {
    let mut events: Vec<(i64, Event)> = (0..count)
        .map(|number| {
            let time = i64::try_from(dice.below(60_000_000)).unwrap();
            let jitter = i64::try_from(dice.below(LATE.unsigned_abs())).unwrap();
            (time + jitter, (dice.below(50), time, number))
        })
        .collect();
    events.sort_unstable();
    events.into_iter().map(|(_, event)| event).collect()
}

fn listed(events: &[Event]) -> Vec<(Timestamp, Event)> {
    events.iter().map(|event| (Timestamp::MIN, *event)).collect()
}

/// What came out, by key and window. A crash repeats results; what is repeated must be the same.
fn without_repeats<K: Ord, V: PartialEq + std::fmt::Debug>(rows: Vec<(K, V)>) -> BTreeMap<K, V> {
    let mut all = BTreeMap::new();
    for (key, value) in rows {
        match all.get(&key) {
            Some(before) => assert_eq!(before, &value, "a repeated result differs"),
            None => drop(all.insert(key, value)),
        }
    }
    all
}

/// Runs a graph over lists that grow in three parts, piece by piece: behind the first two it is killed, as rows flow that
/// no checkpoint covers, and goes on with another number of subtasks.
async fn in_three_runs(list: &[&ListSource<Event>], parts: &[[Vec<Event>; 3]], graph: impl Fn(u32, bool) -> Graph) {
    let mut store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    for (run, subtasks) in [3, 1, 4].into_iter().enumerate() {
        let parts = parts.iter().filter_map(|parts| parts.get(run));
        if run == 2 {
            list.iter().zip(parts).for_each(|(list, part)| list.feed(listed(part)));
            let flow = Flow::start_with(graph(subtasks, true), store, |environment| environment).unwrap();
            assert_eq!(flow.finish().await.unwrap(), Ended::Finished);
            return;
        }
        let flow = Flow::start_with(graph(subtasks, false), store, |environment| environment).unwrap();
        let pieces: Vec<Vec<&[Event]>> = parts.map(|part| part.chunks(part.len().div_ceil(PIECES)).collect()).collect();
        for piece in 0..PIECES {
            let rows = pieces.iter().map(|pieces| pieces.get(piece).copied().unwrap_or_default());
            list.iter().zip(rows).for_each(|(list, rows)| list.feed(listed(rows)));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        store = flow.crash().await;
    }
}

fn in_parts(mut events: Vec<Event>) -> [Vec<Event>; 3] {
    let last = events.split_off(events.len() * 2 / 3);
    let middle = events.split_off(events.len() / 2);
    [events, middle, last]
}

fn list(ends: bool, rows: &ListSource<Event>) -> ListSource<Event> {
    if ends { rows.clone() } else { rows.clone().endless() }
}

fn timed(pipeline: &Pipeline, name: &str, rows: ListSource<Event>) -> Stream<Event> {
    let watermarks = bounded_lateness(Duration::from_micros(LATE.unsigned_abs()));
    let time = |event: &Event| Timestamp::from_micros(event.1);
    let (rows, rejected) = pipeline.source(name, rows).event_time(&format!("{name}_time"), time, watermarks);
    rejected.discard(&format!("{name}_without_time"));
    rows
}

#[tokio::test(start_paused = true)]
async fn windows_give_what_a_batch_gives_over_crashes_and_rescaling() {
    for seed in 0..6 {
        let mut dice = Dice::new(seed);
        let events = events(&mut dice, 6_000);
        let (rows, out) = (ListSource::new([]).at_once(50), Collected::default());
        let graph = |subtasks, ends| {
            let pipeline = Pipeline::new("sums").settings(|settings| settings.parallelism = subtasks);
            timed(&pipeline, "events", list(ends, &rows))
                .key_by(|event| event.0)
                .window(sliding(Duration::from_secs(5), Duration::from_secs(2)))
                .aggregate("sums", (count(), sum(|event: &Event| event.2)))
                .map("result", |w: Windowed<u64, (u64, u64)>| ((w.key, w.start.as_micros()), w.value))
                .sink("out", CollectSink::new(out.clone()));
            pipeline.build().unwrap()
        };
        in_three_runs(&[&rows], &[in_parts(events.clone())], graph).await;
        let mut expected: BTreeMap<(u64, i64), (u64, u64)> = BTreeMap::new();
        for (key, time, number) in events {
            let starts = (-10..60).map(|n| n * 2_000_000).filter(|start| *start <= time && time < start + 5_000_000);
            for start in starts {
                let sums = expected.entry((key, start)).or_default();
                (sums.0, sums.1) = (sums.0 + 1, sums.1 + number);
            }
        }
        assert!(out.rows().len() > expected.len(), "nothing was repeated: the kills came too late");
        assert_eq!(without_repeats(out.rows()), expected, "seed {seed}");
    }
}

/// Events as columns.
struct ToColumns;

impl Operator for ToColumns {
    type In = Vec<Event>;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<Vec<Event>>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        out.send(batch.map_rows(|events| columns(&events))?);
        Ok(Turn::Done)
    }
}

fn columns(events: &[Event]) -> RecordBatch {
    let int = |f: fn(&Event) -> u64| -> ArrayRef { Arc::new(events.iter().map(f).collect::<UInt64Array>()) };
    let times = TimestampMicrosecondArray::from_iter_values(events.iter().map(|event| event.1));
    let columns =
        [("key", int(|event| event.0)), ("number", int(|event| event.2)), ("at", Arc::new(times.with_timezone("UTC")))];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// Keeps what comes of windows: key and start, rows and sum.
#[derive(Clone)]
struct Results(Collected<((u64, i64), (u64, u64))>);

impl Sink for Results {
    type In = RecordBatch;

    async fn write(&mut self, batch: Batch<RecordBatch>) -> Result {
        let rows = batch.rows();
        let column = |name: &str| cast(rows.column_by_name(name).unwrap(), &DataType::UInt64).unwrap();
        let [key, start, count, sum] = ["key", "window_start", "rows", "sum"].map(column);
        let value = |column: &ArrayRef, row: usize| column.as_primitive::<UInt64Type>().value(row);
        let row = |row| {
            let start = i64::try_from(value(&start, row)).unwrap();
            ((value(&key, row), start), (value(&count, row), value(&sum, row)))
        };
        self.0.add((0..rows.num_rows()).map(row));
        Ok(())
    }

    async fn flush(&mut self, _: Epoch) -> Result {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn windows_of_columns_give_what_a_batch_gives_over_crashes_and_rescaling() {
    for seed in 0..6 {
        let events: Vec<Event> =
            events(&mut Dice::new(seed), 6_000).into_iter().filter(|event| event.1 >= 10_000_000).collect();
        let (rows, out) = (ListSource::new([]).at_once(50), Collected::default());
        let graph = |subtasks, ends| {
            let pipeline = Pipeline::new("sums").settings(|settings| settings.parallelism = subtasks);
            let watermarks = bounded_lateness(Duration::from_micros(LATE.unsigned_abs()));
            let events = pipeline.source("events", list(ends, &rows));
            let results = Results(out.clone());
            Frame::of(events, "columns", "columns", &columns(&[]).schema(), |_| Ok(ToColumns))
                .on_rejected(OnRejected::Stop)
                .event_time("timed", "at", watermarks)
                .key_by(["key"])
                .window(sliding(Duration::from_secs(5), Duration::from_secs(2)))
                .aggregate("sums", [("rows", "count(*)"), ("sum", "sum(number)")])
                .parallelism(subtasks)
                .end("out", "collect", Arc::new(move |_| Ok(erase_sink(results.clone()))));
            pipeline.build().unwrap()
        };
        in_three_runs(&[&rows], &[in_parts(events.clone())], graph).await;
        let mut expected: BTreeMap<(u64, i64), (u64, u64)> = BTreeMap::new();
        for (key, time, number) in events {
            let starts = (0..60).map(|n| n * 2_000_000).filter(|start| *start <= time && time < start + 5_000_000);
            for start in starts {
                let sums = expected.entry((key, start)).or_default();
                (sums.0, sums.1) = (sums.0 + 1, sums.1 + number);
            }
        }
        assert!(out.rows().len() > expected.len(), "nothing was repeated: the kills came too late");
        assert_eq!(without_repeats(out.rows()), expected, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_give_what_a_batch_gives_over_crashes_and_rescaling() {
    const GAP: i64 = 400_000;
    for seed in 0..6 {
        let events = events(&mut Dice::new(seed), 6_000);
        let (rows, out) = (ListSource::new([]).at_once(50), Collected::default());
        let graph = |subtasks, ends| {
            let pipeline = Pipeline::new("sessions").settings(|settings| settings.parallelism = subtasks);
            timed(&pipeline, "events", list(ends, &rows))
                .key_by(|event| event.0)
                .window(session(Duration::from_micros(GAP.unsigned_abs())))
                .aggregate("sessions", count())
                .map("result", |w: Windowed<u64, u64>| ((w.key, w.start.as_micros()), (w.end.as_micros(), w.value)))
                .sink("out", CollectSink::new(out.clone()));
            pipeline.build().unwrap()
        };
        in_three_runs(&[&rows], &[in_parts(events.clone())], graph).await;
        let mut times: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
        events.iter().for_each(|(key, time, _)| times.entry(*key).or_default().push(*time));
        let mut expected = BTreeMap::new();
        for (key, mut times) in times {
            times.sort_unstable();
            for session in times.chunk_by(|a, b| b - a < GAP) {
                let (first, last) = (session.first().unwrap(), session.last().unwrap());
                expected.insert((key, *first), (last + GAP, session.len() as u64));
            }
        }
        assert_eq!(without_repeats(out.rows()), expected, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn joins_give_what_a_batch_gives_over_crashes_and_rescaling() {
    const BEFORE: i64 = 30_000;
    const AFTER: i64 = 100_000;
    for seed in 0..4 {
        let mut dice = Dice::new(seed);
        let (left, right) = (events(&mut dice, 4_000), events(&mut dice, 4_000));
        let rows = [0, 1].map(|_| ListSource::new([]).at_once(50));
        let (out, in_windows) = (Collected::default(), Collected::default());
        let graph = |subtasks, ends| {
            let pipeline = Pipeline::new("joins").settings(|settings| settings.parallelism = subtasks);
            let left = timed(&pipeline, "left", list(ends, &rows[0]));
            let right = timed(&pipeline, "right", list(ends, &rows[1]));
            let key = |event: &Event| event.0;
            let near =
                within(Duration::from_micros(BEFORE.unsigned_abs()), Duration::from_micros(AFTER.unsigned_abs()));
            let pairs = left.clone().key_by(key).join(right.clone().key_by(key)).full("near", near);
            pairs
                .map("pair", |(left, right)| ((left.map(|event| event.2), right.map(|event| event.2)), ()))
                .sink("out", CollectSink::new(out.clone()));
            let second = tumbling(Duration::from_secs(1));
            left.key_by(key)
                .join(right.key_by(key))
                .inner("same_second", second)
                .map("both", |(left, right)| ((left.2, right.2), ()))
                .sink("in_windows", CollectSink::new(in_windows.clone()));
            pipeline.build().unwrap()
        };
        in_three_runs(&[&rows[0], &rows[1]], &[in_parts(left.clone()), in_parts(right.clone())], graph).await;
        let near = |l: &Event, r: &Event| l.0 == r.0 && l.1 - BEFORE <= r.1 && r.1 <= l.1 + AFTER;
        let (mut expected, mut same_second) = (BTreeMap::new(), BTreeMap::new());
        for l in &left {
            let partners: Vec<_> = right.iter().filter(|r| near(l, r)).collect();
            if partners.is_empty() {
                expected.insert((Some(l.2), None), ());
            }
            expected.extend(partners.into_iter().map(|r| ((Some(l.2), Some(r.2)), ())));
            let together = right.iter().filter(|r| l.0 == r.0 && l.1 / 1_000_000 == r.1 / 1_000_000);
            same_second.extend(together.map(|r| ((l.2, r.2), ())));
        }
        let alone = right.iter().filter(|r| !left.iter().any(|l| near(l, r)));
        expected.extend(alone.map(|r| ((None, Some(r.2)), ())));
        assert_eq!(without_repeats(out.rows()), expected, "seed {seed}");
        assert_eq!(without_repeats(in_windows.rows()), same_second, "seed {seed}");
    }
}

/// The numbers of two rows, as far as there are any.
type Pair = (Option<u64>, Option<u64>);

/// Keeps what comes of a full join.
#[derive(Clone)]
struct Pairs(Collected<(Pair, ())>);

impl Sink for Pairs {
    type In = RecordBatch;

    async fn write(&mut self, batch: Batch<RecordBatch>) -> Result {
        let [left, right] = ["number", "of_right_number"].map(|name| {
            let column = batch.rows().column_by_name(name).unwrap().as_primitive::<UInt64Type>();
            column.iter().collect::<Vec<_>>()
        });
        self.0.add(left.into_iter().zip(right).map(|pair| (pair, ())));
        Ok(())
    }

    async fn flush(&mut self, _: Epoch) -> Result {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn joins_of_columns_give_what_a_batch_gives_over_crashes_and_rescaling() {
    const BEFORE: i64 = 30_000;
    const AFTER: i64 = 100_000;
    for seed in 0..4 {
        let mut dice = Dice::new(seed);
        let [left, right] = [0, 1].map(|_| events(&mut dice, 4_000));
        let rows = [0, 1].map(|_| ListSource::new([]).at_once(50));
        let out = Collected::default();
        let graph = |subtasks, ends| {
            let pipeline = Pipeline::new("joins").settings(|settings| settings.parallelism = subtasks);
            let [left, right] = [("left", &rows[0]), ("right", &rows[1])].map(|(name, rows)| {
                let watermarks = bounded_lateness(Duration::from_micros(LATE.unsigned_abs()));
                let events = pipeline.source(name, list(ends, rows));
                Frame::of(events, &format!("{name}_columns"), "columns", &columns(&[]).schema(), |_| Ok(ToColumns))
                    .on_rejected(OnRejected::Stop)
                    .event_time(&format!("{name}_time"), "at", watermarks)
                    .key_by(["key"])
            });
            let span = |micros: i64| Duration::from_micros(micros.unsigned_abs());
            let pairs = Pairs(out.clone());
            left.join(right).prefix("of_right_").full("near", Bound::within(span(BEFORE), span(AFTER))).end(
                "out",
                "collect",
                Arc::new(move |_| Ok(erase_sink(pairs.clone()))),
            );
            pipeline.build().unwrap()
        };
        in_three_runs(&[&rows[0], &rows[1]], &[in_parts(left.clone()), in_parts(right.clone())], graph).await;
        let near = |l: &Event, r: &Event| l.0 == r.0 && l.1 - BEFORE <= r.1 && r.1 <= l.1 + AFTER;
        let mut expected = BTreeMap::new();
        for l in &left {
            let partners: Vec<_> = right.iter().filter(|r| near(l, r)).collect();
            if partners.is_empty() {
                expected.insert((Some(l.2), None), ());
            }
            expected.extend(partners.into_iter().map(|r| ((Some(l.2), Some(r.2)), ())));
        }
        let alone = right.iter().filter(|r| !left.iter().any(|l| near(l, r)));
        expected.extend(alone.map(|r| ((None, Some(r.2)), ())));
        assert!(out.rows().len() > expected.len(), "nothing was repeated: the kills came too late");
        assert_eq!(without_repeats(out.rows()), expected, "seed {seed}");
    }
}

/// Until when an event of the left takes events of the right.
fn expires(event: &Event) -> i64 {
    event.1 + i64::try_from(event.2 % 7).unwrap() * 100_000
}

#[tokio::test(start_paused = true)]
async fn auctions_give_what_a_batch_gives_over_crashes_and_rescaling() {
    const TTL: i64 = 300_000;
    for seed in 0..4 {
        let mut dice = Dice::new(seed);
        let (left, right) = (events(&mut dice, 4_000), events(&mut dice, 4_000));
        let rows = [0, 1].map(|_| ListSource::new([]).at_once(50));
        let (out, near, top) = (Collected::default(), Collected::default(), Collected::default());
        let graph = |subtasks, ends| {
            let pipeline = Pipeline::new("auctions").settings(|settings| settings.parallelism = subtasks);
            let left = timed(&pipeline, "left", list(ends, &rows[0]));
            let right = timed(&pipeline, "right", list(ends, &rows[1]));
            let key = |event: &Event| event.0;
            let end = |event: &Event| Timestamp::from_micros(expires(event));
            let highest = left.clone().key_by(key).join(right.clone().key_by(key)).inner("bids", until(end));
            let highest = highest
                .key_by(|(left, _)| left.2)
                .window(until(move |pair: &(Event, Event)| end(&pair.0)))
                .aggregate("highest", max(|(left, right): &(Event, Event)| (right.2, left.2, left.0)))
                .filter_map("won", |window| window.value);
            highest
                .key_by(|(_, _, key)| *key)
                .window(last_rows(3).order_by(|won: &(u64, u64, u64)| won.1))
                .aggregate("last", (last(|won: &(u64, u64, u64)| won.1), collect(|won: &(u64, u64, u64)| won.0)))
                .map("result", |window| (window.value.0, window.value.1))
                .sink("out", CollectSink::new(out.clone()));
            left.key_by(key)
                .join(right.clone().key_by(key))
                .semi("near", unbounded(Duration::from_micros(TTL.unsigned_abs())))
                .map("partnered", |event| (event.2, ()))
                .sink("near_out", CollectSink::new(near.clone()));
            right
                .key_by(|_| ())
                .window(tumbling(Duration::from_secs(1)))
                .top_with_ties("top", 2, |event| event.0)
                .map("best", |best| ((best.start.as_micros(), best.value.2), ()))
                .sink("top_out", CollectSink::new(top.clone()));
            pipeline.build().unwrap()
        };
        in_three_runs(&[&rows[0], &rows[1]], &[in_parts(left.clone()), in_parts(right.clone())], graph).await;
        let (mut won, mut partnered) = (BTreeMap::<u64, Vec<(i64, u64, u64)>>::new(), BTreeMap::new());
        for l in &left {
            let of_key = || right.iter().filter(|r| r.0 == l.0);
            let bids = of_key().filter(|r| l.1 <= r.1 && r.1 <= expires(l));
            if let Some(highest) = bids.map(|r| r.2).max() {
                won.entry(l.0).or_default().push((expires(l), l.2, highest));
            }
            if of_key().any(|r| (l.1 - r.1).abs() <= TTL) {
                partnered.insert(l.2, ());
            }
        }
        let mut expected = BTreeMap::new();
        for mut won in won.into_values() {
            won.sort_unstable();
            for (at, (_, number, _)) in won.iter().enumerate() {
                let last = won.iter().take(at + 1).skip((at + 1).saturating_sub(3));
                expected.insert(Some(*number), last.map(|(.., highest)| *highest).collect::<Vec<u64>>());
            }
        }
        assert_eq!(without_repeats(out.rows()), expected, "seed {seed}");
        assert_eq!(without_repeats(near.rows()), partnered, "seed {seed}");
        let mut seconds: BTreeMap<i64, Vec<&Event>> = BTreeMap::new();
        right.iter().for_each(|event| seconds.entry(event.1 / 1_000_000 * 1_000_000).or_default().push(event));
        let mut best = BTreeMap::new();
        for (start, mut events) in seconds {
            events.sort_unstable_by_key(|event| std::cmp::Reverse(event.0));
            let last = events.get(1).map_or(0, |event| event.0);
            best.extend(events.into_iter().filter(|event| event.0 >= last).map(|event| ((start, event.2), ())));
        }
        assert_eq!(without_repeats(top.rows()), best, "seed {seed}");
    }
}
