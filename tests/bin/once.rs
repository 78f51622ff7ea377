//! A pipeline that promises effectively-once, for tests to kill and to fence: orders from the stream IN; each paid one,
//! computed on, by region to two subjects of the stream OUT; running totals of each customer to TOTALS; and what is no
//! order to DEAD.
//!
//! `once <nats urls, with commas> <pipeline name> <parallelism> [<replicas of its checkpoints>]`.

use std::process::ExitCode;

use millstream::pipelines::graph::Guarantee;
use millstream::prelude::*;
use millstream_tests::support::program::{Order, by_region, run};

#[derive(Serialize, Deserialize)]
struct Total {
    customer: u64,
    orders: u64,
    cents: u64,
}

fn declare(name: &str, parallelism: u32) -> Pipeline {
    let pipeline = Pipeline::new(name).settings(|settings| {
        settings.guarantee = Guarantee::EffectivelyOnce;
        settings.checkpoint_interval = Duration::from_millis(200);
        settings.parallelism = parallelism;
    });
    let dead = dead_letters("DEAD").create();
    let paid = pipeline
        .source("orders", jetstream("IN").max_ack_pending(10_000).json::<Order>().rejected_to("dead", dead))
        .filter("paid", Order::is_paid)
        // Spread over several subtasks, the orders of a customer would come to their total in another order.
        .parallelism(1);
    by_region(paid.clone().rebalance().map("priced", Order::priced).boxed());
    paid.key_by(|order| order.id % 100)
        .fold("sums", (0, 0), |(orders, cents), order| {
            *orders += 1;
            *cents += order.cents;
        })
        .map("totals", |(customer, (orders, cents))| Total { customer, orders, cents })
        .sink("to_totals", jetstream_to("TOTALS").create(["totals.>"]).json().subject("totals.all").stop_on_rejected());
    pipeline
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    run(|name, parallelism| declare(name, parallelism.unwrap_or(1))).await
}
