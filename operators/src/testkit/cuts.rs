//! [`cuts_do_not_matter`] and [`steps_do_not_matter`]: the property that every operator has.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use super::{Bench, MemoryTables};
use crate::{AnyBatch, Batch, Frozen, KeyGroup, Operator, Origin, Origins, Rejected, Spill, Timestamp, Watermark};

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

/// How an operator is driven.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Cut,
    /// Behind each piece it is restarted.
    Restarted,
    /// Behind each piece its state is frozen, and it goes on, four times of five; what is encoded of that behind the next piece, and
    /// restored, gives the same of that piece.
    GoesOn,
    /// Behind each piece its state is made to fit in no memory at all.
    Spilled,
}

const WAYS: [Way; 4] = [Way::Cut, Way::Restarted, Way::GoesOn, Way::Spilled];

/// Checks that an operator gives the same rows, at the same times and from the same messages, at every port, and tells the same
/// watermark in the end, however its input is cut into batches, wherever it is restarted from its saved state, when it goes on
/// from where that was saved, and when none of its state fits in memory; returns the rows of port 0.
///
/// # Panics
/// When it does not; and when rows at a side output are neither of the input's type nor of the output's, nor rejected ones,
/// as they could not be compared.
#[expect(clippy::panic, reason = "a test kit fails tests")]
pub fn cuts_do_not_matter<T, U, O>(make: impl Fn() -> O, input: &[(Timestamp, T)]) -> Vec<U>
where
    T: Clone + Debug + Send + 'static,
    U: Clone + PartialEq + Debug + Send + 'static,
    O: Operator<In = Vec<T>, Out = Vec<U>>,
{
    let whole = given(&make, input, &[input.len()], Way::Cut);
    for seed in 0..40u64 {
        let sizes = sizes(seed, input.len());
        for way in WAYS {
            let cut = given(&make, input, &sizes, way);
            if cut != whole {
                panic!("cut as {sizes:?} ({way:?}) it gives\n{cut:?}\nand in one piece\n{whole:?}");
            }
        }
    }
    whole.rows.into_iter().map(|(_, row)| row).collect()
}

/// What an operator gave.
#[derive(Debug, PartialEq)]
struct Given<U> {
    /// At port 0.
    rows: Vec<(Timestamp, U)>,
    /// At every port, row by row, in words: the row, unless it is among the others, its time, and its message.
    ports: BTreeMap<usize, Vec<String>>,
    /// How far it said that event time has come, before the end; it never goes back.
    watermark: Option<Watermark>,
}

fn nothing<U>() -> Given<U> {
    Given { rows: Vec::new(), ports: BTreeMap::new(), watermark: None }
}

fn no_memory() -> Arc<Spill> {
    Arc::new(Spill::new(Arc::new(MemoryTables::default()), KeyGroup::DEFAULT_COUNT, 0))
}

impl<U: Debug + Send + 'static> Given<U> {
    #[expect(clippy::panic, reason = "a test kit fails tests")]
    fn take<T, O>(&mut self, bench: &mut Bench<O>)
    where
        T: Debug + Send + 'static,
        O: Operator<In = Vec<T>, Out = Vec<U>>,
    {
        for watermark in bench.take_watermarks() {
            if let (Some(Watermark::At(before)), Watermark::At(now)) = (self.watermark, watermark)
                && now < before
            {
                panic!("event time goes back from {before} to {now}");
            }
            if let Watermark::At(_) = watermark {
                self.watermark = Some(watermark);
            }
        }
        for (port, batches) in bench.take_ports() {
            for batch in batches {
                let rows = match port {
                    0 => vec![String::new(); batch.len()],
                    _ => words::<T, U>(&batch, port),
                };
                let of = |row| batch.origins().and_then(|origins| Some(origins.get(row)?.sequence));
                let all = rows.into_iter().zip(batch.times()).enumerate();
                let all: Vec<_> = all.map(|(at, (row, time))| format!("{row} at {time} of {:?}", of(at))).collect();
                self.ports.entry(port).or_default().extend(all);
                if port == 0 {
                    self.rows.extend(batch.typed::<Vec<U>>().into_iter().flatten());
                }
            }
        }
    }
}

