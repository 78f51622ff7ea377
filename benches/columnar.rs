//! The price of the engine over Arrow's kernels, in process on one core: ready record batches, a filter, two computed
//! columns and a sink, with the same expressions as calls of `arrow::compute` in a loop.
//!
//! `cargo run --release -p millstream-bench --bin columnar` prints the ratios of rounds that take turns, for batches of
//! 1,024 and of 8,192 rows, and first checks that both give the same rows.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, Scalar};
use arrow::compute::kernels::cmp::gt;
use arrow::compute::kernels::numeric::{add, mul, sub};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use millstream::checkpoint::MemoryStore;
use millstream::engine::{Environment, Workers, run};
use millstream_operators::columnar::{Expression, Filter, Select};
use millstream_operators::{Batch, Epoch, Operator, PortType, Result, Sink, Source, Timestamp};
use millstream_pipelines::graph::{Graph, InPort, Node, NodeId, OutPort, Role, Route, erase, erase_sink, erase_source};

const FILTER: &str = "b > 0.1";
const COLUMNS: [(&str, &str); 2] = [("total", "a * 1.2 + b"), ("score", "(a - b) * 0.5")];
// Rows of one run: as many batches of either size as make them up.
const ROWS: usize = 4 << 20;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// The columns, in one place of memory: what decodes rows and what was compiled for them share it in a pipeline too.
static INPUT: LazyLock<SchemaRef> = LazyLock::new(|| {
    let field = |name, data_type| Field::new(name, data_type, false);
    let floats = ["a", "b"].map(|name| field(name, DataType::Float64));
    Arc::new(Schema::new([&[field("id", DataType::Int64), field("key", DataType::Int64)][..], &floats].concat()))
});

/// Some batches of rows whose `b` is spread evenly from 0 to 1 in no order, so that one row of ten goes.
fn ready(batch_rows: usize) -> Result<Vec<RecordBatch>, ArrowError> {
    let spread = |n: u64| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11) as f64 / (1u64 << 53) as f64;
    let batch = |batch: usize| {
        let ids = (batch * batch_rows) as u64..((batch + 1) * batch_rows) as u64;
        let int = |f: fn(u64) -> u64| Arc::new(ids.clone().map(|n| f(n) as i64).collect::<Int64Array>()) as ArrayRef;
        let float = |f: &dyn Fn(u64) -> f64| Arc::new(ids.clone().map(f).collect::<Float64Array>()) as ArrayRef;
        let columns = vec![int(|n| n), int(|n| n % 97), float(&|n| n as f64 * 0.25), float(&spread)];
        RecordBatch::try_new(Arc::clone(&INPUT), columns)
    };
    (0..16).map(batch).collect()
}

/// What the pipeline does, by hand.
struct Kernels {
    schema: SchemaRef,
    tenth: Scalar<Float64Array>,
    rate: Scalar<Float64Array>,
    half: Scalar<Float64Array>,
}

impl Kernels {
    fn new(schema: SchemaRef) -> Self {
        let [tenth, rate, half] = [0.1, 1.2, 0.5].map(Float64Array::new_scalar);
        Kernels { schema, tenth, rate, half }
    }

    fn call(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let rows = filter_record_batch(rows, &gt(rows.column(3), &self.tenth)?)?;
        let (a, b) = (rows.column(2), rows.column(3));
        let total = add(&mul(a, &self.rate)?, b)?;
        let score = mul(&sub(a, b)?, &self.half)?;
        let columns = [rows.columns(), &[total, score]].concat();
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}

static CONSUMED: AtomicU64 = AtomicU64::new(0);
// The rows themselves, while a run is checked rather than timed.
static KEPT: Mutex<Option<Vec<RecordBatch>>> = Mutex::new(None);

fn consume(rows: &RecordBatch) {
    black_box(rows);
    CONSUMED.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
    if let Some(kept) = KEPT.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        kept.push(rows.clone());
    }
}

/// Batches that are there already, again and again.
struct Ready {
    batches: Arc<[RecordBatch]>,
    next: usize,
    end: usize,
}

impl Source for Ready {
    type Out = RecordBatch;
    type Position = usize;

    async fn open(&mut self, from: Option<usize>) -> Result {
        self.next = from.unwrap_or(0);
        Ok(())
    }

    async fn next(&mut self, _: usize) -> Result<Option<Batch<RecordBatch>>> {
        let Some(rows) = self.batches.get(self.next % self.batches.len()).filter(|_| self.next < self.end) else {
            return Ok(None);
        };
        self.next += 1;
        Ok(Some(Batch::at(Timestamp::MIN, rows.clone())))
    }

    fn position(&self) -> usize {
        self.next
    }
}

struct Consume;

impl Sink for Consume {
    type In = RecordBatch;

    async fn write(&mut self, batch: Batch<RecordBatch>) -> Result {
        consume(batch.rows());
        Ok(())
    }

    async fn flush(&mut self, _: Epoch) -> Result {
        Ok(())
    }
}

fn select() -> Result<Select, Failed> {
    let compile = |(name, sql): (&str, &str)| Expression::compile(sql, &INPUT).map(|made| (name.into(), made));
    let columns = COLUMNS.into_iter().map(compile).collect::<Result<_, _>>()?;
    Ok(Select::with(&INPUT, columns, Arc::new(|| Timestamp::MIN))?)
}

