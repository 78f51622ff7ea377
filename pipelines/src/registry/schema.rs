//! [`file_schema`]: the JSON Schema of the pipeline file, for editors.

use serde_json::{Map, Value as Json, json};

use super::{Place, Registry, Section, schema_of};
use crate::config::FileSettings;

/// The JSON Schema (2020-12) of a pipeline file with these kinds of nodes.
pub fn file_schema(registry: &Registry) -> Json {
    let mut definitions = Map::new();
    let mut file = taken(schema_of::<FileSettings>(), &mut definitions);
    let section = |section: Section, definitions: &mut Map<String, Json>| {
        let kinds: Vec<Json> = registry
            .kinds(section)
            .map(|kind| {
                let merged = crate::config::merged(&kind.place.common(), &kind.schema);
                let mut schema = taken(merged, definitions);
                if kind.place != Place::Step
                    && let Some(word) = schema.pointer_mut("/properties/kind")
                {
                    *word = json!({ "const": kind.word, "description": format!("A {} of the kind `{}`.", section.one(), kind.word) });
                }
                schema
            })
            .collect();
        json!({ "anyOf": kinds })
    };
    let sources = section(Section::Sources, &mut definitions);
    let steps = section(Section::Steps, &mut definitions);
    let sinks = section(Section::Sinks, &mut definitions);
    let row = json!({ "type": "object", "description": "Values by column.", "additionalProperties": true });
    let rows = json!({ "type": "array", "items": { "anyOf": [row.clone(), { "type": "string" }] } });
    let mut add = |key: &str, schema: Json| {
        if let Some(properties) = file.get_mut("properties").and_then(Json::as_object_mut) {
            properties.insert(key.to_owned(), schema);
        }
    };
    add(
        "sources",
        json!({ "type": "object", "description": "Where rows come from, by name.", "additionalProperties": sources }),
    );
    add("steps", json!({ "type": "array", "description": "What is done to rows.", "items": steps }));
    add("sinks", json!({ "type": "object", "description": "Where rows go, by name.", "additionalProperties": sinks }));
    add(
        "tests",
        json!({
            "type": "array",
            "description": "Rows that go in, and rows that must come out; `millstream test` runs them.",
            "items": {
                "type": "object",
                "required": ["name", "input", "expect"],
                "additionalProperties": false,
                "properties": {
                    "name": { "type": "string", "description": "What the test says about the pipeline." },
                    "input": { "type": "object", "description": "Rows or texts of messages by source.", "additionalProperties": rows },
                    "expect": { "type": "object", "description": "Rows by sink; columns that are not named are not compared.", "additionalProperties": { "type": "array", "items": row } },
                    "unordered": { "type": "boolean", "description": "Rows may come in any order." },
                    "now": { "description": "What `now()` is." }
                }
            }
        }),
    );
    for table in registry.tables() {
        let schema = taken(table.schema.clone(), &mut definitions);
        add(table.word, schema);
    }
    if let Some(file) = file.as_object_mut() {
        file.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
        file.insert("title".to_owned(), "Millstream pipeline".into());
        file.insert("additionalProperties".to_owned(), false.into());
        file.insert("$defs".to_owned(), Json::Object(definitions));
    }
    file
}

/// A schema whose definitions are moved to those of the file, and whose objects take no other keys.
fn taken(mut schema: Json, definitions: &mut Map<String, Json>) -> Json {
    if let Some(Json::Object(own)) = schema.as_object_mut().and_then(|schema| schema.remove("$defs")) {
        for (name, mut definition) in own {
            close(&mut definition);
            definitions.insert(name, definition);
        }
    }
    close(&mut schema);
    schema
}

fn close(schema: &mut Json) {
    match schema {
        Json::Object(map) => {
            map.values_mut().for_each(close);
            // Objects have named properties, or values of one kind under any name.
            if map.get("properties").is_some_and(Json::is_object) && map.contains_key("type") {
                map.entry("additionalProperties").or_insert(Json::Bool(false));
            }
        }
        Json::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every<'s>(schema: &'s Json, visit: &mut impl FnMut(&'s serde_json::Map<String, Json>)) {
        match schema {
            Json::Object(map) => {
                visit(map);
                map.values().for_each(|value| every(value, visit));
            }
            Json::Array(items) => items.iter().for_each(|item| every(item, visit)),
            _ => {}
        }
    }

    #[test]
    fn what_the_schema_refers_to_is_there_and_tables_take_no_other_keys() {
        let schema = file_schema(&Registry::default());
        every(&schema, &mut |map| {
            if let Some(name) = map.get("$ref").and_then(Json::as_str) {
                assert!(schema.pointer(name.trim_start_matches('#')).is_some(), "{name}");
            }
            if map.get("type").is_some_and(|word| word == "object") {
                assert!(map.contains_key("additionalProperties"), "{map:?}");
            }
        });
        for step in ["filter", "set", "select", "drop", "explode", "route", "merge", "throttle", "sample", "rebalance"]
        {
            let kinds = schema.pointer("/properties/steps/items/anyOf").and_then(Json::as_array).unwrap();
            let of = |kind: &&Json| kind.pointer(&format!("/properties/{step}")).is_some();
            let kind = kinds.iter().find(of).unwrap_or_else(|| panic!("{step}"));
            assert!(kind.get("description").is_some() && kind.pointer("/properties/from").is_some(), "{step}");
        }
    }
}