impl<U: Debug + Send + 'static> Given<U> {
    /// Adds what was given behind it.
    fn add(&mut self, behind: Given<U>) {
        self.rows.extend(behind.rows);
        for (port, rows) in behind.ports {
            self.ports.entry(port).or_default().extend(rows);
        }
        self.watermark = behind.watermark.or(self.watermark);
    }

    fn end<T, O>(mut self, mut bench: Bench<O>) -> Self
    where
        T: Debug + Send + 'static,
        O: Operator<In = Vec<T>, Out = Vec<U>>,
    {
        self.take(&mut bench);
        let watermark = self.watermark;
        bench.end();
        self.take(&mut bench);
        Given { watermark, ..self }
    }
}

/// The rows at a side output, in words.
#[expect(clippy::panic, reason = "a test kit fails tests")]
fn words<T: Debug + Send + 'static, U: Debug + Send + 'static>(batch: &AnyBatch, port: usize) -> Vec<String> {
    fn all<R: Debug>(rows: &[R]) -> Vec<String> {
        rows.iter().map(|row| format!("{row:?}")).collect()
    }
    if let Some(rows) = batch.rows::<Vec<T>>() {
        return all(rows);
    }
    if let Some(rows) = batch.rows::<Vec<U>>() {
        return all(rows);
    }
    match batch.rows::<Vec<Rejected<T>>>() {
        Some(rows) => all(rows),
        None => panic!("the rows at port {port} are of a type that is not known here"),
    }
}

fn given<T, U, O>(make: &impl Fn() -> O, input: &[(Timestamp, T)], sizes: &[usize], way: Way) -> Given<U>
where
    T: Clone + Debug + Send + 'static,
    U: Debug + Send + 'static,
    O: Operator<In = Vec<T>, Out = Vec<U>>,
{
    let mut rest = with_origins(input.to_vec());
    let pieces = sizes.iter().map(|size| {
        let left = rest.split_off(*size);
        std::mem::replace(&mut rest, left)
    });
    let play = |bench: &mut Bench<O>, piece: Batch<Vec<T>>| {
        if !piece.is_empty() {
            bench.batch(piece);
        }
    };
    driven(make, pieces, play, (way, false))
}

