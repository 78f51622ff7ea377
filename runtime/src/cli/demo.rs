//! `millstream demo`: the main job in a minute, on any machine: generated orders through `examples/orders.toml`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use millstream_pipelines::config::{Options, load};
use millstream_pipelines::graph::Graph;

use super::args::Demo;
use super::file::File;
use super::find::{Place, find_or_start};
use super::live::Screen;
use super::settings::Settings;
use super::{Failure, Program, output, run};
use crate::Launch;
use crate::broker::{ApiLevel, Connection, Js, StreamConfig};
use crate::engine::Metrics;

const ORDERS: &str = include_str!("../../../examples/orders.toml");

/// How so many orders are made: small ones to be left out, some without an id, and some whose region has no subject.
fn feeder(rate: u32, count: u64) -> String {
    format!(
        r#"
name = "demo-feeder"

[sources.made]
kind = "generate"
rate = {rate}
count = {count}
on_error = "stop"
[sources.made.fields]
id = "case when n % 997 = 996 then null else n end"
region = "case when n % 1009 = 1008 then 'north.pole' when n % 3 = 0 then 'eu' when n % 3 = 1 then 'us' else 'asia' end"
amount = "cast(n * 7919 % 20000 as double) / 100"

[sinks.orders]
kind = "jetstream"
from = "made"
stream = "ORDERS"
subject = "orders.new"
on_error = "stop"
"#
    )
}

pub(super) async fn demo(
    program: &Program,
    args: Demo,
    settings: Settings,
    screen: Screen,
) -> Result<ExitCode, Failure> {
    let place = find_or_start(&settings.with_server(&args.server)).await?;
    let connection = match (&place, place.options()) {
        (Place::Embedded(broker, _), _) => broker.connect(),
        (_, Some(options)) => options.connect().await?,
        (_, None) => return Err(Failure::fault("there is no place to run at")),
    };
    let count = u64::from(args.rate) * args.seconds;
    output::print(&format!(
        "Orders flow through the pipeline file examples/orders.toml for {} seconds: {} a second,\non {}.\n\n{}",
        args.seconds,
        output::count(u64::from(args.rate)),
        place.words(),
        "  stream ORDERS -> json -> large (amount >= 10) -> taxed -> by_region -> stream TAXED\n                     \\ no orders                              \\ no address -> stream DEAD\n"
    ));
    let js = Js::new(connection.clone());
    let allow_batched = js.account().await?.level >= ApiLevel::FAST_INGEST;
    for (stream, subjects) in [("ORDERS", "orders.>"), ("TAXED", "taxed.>")] {
        if js.find_stream(stream).await?.is_some() {
            let words = format!(
                "the server has a stream {stream} already, and the demo would write into it: name another server with --nats, or none"
            );
            return Err(Failure::usage(words));
        }
        let config = StreamConfig { allow_batched, ..StreamConfig::new(stream, [subjects]) };
        js.create_stream(&config).await?;
    }
    let orders = compiled(program, "examples/orders.toml", ORDERS)?;
    let feed = compiled(program, "the feeder", &feeder(args.rate, count))?;

    let launch = place.launch(Launch::default().replicas(1));
    let (metrics, stopper) = (launch.metrics(), launch.stopper());
    let file = File { path: PathBuf::from("examples/orders.toml"), graph: orders, nats: None };
    let feeding = async {
        let fed = place.launch(Launch::default()).without_checkpoints().run_graph(&feed).await;
        until_read(&metrics, count).await;
        stopper.drain();
        fed
    };
    let (fed, ended) = tokio::join!(feeding, run::show(&file, launch, screen));
    fed.map_err(|error| Failure { code: error.exit_code(), text: error.to_string() })?;
    let code = ended?;
    output::print(&results(&connection).await?);
    // Cargo tells the programs that it runs of which package they are.
    let cargo = std::env::var("CARGO_PKG_NAME").is_ok_and(|package| package == "millstream");
    let first = std::env::args().next();
    let program = called(cargo, first.as_deref(), cfg!(debug_assertions));
    output::print(&next(&program, std::path::Path::new("examples/orders.toml").is_file()));
    Ok(code)
}

