//! [`Metrics`]: what a running pipeline counts, for whoever wants to look.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use hdrhistogram::Histogram;
use millstream_operators::{SpillGauge, Timestamp};
use millstream_pipelines::graph::Graph;

use super::channel::Budget;

/// The registry of a running pipeline. Cheap to clone; written once a batch, read whenever somebody looks.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Registry>);

#[derive(Debug, Default)]
struct Registry {
    nodes: DashMap<String, Arc<NodeMetrics>>,
    queues: DashMap<String, Vec<Budget>>,
    checkpoint: CheckpointMetrics,
    restarts: AtomicU64,
    state: Mutex<Option<Arc<SpillGauge>>>,
}

/// What a node counts, over all its subtasks and since the process started.
#[derive(Default)]
pub struct NodeMetrics {
    rows_in: AtomicU64,
    rows_out: AtomicU64,
    rows_rejected: AtomicU64,
    /// Which of its outputs are of rejected rows.
    rejecting: OnceLock<Vec<bool>>,
    /// Which of them is that of late rows.
    late: OnceLock<usize>,
    lateness: Mutex<Option<Histogram<u64>>>,
    batches: AtomicU64,
    lag: AtomicU64,
    lag_known: AtomicBool,
    stalled: Mutex<Option<String>>,
    latency: Mutex<Option<Histogram<u64>>>,
}

#[derive(Debug, Default)]
struct CheckpointMetrics {
    completed: AtomicU64,
    epoch: AtomicU64,
    at_micros: AtomicU64,
    duration_micros: AtomicU64,
    bytes: AtomicU64,
    // In microseconds.
    pause: Mutex<Option<Histogram<u64>>>,
}

/// The counters of a node at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct NodeSnapshot {
    /// The node.
    pub node: String,
    /// Rows that came in; at a source, rows read.
    pub rows_in: u64,
    /// Rows that went out at the main output or at a named one; at a sink, rows written.
    pub rows_out: u64,
    /// Rows that it rejected: those that went out at outputs of rejected rows.
    pub rows_rejected: u64,
    /// Batches that came in.
    pub batches: u64,
    /// Rows known to wait outside, at a source.
    pub lag: Option<u64>,
    /// How full its fullest input queue is, from 0 to 1.
    pub queue_fill: f64,
    /// Why it waits for its peer, if it does.
    pub stalled: Option<String>,
    /// From when the source stored a message until its rows were taken over by this sink: median, 99th percentile and
    /// maximum.
    pub latency: Option<[Duration; 3]>,
    /// How far the rows that it refused as late were behind the watermark: median, 99th percentile and maximum.
    pub lateness: Option<[Duration; 3]>,
}

/// The last checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointSnapshot {
    /// How many were completed since the process started.
    pub completed: u64,
    /// The epoch of the last one.
    pub epoch: u64,
    /// When it was completed, in microseconds since the epoch of time; 0 if none was.
    pub at_micros: u64,
    /// How long it took.
    pub duration: Duration,
    /// How large its manifest is.
    pub bytes: u64,
    /// How long stages have stood still at barriers to take their state, of all checkpoints: median, 99th percentile and
    /// maximum.
    pub pause: Option<[Duration; 3]>,
}

/// The state of a pipeline with a budget of memory for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateSnapshot {
    /// How many bytes of memory its entries may use.
    pub budget: usize,
    /// About how many they use.
    pub held: usize,
    /// How many entries are outside of memory.
    pub spilled: usize,
}

impl Metrics {
    /// The counters of a node.
    pub fn node(&self, name: &str) -> Arc<NodeMetrics> {
        if let Some(node) = self.0.nodes.get(name) {
            return Arc::clone(&node);
        }
        Arc::clone(&self.0.nodes.entry(name.to_owned()).or_default())
    }

