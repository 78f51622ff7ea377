//! Effectively-once without state against the loop that one would write by hand for it, and against at-least-once: every
//! message of a stream into another.
//!
//! `cargo run --release -p millstream-bench --bin effectively_once` starts a nats-server of its own with file storage. The contestants take
//! turns at a stream that is full; then each has messages that come at a steady pace, and it is measured how long after a
//! message was sent its output can be read. Every run is read back: each output must be there once, in order.
//!
//! `--messages 300000`, `--rounds 3` and `--bytes 128` are the defaults.

mod hand;
mod live;

use std::process::ExitCode;
use std::time::Duration;

use hdrhistogram::Histogram;
use millstream::broker::NatsServer;
use millstream_bench::{Cost, Failed, Size, Streams, Takes, median, piped};
use millstream_pipelines::graph::Guarantee;
use tokio::time::timeout;

/// A run that takes longer has lost something.
const PATIENCE: Duration = Duration::from_secs(300);

/// Who takes part, in the order of turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contestant {
    ByHand,
    Once,
    AtLeastOnce,
}

impl Contestant {
    const ALL: [Contestant; 3] = [Contestant::ByHand, Contestant::Once, Contestant::AtLeastOnce];

    fn title(self) -> &'static str {
        match self {
            Contestant::ByHand => "by hand, atomic batches",
            Contestant::Once => "Millstream, effectively once",
            Contestant::AtLeastOnce => "Millstream, at least once",
        }
    }

    fn takes(self) -> Takes {
        match self {
            Contestant::ByHand | Contestant::Once => Takes::Atomic,
            Contestant::AtLeastOnce => Takes::Fast,
        }
    }

    async fn run(self, url: &str, messages: u64, run: usize) -> Result<(), Failed> {
        match self {
            Contestant::ByHand => hand::batches(url, messages, run).await,
            Contestant::Once => piped(url, messages, run, Guarantee::EffectivelyOnce).await,
            Contestant::AtLeastOnce => piped(url, messages, run, Guarantee::AtLeastOnce).await,
        }
    }
}

/// What was measured of one.
struct Measured {
    contestant: Contestant,
    costs: Vec<Cost>,
    /// From an input that is sent to its output that can be read, in microseconds.
    latency: Histogram<u64>,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints its figures")]
fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(Failed::from).and_then(|runtime| {
        runtime.block_on(async {
            let size = Size::from_arguments()?;
            Ok(table(size, &measure(size).await?))
        })
    });
    match done {
        Ok(table) => {
            println!("{table}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(size: Size) -> Result<Vec<Measured>, Failed> {
    let server = NatsServer::start().await?;
    let pid = server.pid().ok_or("the server is gone")?;
    let streams = Streams::fill(&server, size).await?;
    let mut all = Vec::new();
    for contestant in Contestant::ALL {
        all.push(Measured { contestant, costs: Vec::new(), latency: Histogram::new(3)? });
    }
    for round in 0..size.rounds {
        for (place, Measured { contestant, costs, .. }) in all.iter_mut().enumerate() {
            let run = round * Contestant::ALL.len() + place;
            streams.fresh_output(contestant.takes()).await?;
            let before = Cost::so_far(pid)?;
            timeout(PATIENCE, contestant.run(&server.url(), size.messages, run)).await??;
            costs.push(Cost::so_far(pid)? - before);
            let wrong = |error: Failed| format!("{}, round {}: {error}", contestant.title(), round + 1);
            streams.check_output().await.map_err(wrong)?;
        }
    }
    for (run, Measured { contestant, latency, .. }) in (size.rounds * all.len()..).zip(&mut all) {
        let wrong = |error: Failed| format!("{}, at a pace: {error}", contestant.title());
        live::measure(&server, size, *contestant, run, latency).await.map_err(wrong)?;
    }
    Ok(all)
}

fn table(size: Size, all: &[Measured]) -> String {
    let messages = size.messages as f64;
    let mut lines = vec![
        format!(
            "{} messages of {} bytes, {} rounds in turns, each output once; then {} a second",
            size.messages,
            size.bytes,
            size.rounds,
            live::RATE
        ),
        format!(
            "{:29} {:>7} {:>7} {:>7}  {:>9} {:>9}  {:>7} {:>7} {:>7} {:>7}",
            "", "msg/s", "least", "most", "client µs", "server µs", "p50 ms", "p99", "p99.9", "most"
        ),
    ];
    let rate = |measured: &Measured| median(measured.costs.iter().map(|cost| messages / cost.seconds).collect());
    let millis = |measured: &Measured, quantile| measured.latency.value_at_quantile(quantile) as f64 / 1e3;
    for measured in all {
        let rates: Vec<f64> = measured.costs.iter().map(|cost| messages / cost.seconds).collect();
        let (least, most) = (rates.iter().copied().fold(f64::MAX, f64::min), rates.iter().copied().fold(0.0, f64::max));
        let micros =
            |of: fn(&Cost) -> f64| median(measured.costs.iter().map(|cost| of(cost) * 1e6 / messages).collect());
        lines.push(format!(
            "{:29} {:>7.0} {least:>7.0} {most:>7.0}  {:>9.2} {:>9.2}  {:>7.2} {:>7.2} {:>7.2} {:>7.2}",
            measured.contestant.title(),
            rate(measured),
            micros(|cost| cost.client),
            micros(|cost| cost.server),
            millis(measured, 0.5),
            millis(measured, 0.99),
            millis(measured, 0.999),
            millis(measured, 1.0),
        ));
    }
    if let [by_hand, once, at_least_once] = all {
        lines.push(format!(
            "ratio effectively once / by hand: {:.2} messages a second, {:.2} latency (p50), {:.2} (p99); \
             / at least once: {:.2}, {:.2}, {:.2}",
            rate(once) / rate(by_hand),
            millis(once, 0.5) / millis(by_hand, 0.5),
            millis(once, 0.99) / millis(by_hand, 0.99),
            rate(once) / rate(at_least_once),
            millis(once, 0.5) / millis(at_least_once, 0.5),
            millis(once, 0.99) / millis(at_least_once, 0.99),
        ));
    }
    lines.join("\n")
}
