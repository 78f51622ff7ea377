//! Windows of columns against the definition, on many inputs out of order, cut anywhere and restarted anywhere, from what was
//! saved whole or from changes one behind the other.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::*;
use crate::columnar::checkpoints::Checkpoints;
use crate::columnar::tests::lines;
use crate::testkit::{MemoryTables, cases};
use crate::{KeyGroup, Operator, Spill};

pub(super) type Pieces = Vec<(Vec<Row>, i64)>;

/// How an operator is driven: the size of batches, and when it is restarted.
#[derive(Clone, Copy, Debug)]
struct Way {
    cuts: usize,
    restart_every: usize,
    // It goes on three times of four, and what was saved gives the same in the next step.
    goes_on: bool,
    whole: bool,
    // The bytes of memory for its state.
    budget: Option<usize>,
}

/// One in ten is restarted, which costs more than all else.
fn way() -> impl Strategy<Value = Way> {
    let restart_every = prop_oneof![18 => Just(usize::MAX), 2 => 1usize..8];
    let ways = (1usize..20, restart_every, any::<bool>(), any::<bool>(), prop::option::of(0usize..4_000));
    ways.prop_map(|(cuts, restart_every, goes_on, whole, budget)| Way { cuts, restart_every, goes_on, whole, budget })
}

const AT_ONCE: Way = Way { cuts: usize::MAX, restart_every: usize::MAX, goes_on: false, whole: true, budget: None };

/// What comes out, row by row, with its time.
fn driven<O>(make: impl Fn() -> O, pieces: &Pieces, way: Way) -> Vec<(i64, Value)>
where
    O: Operator<In = RecordBatch, Out = RecordBatch>,
{
    let (mut bench, mut checkpoints, mut told) = (Bench::new(make()), Checkpoints::default(), Vec::new());
    let tables = Arc::new(MemoryTables::default());
    let spill = way.budget.map(|budget| Arc::new(Spill::new(tables, KeyGroup::DEFAULT_COUNT, budget)));
    let step = |bench: &mut Bench<O>, (rows, watermark): (&[Row], Option<i64>)| {
        match watermark {
            Some(now) => bench.watermark(at(now)),
            None => bench.batch(with_until(rows)),
        }
        drop(spill.iter().map(|spill| bench.fit(spill)).collect::<Vec<_>>());
    };
    let cut = |(rows, watermark): &'_ (Vec<Row>, i64)| {
        let rows: Vec<Vec<Row>> = rows.chunks(way.cuts.min(rows.len()).max(1)).map(<[Row]>::to_vec).collect();
        rows.into_iter().map(|rows| (rows, None)).chain([(Vec::new(), Some(*watermark))]).collect::<Vec<_>>()
    };
    let (mut frozen, mut barriers) = (None, 0);
    for (number, (rows, watermark)) in pieces.iter().flat_map(cut).enumerate() {
        step(&mut bench, (&rows, watermark));
        if let Some(frozen) = frozen.take() {
            let mut saved = checkpoints.restored(frozen, make(), way.whole, spill.as_ref());
            step(&mut saved, (&rows, watermark));
            let (mut of_saved, from) = (Vec::new(), told.len());
            take(&mut saved, &mut of_saved);
            take(&mut bench, &mut told);
            assert_eq!(of_saved, told[from..], "what was saved at barrier {barriers} gives something else");
            if barriers % 4 == 0 {
                bench = saved;
            }
        }
        if (number + 1).is_multiple_of(way.restart_every) {
            take(&mut bench, &mut told);
            barriers += 1;
            match way.goes_on {
                true => frozen = Some(bench.freeze()),
                false => bench = checkpoints.restarted(bench, make(), way.whole, spill.as_ref()),
            }
        }
    }
    bench.end();
    take(&mut bench, &mut told);
    told
}

fn take<O: Operator<In = RecordBatch, Out = RecordBatch>>(bench: &mut Bench<O>, told: &mut Vec<(i64, Value)>) {
    assert!(bench.take_side::<Rejected<Bytes>>(2).is_empty(), "within the lateness nothing is late");
    for batch in bench.take_batches() {
        told.extend(batch.times().iter().map(|time| time.as_micros()).zip(lines(batch.rows())));
    }
}

