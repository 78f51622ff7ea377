//! [`run_tests`]: the `[[tests]]` of a pipeline file, on the real engine with ends made of memory.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use millstream_operators::{Record, SizeLimit, Table, Timestamp};
use millstream_pipelines::config::{self, Expected, Given, Report, UnitTest};
use millstream_pipelines::dsl::{SinkNode, SourceNode};
use millstream_pipelines::graph::{erase_sink, erase_source};
use millstream_pipelines::registry::Registry;
use serde_json::Value as Json;

use super::{options, read};
use crate::checkpoint::MemoryStore;
use crate::connectors::{CollectSink, Collected, ListSource, Tables};
use crate::engine::{Clock, Environment, Workers, run};

/// How a test of a pipeline file went.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// The test.
    pub name: String,
    /// What was not as expected, if something was.
    pub failure: Option<String>,
}

/// Runs the tests of a file whose names hold `filter`, one after the other: sources give what each test says and then
/// end, sinks are looked into. Nothing else is read or written, and no server is needed.
///
/// # Errors
/// Everything that is wrong with the file.
pub async fn run_tests(path: &Path, registry: &Registry, filter: Option<&str>) -> Result<Vec<Outcome>, Report> {
    let (name, text) = read(path)?;
    let loaded = config::load(&name, &text, &options(registry))?;
    let mut outcomes = Vec::new();
    for test in loaded.tests.iter().filter(|test| filter.is_none_or(|filter| test.name.contains(filter))) {
        let failure = one(&name, &text, registry, test, &loaded.sources, &loaded.sinks).await?;
        outcomes.push(Outcome { name: test.name.clone(), failure });
    }
    Ok(outcomes)
}

async fn one(
    name: &str,
    text: &str,
    registry: &Registry,
    test: &UnitTest,
    sources: &[String],
    sinks: &[String],
) -> Result<Option<String>, Report> {
    let mut options = options(registry);
    for source in sources {
        let given = test.input.iter().find(|(node, _)| node == source).map(|(_, given)| given.clone());
        options = match given {
            Some(Given::Messages(messages)) => options.messages_for(source, move || listed(&messages)),
            Some(Given::Rows(rows)) => options.rows_for(source, move || listed(&rows)),
            None => options.rows_for(source, || listed(&[])),
        };
    }
    let mut collected = Vec::new();
    for sink in sinks {
        let records = Collected::<Record>::default();
        collected.push((sink.clone(), records.clone()));
        options = options.sink_for(sink, move || collecting(&records));
    }
    let graph = config::load(name, text, &options)?.graph;
    let workers = match Workers::here() {
        Ok(workers) => workers,
        Err(fault) => return Ok(Some(fault.chain())),
    };
    let mut environment = Environment::new(Arc::new(MemoryStore::default()), workers);
    let tables = test.tables.iter().map(|(bucket, held)| (bucket.clone(), Table::of(held.iter().cloned())));
    environment = environment.with(Tables::given(tables));
    if let Some(now) = &test.now {
        match chrono::DateTime::parse_from_rfc3339(now) {
            Ok(now) => {
                let now = Timestamp::from_micros(now.timestamp_micros());
                environment = environment.on_clock(Clock::starting_at(now));
            }
            Err(error) => return Ok(Some(format!("`now` is no time with a zone: {error}"))),
        }
    }
    if let Err(fault) = run(&graph, &environment).await {
        return Ok(Some(format!("the pipeline stopped: {}", fault.chain())));
    }
    let differences = test.expect.iter().filter_map(|(sink, expected)| {
        let records = collected.iter().find(|(name, _)| name == sink).map(|(_, records)| records.rows());
        let rows: Vec<Json> = records.unwrap_or_default().iter().map(row).collect();
        compare(expected, &rows, test.unordered).map(|difference| format!("{sink}: {difference}"))
    });
    let differences: Vec<_> = differences.collect();
    Ok((!differences.is_empty()).then(|| differences.join("\n")))
}

/// A row of a sink as JSON; its subject stands beside its columns, under `@subject`.
fn row(record: &Record) -> Json {
    let mut row = serde_json::from_slice(&record.payload).unwrap_or(Json::Null);
    if let Json::Object(columns) = &mut row {
        columns.insert("@subject".to_owned(), record.subject().into());
    }
    row
}

fn compare(expected: &[Expected], rows: &[Json], unordered: bool) -> Option<String> {
    let mut left: Vec<&Json> = rows.iter().collect();
    let mut problems = Vec::new();
    for (index, expected) in expected.iter().enumerate() {
        let number = index + 1;
        if unordered {
            match left.iter().position(|row| expected.difference(row).is_none()) {
                Some(place) => drop(left.remove(place)),
                None => problems.push(format!("no row is like expected row {number}: {}", expected.0)),
            }
        } else if left.is_empty() {
            problems.push(format!("expected row {number} did not come: {}", expected.0));
        } else {
            let row = left.remove(0);
            if let Some(difference) = expected.difference(row) {
                problems.push(format!(
                    "row {number}: {difference}\n    came:     {}\n    expected: {}",
                    shown(row),
                    expected.0
                ));
            }
        }
    }
    problems.extend(left.iter().map(|row| format!("a row came that was not expected: {}", shown(row))));
    (!problems.is_empty()).then(|| problems.join("\n  "))
}

fn shown(row: &Json) -> String {
    let mut row = row.clone();
    if let Json::Object(columns) = &mut row {
        columns.remove("@subject");
    }
    row.to_string()
}

