//! Pipeline files: [`load`] reads one from the disk, with the environment's variables; [`run_tests`] runs its tests.

mod unit_test;

use std::path::{Path, PathBuf};

use millstream_pipelines::config::{self, Loaded, Options, Report};
use millstream_pipelines::registry::Registry;

use crate::connectors::{file_source, output_file};

pub use unit_test::{Outcome, run_tests};

/// Files in place of sources and sinks, for a run without a broker: `NODE=FILE.ndjson`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// For sources: a JSON object a line, by column.
    pub inputs: Vec<(String, PathBuf)>,
    /// For sinks: they are begun anew.
    pub outputs: Vec<(String, PathBuf)>,
}

impl Ends {
    /// Whether nothing is replaced.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty() && self.outputs.is_empty()
    }
}

/// Reads a pipeline file.
///
/// # Errors
/// Everything that is wrong with it, ready to be shown.
pub fn load(path: &Path, registry: &Registry, ends: &Ends) -> Result<Loaded, Report> {
    let (name, text) = read(path)?;
    let mut options = options(registry);
    for (source, path) in ends.inputs.clone() {
        options = options.rows_for(&source, move || file_source(path.clone()));
    }
    for (sink, path) in ends.outputs.clone() {
        options = options.sink_for(&sink, move || output_file(path.clone(), false));
    }
    config::load(&name, &text, &options)
}

fn read(path: &Path) -> Result<(String, String), Report> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) => Err(Report::unreadable(&name, error)),
    }
}

fn options(registry: &Registry) -> Options<'_> {
    let secret =
        |path: &str| std::fs::read_to_string(path).map_err(|error| format!("`{path}` cannot be read: {error}"));
    Options::new(registry).variables(|name| std::env::var(name).ok()).secret_files(secret)
}
