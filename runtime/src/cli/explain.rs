//! `millstream explain`: what a file becomes.

use std::process::ExitCode;

use millstream_pipelines::graph::{View, explain as show};

use super::args::{Explain, Shown};
use super::file::Ends;
use super::{Failure, Program, output};

pub(super) fn explain(program: &Program, args: &Explain) -> Result<ExitCode, Failure> {
    let file = program.load(&args.file, &Ends::default())?;
    let view = match args.view {
        Shown::Text => View::Text,
        Shown::Mermaid => View::Mermaid,
        Shown::Dot => View::Dot,
    };
    output::print(&show(&file.graph, view));
    Ok(ExitCode::SUCCESS)
}
