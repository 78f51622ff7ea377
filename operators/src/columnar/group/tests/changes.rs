//! Groups that something cannot be computed for, state that another pipeline left, and state that was shared out.

use super::*;
use crate::columnar::tests::lines;
use crate::{FaultKind, KeyGroup, Operator, Saved, StateVisitor};

fn keys(names: &[&str]) -> KeyColumns {
    KeyColumns::new(&schema(), &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

const SHARE: &[(&str, &str)] = &[("rows", "count(*)"), ("share", "sum(n) / (count(n) - 1)")];

fn share() -> Aggregates {
    compiled(SHARE).unwrap()
}

/// Rows of `a`, which nothing can be shared out among, and of `b`.
fn some() -> Batch<RecordBatch> {
    batch(&[(text("a"), 1, Some(5)), (text("b"), 2, Some(3)), (text("b"), 3, Some(4))])
}

fn columns_of<O>(bench: &mut Bench<O>, column: &str) -> Vec<String>
where
    O: Operator<In = RecordBatch, Out = RecordBatch>,
{
    let batches = bench.take_batches();
    batches.iter().flat_map(|batch| lines(batch.rows())).map(|line| line[column].to_string()).collect()
}

#[test]
fn a_group_that_an_output_cannot_be_computed_for_is_rejected_and_the_others_are_given() {
    fn judged(operator: impl Operator<In = RecordBatch, Out = RecordBatch>, given: &[&str]) {
        assert!(operator.sides()[0].must_connect(), "it is to be said what becomes of rejected ones");
        let mut bench = Bench::new(operator);
        bench.batch(some());
        bench.end();
        let rejected = bench.take_side::<Rejected<Bytes>>(1);
        assert_eq!(rejected.len(), 1);
        assert_eq!(rejected[0].cause.message, "`sum(n) / (count(n) - 1)`: Divide by zero error");
        let row: serde_json::Value = serde_json::from_slice(&rejected[0].row).unwrap();
        assert_eq!((&row["key"], &row["count(n)"]), (&"a".into(), &1.into()), "{row}");
        assert_eq!(columns_of(&mut bench, "share"), given);
    }
    let (of, windows) = (keys(&["key"]), OwnWindows::session(span(10)));
    judged(WindowAggregate::new(&schema(), tumbling(span(10)), of.clone(), share(), clock()).unwrap(), &["7"]);
    judged(SessionAggregate::new(&schema(), windows, Emit::OnClose, of.clone(), share(), clock()).unwrap(), &["7"]);
    judged(GlobalAggregate::new(&schema(), global(), of.clone(), share(), clock()).unwrap(), &["7"]);
    judged(CountAggregate::new(&schema(), 9, of, share(), clock()).unwrap(), &["7"]);
}

#[test]
fn of_the_last_rows_those_that_nothing_can_be_computed_for_are_rejected() {
    let mut bench = Bench::new(LastAggregate::new(&schema(), 2, &[], keys(&["key"]), share(), clock()).unwrap());
    bench.batch(some());
    bench.end();
    let rejected = bench.take_side::<Rejected<Bytes>>(1);
    assert_eq!(
        rejected.iter().map(|row| row.row.as_ref()).collect::<Vec<_>>(),
        [
            &br#"{"key":"a","count(*)":1,"count(n)":1,"sum(n)":5}"#[..],
            &br#"{"key":"b","count(*)":1,"count(n)":1,"sum(n)":3}"#[..],
        ]
    );
    assert_eq!(columns_of(&mut bench, "share"), ["7"]);
}

#[test]
fn columns_in_another_order_find_their_state() {
    let swapped: Vec<_> = SUMS.iter().rev().copied().collect();
    let mut bench = Bench::new(operator(tumbling(span(10)), &["key"], SUMS));
    bench.batch(some());
    let mut bench = Bench::restored(operator(tumbling(span(10)), &["key"], &swapped), &bench.save());
    bench.end();
    assert_eq!(given(&mut bench), [(text("a"), 0, 1, Some(5), Some(0), 1), (text("b"), 0, 2, Some(7), Some(1), 1),]);
}

#[test]
fn state_of_another_shape_is_refused_though_its_types_are_the_same() {
    let refused = |mut before: Bench<WindowAggregate>, mut after: WindowAggregate, words: &[&str]| {
        before.batch(some());
        let fault = after.state(&mut StateVisitor::restore(&before.save())).unwrap_err();
        assert!(fault.kind() == FaultKind::Checkpoint && fault.to_string().contains("new pipeline name"), "{fault}");
        words.iter().for_each(|words| assert!(fault.to_string().contains(words), "{fault}"));
    };
    let of = |sql: &'static str, size| operator(tumbling(span(size)), &["key"], &[("x", sql)]);
    refused(Bench::new(of("sum(n)", 10)), of("max(n)", 10), &["`tumbling 10µs by key: sum(n)`", "key: max(n)`"]);
    refused(Bench::new(of("sum(n)", 10)), of("sum(n) filter (where n > 3)", 10), &["FILTER (WHERE n > 3)"]);
    refused(Bench::new(of("sum(n)", 10)), of("sum(n)", 1), &["`tumbling 10µs", "`tumbling 1µs"]);
    let top = |by| {
        let top = Top::new(&schema(), 2, by).unwrap();
        WindowAggregate::new(&schema(), tumbling(span(10)), keys(&[]), top, clock()).unwrap()
    };
    refused(Bench::new(top("n")), top("n desc"), &["by n asc", "by n desc"]);
    // Rows that are later, or results that are earlier, change nothing about what is kept.
    let late = || operator(tumbling(span(10)).allowed_lateness(span(5)), &["key"], SUMS);
    let mut before = Bench::new(operator(tumbling(span(10)), &["key"], SUMS));
    before.batch(some());
    assert!(late().state(&mut StateVisitor::restore(&before.save())).is_ok());
}

#[test]
fn subtasks_that_have_no_key_of_a_window_close_it_all_the_same() {
    let columns = &[("mid", "approx_median(n)"), ("different", "count(distinct key)")];
    let make = || operator(tumbling(span(10)), &[], columns);
    let mut bench = Bench::new(make());
    bench.batch(some());
    let saved = bench.save();
    let given = (0..3).map(|index| {
        let share = Saved::share([&saved], KeyGroup::DEFAULT_COUNT, index, 3).unwrap();
        let mut bench = Bench::restored(make(), &share);
        bench.end();
        columns_of(&mut bench, "different").len()
    });
    assert_eq!(given.sum::<usize>(), 1);
}

#[test]
fn a_window_that_has_more_rows_than_it_is_to_have_by_now_is_full_with_the_next() {
    let make = |rows| CountAggregate::new(&schema(), rows, keys(&["key"]), compiled(SUMS).unwrap(), clock()).unwrap();
    let row = |n| batch(&[(text("a"), n, Some(n))]);
    let mut bench = Bench::new(make(10));
    (0..7).for_each(|n| bench.batch(row(n)));
    let mut bench = Bench::restored(make(3), &bench.save());
    (7..11).for_each(|n| bench.batch(row(n)));
    assert_eq!(columns_of(&mut bench, "rows"), ["8", "3"]);
}

#[test]
fn a_window_of_so_many_rows_is_not_given_behind_the_watermark() {
    let make = || CountAggregate::new(&schema(), 2, keys(&["key"]), compiled(SUMS).unwrap(), clock()).unwrap();
    let mut bench = Bench::new(make());
    bench.batch(batch(&[(text("a"), 3, Some(1)), (text("b"), 4, Some(1))]));
    bench.watermark(at(50));
    let mut bench = Bench::restored(make(), &bench.save());
    bench.batch(batch(&[(text("a"), 5, Some(1))]));
    bench.end();
    let times: Vec<_> = bench.take_batches().iter().flat_map(|batch| batch.times().to_vec()).collect();
    assert_eq!(times, [at(50), at(50)]);
}

#[test]
fn windows_as_long_as_time_give_early_results_and_end() {
    let long = tumbling(Duration::from_secs(200_000_000 * 86_400)).emit(Emit::OnChange);
    let mut bench = Bench::new(operator(long, &["key"], SUMS));
    bench.batch(batch(&[(text("a"), 3, Some(1)), (text("a"), i64::MAX, Some(1))]));
    assert_eq!((given(&mut bench).len(), bench.take_side::<Rejected<Bytes>>(2).len()), (1, 1));
    bench.end();
    assert_eq!(given(&mut bench).len(), 1);
}

#[test]
fn the_last_rows_of_wide_columns_are_put_together_a_few_at_a_time_and_come_in_order() {
    let columns = [("longest".to_owned(), "max(key)".to_owned()), ("rows".to_owned(), "count(*)".to_owned())];
    let aggregates = Aggregates::compile(&columns, &schema()).unwrap();
    let make = LastAggregate::new(&schema(), 200, &[], keys(&["n"]), aggregates, clock()).unwrap();
    let mut bench = Bench::new(make);
    // 300 keys with 40 rows each, of 2 kB: to pick the rows of 8,192 results at once would take 650 MB.
    let row = |n: i64| (Some(format!("{n:02000}")), n / 3, Some(n % 300));
    (0..12).for_each(|part| bench.batch(batch(&(part * 1_000..(part + 1) * 1_000).map(row).collect::<Vec<_>>())));
    bench.end();
    let results = bench.take_batches();
    let times: Vec<_> = results.iter().flat_map(|batch| batch.times().to_vec()).collect();
    assert!(times.len() == 12_000 && times.is_sorted());
    let last = results.last().map(|batch| lines(batch.rows())).and_then(|mut lines| lines.pop()).unwrap();
    assert_eq!((&last["rows"], &last["longest"]), (&40.into(), &format!("{:02000}", 11_999).into()));
}

#[test]
fn a_sum_of_whole_numbers_that_does_not_fit_is_rejected_and_not_another_number() {
    let columns = &[("total", "sum(n)"), ("twice", "sum(n) * 2"), ("other", "sum(distinct n)")];
    let make = operator(tumbling(span(10)), &["key"], columns);
    assert!(make.sides()[0].must_connect());
    let mut bench = Bench::new(make);
    let half = i64::MAX / 2;
    let row = |key: &str, n| (text(key), 1, Some(n));
    let rows = [("few", 2), ("few", -3), ("many", i64::MAX), ("many", 2), ("doubled", half + 1), ("back", i64::MAX)];
    bench.batch(batch(&rows.map(|(key, n)| row(key, n))));
    bench.batch(batch(&[row("back", i64::MAX), row("back", -i64::MAX), row("back", -half - 1)]));
    bench.end();
    assert_eq!(columns_of(&mut bench, "total"), [half.to_string(), "-1".to_owned()]);
    let rejected = bench.take_side::<Rejected<Bytes>>(1);
    let why: Vec<&str> = rejected.iter().map(|row| row.cause.message.as_str()).collect();
    assert!(why[0].starts_with("`sum(n) * 2`") && why[1] == "`sum(n)`: it does not fit into int64", "{why:?}");
    assert!(String::from_utf8_lossy(&rejected[1].row).contains("9223372036854775809"), "{rejected:?}");
}

/// The bytes of a checkpoint of it as it is now.
fn weight(bench: &mut Bench<WindowAggregate>, whole: bool) -> usize {
    let (mut weight, (_, pieces)) = (0, bench.freeze().into_parts());
    for (_, piece) in pieces {
        let add = &mut |run: crate::Run| {
            weight += run.weight();
            Ok(())
        };
        piece.encode_in_parts(KeyGroup::DEFAULT_COUNT, whole, add).unwrap();
    }
    weight
}

#[test]
fn a_checkpoint_behind_changes_of_a_hundredth_of_the_keys_is_a_small_part_of_a_whole_one() {
    let mut bench = Bench::new(operator(tumbling(span(10)), &["key"], SUMS));
    let feed = |bench: &mut Bench<WindowAggregate>, every: usize| {
        let rows: Vec<_> =
            (0..100_000).step_by(every).map(|key| (text(&format!("customer-{key}")), 1, Some(5))).collect();
        bench.batch(batch(&rows));
    };
    feed(&mut bench, 1);
    let whole = weight(&mut bench, true);
    for _ in 0..10 {
        feed(&mut bench, 100);
        let changes = weight(&mut bench, false);
        assert!(changes > 0 && changes * 20 < whole, "{changes} of {whole}");
    }
    assert_eq!(weight(&mut bench, false), 0, "nothing has changed");
    bench.end();
    assert_eq!(given(&mut bench).len(), 100_000);
}
