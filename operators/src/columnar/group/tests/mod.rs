//! Windows of columns against the definition, computed in one piece over all rows.

mod aggregates;
mod changes;
mod definitions;
mod late;
mod tables;
mod timelines;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Float64Type, Int64Type, SchemaRef, TimestampMicrosecondType};
use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::columnar::tests::clock;
use crate::testkit::Bench;
use crate::window::{Emit, TimeWindows, global, sliding, tumbling};
use crate::{Batch, Rejected, Timestamp};

/// A key, which may be null, a time and a number, which may be null.
type Row = (Option<String>, i64, Option<i64>);

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn span(micros: i64) -> Duration {
    Duration::from_micros(micros.unsigned_abs())
}

fn batch(rows: &[Row]) -> Batch<RecordBatch> {
    let keys: StringArray = rows.iter().map(|row| row.0.clone()).collect();
    let numbers: Int64Array = rows.iter().map(|row| row.2).collect();
    let rows_of = RecordBatch::try_from_iter_with_nullable([
        ("key", Arc::new(keys) as _, true),
        ("n", Arc::new(numbers) as _, true),
    ]);
    Batch::new(rows.iter().map(|row| at(row.1)).collect(), rows_of.unwrap()).unwrap()
}

fn schema() -> SchemaRef {
    batch(&[(None, 0, None)]).rows().schema()
}

fn compiled(columns: &[(&str, &str)]) -> Result<Aggregates, Vec<(String, crate::columnar::ExprError)>> {
    let columns: Vec<_> = columns.iter().map(|(name, sql)| ((*name).to_owned(), (*sql).to_owned())).collect();
    Aggregates::compile(&columns, &schema())
}

fn operator(windows: TimeWindows, keys: &[&str], columns: &[(&str, &str)]) -> WindowAggregate {
    let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    let keys = KeyColumns::new(&schema(), &keys).unwrap();
    WindowAggregate::new(&schema(), windows, keys, compiled(columns).unwrap(), clock()).unwrap()
}

const SUMS: &[(&str, &str)] = &[
    ("rows", "count(*)"),
    ("total", "sum(n)"),
    ("spread", "max(n) - min(n)"),
    ("odd", "count(n) filter (where n % 2 = 1)"),
];

fn text(row: &str) -> Option<String> {
    Some(row.to_owned())
}

/// Key, start, rows, total, spread and odd ones.
type Given = (Option<String>, i64, i64, Option<i64>, Option<i64>, i64);

/// What came out.
fn given(bench: &mut Bench<WindowAggregate>) -> Vec<Given> {
    let mut all = Vec::new();
    for batch in bench.take_batches() {
        let rows = batch.rows();
        let int = |name: &str, row: usize| {
            let column = rows.column_by_name(name).unwrap().as_primitive::<Int64Type>();
            (!column.is_null(row)).then(|| column.value(row))
        };
        let keys: Vec<Option<String>> =
            rows.column_by_name("key").unwrap().as_string::<i32>().iter().map(|key| key.map(str::to_owned)).collect();
        let starts = rows.column_by_name("window_start").unwrap().as_primitive::<TimestampMicrosecondType>();
        for (row, key) in keys.into_iter().enumerate() {
            let (count, odd) = (int("rows", row).unwrap(), int("odd", row).unwrap());
            all.push((key, starts.value(row), count, int("total", row), int("spread", row), odd));
        }
    }
    all
}

