//! [`UnitTest`]: a `[[tests]]` table: rows that go in, and rows that must come out. The runtime runs them.

use std::collections::BTreeSet;
use std::ops::Range;

use millstream_operators::suggest::did_you_mean;
use serde_json::Value as Json;
use toml::de::{DeTable, DeValue};

use super::rows::json;
use super::validate::article;
use super::{Mistake, Value};
use crate::graph::{Access, Graph};

/// A test of a pipeline file.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct UnitTest {
    /// What it says about the pipeline.
    pub name: String,
    /// What each source gives.
    pub input: Vec<(String, Given)>,
    /// What each bucket holds that rows are looked up in, by key.
    pub tables: Vec<(String, Vec<(String, String)>)>,
    /// What each sink must be given.
    pub expect: Vec<(String, Vec<Expected>)>,
    /// Whether rows may come in any order.
    pub unordered: bool,
    /// What `now()` is, in RFC 3339.
    pub now: Option<String>,
}

/// What a source gives in a test.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    /// Rows, as JSON objects by column.
    Rows(Vec<String>),
    /// Messages, as they come, in the format of the source.
    Messages(Vec<String>),
}

/// A row that a sink must be given: the values that it names must be there, others may be.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Expected(pub Json);

impl Expected {
    /// What is different in a row, in words; `None` if it fits.
    pub fn difference(&self, row: &Json) -> Option<String> {
        let Json::Object(expected) = &self.0 else { return (self.0 != *row).then(|| "it is another value".to_owned()) };
        let differs = |(column, value): (&String, &Json)| match row.get(column) {
            None => Some(format!("there is no `{column}`")),
            Some(found) if !same(value, found) => Some(format!("`{column}` is {found} and not {value}")),
            Some(_) => None,
        };
        let differences: Vec<_> = expected.iter().filter_map(differs).collect();
        (!differences.is_empty()).then(|| differences.join(", "))
    }
}

/// Numbers are the same whether or not they are written with a point, and times whether they end in `Z` or `+00:00`.
fn same(expected: &Json, found: &Json) -> bool {
    match (expected, found) {
        (Json::Number(a), Json::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a == b,
            _ => a.as_f64() == b.as_f64(),
        },
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (Json::String(a), Json::String(b)) => a == b || utc(a) == utc(b),
        _ => expected == found,
    }
}

fn utc(text: &str) -> &str {
    text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00")).unwrap_or(text)
}

/// The buckets that tests give, and where.
pub(super) type Buckets = Vec<(String, Range<usize>)>;

/// Reads the tests of a file, against the names of its sources and sinks.
pub(super) fn read(
    tests: &Value<'_>,
    sources: &[String],
    sinks: &[String],
    mistakes: &mut Vec<Mistake>,
) -> (Vec<UnitTest>, Buckets) {
    let DeValue::Array(tests) = tests.get_ref() else {
        let what = "`tests` must be a list of tables: `[[tests]]`";
        mistakes.push(Mistake::at(tests.span(), what));
        return Default::default();
    };
    let mut buckets = Buckets::new();
    let tests = tests.iter().filter_map(|test| one(test, (sources, sinks), &mut buckets, mistakes));
    (tests.collect(), buckets)
}

/// Nobody would look rows up in a bucket that no node names.
pub(super) fn check_buckets(buckets: &Buckets, graph: &Graph, mistakes: &mut Vec<Mistake>) {
    let followed = graph.nodes.iter().flat_map(|node| &node.access).filter_map(|access| match access {
        Access::Follow { stream } => stream.strip_prefix("KV_"),
        _ => None,
    });
    let followed: BTreeSet<&str> = followed.collect();
    for (bucket, span) in buckets.iter().filter(|(bucket, _)| !followed.contains(bucket.as_str())) {
        let what = format!("nothing is looked up in a bucket `{bucket}`");
        let help = match followed.is_empty() {
            true => Some("take it out".to_owned()),
            false => did_you_mean(bucket, "buckets", followed.iter().copied()),
        };
        mistakes.push(Mistake::at(span.clone(), what).help(help));
    }
}

const KEYS: [&str; 6] = ["name", "input", "tables", "expect", "unordered", "now"];

