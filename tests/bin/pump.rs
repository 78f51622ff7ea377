//! The pipeline that tests kill: orders from the stream IN, computed on, by region to two subjects of the stream OUT.
//!
//! `pump <nats urls, with commas> <pipeline name> [<most in flight> [<replicas of its checkpoints>]]`; the servers' KV
//! keeps its checkpoints.

use std::process::ExitCode;

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

fn declare(name: &str, in_flight: u32) -> Pipeline {
    let pipeline = Pipeline::new(name).settings(|settings| {
        settings.checkpoint_interval = Duration::from_millis(200);
    });
    let priced = pipeline
        .source("orders", jetstream("IN").max_ack_pending(in_flight).json::<Order>().stop_on_rejected())
        .filter("paid", |order| order.cents > 0)
        .map("priced", |Order { id, region, cents }| Priced { id, region, cents, tax: cents * 19 / 100 });
    let ([eu], rest) = priced.route("by_region", [("eu", when(|order: &Priced| order.region == "eu"))]);
    eu.sink("to_eu", jetstream_to("OUT").json().subject("out.eu").stop_on_rejected());
    rest.sink("to_rest", jetstream_to("OUT").json().subject("out.rest").stop_on_rejected());
    pipeline
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [urls, name, numbers @ ..] = arguments.as_slice() else { return ExitCode::from(2) };
    let number = |place: usize| numbers.get(place).and_then(|text| text.parse::<u32>().ok());
    let mut options = ConnectOptions::default();
    options.urls = urls.split(',').map(str::to_owned).collect();
    let mut launch = Launch::default().nats(options);
    if let Some(replicas) = number(1) {
        launch = launch.replicas(replicas as usize);
    }
    match launch.run(&declare(name, number(0).unwrap_or(100_000))).await {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the last word of a program")]
            {
                eprintln!("error: {error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