#[test]
fn a_window_gives_the_columns_of_its_keys_when_the_watermark_reaches_its_end() {
    let mut bench = Bench::new(operator(tumbling(span(10)), &["key"], SUMS));
    bench.batch(batch(&[(text("b"), 3, Some(5)), (text("a"), 7, None), (text("b"), 12, Some(1)), (None, 1, Some(2))]));
    bench.watermark(at(9));
    assert_eq!(given(&mut bench), []);
    bench.watermark(at(10));
    let expected =
        [(None, 0, 1, Some(2), Some(0), 0), (text("a"), 0, 1, None, None, 0), (text("b"), 0, 1, Some(5), Some(0), 1)];
    assert_eq!(given(&mut bench), expected);
    bench.batch(batch(&[(text("b"), 9, Some(1))]));
    let late = bench.take_side::<Rejected<Bytes>>(2);
    assert_eq!(late.iter().map(|late| late.row.as_ref()).collect::<Vec<_>>(), [br#"{"key":"b","n":1}"#]);
    bench.end();
    assert_eq!(given(&mut bench), [(text("b"), 10, 1, Some(1), Some(0), 1)]);
}

#[test]
fn a_late_row_within_the_allowance_gives_the_results_of_its_key_again() {
    let mut bench = Bench::new(operator(tumbling(span(10)).allowed_lateness(span(5)), &["key"], SUMS));
    bench.batch(batch(&[(text("a"), 3, Some(1)), (text("b"), 3, Some(1))]));
    bench.watermark(at(10));
    assert_eq!(given(&mut bench).len(), 2);
    bench.batch(batch(&[(text("a"), 4, Some(3))]));
    assert_eq!(given(&mut bench), [(text("a"), 0, 2, Some(4), Some(2), 2)]);
    bench.watermark(at(15));
    bench.batch(batch(&[(text("a"), 5, Some(3))]));
    assert_eq!((given(&mut bench).len(), bench.take_side::<Rejected<Bytes>>(2).len()), (0, 1));
}

#[test]
fn without_keys_there_is_one_group() {
    let mut bench =
        Bench::new(operator(tumbling(span(10)), &[], &[("mean", "avg(n)"), ("p", "approx_percentile_cont(n, 0.5)")]));
    bench.batch(batch(&[(None, 1, Some(1)), (text("a"), 2, Some(2))]));
    bench.end();
    let results = bench.take_batches();
    let mean = results[0].rows().column_by_name("mean").unwrap().as_primitive::<Float64Type>();
    assert_eq!((mean.len(), mean.value(0)), (1, 1.5));
}

#[test]
fn mistakes_are_found_where_they_are() {
    let wrong = |sql: &str| {
        let (_, error) = compiled(&[("x", sql)]).unwrap_err().remove(0);
        (error.to_string(), error.within)
    };
    let (words, within) = wrong("n + 1");
    assert!(words.contains("no aggregate"), "{words}");
    assert_eq!(within, Some(0..5));
    let (words, within) = wrong("1 + sum(m)");
    assert!(words.contains("no column `m`"), "{words}");
    assert_eq!(within, Some(8..9));
    let (words, within) = wrong("max(n) + n");
    assert!(words.contains("no column `n`"), "{words}");
    assert_eq!(within, Some(9..10));
    let (words, _) = wrong("sum(count(*))");
    assert!(words.contains("aggregate of an aggregate"), "{words}");
    let (words, within) = wrong("sum(key)");
    assert!(within == Some(0..8) && !words.is_empty(), "{words} {within:?}");
    assert!(wrong("sum(n) over ()").0.contains("over"));
}

#[test]
fn state_of_other_aggregates_is_refused_and_not_misread() {
    let mut bench = Bench::new(operator(tumbling(span(10)), &["key"], &[("rows", "count(*)")]));
    bench.batch(batch(&[(text("a"), 3, Some(1))]));
    let saved = bench.save();
    let mut other = operator(tumbling(span(10)), &["key"], &[("mean", "avg(n)")]);
    let fault = crate::Operator::state(&mut other, &mut crate::StateVisitor::restore(&saved)).unwrap_err();
    assert!(fault.to_string().contains("key: count(*)`"), "{fault}");
}

/// Rows out of order by less than 20, in pieces with a watermark behind each.
fn timeline() -> impl Strategy<Value = Vec<(Vec<Row>, i64)>> {
    let row = (prop::option::of(0u8..5), 0i64..200, prop::option::of(-50i64..50), 0i64..20);
    (prop::collection::vec(row, 1..100), 1usize..30).prop_map(|(mut rows, size)| {
        rows.sort_by_key(|(_, time, _, jitter)| time + jitter);
        let row = |(key, time, n, _): (Option<u8>, i64, Option<i64>, i64)| (key.map(|key| key.to_string()), time, n);
        let rows: Vec<Row> = rows.into_iter().map(row).collect();
        let mut highest = i64::MIN;
        let mut pieces = Vec::new();
        for rows in rows.chunks(size) {
            highest = rows.iter().map(|row| row.1).chain([highest]).max().unwrap();
            pieces.push((rows.to_vec(), highest - 20));
        }
        pieces
    })
}