/// Until when a row counts, which is before its time for some.
pub(super) fn until((_, time, n): &Row) -> i64 {
    time + n.unwrap_or(0).rem_euclid(25) - 5
}

/// Rows as columns, with the time until which they count.
pub(super) fn with_until(rows: &[Row]) -> Batch<RecordBatch> {
    let plain = batch(rows);
    let until: arrow::array::TimestampMicrosecondArray = rows.iter().map(|row| Some(until(row))).collect();
    let columns = plain.rows().columns().iter().cloned().chain([Arc::new(until.with_timezone("UTC")) as _]);
    let columns: Vec<_> = ["key", "n", "until"].into_iter().zip(columns).map(|(name, c)| (name, c, true)).collect();
    Batch::new(plain.times().to_vec(), RecordBatch::try_from_iter_with_nullable(columns).unwrap()).unwrap()
}

pub(super) fn input() -> SchemaRef {
    with_until(&[]).rows().schema()
}

pub(super) fn by_key() -> KeyColumns {
    KeyColumns::new(&input(), &["key".to_owned()]).unwrap()
}

/// Compiled once: it costs more than all else that is done here.
pub(super) fn sums() -> Aggregates {
    static SUMS: LazyLock<Aggregates> = LazyLock::new(|| {
        let columns = [("rows", "count(*)"), ("total", "sum(n)")].map(|(name, sql)| (name.to_owned(), sql.to_owned()));
        Aggregates::compile(&columns, &input()).unwrap()
    });
    SUMS.clone()
}

/// As [`SUMS`], compiled once.
fn four_sums() -> Aggregates {
    static FOUR: LazyLock<Aggregates> = LazyLock::new(|| {
        let columns = SUMS.iter().map(|(name, sql)| ((*name).to_owned(), (*sql).to_owned()));
        Aggregates::compile(&columns.collect::<Vec<_>>(), &input()).unwrap()
    });
    FOUR.clone()
}

/// Rows by the windows that they are in, of some size and distance, and their keys.
pub(super) fn in_windows(rows: Vec<Row>, (size, every): (i64, i64)) -> BTreeMap<(i64, Option<String>), Vec<Row>> {
    let mut windows: BTreeMap<(i64, Option<String>), Vec<Row>> = BTreeMap::new();
    for row in rows {
        for start in (-40..200).filter(|start: &i64| start.rem_euclid(every) == 0) {
            if start <= row.1 && row.1 < start + size {
                windows.entry((start, row.0.clone())).or_default().push(row.clone());
            }
        }
    }
    windows
}

fn all_rows(pieces: &Pieces) -> Vec<Row> {
    pieces.iter().flat_map(|(rows, _)| rows.clone()).collect()
}

fn total(rows: &[Row]) -> Option<i64> {
    let numbers: Vec<i64> = rows.iter().filter_map(|row| row.2).collect();
    (!numbers.is_empty()).then(|| numbers.iter().sum())
}

fn time(micros: i64) -> String {
    at(micros).to_string()
}

/// The result of some rows in a window, as it is told.
pub(super) fn result(key: &Option<String>, start: i64, end: i64, rows: &[Row]) -> (i64, Value) {
    let (start, upto) = (time(start), time(end));
    let line =
        json!({ "key": key, "window_start": start, "window_end": upto, "rows": rows.len(), "total": total(rows) });
    (end - 1, line)
}

