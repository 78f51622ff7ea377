//! A run that ends with a checkpoint in a directory, for a test to kill at any system call: `commit <directory> <part> [<calls>]`.
//!
//! It counts rows by key, every key once a part, up to the given part, and prints what it has counted of each. One thread does all
//! that is done with the directory, and makes so many calls of each kind before it: what traces it counts each thread's calls
//! by themselves, so that from there on only this thread's are of so high a number.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use millstream::checkpoint::LocalStore;
use millstream::engine::Ended;
use millstream::prelude::*;
use millstream::testkit::{CollectSink, Collected, Flow, ListSource};

/// Enough that state is kept in segments.
const KEYS: u64 = 2_000;

/// So many calls of each kind by which files come to be; none of them does anything.
fn call_often(times: u64) {
    for _ in 0..times {
        let nothing = File::options().write(true).open("/dev/null");
        let _ = nothing.and_then(|mut nothing| {
            nothing.write_all(b"-")?;
            nothing.sync_all()
        });
        let _ = fs::hard_link("/proc/none/from", "/proc/none/to");
        let _ = fs::rename("/proc/none/from", "/proc/none/to");
        let _ = fs::remove_file("/proc/none/file");
        let _ = fs::create_dir("/proc/none/folder");
    }
}

fn main() -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // One thread that waits for the disk, and it stays.
    let builder = builder.enable_all().max_blocking_threads(1).thread_keep_alive(Duration::from_secs(3_600));
    builder.build().map_or(ExitCode::from(2), |runtime| runtime.block_on(count()))
}

async fn count() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, part, calls @ ..] = arguments.as_slice() else { return ExitCode::from(2) };
    let Ok(parts) = part.parse::<u64>() else { return ExitCode::from(2) };
    let calls = calls.first().and_then(|calls| calls.parse().ok()).unwrap_or(0);
    if tokio::task::spawn_blocking(move || call_often(calls)).await.is_err() {
        return ExitCode::from(2);
    }
    let rows = ListSource::new((0..parts * KEYS).map(|row| (Timestamp::MIN, row % KEYS)).collect::<Vec<_>>());
    let out = Collected::default();
    let pipeline = Pipeline::new("counts").settings(|settings| settings.parallelism = 2);
    pipeline
        .source("rows", rows)
        .key_by(|key| *key)
        .fold("count", 0_u64, |count, _| *count += 1)
        .sink("out", CollectSink::new(out.clone()));
    let (Ok(graph), store) = (pipeline.build(), Arc::new(LocalStore::new(directory))) else { return ExitCode::from(2) };
    let Ok(flow) = Flow::start_with(graph, store, |environment| environment) else { return ExitCode::from(2) };
    match flow.finish().await {
        Ok(Ended::Finished) => {
            let last: BTreeMap<u64, u64> = out.rows().into_iter().collect();
            let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
            last.into_values().for_each(|count| *counts.entry(count).or_default() += 1);
            #[expect(clippy::print_stdout, reason = "it is what the test reads")]
            {
                println!("{counts:?}");
            }
            ExitCode::SUCCESS
        }
        other => {
            #[expect(clippy::print_stderr, reason = "the last word of a program")]
            {
                eprintln!("{other:?}");
            }
            ExitCode::FAILURE
        }
    }
}
