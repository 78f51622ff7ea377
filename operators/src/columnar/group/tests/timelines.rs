//! What windows give, and when, a step at a time.

use serde_json::{Value, json};

use super::*;
use crate::Operator;
use crate::columnar::tests::lines;

fn keys(columns: &[&str]) -> KeyColumns {
    let columns: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
    KeyColumns::new(&schema(), &columns).unwrap()
}

fn sums() -> Aggregates {
    compiled(&[("rows", "count(*)"), ("total", "sum(n)")]).unwrap()
}

/// What came out: the time of each row, and what is in it, without the columns of the window.
fn told<O: Operator<In = RecordBatch, Out = RecordBatch>>(bench: &mut Bench<O>) -> Vec<(i64, Value)> {
    let mut all = Vec::new();
    for batch in bench.take_batches() {
        for (time, mut line) in batch.times().iter().zip(lines(batch.rows())) {
            line.as_object_mut().unwrap().retain(|name, _| !name.starts_with("window"));
            all.push((time.as_micros(), line));
        }
    }
    all
}

fn rows(rows: &[(&str, i64, i64)]) -> Batch<RecordBatch> {
    batch(&rows.iter().map(|(key, time, n)| (text(key), *time, Some(*n))).collect::<Vec<_>>())
}

fn a(rows: i64, total: i64) -> Value {
    json!({ "key": "a", "rows": rows, "total": total })
}

fn b(rows: i64, total: i64) -> Value {
    json!({ "key": "b", "rows": rows, "total": total })
}

#[test]
fn a_global_window_gives_its_results_at_the_end() {
    let mut bench = Bench::new(GlobalAggregate::new(&schema(), global(), keys(&["key"]), sums(), clock()).unwrap());
    bench.batch(rows(&[("b", 7, 1), ("a", 3, 2), ("b", 5, 4)]));
    bench.watermark(at(100));
    assert_eq!(told(&mut bench), []);
    bench.watermark(Timestamp::MAX);
    assert_eq!(told(&mut bench), [(100, a(1, 2)), (100, b(2, 5))]);
    bench.end();
    assert_eq!(told(&mut bench), [], "they were given when time ended");
}

#[test]
fn a_global_window_in_update_mode_tells_each_change_once_a_batch() {
    let make =
        || GlobalAggregate::new(&schema(), global().emit(Emit::OnChange), keys(&["key"]), sums(), clock()).unwrap();
    let mut bench = Bench::new(make());
    bench.batch(rows(&[("b", 7, 1), ("a", 3, 2), ("b", 5, 4)]));
    assert_eq!(told(&mut bench), [(3, a(1, 2)), (7, b(2, 5))]);
    bench.watermark(at(6));
    let mut bench = Bench::restored(make(), &bench.save());
    bench.batch(rows(&[("a", 5, 10)]));
    assert_eq!(told(&mut bench), [(6, a(2, 12))], "a result is not given behind the watermark");
    bench.end();
    assert_eq!(told(&mut bench).len(), 2);
}

#[test]
fn a_global_window_gives_its_result_with_every_so_many_rows_of_a_key() {
    let make = || GlobalAggregate::new(&schema(), global().every(2), keys(&["key"]), sums(), clock()).unwrap();
    let mut bench = Bench::new(make());
    bench.batch(rows(&[("b", 7, 1), ("a", 3, 2), ("b", 5, 4), ("b", 9, 1), ("a", 4, 1), ("b", 8, 1)]));
    assert_eq!(told(&mut bench), [(7, b(2, 5)), (4, a(2, 3)), (9, b(4, 7))]);
    bench.batch(rows(&[("a", 6, 1)]));
    bench.watermark(at(20));
    let mut bench = Bench::restored(make(), &bench.save());
    assert_eq!(told(&mut bench), []);
    bench.batch(rows(&[("a", 7, 1)]));
    assert_eq!(told(&mut bench), [(20, a(4, 5))], "a result is not given behind the watermark");
    bench.end();
    assert_eq!(told(&mut bench).len(), 2);
}