/// What an operator gives of these pieces, driven in a way; perhaps there is never room downstream where it is restarted.
#[expect(clippy::panic, clippy::expect_used, reason = "a test kit fails tests")]
fn driven<T, U, O, P>(
    make: &impl Fn() -> O,
    pieces: impl Iterator<Item = P>,
    play: impl Fn(&mut Bench<O>, P),
    (way, is_full): (Way, bool),
) -> Given<U>
where
    T: Clone + Debug + Send + 'static,
    U: Debug + Send + 'static,
    O: Operator<In = Vec<T>, Out = Vec<U>>,
    P: Clone,
{
    let start = |mut bench: Bench<O>| {
        if is_full && way == Way::Restarted {
            bench.room_for(0);
        }
        bench
    };
    let (mut bench, mut given, spill) = (start(Bench::new(make())), nothing(), no_memory());
    let (mut frozen, mut barriers) = (None::<Frozen>, 0);
    for piece in pieces {
        play(&mut bench, piece.clone());
        if let Some(frozen) = frozen.take() {
            let (mut of_bench, mut of_saved) = (nothing(), nothing());
            of_bench.take(&mut bench);
            let mut saved =
                Bench::restored(make(), &frozen.encode(KeyGroup::DEFAULT_COUNT).expect("what was frozen can be saved"));
            play(&mut saved, piece);
            of_saved.take(&mut saved);
            let words = |given: &Given<U>| format!("{:?} {:?}", given.rows, given.ports);
            if words(&of_saved) != words(&of_bench) {
                panic!("what was saved at barrier {barriers} gives\n{of_saved:?}\nand what went on\n{of_bench:?}");
            }
            given.add(of_bench);
            if barriers % 5 == 0 {
                bench = saved;
            }
        }
        match way {
            Way::Cut => {}
            Way::Restarted => {
                given.take(&mut bench);
                bench = start(Bench::restored(make(), &bench.save()));
            }
            Way::GoesOn => {
                given.take(&mut bench);
                frozen = Some(bench.freeze());
                barriers += 1;
            }
            Way::Spilled => drop(bench.fit(&spill)),
        }
    }
    given.end(bench)
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
/// come anywhere, and then there is never room downstream; or none of its state fits in memory.
///
/// # Panics
/// When it does not give the same rows at every port.
#[expect(clippy::panic, reason = "a test kit fails tests")]
pub fn steps_do_not_matter<T, U, O>(make: impl Fn() -> O, steps: &[Step<T>]) -> Vec<U>
where
    T: Clone + Debug + Send + 'static,
    U: Clone + PartialEq + Debug + Send + 'static,
    O: Operator<In = Vec<T>, Out = Vec<U>>,
{
    let whole = stepped(&make, steps, &[steps.len()], Way::Cut);
    for seed in 0..12u64 {
        let sizes = sizes(seed, steps.len());
        for way in WAYS {
            let cut = stepped(&make, steps, &sizes, way);
            if cut != whole {
                panic!("cut as {sizes:?} ({way:?}) it gives\n{cut:?}\nand in one piece\n{whole:?}");
            }
        }
    }
    whole.rows.into_iter().map(|(_, row)| row).collect()
}

/// What an operator gives of these steps in one piece: for comparison with a definition on very many inputs.
pub fn steps_in_one_piece<T, U, O>(make: impl Fn() -> O, steps: &[Step<T>]) -> Vec<U>
where
    T: Clone + Debug + Send + 'static,
    U: Debug + Send + 'static,
    O: Operator<In = Vec<T>, Out = Vec<U>>,
{
    stepped(&make, steps, &[steps.len()], Way::Cut).rows.into_iter().map(|(_, row)| row).collect()
}

fn stepped<T, U, O>(make: &impl Fn() -> O, steps: &[Step<T>], sizes: &[usize], way: Way) -> Given<U>
where
    T: Clone + Debug + Send + 'static,
    U: Debug + Send + 'static,
    O: Operator<In = Vec<T>, Out = Vec<U>>,
{
    let mut rest = steps.iter().cloned();
    let pieces = sizes.iter().map(|size| rest.by_ref().take(*size).collect::<Vec<_>>());
    let play = |bench: &mut Bench<O>, steps: Vec<Step<T>>| {
        let mut piece = Vec::new();
        for step in steps {
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
    };
    driven(make, pieces, play, (way, true))
}

/// Sizes that add up to `total`: by a fixed sequence, so that every run cuts alike.
pub(crate) fn sizes(seed: u64, total: usize) -> Vec<usize> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cause, Outbox, PortType, Result, Side, Turn};

    /// Refuses the first row of each batch: what it gives at port 0 alone does not show that it should not.
    struct Moody(Side<Rejected<u8>>);

    impl Operator for Moody {
        type In = Vec<u8>;
        type Out = Vec<u8>;

        fn on_batch(&mut self, batch: Batch<Vec<u8>>, out: &mut Outbox<'_, Vec<u8>>) -> Result<Turn> {
            let (time, row) = (batch.times()[0], batch.rows()[0]);
            out.push_side_from(&self.0, time, Rejected { row, cause: Cause::operator("moody") }, batch.origins(), 0);
            Ok(Turn::Done)
        }

        fn sides(&self) -> Vec<PortType> {
            vec![self.0.port_type()]
        }
    }

    #[test]
    #[should_panic(expected = "in one piece")]
    fn a_side_output_that_depends_on_the_cuts_is_seen() {
        cuts_do_not_matter(|| Moody(Side::rejected(1)), &timed(0..9));
    }
}