/// Rows by key and window, where each is by itself in a window of its own and those that overlap are one.
fn overlapping(rows: Vec<Row>, end: impl Fn(&Row) -> i64) -> Vec<(i64, Value)> {
    let mut of_key: BTreeMap<Option<String>, Vec<Row>> = BTreeMap::new();
    rows.into_iter().for_each(|row| of_key.entry(row.0.clone()).or_default().push(row));
    let mut windows: Vec<(i64, Option<String>, i64, Vec<Row>)> = Vec::new();
    for (key, mut rows) in of_key {
        rows.sort_by_key(|row| row.1);
        let mut open: Option<(i64, i64, Vec<Row>)> = None;
        for row in rows {
            let (start, upto) = (row.1, end(&row));
            match &mut open {
                Some((_, last, rows)) if start < *last => {
                    *last = upto.max(*last);
                    rows.push(row);
                }
                _ => {
                    windows.extend(open.take().map(|(start, end, rows)| (end, key.clone(), start, rows)));
                    open = Some((start, upto, vec![row]));
                }
            }
        }
        windows.extend(open.map(|(start, end, rows)| (end, key.clone(), start, rows)));
    }
    windows.sort_by(|a, b| (a.0, &a.1, a.2).cmp(&(b.0, &b.1, b.2)));
    windows.iter().map(|(end, key, start, rows)| result(key, *start, *end, rows)).collect()
}

/// The last that was told of each key and window.
fn last(told: Vec<(i64, Value)>) -> BTreeMap<String, Value> {
    let of = |line: &Value| format!("{} {}", line["key"], line["window_start"]);
    told.into_iter().map(|(_, line)| (of(&line), line)).collect()
}