#[test]
fn early_results_come_when_the_watermark_passes_a_multiple_of_the_interval() {
    let emit = Emit::Every(span(4));
    let make =
        || WindowAggregate::new(&schema(), tumbling(span(10)).emit(emit), keys(&["key"]), sums(), clock()).unwrap();
    let mut bench = Bench::new(make());
    bench.batch(rows(&[("a", 3, 1), ("a", 7, 2), ("b", 12, 1)]));
    bench.watermark(at(5));
    assert_eq!(told(&mut bench), [(9, a(2, 3)), (19, b(1, 1))]);
    bench.batch(rows(&[("a", 8, 4)]));
    bench.watermark(at(7));
    assert_eq!(told(&mut bench), [], "8 is not passed yet");
    let mut bench = Bench::restored(make(), &bench.save());
    bench.watermark(at(8));
    assert_eq!(told(&mut bench), [(9, a(3, 7))], "what has not changed is not told again");
    bench.watermark(at(13));
    assert_eq!(told(&mut bench), [(9, a(3, 7))], "and when it closes");
    bench.end();
    assert_eq!(told(&mut bench), [(19, b(1, 1))]);
}

#[test]
fn sliding_windows_in_update_mode_tell_all_windows_that_a_batch_has_changed() {
    let windows = sliding(span(10), span(5)).emit(Emit::OnChange);
    let make = WindowAggregate::new(&schema(), windows, keys(&["key"]), sums(), clock()).unwrap();
    let mut bench = Bench::new(make);
    bench.batch(rows(&[("a", 7, 1)]));
    assert_eq!(told(&mut bench), [(9, a(1, 1)), (14, a(1, 1))]);
    bench.batch(rows(&[("a", 3, 2), ("b", 8, 1)]));
    assert_eq!(told(&mut bench), [(4, a(1, 2)), (9, a(2, 3)), (9, b(1, 1)), (14, b(1, 1))]);
    bench.watermark(at(10));
    assert_eq!(told(&mut bench), [(4, a(1, 2)), (9, a(2, 3)), (9, b(1, 1))]);
    bench.end();
    assert_eq!(told(&mut bench), [(14, a(1, 1)), (14, b(1, 1))]);
}

fn sessions(windows: OwnWindows, emit: Emit) -> SessionAggregate {
    SessionAggregate::new(&schema(), windows, emit, keys(&["key"]), sums(), clock()).unwrap()
}

#[test]
fn a_session_ends_after_a_gap_and_a_row_may_join_two_of_them() {
    let make = || sessions(OwnWindows::session(span(10)), Emit::OnClose);
    let mut bench = Bench::new(make());
    bench.batch(rows(&[("a", 3, 1), ("a", 20, 2), ("b", 9, 3)]));
    let mut bench = Bench::restored(make(), &bench.save());
    bench.batch(rows(&[("a", 12, 4)]));
    bench.watermark(at(19));
    assert_eq!(told(&mut bench), [(18, b(1, 3))]);
    let mut bench = Bench::restored(make(), &bench.save());
    bench.batch(rows(&[("b", 9, 3)]));
    assert_eq!(bench.take_side::<Rejected<Bytes>>(2).len(), 1);
    bench.watermark(at(30));
    assert_eq!(told(&mut bench), [(29, a(3, 7))]);
}

#[test]
fn late_rows_within_the_allowance_change_a_session_that_was_told() {
    let mut bench = Bench::new(sessions(OwnWindows::session(span(10)).allowed_lateness(span(5)), Emit::OnClose));
    bench.batch(rows(&[("a", 3, 1)]));
    bench.watermark(at(13));
    assert_eq!(told(&mut bench), [(12, a(1, 1))]);
    bench.batch(rows(&[("a", 2, 1), ("b", 2, 1)]));
    assert_eq!(told(&mut bench), [(11, b(1, 1)), (12, a(2, 2))]);
    bench.watermark(at(18));
    bench.batch(rows(&[("a", 2, 1)]));
    assert_eq!((told(&mut bench), bench.take_side::<Rejected<Bytes>>(2).len()), (Vec::new(), 1));
}