fn one(
    test: &Value<'_>,
    (sources, sinks): (&[String], &[String]),
    named: &mut Buckets,
    mistakes: &mut Vec<Mistake>,
) -> Option<UnitTest> {
    let DeValue::Table(table) = test.get_ref() else {
        mistakes.push(Mistake::at(test.span(), "a test is a table: `[[tests]]`"));
        return None;
    };
    let before = mistakes.len();
    let (input, tables, expect) = (Vec::new(), Vec::new(), Vec::new());
    let mut made = UnitTest { name: String::new(), input, tables, expect, unordered: false, now: None };
    for (key, value) in table {
        let must = |what: &str| {
            let is = article(value.get_ref());
            Mistake::at(value.span(), format!("`{}` must be {what}, and is {is}", key.get_ref()))
        };
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("name", DeValue::String(name)) if name.is_empty() => {
                let what = "a test has to be called something, and this `name` is empty";
                mistakes.push(Mistake::at(value.span(), what));
            }
            ("name", DeValue::String(name)) => made.name = name.to_string(),
            ("name", _) => mistakes.push(must("text")),
            ("unordered", DeValue::Boolean(truth)) => made.unordered = *truth,
            ("unordered", _) => mistakes.push(must("true or false")),
            ("now", DeValue::Datetime(time)) => made.now = Some(time.to_string()),
            ("now", _) => mistakes.push(must("a time, such as 2026-01-31T00:00:00Z")),
            ("input", DeValue::Table(_)) => {
                for (node, span, rows) in ends(value, "source", sources, mistakes) {
                    made.input.extend(given(rows, &span, mistakes).map(|given| (node, given)));
                }
            }
            ("expect", DeValue::Table(_)) => {
                for (node, _, rows) in ends(value, "sink", sinks, mistakes) {
                    let rows = rows.iter().map(|row| Expected(json(row.get_ref()))).collect();
                    made.expect.push((node, rows));
                }
            }
            ("tables", DeValue::Table(tables)) => {
                named.extend(tables.keys().map(|bucket| (bucket.get_ref().to_string(), bucket.span())));
                made.tables = buckets(tables, mistakes);
            }
            ("tables", _) => mistakes.push(must("a table of buckets")),
            ("input" | "expect", _) => mistakes.push(must("a table of lists")),
            (other, _) => {
                let what = format!("there is no key `{other}` here");
                mistakes.push(Mistake::at(key.span(), what).help(did_you_mean(other, "keys", KEYS)));
            }
        }
    }
    for missing in ["name", "input", "expect"] {
        if !table.iter().any(|(key, _)| key.get_ref() == missing) {
            mistakes.push(Mistake::at(test.span(), format!("the key `{missing}` is missing in a test")));
        }
    }
    (mistakes.len() == before).then_some(made)
}

/// What buckets hold, by their names: tables are values in JSON, texts are values as they are.
fn buckets(tables: &DeTable<'_>, mistakes: &mut Vec<Mistake>) -> Vec<(String, Vec<(String, String)>)> {
    let mut found = Vec::new();
    for (bucket, held) in tables {
        let DeValue::Table(held) = held.get_ref() else {
            let what = format!("`{}` must be a table of keys, and is {}", bucket.get_ref(), article(held.get_ref()));
            mistakes.push(Mistake::at(held.span(), what));
            continue;
        };
        let entries = held.iter().map(|(key, value)| {
            let text = match value.get_ref() {
                DeValue::String(text) => text.to_string(),
                other => json(other).to_string(),
            };
            (key.get_ref().to_string(), text)
        });
        found.push((bucket.get_ref().to_string(), entries.collect()));
    }
    found
}

/// The lists of a table by the names of nodes, where there are such nodes.
fn ends<'v, 'f>(
    value: &'v Value<'f>,
    word: &str,
    known: &[String],
    mistakes: &mut Vec<Mistake>,
) -> Vec<(String, Range<usize>, &'v toml::de::DeArray<'f>)> {
    let DeValue::Table(table) = value.get_ref() else { return Vec::new() };
    let mut found = Vec::new();
    for (key, rows) in table {
        let name = key.get_ref().as_ref();
        if !known.iter().any(|known| known == name) {
            let what = format!("there is no {word} `{name}`");
            let help = did_you_mean(name, &format!("{word}s"), known.iter().map(String::as_str));
            mistakes.push(Mistake::at(key.span(), what).help(help));
            continue;
        }
        match rows.get_ref() {
            DeValue::Array(rows) => found.push((name.to_owned(), key.span(), rows)),
            other => {
                let what = format!("`{name}` must be a list of rows, and is {}", article(other));
                mistakes.push(Mistake::at(rows.span(), what));
            }
        }
    }
    found
}

fn given(rows: &toml::de::DeArray<'_>, span: &Range<usize>, mistakes: &mut Vec<Mistake>) -> Option<Given> {
    let (mut tables, mut texts) = (Vec::new(), Vec::new());
    for row in rows {
        match row.get_ref() {
            DeValue::Table(_) => tables.push(json(row.get_ref()).to_string()),
            DeValue::String(text) => texts.push(text.to_string()),
            other => {
                let what = format!("a row is a table or the text of a message, and this is {}", article(other));
                mistakes.push(Mistake::at(row.span(), what));
                return None;
            }
        }
    }
    match (tables.is_empty(), texts.is_empty()) {
        (_, true) => Some(Given::Rows(tables)),
        (true, false) => Some(Given::Messages(texts)),
        (false, false) => {
            let what = "rows are all tables, or all texts of messages";
            mistakes.push(Mistake::at(span.clone(), what).help("make two tests of it".to_owned()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_fits_when_the_values_that_are_named_are_the_same() {
        let expected = Expected(json!({ "n": 5, "at": "2026-01-01T00:00:00Z", "list": [1.0] }));
        assert_eq!(
            expected.difference(&json!({ "n": 5.0, "at": "2026-01-01T00:00:00+00:00", "list": [1], "x": 1 })),
            None
        );
        assert_eq!(
            expected.difference(&json!({ "n": 6, "list": [1] })).unwrap(),
            "there is no `at`, `n` is 6 and not 5"
        );
    }
}
