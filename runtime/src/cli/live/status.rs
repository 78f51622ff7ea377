//! [`Status`]: how a pipeline does, as a pure function of two samples of its counters.

use std::time::Duration;

use hdrhistogram::Histogram;
use millstream_operators::Timestamp;

use super::Shape;
use crate::cli::output::{count, short, span};
use crate::engine::{CheckpointSnapshot, NodeSnapshot};

/// What was counted up to one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub(super) at: Timestamp,
    pub(super) nodes: Vec<NodeSnapshot>,
    pub(super) checkpoint: CheckpointSnapshot,
    pub(super) restarts: u64,
    /// Latencies at the outputs, since the start.
    pub(super) latency: Option<Histogram<u64>>,
}

/// How a pipeline does.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Status {
    pub(super) pipeline: String,
    /// Rows a second.
    pub(super) rate_in: f64,
    pub(super) rate_out: f64,
    pub(super) lag: Option<u64>,
    /// Median and 99th percentile, of what was written lately.
    pub(super) latency: Option<[Duration; 2]>,
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) rejected: u64,
    /// How full the fullest queue is, from 0 to 1.
    pub(super) queue: f64,
    /// What everything waits for.
    pub(super) waits: Option<String>,
    pub(super) restarts: u64,
    pub(super) draining: bool,
}

/// The last checkpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Checkpoint {
    pub(super) epoch: u64,
    pub(super) age: Duration,
    pub(super) took: Duration,
}

// A queue that is as full as this makes those before it wait.
const FULL: f64 = 0.9;

impl Sample {
    pub(super) fn rows_in(&self, shape: &Shape) -> u64 {
        self.sum(&shape.sources, |node| node.rows_in)
    }

    pub(super) fn rows_out(&self, shape: &Shape) -> u64 {
        self.sum(&shape.outputs, |node| node.rows_out)
    }

    pub(super) fn rejected(&self, shape: &Shape) -> u64 {
        self.sum(&shape.nodes, |node| node.rows_rejected)
    }

    pub(super) fn node(&self, name: &str) -> Option<&NodeSnapshot> {
        self.nodes.iter().find(|node| node.node == name)
    }

    fn sum(&self, names: &[String], of: fn(&NodeSnapshot) -> u64) -> u64 {
        names.iter().filter_map(|name| self.node(name)).map(of).sum()
    }
}

impl Status {
    /// How it does between two samples.
    pub(super) fn between(shape: &Shape, before: &Sample, now: &Sample) -> Status {
        let seconds = now.at.since(before.at).as_secs_f64();
        let rate = |of: fn(&Sample, &Shape) -> u64| {
            let rows = of(now, shape).saturating_sub(of(before, shape));
            if seconds > 0.0 { rows as f64 / seconds } else { 0.0 }
        };
        let lags = shape.sources.iter().filter_map(|name| now.node(name)?.lag);
        let CheckpointSnapshot { completed, epoch, at_micros, duration, .. } = now.checkpoint;
        let done_at = Timestamp::from_micros(i64::try_from(at_micros).unwrap_or(i64::MAX));
        Status {
            pipeline: shape.pipeline.clone(),
            rate_in: rate(Sample::rows_in),
            rate_out: rate(Sample::rows_out),
            lag: lags.reduce(u64::saturating_add),
            latency: lately(before.latency.as_ref(), now.latency.as_ref()),
            checkpoint: (completed > 0).then(|| Checkpoint { epoch, age: now.at.since(done_at), took: duration }),
            rejected: now.rejected(shape),
            queue: now.nodes.iter().map(|node| node.queue_fill).fold(0.0, f64::max),
            waits: waits(shape, now),
            restarts: now.restarts,
            draining: false,
        }
    }

    /// The live line, at most `width` columns of it; what matters most comes first.
    pub(super) fn line(&self, width: usize) -> String {
        let mut parts = vec![
            self.pipeline.clone(),
            format!("in {}/s", short(self.rate_in)),
            format!("out {}/s", short(self.rate_out)),
        ];
        if self.draining {
            parts.push("draining".to_owned());
        }
        if let Some(waits) = &self.waits {
            parts.push(format!("waits: {waits}"));
        }
        if let Some(lag) = self.lag {
            parts.push(format!("lag {}", count(lag)));
        }
        if let Some([median, high]) = self.latency {
            parts.push(format!("latency {} p99 {}", span(median), span(high)));
        }
        match self.checkpoint {
            Some(Checkpoint { epoch, age, took }) => {
                parts.push(format!("checkpoint {epoch} {} ago in {}", span(tenths(age)), span(took)));
            }
            None => parts.push("no checkpoint yet".to_owned()),
        }
        if self.rejected > 0 {
            parts.push(format!("rejected {}", count(self.rejected)));
        }
        if self.restarts > 0 {
            parts.push(format!("restarts {}", self.restarts));
        }
        parts.push(format!("queue {:.0} %", self.queue * 100.0));
        cut(&parts.join("  "), width)
    }
}