/// Rows of a key, a number and a time until which they count.
fn offers(rows: &[(&str, i64, Option<i64>)]) -> Batch<RecordBatch> {
    let until = |row: &(&str, i64, Option<i64>)| row.2;
    let until: arrow::array::TimestampMicrosecondArray = rows.iter().map(until).collect();
    let keys: StringArray = rows.iter().map(|row| Some(row.0)).collect();
    let numbers: Int64Array = rows.iter().map(|row| Some(row.1)).collect();
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("key", Arc::new(keys) as _, true),
        ("n", Arc::new(numbers) as _, true),
        ("until", Arc::new(until.with_timezone("UTC")) as _, true),
    ]);
    Batch::new(rows.iter().map(|row| at(row.1)).collect(), batch.unwrap()).unwrap()
}

#[test]
fn a_window_lasts_until_the_latest_time_that_its_rows_tell() {
    let schema = offers(&[]).rows().schema();
    let keys = || KeyColumns::new(&schema, &["key".to_owned()]).unwrap();
    let sums = Aggregates::compile(&[("rows".to_owned(), "count(*)".to_owned())], &schema).unwrap();
    let windows = OwnWindows::until("until");
    let make =
        || SessionAggregate::new(&schema, windows.clone(), Emit::OnClose, keys(), sums.clone(), clock()).unwrap();
    let mut bench = Bench::new(make());
    bench.batch(offers(&[("a", 3, Some(10)), ("a", 7, Some(8)), ("a", 5, None)]));
    let rejected = bench.take_side::<Rejected<Bytes>>(1);
    assert!(rejected[0].cause.message.contains("`until` is null"), "{rejected:?}");
    bench.watermark(at(10));
    assert_eq!(told(&mut bench), [], "a row of that very time may still come");
    let mut bench = Bench::restored(make(), &bench.save());
    bench.batch(offers(&[("a", 10, Some(10)), ("a", 12, Some(20))]));
    bench.watermark(at(11));
    assert_eq!(told(&mut bench), [(10, json!({ "key": "a", "rows": 3 }))]);
    bench.batch(offers(&[("a", 9, Some(10))]));
    assert_eq!(bench.take_side::<Rejected<Bytes>>(2).len(), 1);
    bench.end();
    assert_eq!(told(&mut bench), [(20, json!({ "key": "a", "rows": 1 }))]);
    let wrong = OwnWindows::until("untill").check(&schema).unwrap_err().to_string();
    assert!(wrong.contains("did you mean `until`?"), "{wrong}");
    assert!(OwnWindows::until("n").check(&schema).unwrap_err().to_string().contains("must be a timestamp"));
}

fn top(rows: usize, by: &str) -> Top {
    Top::new(&schema(), rows, by).unwrap()
}

#[test]
fn the_best_rows_of_a_window_keep_their_columns_and_ties_are_told_where_that_is_asked_for() {
    let make = |keys: &[&str], top: Top| {
        let windows = tumbling(span(10));
        WindowAggregate::new(&schema(), windows, self::keys(keys), top, clock()).unwrap()
    };
    let all = rows(&[("a", 3, 5), ("b", 4, 9), ("a", 5, 9), ("c", 6, 1), ("a", 2, 9), ("a", 11, 1)]);
    for (operator, expected) in [
        (make(&[], top(1, "n desc")), vec![("a", 9)]),
        (make(&[], top(1, "n desc").ties()), vec![("a", 9), ("b", 9), ("a", 9)]),
        (make(&[], top(2, "n % 2, key desc").ties()), vec![("c", 1), ("b", 9)]),
        (make(&["key"], top(1, "n").ties()), vec![("a", 5), ("b", 9), ("c", 1)]),
    ] {
        let mut bench = Bench::new(operator);
        bench.batch(all.clone());
        bench.watermark(at(10));
        let told: Vec<(i64, Value)> = told(&mut bench);
        let expected: Vec<_> = expected.into_iter().map(|(key, n)| (9, json!({ "key": key, "n": n }))).collect();
        assert_eq!(told, expected);
    }
}

#[test]
fn rows_that_have_the_columns_of_a_window_keep_theirs() {
    let mut counts = Bench::new(operator(sliding(span(10), span(5)), &["key"], &[("rows", "count(*)")]));
    counts.batch(rows(&[("a", 3, 5), ("a", 4, 9), ("b", 4, 9)]));
    counts.end();
    let counted = counts.take_batches();
    let schema = counted[0].rows().schema();
    let (keys, top) = (KeyColumns::new(&schema, &[]).unwrap(), Top::new(&schema, 1, "rows desc").unwrap().ties());
    let mut bench = Bench::new(WindowAggregate::new(&schema, tumbling(span(5)), keys, top, clock()).unwrap());
    assert_eq!(bench.operator().schema(), &schema);
    counted.into_iter().for_each(|batch| bench.batch(batch));
    bench.end();
    assert_eq!(told(&mut bench), [(4, json!({ "key": "a", "rows": 2 })), (9, json!({ "key": "a", "rows": 2 }))]);
}

