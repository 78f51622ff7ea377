//! The price of the engine over a plain loop, in process on one core: generate, map, filter, map, sink over 32-byte rows in
//! batches of 1,024, with the same closures in a loop over a `Vec`.
//!
//! `cargo run --release -p millstream-bench --bin typed` prints the ratios of rounds in which the three take turns, and
//! first checks that all of them give the same rows.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millstream::engine::{Environment, Workers, run};
use millstream_operators::PortType;
use millstream_operators::{Batch, Epoch, Result, Sink, Source, Timestamp};
use millstream_pipelines::dsl::{IntoSink, IntoSource, Pipeline, Stream};
use millstream_pipelines::graph::{Node, OutPort, Role, erase_sink, erase_source};

#[derive(Clone, Copy)]
struct Row {
    id: u64,
    key: u64,
    a: f64,
    b: f64,
}

const BATCH: usize = 1_024;
const BATCHES: usize = 2_000;

fn generated(first: usize) -> Vec<Row> {
    (first..first + BATCH)
        .map(|n| Row { id: n as u64, key: n as u64 % 97, a: n as f64 * 0.5, b: (n % 1_000) as f64 })
        .collect()
}

fn scaled(row: Row) -> Row {
    Row { a: row.a * 1.01 + row.b, b: row.b * row.b - row.a, ..row }
}

fn kept(row: &Row) -> bool {
    !row.key.is_multiple_of(10) && row.a > row.b * 0.001
}

fn summed(row: Row) -> Row {
    Row { a: (row.a + row.b).sqrt(), b: row.a - row.b, ..row }
}

struct Generate(usize);

impl Source for Generate {
    type Out = Vec<Row>;
    type Position = usize;

    async fn open(&mut self, from: Option<usize>) -> Result {
        self.0 = from.unwrap_or(0);
        Ok(())
    }

    async fn next(&mut self, _: usize) -> Result<Option<Batch<Vec<Row>>>> {
        if self.0 >= BATCHES {
            return Ok(None);
        }
        self.0 += 1;
        Ok(Some(Batch::at(Timestamp::MIN, generated(self.0 * BATCH))))
    }

    fn position(&self) -> usize {
        self.0
    }
}

impl IntoSource for Generate {
    type Row = Row;

    fn wire(self, pipeline: &Pipeline, name: &str) -> Stream<Row> {
        let mut node = Node::new(name, "generate", Role::Source(Arc::new(|_| Ok(erase_source(Generate(0))))));
        node.outputs = vec![PortType::of::<Vec<Row>>(PortType::MAIN)];
        Stream::at(pipeline.clone(), OutPort { node: pipeline.add(node), port: 0 })
    }
}

struct Consume;

// Rows consumed, counted once a batch; and a sum over the rows while a run is checked rather than timed.
static CONSUMED: AtomicU64 = AtomicU64::new(0);
static CHECKSUM: AtomicU64 = AtomicU64::new(0);
static CHECKED: AtomicU64 = AtomicU64::new(0);

fn consume(rows: &[Row]) {
    for row in rows {
        black_box((row.id, row.a, row.b));
    }
    CONSUMED.fetch_add(rows.len() as u64, Ordering::Relaxed);
    if CHECKED.load(Ordering::Relaxed) > 0 {
        let sum = rows.iter().fold(CHECKSUM.load(Ordering::Relaxed), |sum, row| {
            let row = row.id ^ row.key << 48 ^ row.a.to_bits().rotate_left(7) ^ row.b.to_bits().rotate_left(29);
            sum.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(row)
        });
        CHECKSUM.store(sum, Ordering::Relaxed);
    }
}

/// How many rows a run consumed, and their checksum if it is checked.
fn consumed(work: impl FnOnce()) -> (u64, u64) {
    CONSUMED.store(0, Ordering::Relaxed);
    CHECKSUM.store(0, Ordering::Relaxed);
    work();
    (CONSUMED.load(Ordering::Relaxed), CHECKSUM.load(Ordering::Relaxed))
}

