//! The pipeline that tests kill: orders from the stream IN, computed on, by region to two subjects of the stream OUT.
//!
//! `pump <nats urls, with commas> <pipeline name> [<most in flight> [<replicas of its checkpoints>]]`.

use std::process::ExitCode;

use millstream::prelude::*;
use millstream_tests::support::program::{Order, by_region, run};

fn declare(name: &str, in_flight: u32) -> Pipeline {
    let pipeline = Pipeline::new(name).settings(|settings| {
        settings.checkpoint_interval = Duration::from_millis(200);
    });
    let orders = jetstream("IN").max_ack_pending(in_flight).json::<Order>().stop_on_rejected();
    let priced = pipeline.source("orders", orders).filter("paid", Order::is_paid).map("priced", Order::priced);
    by_region(priced.boxed());
    pipeline
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    run(|name, in_flight| declare(name, in_flight.unwrap_or(100_000))).await
}
