//! What tables and panes do with chunks, layers and groups that are empty.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field};

use super::super::codec::KeyCodec;
use super::super::table::Table;
use super::definitions::{by_key, input, with_until};
use super::*;
use crate::testkit::MemoryTables;
use crate::{KeyGroup, Spill};

fn key(n: usize) -> Row {
    (Some(format!("{n:06}")), 1, Some(1))
}

#[test]
fn chunks_stay_few_over_barriers_and_where_rows_have_left_them() {
    let fields = [Field::new("key", DataType::Int64, false)];
    let codec = Arc::new(KeyCodec::new(&fields, vec![Field::new("n", DataType::Int64, true)]).unwrap());
    let mut table = Table::new(Arc::clone(&codec));
    let put = |table: &mut Table, keys: Vec<i64>| {
        let column: ArrayRef = Arc::new(Int64Array::from(keys.clone()));
        let names = codec.keys(&[Arc::clone(&column)]).unwrap();
        let names: Vec<&[u8]> = (0..keys.len()).map(|row| names.get(row)).collect();
        table.put(&names, vec![column]).unwrap();
    };
    let mut most = 0;
    for round in 0..2_000 {
        // One that stays, and some that change again and again.
        put(&mut table, vec![1_000 + round, round % 3, 3 + round % 5, 8 + round % 7]);
        drop(table.freeze(Vec::new(), false).unwrap());
        let bound = 2 + 4 * (round as usize + 16) / 6 + 8;
        most = most.max(table.chunks() * 1_000 / bound);
    }
    assert!(most <= 1_000, "{table:?}");
    let places: Vec<_> = (0..2_000)
        .map(|round| {
            let column: ArrayRef = Arc::new(Int64Array::from(vec![1_000 + round]));
            table.find(codec.keys(&[column]).unwrap().get(0)).unwrap()
        })
        .collect();
    let values = table.values(&places).unwrap();
    assert!(values[0].as_primitive::<Int64Type>().values().iter().copied().eq(1_000..3_000));
}

#[test]
fn a_barrier_behind_rows_that_are_all_late_saves_what_there_is() {
    // Its accumulators have no columns of their own where there are no groups.
    let columns = [("median".to_owned(), "approx_median(n)".to_owned())];
    let median = Aggregates::compile(&columns, &input()).unwrap();
    let make = || {
        SessionAggregate::new(&input(), OwnWindows::session(span(5)), Emit::OnClose, by_key(), median.clone(), clock())
            .unwrap()
    };
    let mut bench = Bench::new(make());
    bench.watermark(at(100));
    for late in [true, false] {
        bench.batch(with_until(&[(Some("a".into()), if late { 1 } else { 101 }, Some(7))]));
        let saved = bench.freeze().encode(KeyGroup::DEFAULT_COUNT).unwrap();
        assert_eq!(bench.take_side::<Rejected<Bytes>>(2).len(), usize::from(late));
        bench = Bench::restored(make(), &saved);
    }
    bench.end();
    assert_eq!(bench.take_batches().iter().map(Batch::len).sum::<usize>(), 1);
}

#[test]
fn a_window_that_does_not_fit_gives_some_keys_at_a_time_and_only_while_there_is_room() {
    const KEYS: usize = 20_000;
    let rows: Vec<Row> = (0..KEYS).map(|n| key(n * 7_919 % KEYS)).collect();
    let mut bench = Bench::new(operator(tumbling(span(10)), &["key"], &[("n", "count(*)")]));
    let spill = Arc::new(Spill::new(Arc::new(MemoryTables::default()), KeyGroup::DEFAULT_COUNT, 0));
    for rows in rows.chunks(1_000) {
        bench.batch(batch(rows));
        bench.fit(&spill);
    }
    bench.room_for(0);
    let before = bench.turns();
    bench.watermark(at(10));
    let turns = bench.turns() - before;
    let given = bench.take_batches();
    assert!(turns >= given.len() && given.len() == KEYS.div_ceil(8 * 1024), "{turns} turns, {} batches", given.len());
    let keys = given.iter().flat_map(|batch| batch.rows().column(0).as_string::<i32>().iter().flatten());
    assert!(keys.eq((0..KEYS).map(|n| key(n).0.unwrap()).collect::<Vec<_>>().iter()), "in the order of keys");
}
