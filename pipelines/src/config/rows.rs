//! Rows of `[[tests]]` as JSON.

use serde_json::{Map, Number, Value as Json};
use toml::de::DeValue;

/// A value of the file as JSON: times as text in RFC 3339.
pub(super) fn json(value: &DeValue<'_>) -> Json {
    match value {
        DeValue::String(text) => Json::String(text.to_string()),
        DeValue::Integer(number) => {
            let text = number.to_string();
            let signed = i64::from_str_radix(number.as_str(), number.radix()).map(Number::from);
            let number = signed.or_else(|_| u64::from_str_radix(number.as_str(), number.radix()).map(Number::from));
            number.map_or(Json::String(text), Json::Number)
        }
        DeValue::Float(number) => {
            let parsed = number.as_str().parse().ok().and_then(Number::from_f64);
            parsed.map_or_else(|| Json::String(number.as_str().to_owned()), Json::Number)
        }
        DeValue::Boolean(truth) => Json::Bool(*truth),
        DeValue::Datetime(time) => Json::String(time.to_string()),
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(table) => {
            let entries = table.iter().map(|(key, value)| (key.get_ref().to_string(), json(value.get_ref())));
            Json::Object(entries.collect::<Map<_, _>>())
        }
    }
}
