//! Counts words: lines of text come from the stream LINES, and each word's new count goes to the stream COUNTS.
//!
//! The counts are state: they survive a restart.

use millstream::prelude::*;

#[derive(Serialize, Deserialize)]
struct Count {
    word: String,
    times: u64,
}

fn declare() -> Pipeline {
    let pipeline = Pipeline::new("word-count");
    pipeline
        .source("lines", jetstream("LINES").text().stop_on_rejected())
        .flat_map("words", |line| line.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>())
        .key_by(String::clone)
        .fold("count", 0, |times, _word| *times += 1)
        .map("named", |(word, times)| Count { word, times })
        .sink("counts", jetstream_to("COUNTS").json().subject("counts.words").stop_on_rejected());
    pipeline
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    millstream::main(&declare()).await
}
