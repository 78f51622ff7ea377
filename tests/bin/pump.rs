//! The pipeline that tests kill: orders from the stream IN, computed on, by region to two subjects of the stream OUT.
//!
//! `pump <nats url> <pipeline name>`; the server's KV keeps its checkpoints.

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

fn declare(name: &str) -> Pipeline {
    let pipeline = Pipeline::new(name).settings(|settings| {
        settings.checkpoint_interval = Duration::from_millis(200);
    });
    let priced = pipeline
        .source("orders", jetstream("IN").json::<Order>().stop_on_rejected())
        .filter("paid", |order| order.cents > 0)
        .map("priced", |Order { id, region, cents }| Priced { id, region, cents, tax: cents * 19 / 100 });
    let ([eu], rest) = priced.route("by_region", [("eu", when(|order: &Priced| order.region == "eu"))]);
    eu.sink("to_eu", jetstream_to("OUT").json().subject("out.eu").stop_on_rejected());
    rest.sink("to_rest", jetstream_to("OUT").json().subject("out.rest").stop_on_rejected());
    pipeline
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, name] = arguments.as_slice() else { return ExitCode::from(2) };
    let launch = Launch::default().nats(ConnectOptions::to(url));
    match launch.run(&declare(name)).await {
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
