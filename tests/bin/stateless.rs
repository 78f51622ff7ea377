//! A pipeline that promises effectively-once and keeps no state, for tests to kill and to fence: orders from the stream IN, and
//! what is none of another of its subjects; each paid one, computed on, by region to two subjects of the stream OUT.
//!
//! `stateless <nats urls, with commas> <pipeline name> <parallelism> [<replicas of its checkpoints>]`. With `MILLSTREAM_PACED`
//! it has a step with which outputs wait for checkpoints, and with `MILLSTREAM_COPIES` orders whose number ends in 777 come out
//! so often.

use std::process::ExitCode;

use millstream::pipelines::graph::Guarantee;
use millstream::prelude::*;
use millstream_tests::support::program::{Order, Priced, run};

fn priced(text: &str, copies: usize) -> Vec<Priced> {
    let order = serde_json::from_str::<Order>(text).ok().filter(Order::is_paid);
    let Some(order) = order else { return Vec::new() };
    let times = if order.id % 1_000 == 777 { copies } else { 1 };
    vec![order.priced(); times]
}

fn declare(name: &str, parallelism: u32) -> Pipeline {
    let setting = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<usize>().ok());
    let copies = setting("MILLSTREAM_COPIES").unwrap_or(1);
    let pipeline = Pipeline::new(name).settings(|settings| {
        settings.guarantee = Guarantee::EffectivelyOnce;
        settings.checkpoint_interval = Duration::from_millis(200);
        settings.parallelism = parallelism;
    });
    let read = |subject: &str| jetstream("IN").subjects([subject]).max_ack_pending(10_000).text().stop_on_rejected();
    let bad = pipeline.source("bad", read("in.bad"));
    let mut all = pipeline.source("orders", read("in.order")).merge("all", [bad]);
    if setting("MILLSTREAM_PACED").is_some() {
        all = all.throttle("paced", 10_000_000, Duration::from_secs(1));
    }
    all.rebalance().flat_map("priced", move |text: String| priced(&text, copies)).sink(
        "out",
        jetstream_to("OUT")
            .json()
            .subject_of(|order: &Priced, to| {
                to.token("out").token(if order.region == "eu" { "eu" } else { "rest" });
            })
            .stop_on_rejected(),
    );
    pipeline
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    run(|name, parallelism| declare(name, parallelism.unwrap_or(1))).await
}
