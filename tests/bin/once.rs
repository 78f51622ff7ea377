//! A pipeline that promises effectively-once, for tests to kill and to fence: orders from the stream IN; each paid one,
//! computed on, by region to two subjects of the stream OUT; running totals of each customer to TOTALS; and what is no
//! order to DEAD.
//!
//! `once <nats urls, with commas> <pipeline name> <parallelism> [<replicas of its checkpoints>]`; the servers' KV keeps its
//! checkpoints.

use std::process::ExitCode;

use millstream::pipelines::graph::Guarantee;
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
        .filter("paid", |order| order.cents > 0)
        // Spread over several subtasks, the orders of a customer would come to their total in another order.
        .parallelism(1);
    let priced = paid.clone().rebalance().map("priced", |Order { id, region, cents }| Priced {
        id,
        region,
        cents,
        tax: cents * 19 / 100,
    });
    let ([eu], rest) = priced.route("by_region", [("eu", when(|order: &Priced| order.region == "eu"))]);
    eu.sink("to_eu", jetstream_to("OUT").json().subject("out.eu").stop_on_rejected());
    rest.sink("to_rest", jetstream_to("OUT").json().subject("out.rest").stop_on_rejected());
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
    match launch.run(&declare(name, number(0).unwrap_or(1))).await {
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
