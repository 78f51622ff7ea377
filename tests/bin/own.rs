//! A command line with pipelines of its own, as users may build one; stories run it as a black box.

use millstream::cli::Program;
use millstream::prelude::*;

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    id: u64,
    region: String,
    cents: u64,
}

#[derive(Serialize, Deserialize)]
struct Priced {
    id: u64,
    region: String,
    cents: u64,
    tax: u64,
}

/// As the pump, on one subject less; what is no order becomes a dead letter.
fn orders() -> Pipeline {
    // Stories that run many at once tell them apart.
    let name = std::env::var("OWN_PIPELINE").unwrap_or_else(|_| "orders".to_owned());
    let pipeline = Pipeline::new(name).settings(|settings| {
        settings.checkpoint_interval = Duration::from_millis(200);
    });
    let priced = pipeline
        .source("orders", jetstream("IN").json::<Order>().rejected_to("dead", dead_letters("DEAD").create()))
        .filter("paid", |order| order.cents > 0)
        .map("priced", |Order { id, region, cents }| Priced { id, region, cents, tax: cents * 19 / 100 });
    let ([eu], rest) = priced.route("by_region", [("eu", when(|order: &Priced| order.region == "eu"))]);
    eu.sink("to_eu", jetstream_to("OUT").json().subject("out.eu").stop_on_rejected());
    rest.sink("to_rest", jetstream_to("OUT").json().subject("out.rest").stop_on_rejected());
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
