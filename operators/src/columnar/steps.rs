//! [`steps_do_not_matter`]: the property of all operators, for those over columns; see [`crate::testkit`].

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;

use super::tests::lines;
use crate::testkit::{Bench, MemoryTables, sizes};
use crate::{AnyBatch, Batch, Frozen, KeyGroup, Operator, Payload, Record, Rejected, Spill, Timestamp, Watermark};

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
/// from its saved state behind each of them, with never any room downstream; when it goes on from where it was saved; and when
/// none of its state fits in memory. Returns what it gives in one piece.
pub(super) fn steps_do_not_matter<P, O>(make: impl Fn() -> O, steps: &[Step<P>], seed: u64) -> Told
where
    P: Payload + Clone,
    O: Operator<In = P>,
{
    let whole = told(&make, steps, None, Way::Cut);
    for way in [Way::Cut, Way::Restarted, Way::GoesOn, Way::Spilled] {
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
    /// Behind each batch its state is frozen, and it goes on, four times of five; what is encoded of that behind the next step, and
    /// restored, gives the same in that step.
    GoesOn,
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
    let take = |bench: &mut Bench<O>, step: Step<P>| match step {
        Step::Rows(rows) => bench.batch(rows),
        Step::Watermark(now) => bench.watermark(Timestamp::from_micros(now)),
    };
    let (mut frozen, mut barriers) = (None::<Frozen>, 0);
    for step in cut(steps, seed) {
        let is_batch = matches!(step, Step::Rows(_));
        take(&mut bench, step.clone());
        if let Some(frozen) = frozen.take() {
            let (mut of_bench, mut of_saved) = (Told::default(), Told::default());
            of_bench.take(&mut bench);
            let mut saved = Bench::restored(make(), &frozen.encode(KeyGroup::DEFAULT_COUNT).unwrap());
            take(&mut saved, step);
            of_saved.take(&mut saved);
            assert_eq!(of_saved.ports, of_bench.ports, "what was saved at barrier {barriers} gives something else");
            told.add(of_bench);
            if barriers % 5 == 0 {
                bench = saved;
            }
        }
        match way {
            Way::Cut => {}
            _ if !is_batch => {}
            Way::Spilled => drop(bench.fit(&spill)),
            Way::Restarted => {
                told.take(&mut bench);
                bench = Bench::restored(make(), &bench.save());
                bench.room_for(0);
            }
            Way::GoesOn => {
                told.take(&mut bench);
                frozen = Some(bench.freeze());
                barriers += 1;
            }
        }
    }
    bench.end();
    told.take(&mut bench);
    told
}

/// Steps whose batches are cut as a seed says.
fn cut<P: Payload + Clone>(steps: &[Step<P>], seed: Option<u64>) -> Vec<Step<P>> {
    let mut all = Vec::new();
    for (at, step) in (0..).zip(steps.iter().cloned()) {
        match step {
            Step::Watermark(_) => all.push(step),
            Step::Rows(mut rest) => {
                for size in seed.map_or(vec![rest.len()], |seed| sizes(seed.wrapping_add(at), rest.len())) {
                    let left = rest.split_off(size);
                    all.push(Step::Rows(std::mem::replace(&mut rest, left)));
                }
            }
        }
    }
    all
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

    /// Adds what was given behind it.
    fn add(&mut self, behind: Told) {
        for (port, rows) in behind.ports {
            self.ports.entry(port).or_default().extend(rows);
        }
        self.watermark = behind.watermark.or(self.watermark);
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
