//! [`cuts_do_not_matter`] and [`steps_do_not_matter`]: the property that every operator has.

use std::fmt::Debug;
use std::sync::Arc;

use super::Bench;
use crate::{Batch, Operator, Origin, Origins, Timestamp};

/// Rows at the times 0, 1, 2, … microseconds.
pub fn timed<T>(rows: impl IntoIterator<Item = T>) -> Vec<(Timestamp, T)> {
    (0..).map(Timestamp::from_micros).zip(rows).collect()
}

/// A batch whose rows come from a message each, with the sequences 1, 2, 3, ….
///
/// # Panics
/// Never: there are as many origins as rows.
#[expect(clippy::expect_used, reason = "there are as many origins as rows")]
pub fn with_origins<T: Send + 'static>(rows: Vec<(Timestamp, T)>) -> Batch<Vec<T>> {
    let messages: Vec<_> = (1..=rows.len() as u64).map(|sequence| Origin { sequence, ..Origin::default() }).collect();
    let batch: Batch<Vec<T>> = rows.into_iter().collect();
    batch.with_origins(Origins::one_each(Arc::default(), messages)).expect("as many origins as rows")
}

/// Checks that an operator gives the same rows, at the same times, at every port 0 however its input is cut into
/// batches, and wherever it is restarted from its saved state; returns the rows.
///
/// # Panics
/// When it does not.
#[expect(clippy::panic, reason = "a test kit fails tests")]
pub fn cuts_do_not_matter<T, U, O>(make: impl Fn() -> O, input: &[(Timestamp, T)]) -> Vec<U>
where
    T: Clone + Send + 'static,
    U: Clone + PartialEq + Debug + Send + 'static,
    O: Operator<In = Vec<T>, Out = Vec<U>>,
{
    let whole = given(&make, input, &[input.len()], false);
    for seed in 0..40u64 {
        let sizes = sizes(seed, input.len());
        for restarts in [false, true] {
            let cut = given(&make, input, &sizes, restarts);
            if cut != whole {
                panic!("cut as {sizes:?} (restarted: {restarts}) it gives\n{cut:?}\nand in one piece\n{whole:?}");
            }
        }
    }
    whole.into_iter().map(|(_, row)| row).collect()
}

fn given<T, U, O>(
    make: &impl Fn() -> O,
    input: &[(Timestamp, T)],
    sizes: &[usize],
    restarts: bool,
) -> Vec<(Timestamp, U)>
where
    T: Clone + Send + 'static,
    U: Send + 'static,
    O: Operator<In = Vec<T>, Out = Vec<U>>,
{
    let mut bench = Bench::new(make());
    let (mut rest, mut rows) = (input.iter().cloned(), Vec::new());
    for size in sizes {
        let piece: Batch<Vec<T>> = rest.by_ref().take(*size).collect();
        if !piece.is_empty() {
            bench.batch(piece);
        }
        if restarts {
            rows.extend(bench.take_batches().into_iter().flatten());
            bench = Bench::restored(make(), &bench.save());
        }
    }
    bench.end();
    rows.extend(bench.take_batches().into_iter().flatten());
    rows
}

/// What comes to an operator, for [`steps_do_not_matter`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// A row at its time.
    Row(Timestamp, T),
    /// Event time has come so far.
    Watermark(Timestamp),
}

/// As [`cuts_do_not_matter`], for operators that watch event time: batches are cut anywhere between watermarks, restarts
/// come anywhere, and sometimes there is no room downstream.
///
/// # Panics
/// When it does not give the same rows.
#[expect(clippy::panic, reason = "a test kit fails tests")]
pub fn steps_do_not_matter<T, U, O>(make: impl Fn() -> O, steps: &[Step<T>]) -> Vec<U>
where
    T: Clone + Send + 'static,
    U: Clone + PartialEq + Debug + Send + 'static,
    O: Operator<In = Vec<T>, Out = Vec<U>>,
{
    let whole = stepped(&make, steps, &[steps.len()], false);
    for seed in 0..12u64 {
        let sizes = sizes(seed, steps.len());
        for restarts in [false, true] {
            let cut = stepped(&make, steps, &sizes, restarts);
            if cut != whole {
                panic!("cut as {sizes:?} (restarted: {restarts}) it gives\n{cut:?}\nand in one piece\n{whole:?}");
            }
        }
    }
    whole.into_iter().map(|(_, row)| row).collect()
}

fn stepped<T, U, O>(make: &impl Fn() -> O, steps: &[Step<T>], sizes: &[usize], restarts: bool) -> Vec<(Timestamp, U)>
where
    T: Clone + Send + 'static,
    U: Send + 'static,
    O: Operator<In = Vec<T>, Out = Vec<U>>,
{
    let mut bench = Bench::new(make());
    if restarts {
        bench.room_for(0);
    }
    let (mut rest, mut rows) = (steps.iter().cloned(), Vec::new());
    for size in sizes {
        let mut piece = Vec::new();
        for step in rest.by_ref().take(*size) {
            match step {
                Step::Row(time, row) => piece.push((time, row)),
                Step::Watermark(now) => {
                    if !piece.is_empty() {
                        bench.batch(std::mem::take(&mut piece).into_iter().collect());
                    }
                    bench.watermark(now);
                }
            }
        }
        if !piece.is_empty() {
            bench.batch(piece.into_iter().collect());
        }
        if restarts {
            rows.extend(bench.take_batches().into_iter().flatten());
            bench = Bench::restored(make(), &bench.save());
        }
    }
    bench.end();
    rows.extend(bench.take_batches().into_iter().flatten());
    rows
}

/// Sizes that add up to `total`: by a fixed sequence, so that every run cuts alike.
fn sizes(seed: u64, total: usize) -> Vec<usize> {
    let (mut state, mut left, mut sizes) = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, total, Vec::new());
    while left > 0 {
        // Marsaglia's xorshift64 (Journal of Statistical Software 8/14, 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let longest = [1, 2, 7, 64].get((seed % 4) as usize).copied().unwrap_or(1);
        let size = 1 + (state % longest) as usize;
        sizes.push(size.min(left));
        left -= size.min(left);
    }
    sizes
}
