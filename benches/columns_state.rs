//! What keyed state over columns costs: at a barrier, in the batches around it, in a checkpoint, and when it is restored.
//!
//! `cargo run --release -p millstream-bench --bin columns_state` prints it for a million keys; `--keys N` for others.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it measures real time and prints its figures"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int64Type, SchemaRef};
use millstream_bench::Failed;
use millstream_operators::columnar::{Aggregates, KeyColumns, WindowAggregate};
use millstream_operators::testkit::Bench;
use millstream_operators::window::tumbling;
use millstream_operators::{Batch, Fault, Run, Saved, Timestamp};

const KEY_GROUPS: u32 = 128;
const AT_ONCE: u64 = 8_192;
const ROUNDS: u64 = 12;
/// What is computed of each key.
const COMPUTED: [(&str, &str); 3] = [("n", "count(*)"), ("sum", "sum(value)"), ("most", "max(value)")];

/// Rows of these keys, each with a value of 1.
fn rows(keys: impl Iterator<Item = u64>) -> Result<Batch<RecordBatch>, Failed> {
    let keys: StringArray = keys.map(|key| Some(format!("customer-{key:08}"))).collect();
    let values: ArrayRef = Arc::new(Int64Array::from_value(1, keys.len()));
    let times = vec![Timestamp::from_millis(1); keys.len()];
    let columns = [("key", Arc::new(keys) as ArrayRef, true), ("value", values, true)];
    Ok(Batch::new(times, RecordBatch::try_from_iter_with_nullable(columns)?)?)
}

fn windows() -> Result<WindowAggregate, Failed> {
    let schema: SchemaRef = rows(0..1)?.rows().schema();
    let told = |errors: Vec<String>| Failed::from(errors.join("; "));
    let keys = KeyColumns::new(&schema, &["key".to_owned()]);
    let keys = keys.map_err(|errors| told(errors.iter().map(|(_, error)| error.to_string()).collect()))?;
    let computed = COMPUTED.map(|(name, sql)| (name.to_owned(), sql.to_owned()));
    let computed = Aggregates::compile(&computed, &schema);
    let computed = computed.map_err(|errors| told(errors.iter().map(|(_, error)| error.to_string()).collect()))?;
    let clock = Arc::new(|| Timestamp::from_millis(0));
    let windows = tumbling(Duration::from_secs(3_600));
    WindowAggregate::new(&schema, windows, keys, computed, clock).map_err(|error| told(vec![error.to_string()]))
}

#[derive(Default)]
struct Times(Vec<Duration>);

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut times = self.0.clone();
        times.sort_unstable();
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
        write!(f, "p50 {:.1?}, p99 {:.1?}, most {:.1?}", at(0.5), at(0.99), times.last().copied().unwrap_or_default())
    }
}

/// The state of operators as it is saved, by the name of each piece.
type Runs = BTreeMap<String, Vec<Run>>;

struct Encoded {
    runs: Vec<(String, Run)>,
    small: Saved,
    took: Duration,
}

/// Encodes what was frozen on a thread of its own, as the engine does.
fn encoding(frozen: millstream_operators::Frozen, whole: bool) -> std::thread::JoinHandle<Result<Encoded, Fault>> {
    std::thread::spawn(move || {
        let start = Instant::now();
        let (small, pieces) = frozen.into_parts();
        let runs = pieces.into_iter().map(|(name, piece)| Ok((name, piece.encode(KEY_GROUPS, whole)?)));
        let runs = runs.collect::<Result<_, Fault>>()?;
        Ok(Encoded { runs, small, took: start.elapsed() })
    })
}

/// What the windows give when they close: rows, and the sums of what is counted and added up.
fn closed(bench: &mut Bench<WindowAggregate>) -> Result<(usize, i64, i64), Failed> {
    bench.end();
    let (mut rows, mut counted, mut added) = (0, 0, 0);
    for batch in bench.take_batches() {
        rows += batch.len();
        let sum = |name: &str| -> Result<i64, Failed> {
            let column = batch.rows().column_by_name(name).ok_or("a column is missing")?;
            Ok(column.as_primitive::<Int64Type>().iter().flatten().sum())
        };
        (counted, added) = (counted + sum("n")?, added + sum("sum")?);
    }
    Ok((rows, counted, added))
}

