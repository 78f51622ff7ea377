//! A command line with pipelines of its own, as users may build one; stories run it as a black box.

use millstream::cli::Program;
use millstream::prelude::*;
use millstream_tests::support::program::{Order, by_region};

/// As the pump, on one subject less; what is no order becomes a dead letter.
fn orders() -> Pipeline {
    // Stories that run many at once tell them apart.
    let name = std::env::var("OWN_PIPELINE").unwrap_or_else(|_| "orders".to_owned());
    let pipeline = Pipeline::new(name).settings(|settings| {
        settings.checkpoint_interval = Duration::from_millis(200);
    });
    let priced = pipeline
        .source("orders", jetstream("IN").json::<Order>().rejected_to("dead", dead_letters("DEAD").create()))
        .filter("paid", Order::is_paid)
        .map("priced", Order::priced);
    by_region(priced.boxed());
    pipeline
}

/// Wrong in two places.
fn wrong() -> Pipeline {
    let pipeline = Pipeline::new("wrong");
    pipeline
        .source("in", jetstream("a stream").text().ignore_rejected())
        .sink("out", jetstream_to("OUT").text().subject("out..").stop_on_rejected());
    pipeline
}

fn main() -> std::process::ExitCode {
    Program::new().pipeline("orders", orders).pipeline("wrong", wrong).main()
}
