//! One of several processes that share the stream IN: each order goes to the subject `out.<process>` of the stream OUT.
//!
//! `share <nats url> <pipeline name> <process> [setting=number ...]`; the settings are `ack_wait` and `work` (for each
//! order) in milliseconds, `at_once` (orders worked on), `prefetch`, `room` (rows that wait
//! between two nodes), `alone` (1: without sharing), `retry_every` (orders whose number is a multiple come again once),
//! and `give_up_every` (of as many orders the second is given up).

use std::collections::{BTreeSet, VecDeque};
use std::process::ExitCode;
use std::sync::Arc;

use millstream::connectors::{Settlements, Share};
use millstream::prelude::*;
use millstream_tests::support::program::{arguments, last_word};

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    id: u64,
}

/// Has some orders come again, and gives some up.
struct Unlucky {
    settlements: Arc<Settlements>,
    retry_every: u64,
    give_up_every: u64,
    seen: BTreeSet<u64>,
}

impl Operator for Unlucky {
    type In = Vec<Order>;
    type Out = Vec<Order>;

    fn on_batch(&mut self, mut batch: Batch<Vec<Order>>, out: &mut Outbox<'_, Vec<Order>>) -> Result<Turn> {
        let origin = |row| batch.origins().and_then(|origins| origins.get(row));
        let sequences = (0..batch.len()).map(|row| origin(row).map_or(0, |origin| origin.sequence));
        let mut sequences: VecDeque<u64> = sequences.collect();
        batch.retain(|order| {
            let sequence = sequences.pop_front().unwrap_or_default();
            if self.give_up_every > 0 && order.id % self.give_up_every == 1 {
                return !self.settlements.give_up("orders", sequence, "no such customer");
            }
            let is_first = self.retry_every > 0 && order.id % self.retry_every == 0 && self.seen.insert(order.id);
            !(is_first && self.settlements.retry("orders", sequence, Duration::from_millis(200)))
        });
        out.send(batch);
        Ok(Turn::Done)
    }
}

fn declare(name: &str, process: &str, setting: impl Fn(&str, u64) -> u64) -> Pipeline {
    let pipeline = Pipeline::new(name).settings(|settings| {
        let room = usize::try_from(setting("room", 0)).unwrap_or(0);
        if room > 0 {
            (settings.batch_rows, settings.channel_rows) = (room, room);
        }
    });
    let share = Share {
        ack_wait: Duration::from_millis(setting("ack_wait", 30_000)),
        prefetch: u32::try_from(setting("prefetch", 4_096)).unwrap_or(u32::MAX),
        ..Share::default()
    };
    let from = match setting("alone", 0) {
        0 => jetstream("IN").share(share),
        _ => jetstream("IN"),
    };
    let work = Duration::from_millis(setting("work", 0));
    let at_once = usize::try_from(setting("at_once", 64)).unwrap_or(usize::MAX);
    let limits = AsyncLimits { concurrency: at_once, timeout: Duration::from_secs(60), ordered: false };
    let (retry_every, give_up_every) = (setting("retry_every", 0), setting("give_up_every", 0));
    let orders = pipeline.source("orders", from.json::<Order>().stop_on_rejected());
    let orders = orders.operator("unlucky", "unlucky", move |subtask| {
        let settlements = subtask.resources.get().unwrap_or_default();
        Ok(Unlucky { settlements, retry_every, give_up_every, seen: BTreeSet::new() })
    });
    let (done, failed) = orders.map_async("work", limits, move |order: Order| async move {
        if !work.is_zero() {
            tokio::time::sleep(work).await;
        }
        Ok::<_, String>(order)
    });
    failed.stop("failed");
    done.sink("done", jetstream_to("OUT").json().subject(format!("out.{process}")).stop_on_rejected());
    pipeline
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = arguments();
    let [url, name, process, settings @ ..] = arguments.as_slice() else { return ExitCode::from(2) };
    let setting = |name: &str, default| {
        let found = settings.iter().filter_map(|setting| setting.split_once('=')).find(|(key, _)| *key == name);
        found.and_then(|(_, value)| value.parse().ok()).unwrap_or(default)
    };
    let launch = Launch::default().nats(ConnectOptions::to(url));
    last_word(launch.run(&declare(name, process, setting)).await)
}
