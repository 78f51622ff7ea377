//! [`LookUp`]: the step of a pipeline file that looks rows up in a key-value bucket.

use millstream_operators::columnar::DecodeFormat;
use millstream_pipelines::dsl::LookupValues;
use millstream_pipelines::registry::{Ordered, Spec, Wiring};
use schemars::JsonSchema;
use serde::Deserialize;

use super::kv_table;

/// Each row gets the columns that a key-value bucket has for it at that moment. The bucket is kept in memory and current
/// by a watch; no row is read before all of it is there.
#[derive(Deserialize, JsonSchema)]
pub(super) struct LookUp {
    /// `{ bucket = "CUSTOMERS", key = "customer", schema = { name = "utf8", tier = "utf8" } }`.
    lookup: Keys,
}

#[derive(Deserialize, JsonSchema)]
struct Keys {
    /// The bucket.
    bucket: String,
    /// The key of a row, an SQL expression: `customer`, or `'customer.' || id`.
    key: String,
    /// How the bucket's values are read; `json` if not given.
    #[serde(default)]
    format: Word,
    /// The columns of the values and their types.
    #[serde(default)]
    schema: Option<Ordered<String>>,
    /// What stands before the names of these columns.
    #[serde(default)]
    prefix: String,
    /// What becomes of rows for which the bucket has nothing: with `left` they get null, with `inner` they are dropped;
    /// `left` if not given.
    #[serde(default)]
    kind: Join,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Word {
    /// A JSON object.
    #[default]
    Json,
    /// A MessagePack map.
    Msgpack,
    /// The value of one text column.
    Text,
    /// The value of one binary column.
    Raw,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Join {
    /// All rows.
    #[default]
    Left,
    /// Those for which there is something.
    Inner,
}

impl From<Word> for DecodeFormat {
    fn from(word: Word) -> Self {
        match word {
            Word::Json => DecodeFormat::Json,
            Word::Msgpack => DecodeFormat::Msgpack,
            Word::Text => DecodeFormat::Text,
            Word::Raw => DecodeFormat::Raw,
        }
    }
}

impl Spec for LookUp {
    const KIND: &'static str = "lookup";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let Keys { bucket, key, format, schema, prefix, kind } = self.lookup;
        let (columns, inner) = (schema.map(|columns| columns.0), kind == Join::Inner);
        let values = LookupValues { key, format: format.into(), columns, prefix, inner };
        let rows = wiring.input().lookup(wiring.name(), &kv_table(bucket), values);
        wiring.output(rows);
    }
}

#[cfg(test)]
mod tests {
    use millstream_pipelines::config::{Options, load};
    use millstream_pipelines::graph::{Protocol, Resources, protocol};

    #[test]
    fn a_lookup_keeps_no_state_whether_or_not_there_are_tables_to_ask() {
        let text = r#"
name = "named"
guarantee = "effectively-once"

[sources.in]
kind = "jetstream"
stream = "IN"
format = "json"
schema = { region = "utf8" }
on_error = "drop"

[[steps]]
name = "named"
from = "in"
lookup = { bucket = "REGIONS", key = "region", schema = { title = "utf8" } }
on_error = "drop"

[sinks.out]
kind = "jetstream"
from = "named"
stream = "OUT"
subject = "out.all"
format = "json"
on_error = "stop"
"#;
        let registry = crate::connectors::registry();
        let graph = load("p.toml", text, &Options::new(&registry)).unwrap_or_else(|report| panic!("{report}")).graph;
        let stateless = Some(Protocol::Stateless { sink: "out".to_owned() });
        assert_eq!(protocol(&graph, &Resources::on_paper()), stateless);
    }
}
