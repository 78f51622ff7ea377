//! What keyed state costs: beside a plain map, at a barrier, in a checkpoint, and when it is restored.
//!
//! `cargo run --release -p millstream-bench --bin state` prints it for a million keys; `--keys N` for others.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it measures real time and prints its figures"
)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use millstream::checkpoint::{LocalStore, Segment, Store};
use millstream_operators::{Frozen, Keyed, Result, Run, Saved, StateVisitor};

type Counts = Keyed<String, u64>;

const KEY_GROUPS: u32 = 128;
const BARRIERS: usize = 200;

fn key(n: u64) -> String {
    format!("customer-{n:08}")
}

/// The same numbers in every run (Marsaglia's xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn freeze(counts: &mut Counts) -> Result<Frozen> {
    let mut frozen = Frozen::default();
    StateVisitor::freeze(&mut frozen).keyed("counts", counts)?;
    Ok(frozen)
}

fn encode(frozen: Frozen, whole: bool) -> Result<Run> {
    let (_, mut pieces) = frozen.into_parts();
    let (_, piece) = pieces.remove(0);
    piece.encode(KEY_GROUPS, whole)
}

fn restored(saved: &Saved) -> Result<Counts> {
    let mut counts = Counts::default();
    StateVisitor::restore(saved).keyed("counts", &mut counts)?;
    Ok(counts)
}

fn saved(runs: Vec<Run>) -> Saved {
    Saved::default().with_runs([("counts".to_owned(), runs)].into())
}

/// A sum over keys and values that no order changes.
fn digest<'a>(all: impl IntoIterator<Item = (&'a String, &'a u64)>) -> u64 {
    let hash = |(key, value): (&String, &u64)| {
        let bytes = key.bytes().chain(value.to_le_bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    };
    all.into_iter().map(hash).fold(0, u64::wrapping_add)
}