#[test]
fn what_rows_cannot_be_ordered_by_is_told_with_its_place() {
    let wrong = |by: &str| Top::new(&schema(), 1, by).unwrap_err();
    assert_eq!((wrong("n desc, m").within, wrong("n desc, m").what.as_str()), (Some(8..9), "there is no column `m`"));
    assert_eq!(wrong("n, make_array(n)").within, Some(3..16));
}

#[test]
fn a_checkpoint_after_few_changes_writes_few_of_them() {
    let windows = tumbling(span(1_000_000));
    let make = || operator(windows, &["key"], SUMS);
    let mut bench = Bench::new(make());
    let all: Vec<Row> = (0..5_000).map(|n| (Some(n.to_string()), n, Some(n))).collect();
    bench.batch(batch(&all));
    let weight = |saved: &[crate::Run]| saved.iter().map(crate::Run::weight).sum::<usize>();
    let runs = |bench: &mut Bench<WindowAggregate>, whole: bool| {
        let (_, pieces) = bench.freeze().into_parts();
        pieces.into_iter().map(|(_, piece)| piece.encode(1, whole).unwrap()).collect::<Vec<_>>()
    };
    let whole = runs(&mut bench, true);
    bench.batch(batch(&[(text("7"), 7, Some(1)), (text("new"), 7, Some(1))]));
    let changed = runs(&mut bench, false);
    assert!(!changed[0].whole && weight(&changed) * 20 < weight(&whole), "{} of {}", weight(&changed), weight(&whole));
    assert!(runs(&mut bench, false)[0].is_empty(), "nothing has changed");
}

#[test]
fn a_row_waits_until_the_watermark_has_passed_it_and_sees_the_rows_before_it() {
    let order = ["n".to_owned()];
    let make = || LastAggregate::new(&schema(), 2, &order, keys(&["key"]), sums(), clock()).unwrap();
    let line = |n: i64, rows: i64, total: i64| json!({ "key": "a", "n": n, "rows": rows, "total": total });
    let mut bench = Bench::new(make());
    bench.batch(rows(&[("a", 3, 1), ("a", 9, 2), ("a", 5, 4), ("a", 5, 3)]));
    bench.watermark(at(5));
    assert_eq!(told(&mut bench), [(3, line(1, 1, 1))], "another row of the time 5 may still come");
    let mut bench = Bench::restored(make(), &bench.save());
    bench.watermark(at(8));
    assert_eq!(told(&mut bench), [(5, line(3, 2, 4)), (5, line(4, 2, 7))]);
    let mut bench = Bench::restored(make(), &bench.save());
    bench.batch(rows(&[("a", 7, 1)]));
    assert_eq!(bench.take_side::<Rejected<Bytes>>(2).len(), 1);
    bench.end();
    assert_eq!(told(&mut bench), [(9, line(2, 2, 6))]);
}

#[test]
fn a_window_of_so_many_rows_gives_its_result_when_it_is_full() {
    let make = || CountAggregate::new(&schema(), 2, keys(&["key"]), sums(), clock()).unwrap();
    let mut bench = Bench::new(make());
    bench.batch(rows(&[("b", 3, 1), ("a", 9, 2), ("b", 5, 4), ("b", 1, 8), ("a", 4, 16), ("b", 2, 32)]));
    assert_eq!(told(&mut bench), [(5, b(2, 5)), (9, a(2, 18)), (2, b(2, 40))]);
    bench.batch(rows(&[("b", 3, 1), ("a", 7, 5)]));
    let mut bench = Bench::restored(make(), &bench.save());
    bench.batch(rows(&[("b", 4, 1)]));
    assert_eq!(told(&mut bench), [(4, b(2, 2))]);
    bench.end();
    assert_eq!(told(&mut bench), [(7, a(1, 5))]);
}