fn filter() -> Result<Filter, Failed> {
    Ok(Filter::new(Expression::compile(FILTER, &INPUT)?, Arc::new(|| Timestamp::MIN))?)
}

fn operator<O: Operator>(
    name: &str,
    make: impl Fn() -> Result<O, Failed> + Send + Sync + 'static,
) -> Result<Node, Failed> {
    let mut outputs = vec![PortType::of::<O::Out>(PortType::MAIN)];
    outputs.extend(make()?.sides());
    let fault = |error: Failed| millstream_operators::Fault::bug(error.to_string());
    let role = Role::Operator(Arc::new(move |_| make().map(erase).map_err(fault)));
    Ok(Node { inputs: vec![PortType::of::<O::In>("in")], outputs, ..Node::new(name, "columnar", role) })
}

fn graph(batches: &Arc<[RecordBatch]>, end: usize) -> Result<Graph, Failed> {
    let batches = Arc::clone(batches);
    let ready = move |_: &_| Ok(erase_source(Ready { batches: Arc::clone(&batches), next: 0, end }));
    let mut graph = Graph { name: "columnar".to_owned(), ..Graph::default() };
    let rows = PortType::of::<RecordBatch>(PortType::MAIN);
    graph.add(Node { outputs: vec![rows.clone()], ..Node::new("ready", "ready", Role::Source(Arc::new(ready))) });
    graph.add(operator("filter", filter)?);
    graph.add(operator("select", select)?);
    let consume = Role::Sink(Arc::new(|_: &_| Ok(erase_sink(Consume))));
    graph.add(Node { inputs: vec![rows.named("in")], ..Node::new("consume", "consume", consume) });
    for node in 0..3 {
        let (from, to) = (OutPort { node: NodeId(node), port: 0 }, InPort { node: NodeId(node + 1), port: 0 });
        graph.connect(from, to, Route::Forward);
    }
    Ok(graph)
}

fn piped(runtime: &tokio::runtime::Runtime, graph: &Graph) -> Result<(), Failed> {
    runtime.block_on(async {
        let workers = Workers::here().map_err(|fault| fault.chain())?;
        let environment = Environment::new(Arc::new(MemoryStore::default()), workers);
        run(graph, &environment).await.map(|_| ()).map_err(|fault| fault.chain().into())
    })
}

fn looped(kernels: &Kernels, batches: &[RecordBatch], end: usize) -> Result<(), Failed> {
    for rows in batches.iter().cycle().take(end) {
        consume(&kernels.call(rows)?);
    }
    Ok(())
}

/// The rows that a run gives.
fn rows_of(work: impl FnOnce() -> Result<(), Failed>, schema: &SchemaRef) -> Result<RecordBatch, Failed> {
    let kept = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    *kept() = Some(Vec::new());
    work()?;
    let all = kept().take().unwrap_or_default();
    Ok(concat_batches(schema, &all)?)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn timed(work: impl FnOnce() -> Result<(), Failed>) -> Result<(Duration, u64), Failed> {
    CONSUMED.store(0, Ordering::Relaxed);
    let start = Instant::now();
    work()?;
    Ok((start.elapsed(), CONSUMED.load(Ordering::Relaxed)))
}

// Many short rounds: what else the machine does falls on few of them.
const ROUNDS: usize = 41;

#[expect(clippy::print_stdout, reason = "it prints its figures")]
fn measure(runtime: &tokio::runtime::Runtime, rounds: usize, batch_rows: usize) -> Result<(), Failed> {
    let batches: Arc<[RecordBatch]> = ready(batch_rows)?.into();
    let schema = Arc::clone(select()?.schema());
    let kernels = Kernels::new(Arc::clone(&schema));
    let expected = rows_of(|| looped(&kernels, &batches, 100), &schema)?;
    let given = rows_of(|| piped(runtime, &graph(&batches, 100)?), &schema)?;
    assert_eq!(given, expected, "the pipeline gives the rows of the kernels");
    let end = ROWS / batch_rows;
    let graph = graph(&batches, end)?;
    let (mut rates, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
    for _ in 0..rounds {
        let (by_hand, rows) = timed(|| looped(&kernels, &batches, end))?;
        let (by_engine, complete) = timed(|| piped(runtime, &graph))?;
        assert_eq!(complete, rows, "every run is complete");
        ratios.push(by_hand.as_secs_f64() / by_engine.as_secs_f64());
        let rate = |took: Duration| ROWS as f64 / 1e6 / took.as_secs_f64();
        rates.iter_mut().zip([by_hand, by_engine]).for_each(|(rates, took)| rates.push(rate(took)));
    }
    let sorted = |all: &mut Vec<f64>, n: usize| {
        all.sort_by(f64::total_cmp);
        all.get(n).copied().unwrap_or(f64::NAN)
    };
    let [by_hand, by_engine] = rates.each_mut().map(|rates| sorted(rates, rounds / 2));
    let [median, least, most] = [rounds / 2, 0, rounds - 1].map(|n| sorted(&mut ratios, n));
    println!("batches of {batch_rows:5}  kernels {by_hand:6.1} M rows/s, engine {by_engine:6.1} M rows/s");
    println!("                  {median:.2}  ({least:.2} to {most:.2})   aim 0.7");
    Ok(())
}

fn main() -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rounds = millstream_bench::rounds(ROUNDS)?;
    measure(&runtime, rounds, 1_024)?;
    measure(&runtime, rounds, 8_192)
}
