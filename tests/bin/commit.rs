//! A run that ends with a checkpoint in a directory, for a test to kill at any system call: `commit <directory> <part>`.
//!
//! It counts rows by key, every key once a part, up to the given part, and prints what it has counted of each.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use millstream::checkpoint::LocalStore;
use millstream::engine::Ended;
use millstream::prelude::*;
use millstream::testkit::{CollectSink, Collected, Flow, ListSource};

/// Enough that state is kept in segments.
const KEYS: u64 = 2_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, part] = arguments.as_slice() else { return ExitCode::from(2) };
    let Ok(parts) = part.parse::<u64>() else { return ExitCode::from(2) };
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
