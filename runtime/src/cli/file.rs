//! What the command line needs of pipeline files: load, schema, tests.

use std::fmt;
use std::path::{Path, PathBuf};

use millstream_pipelines::graph::Graph;
use millstream_pipelines::registry::{Registry, file_schema};

use crate::broker::ConnectOptions;

pub(super) use crate::file::{Ends, Outcome};

/// What a pipeline file says, compiled.
#[derive(Debug)]
pub(super) struct File {
    /// The file; for a pipeline of the program itself, its name.
    pub(super) path: PathBuf,
    /// Ready to run.
    pub(super) graph: Graph,
    /// The file's `[nats]` table.
    pub(super) nats: Option<ConnectOptions>,
}

/// All mistakes of a file, ready to print.
#[derive(Debug)]
pub(super) struct Report {
    /// The text, with the place of each mistake.
    pub(super) text: String,
    /// How many mistakes there are.
    pub(super) mistakes: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<millstream_pipelines::config::Report> for Report {
    fn from(report: millstream_pipelines::config::Report) -> Self {
        Report { text: report.to_string(), mistakes: report.mistakes().len() }
    }
}

/// Reads and compiles a file.
pub(super) fn load(path: &Path, registry: &Registry, ends: &Ends) -> Result<File, Report> {
    let loaded = crate::file::load(path, registry, ends)?;
    let nats = loaded.table::<ConnectOptions>("nats").map(|table| (*table).clone());
    Ok(File { path: path.to_owned(), graph: loaded.graph, nats })
}

/// The JSON Schema of the file format.
pub(super) fn schema(registry: &Registry) -> String {
    format!("{:#}", file_schema(registry))
}

/// Runs the tests of a file whose name holds `filter`.
pub(super) async fn test(path: &Path, registry: &Registry, filter: Option<&str>) -> Result<Vec<Outcome>, Report> {
    Ok(crate::file::run_tests(path, registry, filter).await?)
}
