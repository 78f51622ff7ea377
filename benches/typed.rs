//! The price of the engine over a plain loop, in process on one core: generate, map, filter, map, sink over 32-byte rows in
//! batches of 1,024, with the same closures in a loop over a `Vec`.
//!
//! `cargo run --release -p millstream-bench --bin typed` prints ratios of rounds that alternate in one run.

use std::hint::black_box;
use std::sync::Arc;
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
const BATCHES: usize = 4_000;

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

fn consume(rows: &[Row]) {
    for row in rows {
        black_box((row.id, row.a, row.b));
    }
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

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times.get(times.len() / 2).map_or(f64::NAN, Duration::as_secs_f64)
}

#[expect(clippy::print_stdout, reason = "it prints its figures")]
fn main() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut loops, mut fused, mut apart) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..9 {
        loops.push(timed(plain));
        fused.push(timed(|| piped(&runtime, true)));
        apart.push(timed(|| piped(&runtime, false)));
    }
    let (loops, fused, apart) = (median(loops), median(fused), median(apart));
    let rows = (BATCH * BATCHES) as f64 / 1e6;
    println!("plain loop        {:6.1} M rows/s   1.00", rows / loops);
    println!("pipeline, fused   {:6.1} M rows/s   {:.2}   (aim 0.7)", rows / fused, loops / fused);
    println!("pipeline, apart   {:6.1} M rows/s   {:.2}   (aim 0.3)", rows / apart, loops / apart);
    Ok(())
}
