//! [`generate`]: rows from nothing in the DSL of columns.

use std::sync::Arc;

use millstream_operators::Problem;
use millstream_operators::columnar::numbers_schema;
use millstream_pipelines::dsl::{Frame, IntoFrame, OnRejected, Pipeline, SourceNode};
use millstream_pipelines::graph::erase_source;

use super::{GenerateSource, clock, refuse_until_end};

// What is slower or quicker than this is a slip of whoever wrote it.
const SLOWEST: f64 = 0.001;
const QUICKEST: f64 = 1e9;

/// Rows from nothing, for [`Pipeline::rows`]: their columns are computed by SQL expressions over `n`, the number of the row
/// from 0 on, and `at`, when it is due. They come as fast as they are taken and without end, unless said otherwise.
///
/// ```
/// use millstream::prelude::*;
/// let pipeline = Pipeline::new("made");
/// let orders = generate([("id", "n"), ("amount", "n % 100 * 1.5"), ("at", "at")]).rate(1_000.0).count(50_000);
/// let to = columns_to(jetstream_to("ORDERS"), EncodeFormat::Json).subject("orders.new");
/// pipeline.rows("made", orders.on_rejected(OnRejected::Stop)).sink("orders", to);
/// assert!(pipeline.build().is_ok());
/// ```
pub fn generate<N: Into<String>, S: Into<String>>(columns: impl IntoIterator<Item = (N, S)>) -> Generated {
    let columns = columns.into_iter().map(|(name, sql)| (name.into(), sql.into())).collect();
    Generated { columns, rate: None, count: u64::MAX, rejected: None }
}

/// See [`generate`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Generated {
    columns: Vec<(String, String)>,
    rate: Option<f64>,
    count: u64,
    rejected: Option<OnRejected>,
}

impl Generated {
    /// So many rows a second.
    pub fn rate(mut self, rows_a_second: f64) -> Self {
        self.rate = Some(rows_a_second);
        self
    }

    /// So many rows, and then the source ends.
    pub fn count(mut self, rows: u64) -> Self {
        self.count = rows;
        self
    }

    /// What becomes of rows that an expression, or a verb behind, cannot compute something for.
    pub fn on_rejected(mut self, rejected: OnRejected) -> Self {
        self.rejected = Some(rejected);
        self
    }
}

impl IntoFrame for Generated {
    fn wire(self, pipeline: &Pipeline, name: &str) -> Frame {
        let Generated { columns, rate, count, rejected } = self;
        let mut node = generate_node(rate, count);
        if let Some(rate) = rate.filter(|rate| !(SLOWEST..=QUICKEST).contains(rate)) {
            let what = format!("{rate} rows a second cannot be kept to");
            let help = format!("say {SLOWEST} to {QUICKEST}, or nothing for as fast as they are taken");
            node.problems.push(Problem::at(name, what).in_setting("rate").help(help));
        }
        let numbers = pipeline.rows_node(name, node, &numbers_schema());
        let numbers = match rejected {
            Some(rejected) => numbers.on_rejected(rejected),
            None => numbers,
        };
        numbers.select_as(&format!("{name}/fields"), "fields", columns)
    }
}

/// The node that gives the numbers.
pub(super) fn generate_node(rate: Option<f64>, count: u64) -> SourceNode {
    let detail = match rate {
        Some(rate) => format!("{rate} rows a second"),
        None => "as fast as they are taken".to_owned(),
    };
    SourceNode {
        kind: "generate".into(),
        detail,
        make: Arc::new(move |subtask| {
            if count == u64::MAX {
                refuse_until_end(subtask, "rows that are generated without a `count` have no such end: give it one")?;
            }
            Ok(erase_source(GenerateSource::new(rate, count, clock(subtask))))
        }),
        touches: Vec::new(),
        access: Vec::new(),
        shared: false,
        at_most_once: None,
        problems: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use millstream_operators::columnar::EncodeFormat;
    use millstream_pipelines::config::{Options, load};
    use millstream_pipelines::dsl::columns_to;
    use millstream_pipelines::graph::{View, explain};

    use super::*;
    use crate::connectors::{registry, stdout};

    fn shown(generated: Generated) -> Pipeline {
        let pipeline = Pipeline::new("made");
        let to = columns_to(stdout(), EncodeFormat::Json).on_rejected(OnRejected::Stop);
        pipeline.rows("made", generated.on_rejected(OnRejected::Stop)).sink("shown", to);
        pipeline
    }

    #[test]
    fn rows_are_generated_as_a_pipeline_file_does_it_node_for_node() {
        let file = r#"
            name = "made"
            on_error = "stop"
            [sources.made]
            kind = "generate"
            rate = 10
            count = 3
            fields = { id = "'o-' || n", share = "1 / n" }
            [sinks.shown]
            kind = "stdout"
            from = "made"
        "#;
        let loaded =
            load("made.toml", file, &Options::new(&registry())).unwrap_or_else(|report| unreachable!("{report}"));
        let built = shown(generate([("id", "'o-' || n"), ("share", "1 / n")]).rate(10.0).count(3)).build().unwrap();
        assert_eq!(explain(&built, View::Text), explain(&loaded.graph, View::Text));
    }

    #[test]
    fn mistakes_are_reported_with_all_others_when_the_pipeline_is_built() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let told = shown(generate([("id", "n"), ("x", "m + 1")]).rate(rate)).build().unwrap_err().to_string();
            for part in ["made.rate: ", "say 0.001 to 1000000000, or nothing", "made/fields.fields.x: "] {
                assert!(told.contains(part), "{part} is not in {told}");
            }
        }
    }
}