fn measure(keys: u64) -> Result<(), Failed> {
    println!(
        "{keys} keys such as \"customer-00000000\" in a window, of each: {}",
        COMPUTED.map(|(_, sql)| sql).join(", ")
    );
    let mut bench = Bench::new(windows()?);
    let mut fed = 0_u64;
    let mut feed = |bench: &mut Bench<WindowAggregate>, from: u64, to: u64| -> Result<Times, Failed> {
        let (mut times, mut at) = (Times::default(), from);
        while at < to {
            let batch = rows((at..(at + AT_ONCE).min(to)).map(|key| key % keys))?;
            fed += batch.len() as u64;
            let start = Instant::now();
            bench.batch(batch);
            times.0.push(start.elapsed());
            at += AT_ONCE;
        }
        Ok(times)
    };
    println!("batches of {AT_ONCE} rows whose keys are new: {}", feed(&mut bench, 0, keys)?);
    let start = Instant::now();
    let frozen = bench.freeze();
    println!("the first barrier: {:.1?}", start.elapsed());
    let first = encoding(frozen, true).join().map_err(|_| "encoding panicked")??;
    let mut runs: Runs = first.runs.into_iter().map(|(name, run)| (name, vec![run])).collect();
    let weight = |runs: &[Run]| runs.iter().map(Run::weight).sum::<usize>() as f64 / 1e6;
    let whole: f64 = runs.values().map(|runs| weight(runs)).sum();
    println!("a whole checkpoint: {whole:.1} MB encoded in {:.1?}", first.took);
    let (mut small, mut at) = (first.small, 0);
    for share in [100, 10, 1] {
        let touched = keys / share;
        let (mut barriers, mut before, mut behind, mut written) =
            (Times::default(), Times::default(), Times::default(), 0.0);
        for _ in 0..ROUNDS {
            before.0.extend(feed(&mut bench, at, at + touched)?.0);
            at += touched;
            let start = Instant::now();
            let frozen = bench.freeze();
            barriers.0.push(start.elapsed());
            let encoding = encoding(frozen, false);
            // What is encoded meanwhile costs these, and what the barrier has left for them.
            behind.0.extend(feed(&mut bench, at, at + AT_ONCE * 16)?.0);
            at += AT_ONCE * 16;
            let encoded = encoding.join().map_err(|_| "encoding panicked")??;
            small = encoded.small;
            for (name, run) in encoded.runs {
                written += run.weight() as f64 / 1e6;
                runs.entry(name).or_default().push(run);
            }
        }
        println!("{touched} keys change between barriers:");
        println!("  a barrier: {barriers}");
        println!("  a batch before it: {before}");
        println!("  a batch behind it: {behind}");
        println!("  a checkpoint is {:.1}% of a whole one", written / ROUNDS as f64 / whole * 100.0);
        if share == 100 {
            let saved = small.clone().with_runs(runs.clone());
            let start = Instant::now();
            drop(Bench::restored(windows()?, &saved));
            println!("  restored from a whole one and {ROUNDS} of these in {:.1?}", start.elapsed());
        }
    }
    // And once more what the last batches have changed.
    let last = encoding(bench.freeze(), false).join().map_err(|_| "encoding panicked")??;
    small = last.small;
    last.runs.into_iter().for_each(|(name, run)| runs.entry(name).or_default().push(run));
    let start = Instant::now();
    let mut restored = Bench::restored(windows()?, &small.with_runs(runs));
    println!("restored from all of them in {:.1?}", start.elapsed());
    let expected = (usize::try_from(keys)?, i64::try_from(fed)?, i64::try_from(fed)?);
    for (bench, what) in [(&mut bench, "what went on"), (&mut restored, "what was restored")] {
        let given = closed(bench)?;
        if given != expected {
            return Err(format!("{what} gives {given:?}, not {expected:?}").into());
        }
    }
    println!("what went on and what was restored give each of the {fed} rows once");
    Ok(())
}

fn main() -> std::process::ExitCode {
    let measured = millstream_bench::keys(1_000_000).map_err(Failed::from).and_then(|keys| measure(keys as u64));
    match measured {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
