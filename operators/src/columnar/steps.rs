//! [`steps_do_not_matter`]: the property of all operators, for those over columns; see [`crate::testkit`].

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;

use super::tests::lines;
use crate::testkit::{Bench, MemoryTables, sizes};
use crate::{AnyBatch, Batch, KeyGroup, Operator, Payload, Record, Rejected, Spill, Timestamp, Watermark};

/// What comes to an operator.
#[derive(Clone, Debug)]
pub(super) enum Step<P> {
    Rows(Batch<P>),
    Watermark(i64),
}

/// What an operator gave.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Told {
    /// At every port, row by row, in words: the row, its time, and its message.
    pub(super) ports: BTreeMap<usize, Vec<String>>,
    /// How far it said that event time has come: it never goes back.
    pub(super) watermark: Option<Watermark>,
}

/// Checks that an operator gives the same rows, at the same times and from the same messages, at every port, and the same
/// watermark in the end, when its input is cut into batches by some numbers that follow from `seed`, and when it is restarted
/// from its saved state behind each of them, with never any room downstream; and when none of its state fits in memory. Returns
/// what it gives in one piece.
pub(super) fn steps_do_not_matter<P, O>(make: impl Fn() -> O, steps: &[Step<P>], seed: u64) -> Told
where
    P: Payload + Clone,
    O: Operator<In = P>,
{
    let whole = told(&make, steps, None, Way::Cut);
    for way in [Way::Cut, Way::Restarted, Way::Spilled] {
        let cut = told(&make, steps, Some(seed), way);
        assert_eq!(cut, whole, "cut by {seed} ({way:?}), and in one piece");
    }
    whole
}

/// How an operator is driven.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Way {
    Cut,
    /// Behind each batch it is restarted.
    Restarted,
    /// Behind each batch its state is made to fit in no memory at all.
    Spilled,
}

/// What an operator gives in one piece, or cut as a seed says.
pub(super) fn told<P, O>(make: &impl Fn() -> O, steps: &[Step<P>], seed: Option<u64>, way: Way) -> Told
where
    P: Payload + Clone,
    O: Operator<In = P>,
{
    let (mut bench, mut told) = (Bench::new(make()), Told::default());
    let spill = Arc::new(Spill::new(Arc::new(MemoryTables::default()), KeyGroup::DEFAULT_COUNT, 0));
    if way == Way::Restarted {
        bench.room_for(0);
    }
    for (at, step) in (0..).zip(steps.iter().cloned()) {
        let mut rest = match step {
            Step::Rows(rows) => rows,
            Step::Watermark(now) => {
                bench.watermark(Timestamp::from_micros(now));
                continue;
            }
        };
        for size in seed.map_or(vec![rest.len()], |seed| sizes(seed.wrapping_add(at), rest.len())) {
            let left = rest.split_off(size);
            bench.batch(std::mem::replace(&mut rest, left));
            if way == Way::Spilled {
                bench.fit(&spill);
            }
            if way == Way::Restarted {
                told.take(&mut bench);
                bench = Bench::restored(make(), &bench.save());
                bench.room_for(0);
            }
        }
    }
    bench.end();
    told.take(&mut bench);
    told
}

impl Told {
    fn take<O: Operator>(&mut self, bench: &mut Bench<O>) {
        for watermark in bench.take_watermarks() {
            if let (Some(Watermark::At(before)), Watermark::At(now)) = (self.watermark, watermark) {
                assert!(before <= now, "event time goes back from {before} to {now}");
            }
            self.watermark = Some(watermark);
        }
        for (port, batches) in bench.take_ports() {
            for batch in batches {
                let of = |row| batch.origins().and_then(|origins| Some(origins.get(row)?.sequence));
                let rows = words(&batch).into_iter().zip(batch.times()).enumerate();
                let rows = rows.map(|(at, (row, time))| format!("{row} at {} of {:?}", time.as_micros(), of(at)));
                self.ports.entry(port).or_default().extend(rows);
            }
        }
    }

    /// What came out of a port.
    pub(super) fn port(&self, port: usize) -> &[String] {
        self.ports.get(&port).map_or(&[], Vec::as_slice)
    }
}

fn words(batch: &AnyBatch) -> Vec<String> {
    if let Some(rows) = batch.rows::<RecordBatch>() {
        return lines(rows).iter().map(ToString::to_string).collect();
    }
    if let Some(rows) = batch.rows::<Vec<Rejected<Bytes>>>() {
        return rows.iter().map(|row| format!("{row:?}")).collect();
    }
    match batch.rows::<Vec<Record>>() {
        Some(rows) => rows.iter().map(|row| format!("{row:?}")).collect(),
        None => panic!("rows of a type that is not known here"),
    }
}