fn mb(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn main() -> std::process::ExitCode {
    let measured = millstream_bench::keys(1_000_000).and_then(|keys| {
        measure(keys as u64).map_err(|fault| fault.chain())?;
        in_a_pipeline(keys as u64).map_err(|error| error.to_string())
    });
    match measured {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn measure(keys: u64) -> Result {
    println!("{keys} keys such as {:?}, each with a count", key(0));
    let mut counts: Counts = (0..keys).map(|n| (key(n), n)).collect();
    beside_a_plain_map(keys, &mut counts);
    at_barriers(keys, &mut counts)?;
    in_a_checkpoint(keys, &mut counts)
}

fn in_a_pipeline(keys: u64) -> std::result::Result<(), millstream_bench::Failed> {
    let directory = std::env::temp_dir().join(format!("millstream-bench-{}-running", std::process::id()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(millstream_bench::running(keys, &directory));
    let _ = std::fs::remove_dir_all(directory);
    measured
}

/// Both in turns, so that a busy machine is as unkind to one as to the other.
fn beside_a_plain_map(keys: u64, counts: &mut Counts) {
    let mut plain: HashMap<String, u64> = (0..keys).map(|n| (key(n), n)).collect();
    let mut numbers = Numbers(42);
    let mut ratios: Vec<f64> = (0..21)
        .map(|_| {
            let touched: Vec<String> = (0..100_000).map(|_| key(numbers.below(keys))).collect();
            let again = touched.clone();
            let start = Instant::now();
            touched.into_iter().for_each(|key| *plain.entry(key).or_default() += 1);
            let middle = Instant::now();
            again.into_iter().for_each(|key| *counts.entry(key).or_default() += 1);
            (middle - start).as_secs_f64() / middle.elapsed().as_secs_f64()
        })
        .collect();
    ratios.sort_unstable_by(f64::total_cmp);
    println!("updates beside a plain HashMap: {:.2} of its rate", ratios.get(10).copied().unwrap_or_default());
}

fn at_barriers(keys: u64, counts: &mut Counts) -> Result {
    let mut numbers = Numbers(7);
    let (mut pauses, mut after, mut between) = (Vec::new(), Vec::new(), Vec::new());
    let mut encoding: Option<std::thread::JoinHandle<Result<Run>>> = None;
    let round = |counts: &mut Counts, numbers: &mut Numbers| {
        let touched: Vec<String> = (0..1_024).map(|_| key(numbers.below(keys))).collect();
        let start = Instant::now();
        touched.into_iter().for_each(|key| *counts.entry(key).or_default() += 1);
        start.elapsed()
    };
    for barrier in 0..BARRIERS {
        if let Some(encoding) = encoding.take() {
            encoding.join().map_err(|_| millstream_operators::Fault::bug("encoding panicked"))??;
        }
        between.push(round(counts, &mut numbers));
        let start = Instant::now();
        let frozen = freeze(counts)?;
        pauses.push(start.elapsed());
        encoding = Some(std::thread::spawn(move || encode(frozen, barrier % 10 == 0)));
        after.push(round(counts, &mut numbers));
    }
    let all = |mut times: Vec<Duration>| {
        times.sort_unstable();
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
        format!("p50 {:?}, p99 {:?}, most {:?}", at(0.5), at(0.99), times.last().copied().unwrap_or_default())
    };
    println!("pause at a barrier, {BARRIERS} of them: {}", all(pauses));
    println!("a batch of 1,024 rows before it: {}", all(between));
    println!("and behind it, while what has changed is encoded, every tenth time everything: {}", all(after));
    Ok(())
}

fn in_a_checkpoint(keys: u64, counts: &mut Counts) -> Result {
    let mut numbers = Numbers(9);
    let directory = std::env::temp_dir().join(format!("millstream-bench-{}", std::process::id()));
    let store = LocalStore::new(&directory);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|error| millstream_operators::Fault::bug("no runtime").because(error))?;
    let mut segments = Vec::new();
    let mut take = |counts: &mut Counts, whole: bool, what: &str| -> Result<usize> {
        let start = Instant::now();
        let frozen = freeze(counts)?;
        let run = encode(frozen, whole)?;
        let encoded = start.elapsed();
        let (segment, bytes) = Segment::pack(&run, run.whole)?;
        let bytes = bytes.or_else(|| segment.inline.clone()).unwrap_or_default();
        let packed = start.elapsed();
        let put = runtime.block_on(store.put("bench", segment.sha256, bytes.clone()));
        put.map_err(|error| millstream_operators::Fault::bug(error.to_string()))?;
        println!(
            "{what}: {} encoded in {encoded:?}, {} compressed in {:?}, on disk after {:?}",
            mb(run.weight()),
            mb(bytes.len()),
            packed - encoded,
            start.elapsed()
        );
        segments.push(segment);
        Ok(bytes.len())
    };
    let whole = take(counts, true, "a whole checkpoint")?;
    for _ in 0..keys / 100 {
        *counts.entry(key(numbers.below(keys))).or_default() += 1;
    }
    let changed = take(counts, false, "after a change of 1% of the keys")?;
    println!("an incremental checkpoint is {:.1}% of a whole one", changed as f64 * 100.0 / whole as f64);
    let start = Instant::now();
    let mut runs = Vec::new();
    for segment in &segments {
        let bytes = runtime.block_on(store.get("bench", segment.sha256));
        let bytes = bytes.map_err(|error| millstream_operators::Fault::bug(error.to_string()))?;
        runs.push(segment.unpack(&bytes.unwrap_or_default(), "the bench's directory")?);
    }
    let read = start.elapsed();
    let all = saved(runs);
    let back = restored(&all)?;
    println!("restored in {:?}, of which {read:?} to read, check and decompress", start.elapsed());
    let expected = digest(counts.iter());
    assert_eq!(digest(back.iter()), expected, "what is restored is what was there");
    // To four subtasks, and from them to three.
    let mut shares = vec![all];
    for of in [4, 3] {
        let start = Instant::now();
        let parts = (0..of).map(|index| Saved::share(&shares, KEY_GROUPS, index, of));
        let parts: Vec<Saved> =
            parts.collect::<Result<_, _>>().map_err(|error| millstream_operators::Fault::bug(error.to_string()))?;
        let mut sum = 0_u64;
        shares = Vec::new();
        for part in &parts {
            let mut counts = restored(part)?;
            sum = sum.wrapping_add(digest(counts.iter()));
            shares.push(saved(vec![encode(freeze(&mut counts)?, true)?]));
        }
        assert_eq!(sum, expected, "as {of} subtasks it is the same state");
        println!("shared out to {of} subtasks, restored and encoded again in {:?}: the same state", start.elapsed());
    }
    let _ = std::fs::remove_dir_all(directory);
    Ok(())
}
