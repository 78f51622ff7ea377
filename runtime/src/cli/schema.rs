//! `millstream schema`: the format of pipeline files, for editors.

use std::process::ExitCode;

use super::{Failure, Program, file, output};

#[expect(clippy::unnecessary_wraps, reason = "a command like the others")]
pub(super) fn schema(program: &Program) -> Result<ExitCode, Failure> {
    output::print(&file::schema(&program.registry));
    Ok(ExitCode::SUCCESS)
}