    /// Learns which outputs of a graph's nodes are of rejected rows, before it runs.
    pub(crate) fn expect(&self, graph: &Graph) {
        for node in &graph.nodes {
            let rejecting = node.outputs.iter().map(|port| port.name_causes().is_some()).collect();
            // A graph that runs again has the same outputs.
            let metrics = self.node(&node.name);
            let _ = metrics.rejecting.set(rejecting);
            let late = node.outputs.iter().position(|port| port.name() == "late" && port.name_causes().is_some());
            late.map(|port| metrics.late.set(port));
        }
    }

    pub(crate) fn watch_queue(&self, node: &str, budget: Budget) {
        self.0.queues.entry(node.to_owned()).or_default().push(budget);
    }

    pub(crate) fn forget_queues(&self) {
        self.0.queues.clear();
    }

    pub(crate) fn watch_state(&self, state: Option<Arc<SpillGauge>>) {
        *self.0.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// How much memory state uses, of a pipeline with a budget for it.
    pub fn state(&self) -> Option<StateSnapshot> {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.as_ref().map(|state| StateSnapshot { budget: state.budget(), held: state.held(), spilled: state.away() })
    }

    pub(crate) fn count_restart(&self) {
        self.0.restarts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn checkpoint_done(&self, epoch: u64, at_micros: i64, took: Duration, bytes: usize) {
        let checkpoint = &self.0.checkpoint;
        checkpoint.completed.fetch_add(1, Ordering::Relaxed);
        checkpoint.epoch.store(epoch, Ordering::Relaxed);
        checkpoint.at_micros.store(u64::try_from(at_micros).unwrap_or(0), Ordering::Relaxed);
        checkpoint.duration_micros.store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        checkpoint.bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// A stage has stood still so long at a barrier.
    pub(crate) fn paused(&self, took: Duration) {
        record(&self.0.checkpoint.pause, AN_HOUR, std::iter::once(took));
    }

    /// How often the supervisor has restarted the pipeline.
    pub fn restarts(&self) -> u64 {
        self.0.restarts.load(Ordering::Relaxed)
    }

    /// The last checkpoint.
    pub fn checkpoint(&self) -> CheckpointSnapshot {
        let checkpoint = &self.0.checkpoint;
        CheckpointSnapshot {
            completed: checkpoint.completed.load(Ordering::Relaxed),
            epoch: checkpoint.epoch.load(Ordering::Relaxed),
            at_micros: checkpoint.at_micros.load(Ordering::Relaxed),
            duration: Duration::from_micros(checkpoint.duration_micros.load(Ordering::Relaxed)),
            bytes: checkpoint.bytes.load(Ordering::Relaxed),
            pause: median_p99_max(&checkpoint.pause),
        }
    }

    /// The counters of all nodes, by name.
    pub fn nodes(&self) -> Vec<NodeSnapshot> {
        let mut nodes: Vec<_> = self.0.nodes.iter().map(|entry| self.snapshot(entry.key(), entry.value())).collect();
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        nodes
    }

    /// The latencies at these sinks together, since the start; `None` when there are none yet.
    #[cfg(feature = "cli")]
    pub(crate) fn latency_at(&self, sinks: &[String]) -> Option<Histogram<u64>> {
        let mut sum: Option<Histogram<u64>> = None;
        for sink in sinks {
            let Some(node) = self.0.nodes.get(sink) else { continue };
            let latency = node.latency.lock().unwrap_or_else(PoisonError::into_inner);
            match (&mut sum, &*latency) {
                // All have the same bounds.
                (Some(sum), Some(latency)) => drop(sum.add(latency)),
                (None, Some(latency)) => sum = Some(latency.clone()),
                (_, None) => {}
            }
        }
        sum.filter(|latency| !latency.is_empty())
    }

    fn snapshot(&self, name: &str, node: &NodeMetrics) -> NodeSnapshot {
        let queues = self.0.queues.get(name);
        let fill = queues.map_or(0.0, |queues| queues.iter().map(Budget::fill).fold(0.0, f64::max));
        NodeSnapshot {
            node: name.to_owned(),
            rows_in: node.rows_in.load(Ordering::Relaxed),
            rows_out: node.rows_out.load(Ordering::Relaxed),
            rows_rejected: node.rows_rejected.load(Ordering::Relaxed),
            batches: node.batches.load(Ordering::Relaxed),
            lag: node.lag_known.load(Ordering::Relaxed).then(|| node.lag.load(Ordering::Relaxed)),
            queue_fill: fill,
            stalled: node.stalled.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            latency: median_p99_max(&node.latency),
            lateness: median_p99_max(&node.lateness),
        }
    }
}

fn median_p99_max(of: &Mutex<Option<Histogram<u64>>>) -> Option<[Duration; 3]> {
    let of = of.lock().unwrap_or_else(PoisonError::into_inner);
    let histogram = of.as_ref().filter(|histogram| !histogram.is_empty())?;
    let values = [histogram.value_at_quantile(0.5), histogram.value_at_quantile(0.99), histogram.max()];
    Some(values.map(Duration::from_micros))
}

/// Adds to a histogram of times up to so many microseconds, with three digits: at most some 150 KiB.
fn record(to: &Mutex<Option<Histogram<u64>>>, most: u64, times: impl Iterator<Item = Duration>) {
    let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
    if to.is_none() {
        *to = Histogram::new_with_bounds(1, most, 3).ok();
    }
    if let Some(histogram) = to.as_mut() {
        for time in times {
            histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        }
    }
}

const AN_HOUR: u64 = 3_600_000_000;
const A_YEAR: u64 = 365 * 24 * AN_HOUR;

impl NodeMetrics {
    pub(crate) fn came_in(&self, rows: usize) {
        self.rows_in.fetch_add(rows as u64, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn went_out(&self, port: usize, rows: usize) {
        let rejecting = self.rejecting.get().and_then(|ports| ports.get(port)).copied().unwrap_or(false);
        let counter = if rejecting { &self.rows_rejected } else { &self.rows_out };
        counter.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(crate) fn set_lag(&self, lag: u64) {
        self.lag.store(lag, Ordering::Relaxed);
        self.lag_known.store(true, Ordering::Relaxed);
    }

    /// Says why the node waits for its peer, or that it no longer does.
    pub fn stalled(&self, why: Option<String>) {
        *self.stalled.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    pub(crate) fn record_latency(&self, took: Duration) {
        record(&self.latency, AN_HOUR, std::iter::once(took));
    }

    /// Rows with these times went out at a port while event time had come to `now`.
    pub(crate) fn notes_late(&self, port: usize, now: Timestamp, times: &[Timestamp]) {
        if self.late.get() == Some(&port) {
            record(&self.lateness, A_YEAR, times.iter().map(|time| now.since(*time)));
        }
    }
}

impl fmt::Debug for NodeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "NodeMetrics({} in, {} out)",
            self.rows_in.load(Ordering::Relaxed),
            self.rows_out.load(Ordering::Relaxed)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_shows_what_was_counted() {
        let metrics = Metrics::default();
        let node = metrics.node("large");
        let _ = node.rejecting.set(vec![false, false, true]);
        node.came_in(10);
        node.went_out(0, 5);
        node.went_out(1, 2);
        node.went_out(2, 3);
        node.record_latency(Duration::from_millis(5));
        let _ = node.late.set(2);
        let at = Timestamp::from_millis;
        node.notes_late(2, at(100), &[at(40), at(90)]);
        node.notes_late(1, at(100), &[at(1)]);
        node.stalled(Some("stream TOTALS is full".into()));
        let seen = metrics.nodes().remove(0);
        assert_eq!((seen.rows_in, seen.rows_out, seen.rows_rejected, seen.batches), (10, 7, 3, 1));
        assert_eq!(seen.stalled.as_deref(), Some("stream TOTALS is full"));
        assert!(seen.latency.unwrap()[0] >= Duration::from_millis(4));
        let [median, .., most] = seen.lateness.unwrap();
        assert_eq!((median.as_millis(), most.as_millis()), (10, 60));
        assert_eq!(seen.lag, None);
    }
}