/// What to try next, as commands that work where the demo was started. The pipeline file is not everywhere.
fn next(program: &str, has_file: bool) -> String {
    let with_file: &[(&str, &str)] = &[
        ("test examples/orders.toml", "the tests that stand in the file"),
        ("explain examples/orders.toml", "what the file becomes"),
        ("dev", "a NATS server for trying things, then in another terminal:"),
        ("run examples/orders.toml", "your own orders"),
        ("doctor examples/orders.toml", "what the server lacks for that"),
    ];
    let without: &[(&str, &str)] = &[
        ("--help", "all commands"),
        ("dev", "a NATS server for trying things, then in another terminal:"),
        ("doctor", "what that server is like"),
    ];
    let commands = if has_file { with_file } else { without };
    let width = commands.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
    let lines = commands.iter().map(|(command, does)| format!("\n  {program} {command:<width$}    {does}"));
    format!("\nWhat to try next:{}", lines.collect::<String>())
}

/// How this program is called: as it was, or by cargo where cargo has started it and it may not be found by its name.
fn called(cargo: bool, first: Option<&str>, debug: bool) -> String {
    match (cargo, first) {
        (true, _) if debug => "cargo run --".to_owned(),
        (true, _) => "cargo run --release --".to_owned(),
        (false, first) => first.filter(|first| !first.is_empty()).unwrap_or("millstream").to_owned(),
    }
}

fn compiled(program: &Program, name: &str, text: &str) -> Result<Graph, Failure> {
    let loaded = load(name, text, &Options::new(&program.registry));
    loaded.map(|loaded| loaded.graph).map_err(|report| Failure::fault(report.to_string()))
}

/// Waits until the pipeline has read so many orders; it is asked to drain then, so that none is left.
async fn until_read(metrics: &Metrics, count: u64) {
    let patience = tokio::time::Instant::now() + Duration::from_secs(30);
    while tokio::time::Instant::now() < patience {
        let read = metrics.nodes().iter().find(|node| node.node == "orders").map_or(0, |node| node.rows_in);
        if read >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The last rows of the output, and what became of those that were refused.
async fn results(connection: &Connection) -> Result<String, Failure> {
    let js = Js::new(connection.clone());
    let mut text = String::from("\nThe last results:\n");
    let last = js.stream("TAXED").await?.state.last_seq;
    for sequence in last.saturating_sub(2).max(1)..=last {
        if let Some(message) = js.message("TAXED", sequence).await? {
            text.push_str(&format!("  {:<12} {}\n", message.subject, String::from_utf8_lossy(&message.payload)));
        }
    }
    let Some(dead) = js.find_stream("DEAD").await? else { return Ok(text) };
    text.push_str(&format!("\nDead letters, {} in all; the last ones:\n", output::count(dead.state.messages)));
    let last = dead.state.last_seq;
    for sequence in last.saturating_sub(1).max(1)..=last {
        if let Some(message) = js.message("DEAD", sequence).await? {
            let header = |name: &str| message.headers.get(name).unwrap_or_default().to_owned();
            let (node, why) = (header("Mill-Dlq-Stage"), header("Mill-Dlq-Error"));
            text.push_str(&format!("  {}\n    {node}: {why}\n", String::from_utf8_lossy(&message.payload)));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_try_next_is_called_as_the_demo_was() {
        assert_eq!(called(true, Some("target/debug/millstream"), true), "cargo run --");
        assert_eq!(called(true, Some("target/release/millstream"), false), "cargo run --release --");
        assert_eq!(called(false, Some("./target/release/millstream"), false), "./target/release/millstream");
        assert_eq!(called(false, None, false), "millstream");
        let text = next("cargo run --", true);
        assert!(text.contains("\n  cargo run -- dev ") && text.contains(" run examples/orders.toml "), "{text}");
        assert!(!next("millstream", false).contains("orders.toml"), "the file is not there");
    }
}
