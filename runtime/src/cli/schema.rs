//! `millstream schema`: the format of pipeline files, for editors.

use std::process::ExitCode;

use super::{Failure, file, output};

pub(super) fn schema() -> Result<ExitCode, Failure> {
    output::print(&file::schema()?);
    Ok(ExitCode::SUCCESS)
}
