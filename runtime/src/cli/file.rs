//! What the command line needs of pipeline files: load, schema, tests. The one door to how they are read.

use std::fmt;
use std::path::{Path, PathBuf};

use millstream_pipelines::graph::Graph;

use crate::broker::ConnectOptions;

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

/// Files of lines in place of sources and sinks, by node.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    pub(super) inputs: Vec<(String, PathBuf)>,
    pub(super) outputs: Vec<(String, PathBuf)>,
}

impl Ends {
    pub(super) fn is_empty(&self) -> bool {
        self.inputs.is_empty() && self.outputs.is_empty()
    }
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

/// What became of one test of a file.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The test's name.
    pub(super) name: String,
    /// What was expected and what came instead; `None` if it passed.
    pub(super) failure: Option<String>,
}

fn not_built_yet(path: &Path) -> Report {
    let text = match std::fs::metadata(path) {
        Ok(_) => format!("{}: pipeline files are not built yet", path.display()),
        Err(error) => format!("{}: cannot be read: {error}", path.display()),
    };
    Report { text, mistakes: 1 }
}

/// Reads and compiles a file.
pub(super) fn load(path: &Path, _ends: &Ends) -> Result<File, Report> {
    Err(not_built_yet(path))
}

/// The JSON Schema of the file format.
pub(super) fn schema() -> Result<String, Report> {
    Err(Report { text: "pipeline files are not built yet, so they have no schema".to_owned(), mistakes: 1 })
}

/// Runs the tests of a file whose name holds `filter`.
#[expect(clippy::unused_async, reason = "a test runs a pipeline")]
pub(super) async fn test(path: &Path, _filter: Option<&str>) -> Result<Vec<Outcome>, Report> {
    Err(not_built_yet(path))
}
