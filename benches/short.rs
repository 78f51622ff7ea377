//! Every benchmark in its short form: it runs, and what the contestants give is complete and right. Figures of so few
//! rounds say nothing.

#![allow(clippy::unwrap_used, reason = "it is test code, though not all inside a test")]

use std::process::Command;

/// What a benchmark prints; its own checks end it otherwise.
fn printed(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn typed_rows_are_those_of_the_plain_loop() {
    let table = printed(env!("CARGO_BIN_EXE_typed"), &["--rounds", "1"]);
    assert!(table.contains("pipeline, fused") && table.contains("pipeline, apart"), "{table}");
}

#[cfg(feature = "columnar")]
#[test]
fn columns_are_those_of_the_kernels() {
    let table = printed(env!("CARGO_BIN_EXE_columnar"), &["--rounds", "1"]);
    assert!(table.contains("batches of  1024") && table.contains("batches of  8192"), "{table}");
}

#[test]
fn every_message_of_a_stream_comes_into_the_other() {
    let table = printed(env!("CARGO_BIN_EXE_jetstream"), &["--rounds", "1", "--messages", "20000"]);
    assert!(table.contains("by hand, fast ingest") && table.contains("Millstream, fast ingest"), "{table}");
}

#[test]
fn every_message_of_a_stream_comes_into_the_other_once() {
    let table = printed(env!("CARGO_BIN_EXE_effectively_once"), &["--rounds", "1", "--messages", "5000"]);
    assert!(table.contains("by hand, atomic batches") && table.contains("Millstream, effectively once"), "{table}");
}

#[test]
fn state_comes_back_as_it_was_from_segments_and_from_other_numbers_of_subtasks() {
    let table = printed(env!("CARGO_BIN_EXE_state"), &["--keys", "100000"]);
    assert!(table.contains("pause at a barrier") && table.contains("of a whole one"), "{table}");
}

#[cfg(feature = "columnar")]
#[test]
fn state_over_columns_comes_back_as_it_was_from_a_checkpoint_and_its_increments() {
    let table = printed(env!("CARGO_BIN_EXE_columns_state"), &["--keys", "20000"]);
    assert!(table.contains("a barrier: p50") && table.contains("give each of the"), "{table}");
}
