//! The `millstream` command line.
//!
//! ```text
//! args -> settings -> a command: run | check | explain | test | schema | demo | dev | doctor | permissions | checkpoint | savepoint
//!                         | remove
//! ```
//!
//! [`main`] is the whole binary. A program of your own has the same commands for pipelines that are written in Rust:
//!
//! ```no_run
//! use millstream::prelude::*;
//!
//! fn declare() -> Pipeline {
//!     let pipeline = Pipeline::new("copy");
//!     pipeline
//!         .source("in", jetstream("IN").text().ignore_rejected())
//!         .sink("out", jetstream_to("OUT").text().subject("out.all").stop_on_rejected());
//!     pipeline
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     millstream::cli::Program::new().pipeline("copy", declare).main()
//! }
//! ```

mod args;
mod check;
mod checkpoint;
mod demo;
mod dev;
mod doctor;
mod ends;
mod explain;
mod file;
mod find;
mod live;
mod logging;
mod new_enough;
mod output;
mod permissions;
mod place;
mod program;
mod remove;
mod run;
mod schema;
mod settings;
mod test;

pub use program::Program;

use std::fmt;
use std::process::ExitCode;

/// Runs the `millstream` command line with what the program was called with.
pub fn main() -> ExitCode {
    Program::new().main()
}

/// Why a command ended badly: its exit code, and what to print.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// A fault.
    fn fault(text: impl Into<String>) -> Self {
        Failure { code: 1, text: text.into() }
    }

    /// A wrong pipeline, setting or call.
    fn usage(text: impl Into<String>) -> Self {
        Failure { code: 2, text: text.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<crate::broker::BrokerError> for Failure {
    fn from(error: crate::broker::BrokerError) -> Self {
        let code = if matches!(error, crate::broker::BrokerError::Options { .. }) { 2 } else { 1 };
        Failure { code, text: error.to_string() }
    }
}

impl From<file::Report> for Failure {
    fn from(report: file::Report) -> Self {
        Failure::usage(report.text)
    }
}