// A row is in as many as forty windows, each of which is a line to compare.
proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(300)))]

    #[test]
    fn windows_give_what_the_definition_gives(
        pieces in timeline(), size in 1i64..40, every in 1i64..40, lateness in 0i64..30, way in way(),
    ) {
        let windows = sliding(span(size), span(every)).allowed_lateness(span(lateness));
        let make = || WindowAggregate::new(&input(), windows, by_key(), four_sums(), clock()).unwrap();
        let told = driven(make, &pieces, way);
        let expected = in_windows(all_rows(&pieces), (size, every)).into_iter().map(|((start, key), rows)| {
            let numbers: Vec<i64> = rows.iter().filter_map(|row| row.2).collect();
            let spread = numbers.iter().max().zip(numbers.iter().min()).map(|(max, min)| max - min);
            let (time, mut line) = result(&key, start, start + size, &rows);
            line["spread"] = json!(spread);
            line["odd"] = json!(numbers.iter().filter(|n| **n % 2 == 1).count());
            (time, line)
        });
        prop_assert_eq!(told, expected.collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(1_000)))]

    #[test]
    fn sessions_are_those_of_the_definition(pieces in timeline(), gap in 1i64..30, way in way()) {
        let windows = OwnWindows::session(span(gap));
        let make = || SessionAggregate::new(&input(), windows.clone(), Emit::OnClose, by_key(), sums(), clock()).unwrap();
        let told = driven(make, &pieces, way);
        prop_assert_eq!(told, overlapping(all_rows(&pieces), |row| row.1 + gap));
    }

    #[test]
    fn windows_until_a_time_are_those_of_the_definition(pieces in timeline(), way in way()) {
        let windows = OwnWindows::until("until");
        let make = || SessionAggregate::new(&input(), windows.clone(), Emit::OnClose, by_key(), sums(), clock()).unwrap();
        let told = driven(make, &pieces, way);
        prop_assert_eq!(told, overlapping(all_rows(&pieces), |row| until(row).max(row.1) + 1));
    }

    #[test]
    fn the_best_rows_are_those_of_the_definition(
        pieces in timeline(), size in 1i64..40, every in 1i64..40, rows in 1usize..4, ties: bool, keyed: bool, way in way(),
    ) {
        static BEST: LazyLock<Top> = LazyLock::new(|| Top::new(&input(), 1, "n desc").unwrap());
        let top = BEST.clone().of(rows);
        let top = if ties { top.ties() } else { top };
        let keys = if keyed { by_key() } else { KeyColumns::new(&input(), &[]).unwrap() };
        let windows = sliding(span(size), span(every));
        let make = || WindowAggregate::new(&input(), windows, keys.clone(), top.clone(), clock()).unwrap();
        let told = driven(make, &pieces, way);
        let mut windows: BTreeMap<(i64, Option<String>), Vec<Row>> = BTreeMap::new();
        for row in all_rows(&pieces) {
            for start in (-50..250).map(|k| k * every).filter(|start| *start <= row.1 && row.1 < start + size) {
                windows.entry((start, row.0.clone().filter(|_| keyed))).or_default().push(row.clone());
            }
        }
        let mut expected = Vec::new();
        for ((start, _), mut all) in windows {
            let worst_first = |row: &Row| (row.2.is_none(), row.2.map(|n| -n));
            // What is equal is in the order of times, then of the columns from the last to the first.
            all.sort_by(|a, b| {
                let by = worst_first(a).cmp(&worst_first(b)).then(a.1.cmp(&b.1));
                by.then(until(a).cmp(&until(b))).then(a.0.cmp(&b.0))
            });
            let fits = all.get(rows - 1).map(|row| row.2);
            let best = all.iter().enumerate().filter(|(at, row)| *at < rows || (ties && Some(row.2) == fits));
            expected.extend(best.map(|(_, row)| {
                let upto = time(start + size);
                let (until, start) = (time(until(row)), time(start));
                let line = json!({
                    "key": row.0, "n": row.2, "until": until, "window_start": start, "window_end": upto,
                });
                line
            }));
        }
        prop_assert_eq!(told.into_iter().map(|(_, line)| line).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn early_results_do_not_change_the_last_ones_and_do_not_depend_on_cuts(
        pieces in timeline(), size in 1i64..40, every in 1i64..40, interval in 1i64..30, way in way(),
    ) {
        let windows = sliding(span(size), span(every));
        let make = |emit| {
            move || WindowAggregate::new(&input(), windows.emit(emit), by_key(), sums(), clock()).unwrap()
        };
        let closed = driven(make(Emit::OnClose), &pieces, AT_ONCE);
        let every = Emit::Every(span(interval));
        let early = driven(make(every), &pieces, way);
        prop_assert_eq!(&early, &driven(make(every), &pieces, AT_ONCE));
        prop_assert_eq!(last(early), last(closed.clone()));
        let changes = driven(make(Emit::OnChange), &pieces, way);
        prop_assert!(changes.len() >= closed.len());
        prop_assert_eq!(last(changes), last(closed));
    }

    #[test]
    fn early_results_of_sessions_do_not_change_the_last_ones_and_do_not_depend_on_cuts(
        pieces in timeline(), gap in 1i64..30, interval in 1i64..30, way in way(),
    ) {
        let make = |emit| {
            move || SessionAggregate::new(&input(), OwnWindows::session(span(gap)), emit, by_key(), sums(), clock()).unwrap()
        };
        let expected = last(overlapping(all_rows(&pieces), |row| row.1 + gap));
        let early = driven(make(Emit::Every(span(interval))), &pieces, way);
        prop_assert_eq!(&early, &driven(make(Emit::Every(span(interval))), &pieces, AT_ONCE));
        for told in [early, driven(make(Emit::OnChange), &pieces, way)] {
            // A session that was told early may have become a part of another since.
            let mut told = last(told);
            told.retain(|window, _| expected.contains_key(window));
            prop_assert_eq!(&told, &expected);
        }
    }

    #[test]
    fn a_window_for_ever_gives_what_is_computed_of_all_rows(pieces in timeline(), interval in 1i64..30, way in way()) {
        let make = |emit| {
            move || GlobalAggregate::new(&input(), global().emit(emit), by_key(), sums(), clock()).unwrap()
        };
        let mut of_key: BTreeMap<Option<String>, Vec<Row>> = BTreeMap::new();
        all_rows(&pieces).into_iter().for_each(|row| of_key.entry(row.0.clone()).or_default().push(row));
        let expected = of_key.into_iter().map(|(key, rows)| {
            let times = || rows.iter().map(|row| row.1);
            let line = result(&key, times().min().unwrap(), times().max().unwrap() + 1, &rows).1;
            (json!(key).to_string(), line)
        });
        let expected: BTreeMap<String, Value> = expected.collect();
        let every = Emit::Every(span(interval));
        prop_assert_eq!(driven(make(every), &pieces, way), driven(make(every), &pieces, AT_ONCE));
        for emit in [Emit::OnClose, every, Emit::OnChange] {
            let told = driven(make(emit), &pieces, way);
            prop_assert!(emit != Emit::OnClose || told.len() == expected.len());
            let last: BTreeMap<String, Value> = told.into_iter().map(|(_, l)| (l["key"].to_string(), l)).collect();
            prop_assert_eq!(last, expected.clone());
        }
    }

    #[test]
    fn a_window_for_ever_gives_what_is_computed_of_the_first_rows_with_every_so_many(
        pieces in timeline(), every in 1usize..6, update: bool, way in way(),
    ) {
        let windows = global().every(every as u64);
        let windows = if update { windows.emit(Emit::OnChange) } else { windows };
        let make = || GlobalAggregate::new(&input(), windows, by_key(), sums(), clock()).unwrap();
        let told: Vec<Value> = driven(make, &pieces, way).into_iter().map(|(_, line)| line).collect();
        let mut of_key: BTreeMap<Option<String>, Vec<Row>> = BTreeMap::new();
        let mut expected = Vec::new();
        let line = |key: &Option<String>, rows: &[Row]| {
            let times = || rows.iter().map(|row| row.1);
            result(key, times().min().unwrap(), times().max().unwrap() + 1, rows).1
        };
        for row in all_rows(&pieces) {
            let rows = of_key.entry(row.0.clone()).or_default();
            rows.push(row.clone());
            if rows.len().is_multiple_of(every) {
                expected.push(line(&row.0, rows));
            }
        }
        expected.extend(of_key.iter().map(|(key, rows)| line(key, rows)));
        if update {
            // What is given between depends on batches, and is as much as any of them.
            let mut told = told.iter();
            prop_assert!(expected.iter().all(|line| told.any(|told| told == line)));
        } else {
            prop_assert_eq!(told, expected);
        }
    }

    #[test]
    fn the_last_rows_are_those_of_the_definition(pieces in timeline(), rows in 1usize..5, ordered: bool, way in way()) {
        let order: Vec<String> = if ordered { vec!["n".to_owned()] } else { Vec::new() };
        let make = || LastAggregate::new(&input(), rows, &order, by_key(), sums(), clock()).unwrap();
        let told = driven(make, &pieces, way);
        let mut all = all_rows(&pieces);
        let by = |row: &Row| ordered.then_some((row.2.is_none(), row.2));
        all.sort_by(|a, b| a.1.cmp(&b.1).then_with(|| a.0.cmp(&b.0)).then_with(|| by(a).cmp(&by(b))));
        let expected = all.iter().enumerate().map(|(at, row)| {
            let of_key = all[..=at].iter().rev().filter(|other| other.0 == row.0).take(rows);
            let last: Vec<Row> = of_key.cloned().collect();
            let mut line = json!({ "key": row.0, "rows": last.len(), "total": total(&last) });
            if ordered {
                line["n"] = json!(row.2);
            }
            (row.1, line)
        });
        prop_assert_eq!(told, expected.collect::<Vec<_>>());
    }

    #[test]
    fn windows_of_so_many_rows_are_those_of_the_definition(pieces in timeline(), rows in 1usize..5, way in way()) {
        let make = || CountAggregate::new(&input(), rows as u64, by_key(), sums(), clock()).unwrap();
        let told = driven(make, &pieces, way);
        let (mut open, mut expected) = (BTreeMap::<Option<String>, Vec<Row>>::new(), Vec::new());
        // A result is never behind the watermark.
        let closed = |key: &Option<String>, rows: &[Row], now: i64| {
            let times = || rows.iter().map(|row| row.1);
            let (time, line) = result(key, times().min().unwrap(), times().max().unwrap() + 1, rows);
            (time.max(now), line)
        };
        let mut now = i64::MIN;
        for (piece, watermark) in pieces {
            for row in piece {
                let key = row.0.clone();
                let window = open.entry(key.clone()).or_default();
                window.push(row);
                if window.len() == rows {
                    expected.push(closed(&key, &std::mem::take(window), now));
                }
            }
            now = watermark.max(now);
        }
        expected.extend(open.iter().filter(|(_, rows)| !rows.is_empty()).map(|(key, rows)| closed(key, rows, now)));
        prop_assert_eq!(told, expected);
    }
}