/// The latencies of what was written between two moments; of all, if nothing was.
fn lately(before: Option<&Histogram<u64>>, now: Option<&Histogram<u64>>) -> Option<[Duration; 2]> {
    let mut recent = now?.clone();
    if let Some(before) = before {
        let _ = recent.subtract(before);
    }
    let of = if recent.is_empty() { now? } else { &recent };
    Some([0.5, 0.99].map(|quantile| Duration::from_micros(of.value_at_quantile(quantile))))
}

/// What everything waits for: what a peer is said to do, else the last node whose queue is full.
fn waits(shape: &Shape, now: &Sample) -> Option<String> {
    let nodes = || shape.nodes.iter().filter_map(|name| now.node(name));
    let stalled = nodes().find_map(|node| Some(format!("{}: {}", node.node, node.stalled.as_ref()?)));
    let full = || nodes().rfind(|node| node.queue_fill >= FULL).map(|node| format!("{} is busy", node.node));
    stalled.or_else(full)
}

/// An age is drawn four times a second: digits behind the tenth would only flicker.
fn tenths(span: Duration) -> Duration {
    Duration::from_millis(span.as_millis().div_euclid(100).saturating_mul(100).try_into().unwrap_or(u64::MAX))
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Shape {
            pipeline: "orders".to_owned(),
            nodes: names(&["in", "large", "out"]),
            sources: names(&["in"]),
            outputs: names(&["out"]),
        }
    }

    fn node(name: &str, rows: u64, queue_fill: f64) -> NodeSnapshot {
        NodeSnapshot { node: name.to_owned(), rows_in: rows, rows_out: rows, queue_fill, ..NodeSnapshot::default() }
    }

    fn sample(millis: i64, rows: u64) -> Sample {
        let mut latency = Histogram::new_with_bounds(1, 3_600_000_000, 3).unwrap();
        (0..rows).for_each(|row| latency.record(1_000 + row).unwrap());
        let mut nodes = vec![node("in", rows, 0.0), node("large", rows, 0.25), node("out", rows / 2, 0.5)];
        nodes[0].lag = Some(1_204);
        nodes[1].rows_rejected = 3;
        Sample {
            at: Timestamp::from_millis(millis),
            nodes,
            checkpoint: CheckpointSnapshot {
                completed: 2,
                epoch: 17,
                at_micros: 9_540_000,
                duration: Duration::from_millis(3),
                bytes: 1,
                pause: None,
            },
            restarts: 0,
            latency: Some(latency),
        }
    }

    #[test]
    fn the_live_line_says_rates_lag_latency_checkpoint_rejections_and_queue() {
        let status = Status::between(&shape(), &sample(8_000, 1_000), &sample(10_000, 3_000));
        assert_eq!(
            status.line(200),
            "orders  in 1k/s  out 500/s  lag 1,204  latency 3 ms p99 4 ms  checkpoint 17 400 ms ago in 3 ms  \
             rejected 3  queue 50 %"
        );
        assert_eq!(status.line(20), "orders  in 1k/s  ou…");
    }

    #[test]
    fn a_line_before_the_first_row_and_checkpoint_has_no_made_up_numbers() {
        let empty = Sample { at: Timestamp::from_millis(1), ..Sample::default() };
        let line = Status::between(&shape(), &empty, &empty).line(200);
        assert_eq!(line, "orders  in 0/s  out 0/s  no checkpoint yet  queue 0 %");
    }

    #[test]
    fn what_is_waited_for_is_the_peer_that_stalls_or_else_the_last_full_queue() {
        let mut now = sample(10_000, 3_000);
        now.nodes[1].queue_fill = 0.97;
        now.nodes[2].queue_fill = 1.0;
        let waits = |now: &Sample| Status::between(&shape(), &sample(9_000, 0), now).waits;
        assert_eq!(waits(&now).as_deref(), Some("out is busy"));
        now.nodes[2].stalled = Some("stream TOTALS is full".to_owned());
        assert_eq!(waits(&now).as_deref(), Some("out: stream TOTALS is full"));
    }
}
