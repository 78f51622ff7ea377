//! A count over more keys than fit in its memory, for a test to kill: `spilled <directory> <keys> <rounds> <budget>
//! [<bytes>]`.
//!
//! With each key so many bytes are kept, which are its own.
//! Numbers come that each fall on a key, every key once a round, each round in another order. What is printed to the file
//! `out` of the directory is a line a key: the key and its count, when that has come to the number of rounds, and whenever it
//! is more. Its checkpoints are in `checkpoints`, what does not fit is in `spill`.

use std::process::ExitCode;
use std::sync::Arc;

use millstream::operators::{AnyBatch, PortType, Source};
use millstream::pipelines::dsl::IntoSource;
use millstream::pipelines::graph::{Node, OutPort, Role, erase_source};
use millstream::prelude::*;

/// Numbers from 0 on, up to a last one.
#[derive(Clone)]
struct Numbers {
    next: u64,
    end: u64,
}

impl Source for Numbers {
    type Out = Vec<u64>;
    type Position = u64;

    async fn open(&mut self, from: Option<u64>) -> Result {
        self.next = from.unwrap_or(0);
        Ok(())
    }

    async fn next(&mut self, max_rows: usize) -> Result<Option<Batch<Vec<u64>>>> {
        // Nobody else would have a turn on a worker that is never waited on. Before anything is taken: whoever waits may stop.
        tokio::task::yield_now().await;
        let last = self.end.min(self.next + max_rows as u64);
        let rows: Vec<u64> = (self.next..last).collect();
        self.next = last;
        Ok((!rows.is_empty()).then(|| Batch::at(Timestamp::MIN, rows)))
    }

    fn position(&self) -> u64 {
        self.next
    }
}

impl IntoSource for Numbers {
    type Row = u64;

    fn wire(self, pipeline: &Pipeline, name: &str) -> Stream<u64> {
        let make = move |_: &_| Ok(erase_source(self.clone()));
        let mut node = Node::new(name, "numbers", Role::Source(Arc::new(make)));
        node.outputs = vec![PortType::of::<Vec<u64>>(PortType::MAIN).copied_by(AnyBatch::copied::<Vec<u64>>)];
        node.parallelism = Some(1);
        Stream::at(pipeline.clone(), OutPort { node: pipeline.add(node), port: 0 })
    }
}

fn declare(directory: &str, [keys, rounds, budget, bytes]: [u64; 4]) -> Pipeline {
    let pipeline = Pipeline::new("spilled").settings(|settings| {
        settings.parallelism = 2;
        settings.checkpoint_interval = Duration::from_millis(500);
        settings.state_memory = Some(usize::try_from(budget).unwrap_or(usize::MAX));
    });
    // A prime that divides no number of keys it is asked for: each round visits all of them.
    let key = move |number: &u64| {
        let (round, at) = (number / keys, number % keys);
        format!("customer-{:08}", (at * 7_919 + round * 1_299_709) % keys)
    };
    let words = usize::try_from(bytes / 16).unwrap_or(usize::MAX);
    pipeline
        .source("numbers", Numbers { next: 0, end: keys * rounds })
        .key_by(key)
        .process(
            "count",
            move |visit, number: u64| {
                let kept = || (0_u64, format!("{:016x}", number % keys).repeat(words));
                let (count, text) = visit.state().take().unwrap_or_else(kept);
                *visit.state() = Some((count + 1, text));
                let key = visit.key().clone();
                visit.give((key, count + 1));
            },
            |_| {},
        )
        .filter("complete", move |(_, count)| *count >= rounds)
        .map("line", |(key, count)| format!("{key} {count}"))
        .sink("out", file_sink(format!("{directory}/out"), false).text().stop_on_rejected());
    pipeline
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, numbers @ ..] = arguments.as_slice() else { return ExitCode::from(2) };
    let numbers: Vec<u64> = numbers.iter().filter_map(|text| text.parse().ok()).collect();
    let [keys, rounds, budget, bytes @ ..] = &numbers[..] else { return ExitCode::from(2) };
    let pipeline = declare(directory, [*keys, *rounds, *budget, bytes.first().copied().unwrap_or(0)]);
    let launch = Launch::default()
        .checkpoints_in(format!("{directory}/checkpoints"))
        .spill_to(format!("{directory}/spill"))
        .until_end();
    #[expect(clippy::print_stderr, reason = "the last word of a program")]
    match launch.run(&pipeline).await {
        Ok(_) => {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            eprintln!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
