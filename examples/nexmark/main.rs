//! The Nexmark queries, typed: one file each. `nexmark run q5 --until-end --input bid=bid.ndjson --output out=out.ndjson` runs
//! one over files of events, `nexmark run q5` over the stream `NEXMARK`, and `nexmark explain q5` shows what it becomes. The
//! same queries as pipeline files stand beside them.

mod ends;
mod q0;
mod q1;
mod q2;
mod q3;
mod q4;
mod q5;
mod q6;
mod q7;
mod q8;
mod winning;

use std::process::ExitCode;

use millstream::cli::Program;

fn main() -> ExitCode {
    Program::new()
        .pipeline("q0", q0::query)
        .pipeline("q1", q1::query)
        .pipeline("q2", q2::query)
        .pipeline("q3", q3::query)
        .pipeline("q4", q4::query)
        .pipeline("q5", q5::query)
        .pipeline("q6", q6::query)
        .pipeline("q7", q7::query)
        .pipeline("q8", q8::query)
        .main()
}
