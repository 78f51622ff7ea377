//! Keyed state in a running pipeline: what a barrier costs a stage, what checkpoints write, how long a restart takes, and that
//! another number of subtasks has the same state.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millstream::checkpoint::{BlobId, LocalStore, Store};
use millstream::engine::Ended;
use millstream::testkit::{Flow, ListSource};
use millstream_operators::{Batch, Epoch, PortType, Sink, Timestamp};
use millstream_pipelines::dsl::{IntoSink, Pipeline, Stream};
use millstream_pipelines::graph::{Graph, Node, Role, erase_sink};

use crate::Failed;

type Rows = ListSource<u64>;

const AT_ONCE: usize = 1_024;
const BARRIERS: u64 = 200;
const OFTEN: Duration = Duration::from_millis(20);
const NEVER: Duration = Duration::from_secs(3_600);
// What a checkpoint may write of what it would write of everything, where one key of a hundred has changed.
const MOST: f64 = 5.0;

/// What has come out: how many rows, and the sum of their hashes, which no order changes.
#[derive(Default)]
struct Seen {
    rows: AtomicU64,
    sum: AtomicU64,
}

impl Seen {
    fn take(&self) -> (u64, u64) {
        (self.rows.swap(0, Ordering::Relaxed), self.sum.swap(0, Ordering::Relaxed))
    }
}

