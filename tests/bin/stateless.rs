//! A pipeline that promises effectively-once and keeps no state, for tests to kill and to fence: orders from the stream IN, and
//! what is none of another of its subjects; each paid one, computed on, by region to two subjects of the stream OUT.
//!
//! `stateless <nats urls, with commas> <pipeline name> <parallelism> [<replicas of its checkpoints>]`; the servers' KV keeps
//! its checkpoints. With `MILLSTREAM_PACED` it has a step with which outputs wait for checkpoints, and with
//! `MILLSTREAM_COPIES` orders whose number ends in 777 come out so often.

use std::process::ExitCode;

use millstream::pipelines::graph::Guarantee;
use millstream::prelude::*;

#[derive(Deserialize)]
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

fn priced(text: &str, copies: usize) -> Vec<Priced> {
    let order = serde_json::from_str::<Order>(text).ok().filter(|order| order.cents > 0);
    let Some(Order { id, region, cents }) = order else { return Vec::new() };
    let times = if id % 1_000 == 777 { copies } else { 1 };
    (0..times).map(|_| Priced { id, region: region.clone(), cents, tax: cents * 19 / 100 }).collect()
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
