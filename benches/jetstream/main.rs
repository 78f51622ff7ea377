//! Millstream against the loops that one would write by hand: every message of a stream into another, each confirmed.
//!
//! `cargo run --release -p millstream-bench --bin jetstream` starts a nats-server of its own with file storage, fills a
//! stream, and then lets the contestants take turns, so that what else the machine does hits all of them. Every run is
//! read back and compared with what was put in: a fast run that is wrong ends the benchmark.
//!
//! `--messages 300000`, `--rounds 3` and `--bytes 128` are the defaults. Processor time is counted in hundredths of a
//! second, so it means little below 100,000 messages.

mod hand;

use std::process::ExitCode;
use std::time::Duration;

use millstream::broker::NatsServer;
use millstream_bench::{Cost, Failed, Size, Streams, Takes, median, piped};
use millstream_pipelines::graph::Guarantee;
use tokio::time::timeout;

/// A run that takes longer has lost something.
const PATIENCE: Duration = Duration::from_secs(300);

/// Who takes part, in the order of turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contestant {
    HandGroups,
    HandFast,
    PipedGroups,
    PipedFast,
}

impl Contestant {
    const ALL: [Contestant; 4] =
        [Contestant::HandGroups, Contestant::HandFast, Contestant::PipedGroups, Contestant::PipedFast];

    fn title(self) -> &'static str {
        match self {
            Contestant::HandGroups => "by hand, group replies",
            Contestant::HandFast => "by hand, fast ingest",
            Contestant::PipedGroups => "Millstream, group replies",
            Contestant::PipedFast => "Millstream, fast ingest",
        }
    }

    fn takes(self) -> Takes {
        match self {
            Contestant::HandFast | Contestant::PipedFast => Takes::Fast,
            Contestant::HandGroups | Contestant::PipedGroups => Takes::Singly,
        }
    }

    fn is_by_hand(self) -> bool {
        matches!(self, Contestant::HandGroups | Contestant::HandFast)
    }

    async fn run(self, url: &str, messages: u64, run: usize) -> Result<(), Failed> {
        match self {
            Contestant::HandGroups => hand::groups(url, messages, run).await,
            Contestant::HandFast => hand::fast(url, messages, run).await,
            Contestant::PipedGroups | Contestant::PipedFast => piped(url, messages, run, Guarantee::AtLeastOnce).await,
        }
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints its figures")]
fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(Failed::from).and_then(|runtime| {
        runtime.block_on(async {
            let size = Size::from_arguments()?;
            let costs = measure(size).await?;
            Ok(table(size, &costs))
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

async fn measure(size: Size) -> Result<Vec<(Contestant, Vec<Cost>)>, Failed> {
    let server = NatsServer::start().await?;
    let pid = server.pid().ok_or("the server is gone")?;
    let streams = Streams::fill(&server, size).await?;
    let mut costs: Vec<_> = Contestant::ALL.into_iter().map(|contestant| (contestant, Vec::new())).collect();
    for round in 0..size.rounds {
        for (place, (contestant, spent)) in costs.iter_mut().enumerate() {
            let run = round * Contestant::ALL.len() + place;
            streams.fresh_output(contestant.takes()).await?;
            let before = Cost::so_far(pid)?;
            timeout(PATIENCE, contestant.run(&server.url(), size.messages, run)).await??;
            spent.push(Cost::so_far(pid)? - before);
            let wrong = |error: Failed| format!("{}, round {}: {error}", contestant.title(), round + 1);
            streams.check_output().await.map_err(wrong)?;
        }
    }
    Ok(costs)
}

fn table(size: Size, costs: &[(Contestant, Vec<Cost>)]) -> String {
    let messages = size.messages as f64;
    let mut lines = vec![
        format!(
            "{} messages of {} bytes, {} rounds in turns, every run complete",
            size.messages, size.bytes, size.rounds
        ),
        format!("{:28} {:>9} {:>9} {:>9}   {:>10} {:>10}", "", "msg/s", "least", "most", "client µs", "server µs"),
    ];
    let rate = |spent: &[Cost]| median(spent.iter().map(|cost| messages / cost.seconds).collect());
    for (contestant, spent) in costs {
        let rates: Vec<f64> = spent.iter().map(|cost| messages / cost.seconds).collect();
        let (least, most) = (rates.iter().copied().fold(f64::MAX, f64::min), rates.iter().copied().fold(0.0, f64::max));
        let micros = |of: fn(&Cost) -> f64| median(spent.iter().map(|cost| of(cost) * 1e6 / messages).collect());
        lines.push(format!(
            "{:28} {:>9.0} {least:>9.0} {most:>9.0}   {:>10.2} {:>10.2}",
            contestant.title(),
            rate(spent),
            micros(|cost| cost.client),
            micros(|cost| cost.server),
        ));
    }
    let best = |by_hand: bool| {
        let rates =
            costs.iter().filter(|(contestant, _)| contestant.is_by_hand() == by_hand).map(|(_, spent)| rate(spent));
        rates.fold(0.0, f64::max)
    };
    lines.push(format!("ratio Millstream / best loop: {:.2}   (aim 0.8)", best(false) / best(true)));
    lines.join("\n")
}
