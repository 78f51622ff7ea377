//! What batch SQL gives: DuckDB, asked by `oracle.py`.

use std::path::Path;
use std::process::Command;

use serde_json::Value as Json;

/// Has the results of all queries, or of this one, written to the folder `expected`: of the events in the folder `events`.
pub(crate) fn ask(events: &Path, expected: &Path, query: Option<&str>) {
    // The crates whose tests ask stand beside each other.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let asked = Command::new("python3")
        .arg(root.join("examples/nexmark/oracle.py"))
        .args([events, expected])
        .args(query)
        .env("PYTHONPATH", root.join(".tools/python"))
        .status();
    assert!(asked.unwrap().success(), "is DuckDB there? `bash tests/setup` installs it");
}

/// What it wrote for a query.
pub(crate) fn expected(folder: &Path, query: &str) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join(format!("{query}.ndjson"))).unwrap();
    let rows = sorted(text.lines());
    assert!(!rows.is_empty(), "{query}: the oracle gives nothing, which shows nothing");
    rows
}

/// Rows of JSON, whatever the order of rows and of their columns.
pub(crate) fn sorted<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let canonical = |line: &str| serde_json::from_str::<Json>(line).unwrap_or_else(|_| panic!("{line}")).to_string();
    let mut rows: Vec<String> = lines.into_iter().map(canonical).collect();
    rows.sort_unstable();
    rows
}

/// Fails where rows differ, and shows the first that do.
pub(crate) fn assert_same(given: &[String], expected: &[String], what: &str) {
    let first = given.iter().zip(expected).position(|(given, expected)| given != expected);
    let first = first.or((given.len() != expected.len()).then_some(given.len().min(expected.len())));
    if let Some(at) = first {
        let (count, wanted) = (given.len(), expected.len());
        panic!("{what}: {count} rows of {wanted}; {at}: {:?}, not {:?}", given.get(at), expected.get(at));
    }
}