impl Sink for Consume {
    type In = Vec<Row>;

    async fn write(&mut self, batch: Batch<Vec<Row>>) -> Result {
        consume(batch.rows());
        Ok(())
    }

    async fn flush(&mut self, _: Epoch) -> Result {
        Ok(())
    }
}

impl IntoSink<Row> for Consume {
    fn wire(self, stream: Stream<Row>, name: &str) {
        let mut node = Node::new(name, "consume", Role::Sink(Arc::new(|_| Ok(erase_sink(Consume)))));
        node.inputs = vec![PortType::of::<Vec<Row>>("in")];
        stream.wire(node);
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn plain() {
    for batch in 1..=BATCHES {
        let mut out = Vec::with_capacity(BATCH);
        for row in generated(batch * BATCH) {
            let row = scaled(row);
            if kept(&row) {
                out.push(summed(row));
            }
        }
        consume(&out);
    }
}

fn piped(runtime: &tokio::runtime::Runtime, fused: bool) {
    let pipeline = Pipeline::new("typed");
    let rows = pipeline.source("generate", Generate(0));
    if fused {
        rows.map("scaled", scaled).filter("kept", kept).map("summed", summed).sink("consume", Consume);
    } else {
        let kept = rows.map("scaled", scaled).boxed().filter("kept", kept).boxed();
        kept.map("summed", summed).sink("consume", Consume);
    }
    let ended = runtime.block_on(async {
        let graph = pipeline.build().map_err(|error| error.to_string())?;
        let store = Arc::new(millstream::checkpoint::MemoryStore::default());
        let workers = Workers::here().map_err(|fault| fault.chain())?;
        run(&graph, &Environment::new(store, workers)).await.map_err(|fault| fault.chain())
    });
    assert!(ended.is_ok(), "{ended:?}");
}

// Many short rounds: what else the machine does falls on few of them.
const ROUNDS: usize = 61;

/// A ratio over all rounds: median, least and greatest.
fn ratio(base: &[Duration], times: &[Duration]) -> String {
    let mut ratios: Vec<f64> = base.iter().zip(times).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    let at = |n: usize| ratios.get(n).copied().unwrap_or(f64::NAN);
    format!("{:.2}  ({:.2} to {:.2})", at(ratios.len() / 2), at(0), at(ratios.len() - 1))
}

fn rate(times: &[Duration]) -> f64 {
    let mut times = times.to_vec();
    times.sort();
    let median = times.get(times.len() / 2).map_or(f64::NAN, Duration::as_secs_f64);
    (BATCH * BATCHES) as f64 / 1e6 / median
}

#[expect(clippy::print_stdout, reason = "it prints its figures")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rounds = millstream_bench::rounds(ROUNDS)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    CHECKED.store(1, Ordering::Relaxed);
    let expected = consumed(plain);
    assert!(expected.0 > 0, "the loop gives rows");
    for fused in [true, false] {
        assert_eq!(consumed(|| piped(&runtime, fused)), expected, "the pipeline gives the rows of the loop");
    }
    CHECKED.store(0, Ordering::Relaxed);
    let (mut loops, mut fused, mut apart) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let rounds: [(&mut Vec<Duration>, &dyn Fn()); 3] =
            [(&mut loops, &plain), (&mut fused, &|| piped(&runtime, true)), (&mut apart, &|| piped(&runtime, false))];
        for (times, run) in rounds {
            let (rows, _) = consumed(|| times.push(timed(run)));
            assert_eq!(rows, expected.0, "every run is complete");
        }
    }
    println!("plain loop        {:6.1} M rows/s   1.00", rate(&loops));
    println!("pipeline, fused   {:6.1} M rows/s   {}   aim 0.7", rate(&fused), ratio(&loops, &fused));
    println!("pipeline, apart   {:6.1} M rows/s   {}   aim 0.3", rate(&apart), ratio(&loops, &apart));
    Ok(())
}