fn listed(payloads: &[String]) -> SourceNode {
    let rows: Vec<_> = payloads.iter().map(|payload| (Timestamp::default(), Bytes::from(payload.clone()))).collect();
    SourceNode {
        kind: "test".into(),
        detail: format!("{} rows", rows.len()),
        make: Arc::new(move |_| Ok(erase_source(ListSource::new(rows.clone())))),
        touches: Vec::new(),
        access: Vec::new(),
        shared: false,
        at_most_once: None,
        problems: Vec::new(),
    }
}

fn collecting(records: &Collected<Record>) -> SinkNode {
    let records = records.clone();
    SinkNode {
        kind: "test".into(),
        detail: String::new(),
        make: Arc::new(move |_| Ok(erase_sink(CollectSink::new(records.clone())))),
        touches: Vec::new(),
        access: Vec::new(),
        at_most_once: None,
        repeats: None,
        limit: SizeLimit::default(),
        lines: false,
        problems: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::registry;

    const FILE: &str = r#"
name = "orders"

[sources.orders]
kind = "jetstream"
stream = "ORDERS"
format = "json"
schema = { id = "int64 not null", region = "utf8", cents = "int64" }
meta = { subject = "subject" }
on_error = { send_to = "dead" }

[[steps]]
name = "large"
from = "orders"
filter = "cents >= 1000"

[[steps]]
name = "taxed"
from = "large"
set = { tax = "cents * 19 / 100", day = "date_trunc('day', now())" }
on_error = { send_to = "dead" }

[sinks.out]
kind = "jetstream"
from = "taxed"
stream = "TAXED"
subject = "taxed.{region}"
on_error = { send_to = "dead" }

[sinks.dead]
kind = "dead_letter"
"#;

    async fn outcomes(tests: &str) -> Vec<Outcome> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.toml");
        std::fs::write(&path, format!("{FILE}{tests}")).unwrap();
        run_tests(&path, &registry(), None).await.unwrap_or_else(|report| panic!("{report}"))
    }

    #[tokio::test]
    async fn rows_pass_through_the_real_pipeline_and_are_compared() {
        let tests = r#"
[[tests]]
name = "large orders are taxed"
now = 2026-01-31T12:00:00Z
input.orders = [{ id = 1, region = "eu", cents = 2000 }, { id = 2, region = "us", cents = 5 }]
expect.out = [{ id = 1, tax = 380, day = 2026-01-31T00:00:00Z, "@subject" = "taxed.eu" }]
expect.dead = []

[[tests]]
name = "what cannot be read or addressed is kept"
unordered = true
input.orders = ["{\"id\": 1", "{\"id\": 2, \"region\": \"a.b\", \"cents\": 2000}"]
expect.dead = [{ reason = "decode", node = "orders" }, { reason = "address", node = "out" }]
expect.out = []
"#;
        let outcomes = outcomes(tests).await;
        assert_eq!(outcomes.iter().map(|o| o.failure.as_deref()).collect::<Vec<_>>(), [None, None]);
    }

    #[tokio::test]
    async fn rows_are_looked_up_in_tables_that_the_test_gives() {
        let tests = r#"
[[steps]]
name = "named"
from = "large"
lookup = { bucket = "REGIONS", key = "region", schema = { title = "utf8", rate = "int64" }, prefix = "region_" }
on_error = "stop"

[sinks.to_named]
kind = "jetstream"
from = "named"
stream = "NAMED"
subject = "named.all"
on_error = "stop"

[[tests]]
name = "regions have names"
input.orders = [{ id = 1, region = "eu", cents = 2000 }, { id = 2, region = "us", cents = 2000 }]
tables.REGIONS = { eu = { title = "Europe", rate = 19 } }
expect.to_named = [{ id = 1, region_title = "Europe", region_rate = 19 }, { id = 2 }]
expect.out = [{ id = 1 }, { id = 2 }]
"#;
        let outcomes = outcomes(tests).await;
        assert_eq!(outcomes.iter().map(|o| o.failure.as_deref()).collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn a_table_that_nothing_is_looked_up_in_is_a_mistake() {
        let lookup = r#"
[[steps]]
name = "named"
from = "large"
lookup = { bucket = "REGIONS", key = "region", schema = { title = "utf8" } }
on_error = "drop"

[sinks.to_named]
kind = "stdout"
from = "named"
on_error = "stop"
"#;
        let test = r#"
[[tests]]
name = "regions have names"
input.orders = []
tables.REGION = { eu = { title = "Europe" } }
expect.out = []
"#;
        let told =
            |text: String| config::load("p.toml", &text, &options(&registry())).err().map(|report| report.to_string());
        let report = told(format!("{FILE}{lookup}{test}")).unwrap();
        assert!(report.contains("bucket `REGION`") && report.contains("did you mean `REGIONS`?"), "{report}");
        let report = told(format!("{FILE}{test}")).unwrap();
        assert!(report.contains("nothing is looked up in a bucket `REGION`"), "{report}");
        assert_eq!(told(format!("{FILE}{lookup}{}", test.replace("tables.REGION ", "tables.REGIONS "))), None);
    }

    #[tokio::test]
    async fn what_is_not_as_expected_is_told() {
        let tests = r#"
[[tests]]
name = "wrong"
input.orders = [{ id = 1, region = "eu", cents = 2000 }, { id = 2, region = "eu", cents = 3000 }]
expect.out = [{ id = 7 }]
"#;
        let failure = outcomes(tests).await.remove(0).failure.unwrap();
        assert!(failure.contains("row 1: `id` is 1 and not 7"), "{failure}");
        assert!(failure.contains("a row came that was not expected: {") && failure.contains("\"id\":2"), "{failure}");
    }
}