fn hash((key, count): (u64, u64)) -> u64 {
    let bytes = key.to_le_bytes().into_iter().chain(count.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

struct Look(Arc<Seen>);

impl Sink for Look {
    type In = Vec<(u64, u64)>;

    async fn write(&mut self, batch: Batch<Self::In>) -> millstream_operators::Result {
        let sum = batch.rows().iter().map(|row| hash(*row)).fold(0, u64::wrapping_add);
        self.0.sum.fetch_add(sum, Ordering::Relaxed);
        self.0.rows.fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn flush(&mut self, _: Epoch) -> millstream_operators::Result {
        Ok(())
    }
}

impl IntoSink<(u64, u64)> for Look {
    fn wire(self, stream: Stream<(u64, u64)>, name: &str) {
        let make = move |_: &_| Ok(erase_sink(Look(Arc::clone(&self.0))));
        let mut node = Node::new(name, "look", Role::Sink(Arc::new(make)));
        node.inputs = vec![PortType::of::<Vec<(u64, u64)>>("in")];
        stream.wire(node);
    }
}

fn counts((rows, seen): (&Rows, &Arc<Seen>), subtasks: u32, interval: Duration) -> Result<Graph, Failed> {
    let pipeline = Pipeline::new("counts").settings(|settings| {
        settings.parallelism = subtasks;
        settings.checkpoint_interval = interval;
    });
    let count = |count: &mut u64, _: u64| *count += 1;
    pipeline
        .source("rows", rows.clone())
        .key_by(|key| *key)
        .fold("count", 0_u64, count)
        .sink("out", Look(Arc::clone(seen)));
    pipeline.build().map_err(|problems| format!("{problems:?}").into())
}

/// A pipeline over a list that goes on, in a folder of checkpoints.
struct Bench {
    rows: Rows,
    seen: Arc<Seen>,
    store: Arc<dyn Store>,
    keys: u64,
    /// The count of each key.
    expected: Vec<u64>,
}

impl Bench {
    fn start(&self, subtasks: u32, interval: Duration) -> Result<Flow, Failed> {
        let graph = counts((&self.rows, &self.seen), subtasks, interval)?;
        Flow::start_with(graph, Arc::clone(&self.store), |environment| environment).map_err(failed)
    }

    fn feed(&mut self, keys: impl IntoIterator<Item = u64>) -> u64 {
        let mut fed = 0;
        let expected = &mut self.expected;
        self.rows.feed(keys.into_iter().map(|key| {
            fed += 1;
            expected.get_mut(key as usize).into_iter().for_each(|count| *count += 1);
            (Timestamp::MIN, key)
        }));
        fed
    }

    async fn until(&self, rows: u64) {
        while self.seen.rows.load(Ordering::Relaxed) < rows {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn written(&self) -> Result<(BTreeSet<BlobId>, u64), Failed> {
        let blobs = self.store.blobs("counts").await?;
        Ok((blobs.iter().map(|blob| blob.id).collect(), blobs.iter().map(|blob| blob.size).sum()))
    }

    /// What it writes, and how long it takes from the wish to stop until everything is in the store.
    async fn drained(&self, flow: Flow) -> Result<(u64, Duration), Failed> {
        let ((before, metrics), start) = ((self.written().await?, flow.metrics().clone()), Instant::now());
        if flow.drain().await.map_err(failed)? != Ended::Drained {
            return Err("it did not drain".into());
        }
        let (took, blobs) = (start.elapsed(), self.store.blobs("counts").await?);
        let new = blobs.iter().filter(|blob| !before.0.contains(&blob.id)).map(|blob| blob.size).sum::<u64>();
        Ok((new + metrics.checkpoint().bytes, took))
    }

    /// Feeds every key once, and compares what is counted of them.
    async fn compare(&mut self) -> Result<(), Failed> {
        self.seen.take();
        let fed = self.feed(0..self.keys);
        self.until(fed).await;
        let expected = (0..).zip(&self.expected).map(|(key, count)| hash((key, *count))).fold(0, u64::wrapping_add);
        if self.seen.take() != (fed, expected) {
            return Err("the state is not what it was".into());
        }
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is for `map_err`")]
fn failed(fault: millstream_operators::Fault) -> Failed {
    fault.chain().into()
}

fn mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Measures a pipeline that counts so many keys, with its checkpoints below `folder`.
///
/// # Errors
/// A checkpoint of one changed key of a hundred writes more than a twentieth of a whole one, of a hundred thousand keys or more;
/// another number of subtasks has another state; or a run fails.
#[expect(clippy::print_stdout, reason = "it prints its figures")]
pub async fn running(keys: u64, folder: &Path) -> Result<(), Failed> {
    let rows = Rows::new([]).at_once(AT_ONCE).endless();
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(folder));
    let expected = vec![0; usize::try_from(keys)?];
    let mut bench = Bench { rows, seen: Arc::default(), store, keys, expected };

    let flow = bench.start(1, NEVER)?;
    let fed = bench.feed(0..keys);
    bench.until(fed).await;
    let (whole, took) = bench.drained(flow).await?;
    println!("in a pipeline: the first checkpoint wrote {} in {took:?}", mb(whole));

    bench.seen.take();
    let start = Instant::now();
    let flow = bench.start(1, NEVER)?;
    let mut fed = bench.feed([0]);
    bench.until(fed).await;
    println!("restored, from the start to the first row: {:?}", start.elapsed());
    fed += bench.feed((0..keys).step_by(100).skip(1));
    bench.until(fed).await;
    let (changed, took) = bench.drained(flow).await?;
    let share = changed as f64 * 100.0 / whole as f64;
    println!(
        "after a change of 1% of the keys it wrote {} in {took:?}, {share:.1}% of that   aim {MOST}%",
        mb(changed)
    );
    if keys >= 100_000 && share > MOST {
        return Err(format!("an incremental checkpoint is {share:.1}% of a whole one").into());
    }

    let flow = bench.start(1, OFTEN)?;
    let metrics = flow.metrics().clone();
    let mut next = 0_u64;
    while metrics.checkpoint().completed < BARRIERS {
        bench.seen.take();
        // Spread over all keys, in no order.
        let some: Vec<u64> =
            (0..AT_ONCE as u64).map(|n| (next + n).wrapping_mul(0x9E37_79B9_7F4A_7C15) % keys).collect();
        next += AT_ONCE as u64;
        let fed = bench.feed(some);
        bench.until(fed).await;
    }
    if let Some([median, p99, most]) = metrics.checkpoint().pause {
        println!("the stage stood still at {BARRIERS} barriers: p50 {median:?}, p99 {p99:?}, most {most:?}");
    }
    bench.drained(flow).await?;
    for subtasks in [4, 3] {
        let flow = bench.start(subtasks, NEVER)?;
        bench.compare().await?;
        bench.drained(flow).await?;
        println!("as {subtasks} subtasks: the same state");
    }
    Ok(())
}
