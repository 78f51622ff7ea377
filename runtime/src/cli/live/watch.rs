//! [`Watch`]: looks at a run while it goes on, and shows what it sees.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use super::{Sample, Screen, Shape, Status, table};
use crate::cli::output;
use crate::engine::{Clock, Metrics, Stopper};

/// What is shown of a run, and where.
#[derive(Debug)]
pub(in crate::cli) struct Watch {
    shape: Shape,
    metrics: Metrics,
    stopper: Stopper,
    screen: Screen,
    clock: Clock,
    began: millstream_operators::Timestamp,
    /// The samples of the last while, the newest last.
    samples: VecDeque<Sample>,
    live: bool,
}

// On a terminal a line is drawn so often, over the samples of two seconds.
const DRAW: Duration = Duration::from_millis(250);
const DRAWN_OVER: usize = 8;
// Elsewhere an event tells of so long a while.
const TELL: Duration = Duration::from_secs(10);

impl Watch {
    /// Shows `metrics` of a graph of this shape on `screen`; with a live line if `live` and if it can be drawn there.
    pub(in crate::cli) fn new(shape: Shape, metrics: Metrics, stopper: Stopper, screen: Screen, live: bool) -> Self {
        let (clock, live) = (Clock::system(), live && screen.is_terminal());
        let began = clock.now();
        let mut watch = Watch { shape, metrics, stopper, screen, clock, began, samples: VecDeque::new(), live };
        watch.sample();
        watch
    }

    /// Shows for ever; dropped when the run ends.
    pub(in crate::cli) async fn follow(&mut self) -> Infallible {
        let mut ticks = tokio::time::interval(if self.live { DRAW } else { TELL });
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.reset();
        loop {
            ticks.tick().await;
            self.sample();
            let Some(status) = self.status() else { continue };
            if self.live { self.screen.draw(&status.line(Screen::width())) } else { tell(&status) }
        }
    }

    /// Shows the end of the run: a table on a terminal, else an event for each node.
    pub(in crate::cli) fn end(&mut self) {
        self.screen.draw("");
        self.sample();
        let (Some(end), elapsed) = (self.samples.back(), self.clock.since(self.began)) else { return };
        let idle = end.nodes.iter().all(|node| node.rows_in == 0);
        let late = end.nodes.iter().filter_map(|node| Some((node.node.as_str(), node.lateness?)));
        if self.live && !idle {
            output::say(&table::table(&self.shape, end, elapsed));
            for (node, [median, _, most]) in late {
                output::say(&format!("late rows at {node}: {median:.1?} behind the watermark, {most:.1?} at most"));
            }
            return;
        }
        for (node, [median, p99, most]) in late {
            tracing::info!(pipeline = self.shape.pipeline, node, ?median, ?p99, ?most, "how late its late rows were");
        }
        for name in &self.shape.nodes {
            let Some(node) = end.node(name).filter(|_| !idle) else { continue };
            let (rows_in, rows_out, rejected) = (node.rows_in, node.rows_out, node.rows_rejected);
            tracing::info!(pipeline = self.shape.pipeline, node = name, rows_in, rows_out, rejected, "node at the end");
        }
        tracing::info!(
            pipeline = self.shape.pipeline,
            rows_in = end.rows_in(&self.shape),
            rows_out = end.rows_out(&self.shape),
            rejected = end.rejected(&self.shape),
            checkpoints = end.checkpoint.completed,
            restarts = end.restarts,
            seconds = elapsed.as_secs_f64(),
            "the run is over"
        );
    }

    fn sample(&mut self) {
        let kept = if self.live { DRAWN_OVER } else { 1 };
        while self.samples.len() > kept {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            at: self.clock.now(),
            nodes: self.metrics.nodes(),
            checkpoint: self.metrics.checkpoint(),
            restarts: self.metrics.restarts(),
            latency: self.metrics.latency_at(&self.shape.outputs),
        });
    }

    fn status(&self) -> Option<Status> {
        let mut status = Status::between(&self.shape, self.samples.front()?, self.samples.back()?);
        status.draining = self.stopper.is_stopping();
        Some(status)
    }
}

/// A status as an event.
fn tell(status: &Status) {
    let millis = |span: Duration| span.as_secs_f64() * 1e3;
    let latency = status.latency.map(|latency| latency.map(millis));
    tracing::info!(
        pipeline = status.pipeline,
        rows_in_per_s = status.rate_in,
        rows_out_per_s = status.rate_out,
        lag = status.lag,
        latency_p50_ms = latency.map(|[median, _]| median),
        latency_p99_ms = latency.map(|[_, high]| high),
        checkpoint = status.checkpoint.map(|checkpoint| checkpoint.epoch),
        checkpoint_age_s = status.checkpoint.map(|checkpoint| checkpoint.age.as_secs_f64()),
        checkpoint_ms = status.checkpoint.map(|checkpoint| millis(checkpoint.took)),
        rejected = status.rejected,
        restarts = status.restarts,
        queue = status.queue,
        waits = status.waits,
        "running"
    );
}
