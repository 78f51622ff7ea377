//! [`Check`]: a value of the file against the JSON Schema of what it should be, with all that is wrong at once.
//!
//! Serde stops at the first mistake of a table. The schema of a node's keys, which editors use as well, finds all of
//! them, each with its place. Only what schemas of our own types hold is understood: it is no general validator.

use std::ops::Range;

use millstream_operators::suggest::{did_you_mean, list};
use serde_json::Value as Json;
use toml::de::DeValue;

use super::variables::Outside;
use super::{Mistake, Value};
use crate::registry::{DURATION, SIZE, Size, Span};

/// What marks a text in a schema that may be given by reference.
pub(crate) const SECRET: &str = "x-secret";

/// A check against one schema.
pub(super) struct Check<'a> {
    /// The schema that `$ref`s are found in.
    root: &'a Json,
    outside: &'a Outside<'a>,
}

impl<'a> Check<'a> {
    pub(super) fn new(root: &'a Json, outside: &'a Outside<'a>) -> Self {
        Check { root, outside }
    }

    /// Checks a value against the whole schema; secrets that are given by reference are filled in.
    pub(super) fn all(&self, value: &mut Value<'_>, key: &str, mistakes: &mut Vec<Mistake>) {
        self.value(value, self.root, key, mistakes);
    }

    fn resolve<'s>(&self, schema: &'s Json) -> &'s Json
    where
        'a: 's,
    {
        match schema.get("$ref").and_then(Json::as_str).and_then(|name| name.strip_prefix('#')) {
            Some(pointer) => self.root.pointer(pointer).unwrap_or(schema),
            None => schema,
        }
    }

    fn value(&self, value: &mut Value<'_>, schema: &Json, key: &str, mistakes: &mut Vec<Mistake>) {
        let schema = self.resolve(schema);
        if schema.get(SECRET).is_some()
            && let Some(secret) = self.outside.secret(value.get_ref())
        {
            match secret {
                Ok(text) => *value.get_mut() = DeValue::String(text.into()),
                Err(why) => mistakes.push(Mistake::at(value.span(), why)),
            }
            return;
        }
        if let Some(alternatives) = ["anyOf", "oneOf"].iter().find_map(|word| schema.get(word)?.as_array()) {
            return self.one_of(value, alternatives, key, mistakes);
        }
        if !has_type(schema, value.get_ref()) {
            let what = format!("`{key}` must be {}, and is {}", wanted(schema), article(value.get_ref()));
            return mistakes.push(Mistake::at(value.span(), what));
        }
        let span = value.span();
        match value.get_mut() {
            DeValue::String(text) => check_text(text, &span, schema, key, mistakes),
            DeValue::Integer(number) => check_number(number.to_string().parse().ok(), &span, schema, key, mistakes),
            DeValue::Float(number) => check_number(number.as_str().parse().ok(), &span, schema, key, mistakes),
            DeValue::Array(items) => {
                if let Some(schema) = schema.get("items") {
                    items.iter_mut().for_each(|item| self.value(item, schema, key, mistakes));
                }
            }
            DeValue::Table(_) => self.table(value, schema, key, mistakes),
            DeValue::Boolean(_) | DeValue::Datetime(_) => {}
        }
    }

    fn table(&self, value: &mut Value<'_>, schema: &Json, key: &str, mistakes: &mut Vec<Mistake>) {
        let span = value.span();
        let DeValue::Table(table) = value.get_mut() else { return };
        let known = schema.get("properties").and_then(Json::as_object);
        let names = || known.into_iter().flat_map(|known| known.keys().map(String::as_str));
        for (name, value) in table.iter_mut() {
            let word = name.get_ref().as_ref();
            match (known.and_then(|known| known.get(word)), schema.get("additionalProperties")) {
                (Some(schema), _) => self.value(value, schema, word, mistakes),
                (None, Some(schema)) if schema.is_object() => self.value(value, schema, word, mistakes),
                (None, Some(Json::Bool(true))) => {}
                (None, _) => {
                    let what = format!("there is no key `{word}` here");
                    mistakes.push(Mistake::at(name.span(), what).help(did_you_mean(word, "keys", names())));
                }
            }
        }
        let required = schema.get("required").and_then(Json::as_array);
        for missing in required.into_iter().flatten().filter_map(Json::as_str) {
            if !table.iter().any(|(name, _)| name.get_ref() == missing) {
                let of = if key.is_empty() { String::new() } else { format!(" in `{key}`") };
                let help = known.and_then(|known| known.get(missing)).and_then(|schema| describe(self.resolve(schema)));
                mistakes.push(Mistake::at(span.clone(), format!("the key `{missing}` is missing{of}")).help(help));
            }
        }
    }

    /// Checks against the alternative that was most likely meant.
    fn one_of(&self, value: &mut Value<'_>, alternatives: &[Json], key: &str, mistakes: &mut Vec<Mistake>) {
        let alternatives: Vec<&Json> = alternatives.iter().map(|schema| self.resolve(schema)).collect();
        let mut failed = Vec::new();
        for schema in &alternatives {
            let (mut copy, mut wrong) = (value.clone(), Vec::new());
            self.value(&mut copy, schema, key, &mut wrong);
            if wrong.is_empty() {
                *value = copy;
                return;
            }
            failed.push((*schema, wrong));
        }
        failed.retain(|(schema, _)| has_type(schema, value.get_ref()));
        // Of several tables, the one that has most of the keys that are there.
        if let DeValue::Table(table) = value.get_ref() {
            let shared = |schema: &Json| {
                let known = schema.get("properties").and_then(Json::as_object);
                table
                    .iter()
                    .filter(|(key, _)| known.is_some_and(|known| known.contains_key(key.get_ref().as_ref())))
                    .count()
            };
            let most = failed.iter().map(|(schema, _)| shared(schema)).max().unwrap_or(0);
            if most == 0 && failed.len() > 1 {
                let known = || {
                    let all = failed.iter().filter_map(|(schema, _)| schema.get("properties")?.as_object());
                    all.flat_map(|known| known.keys().map(String::as_str)).collect::<Vec<_>>()
                };
                for (name, _) in table {
                    let what = format!("there is no key `{}` here", name.get_ref());
                    let help = did_you_mean(name.get_ref(), "keys", known());
                    mistakes.push(Mistake::at(name.span(), what).help(help));
                }
                if table.is_empty() {
                    let help = list("keys", known());
                    mistakes.push(Mistake::at(value.span(), format!("`{key}` is empty")).help(help));
                }
                return;
            }
            failed.retain(|(schema, _)| shared(schema) == most);
        }
        let words: Vec<&str> = alternatives.iter().flat_map(|schema| words(schema)).collect();
        match (value.get_ref(), failed.len()) {
            (DeValue::String(text), _) if !words.is_empty() => {
                mistakes.push(wrong_word(text, &value.span(), key, &words));
            }
            (_, 1) => mistakes.extend(failed.into_iter().flat_map(|(_, wrong)| wrong)),
            _ => {
                let mut wanted: Vec<String> = alternatives.iter().map(|schema| wanted(schema)).collect();
                wanted.retain(|word| word != "nothing");
                wanted.dedup();
                let what = format!("`{key}` must be {}, and is {}", wanted.join(" or "), article(value.get_ref()));
                mistakes.push(Mistake::at(value.span(), what));
            }
        }
    }
}

fn describe(schema: &Json) -> Option<String> {
    let text = schema.get("description")?.as_str()?;
    Some(text.trim_end_matches('.').replace('\n', " "))
}

/// The words that a text may be.
fn words(schema: &Json) -> Vec<&str> {
    let listed = schema.get("enum").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
    listed.chain(schema.get("const").and_then(Json::as_str)).collect()
}

fn wrong_word(text: &str, span: &Range<usize>, key: &str, words: &[&str]) -> Mistake {
    let what = format!("`{text}` is none of the words for `{key}`");
    Mistake::at(span.clone(), what).help(did_you_mean(text, "words", words.iter().copied()))
}

fn check_text(text: &str, span: &Range<usize>, schema: &Json, key: &str, mistakes: &mut Vec<Mistake>) {
    let words = words(schema);
    if !words.is_empty() && !words.contains(&text) {
        return mistakes.push(wrong_word(text, span, key, &words));
    }
    let wrong = match schema.get("format").and_then(Json::as_str) {
        Some(DURATION) => Span::parse(text).err(),
        Some(SIZE) => Size::parse(text).err(),
        _ => None,
    };
    mistakes.extend(wrong.map(|what| Mistake::at(span.clone(), what)));
}

fn check_number(number: Option<f64>, span: &Range<usize>, schema: &Json, key: &str, mistakes: &mut Vec<Mistake>) {
    let number = number.unwrap_or(f64::INFINITY);
    let bound = |word| schema.get(word).and_then(Json::as_f64);
    let most = match schema.get("format").and_then(Json::as_str) {
        Some("uint32") => Some(f64::from(u32::MAX)),
        Some("int32") => Some(f64::from(i32::MAX)),
        Some("uint16") => Some(f64::from(u16::MAX)),
        _ => None,
    };
    let (least, most) = (bound("minimum"), bound("maximum").or(most));
    if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
        let what = match (least, most) {
            (Some(least), Some(most)) => format!("`{key}` must be from {least} to {most}"),
            (Some(least), None) => format!("`{key}` must be at least {least}"),
            (_, most) => format!("`{key}` must be at most {}", most.unwrap_or_default()),
        };
        mistakes.push(Mistake::at(span.clone(), what));
    }
}

fn types(schema: &Json) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(one)) => vec![one],
        Some(Json::Array(many)) => many.iter().filter_map(Json::as_str).collect(),
        _ if schema.get("properties").is_some() => vec!["object"],
        _ if schema.get("const").is_some_and(Json::is_string) || schema.get("enum").is_some() => vec!["string"],
        _ => Vec::new(),
    }
}

/// Whether a value is of one of the schema's types, whatever is in it.
fn has_type(schema: &Json, value: &DeValue<'_>) -> bool {
    let types = types(schema);
    let is = match value {
        DeValue::String(_) | DeValue::Datetime(_) => &["string"][..],
        DeValue::Integer(_) => &["integer", "number"],
        DeValue::Float(_) => &["number"],
        DeValue::Boolean(_) => &["boolean"],
        DeValue::Array(_) => &["array"],
        DeValue::Table(_) => &["object"],
    };
    types.is_empty() || types.iter().any(|word| is.contains(word))
}

/// What a schema wants, in words.
fn wanted(schema: &Json) -> String {
    let words: Vec<_> = words(schema).iter().map(|word| format!("`{word}`")).collect();
    if !words.is_empty() {
        return words.join(" or ");
    }
    let names = types(schema).into_iter().filter(|word| *word != "null").map(|word| match word {
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a table",
        other => other,
    });
    let names: Vec<_> = names.collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(" or ") }
}

/// What a value is, in words.
pub(super) fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::Deserialize;
    use toml::de::DeTable;

    use super::*;
    use crate::registry::{Ordered, RejectedWord, schema_of};

    #[derive(Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Sample {
        /// How many.
        count: u32,
        #[schemars(range(min = 1, max = 9))]
        few: Option<u8>,
        pause: Option<Span>,
        on_error: Option<RejectedWord>,
        columns: Option<Ordered<String>>,
        inner: Option<Vec<Inner>>,
    }

    #[derive(Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Inner {
        yes: bool,
    }

    fn wrong(text: &str) -> Vec<String> {
        let mut table = DeTable::parse(text).unwrap();
        table.get_mut().make_owned();
        let mut value = Value::new(table.span(), DeValue::Table(table.into_inner()));
        let (schema, mut mistakes) = (schema_of::<Sample>(), Vec::new());
        let outside = Outside { variable: &|_| None, secret_file: &|_| Err(String::new()) };
        Check::new(&schema, &outside).all(&mut value, "", &mut mistakes);
        let show = |mistake: &Mistake| {
            let at = mistake.at.clone().map_or("", |at| &text[at]);
            let help = mistake.help.as_ref().map_or(String::new(), |help| format!(" ({help})"));
            format!("{at}: {}{help}", mistake.what)
        };
        mistakes.iter().map(show).collect()
    }

    #[test]
    fn what_fits_is_not_blamed() {
        let text =
            "count = 1\nfew = 2\npause = '1s'\non_error = 'stop'\ncolumns = { a = 'b' }\ninner = [{ yes = true }]";
        assert_eq!(wrong(text), [""; 0]);
        assert_eq!(wrong("count = 1\non_error = { send_to = 'dead' }"), [""; 0]);
    }

    #[test]
    fn all_that_is_wrong_with_a_table_is_found_at_once() {
        assert_eq!(
            wrong("few = 10\npause = 'soon'\ncuont = 5\ncolumns = { a = 1 }\ninner = [{ yes = 1 }, { yse = true }]"),
            [
                "10: `few` must be from 1 to 9",
                "'soon': `soon` is no span of time, such as `5s`, `250ms` or `1m30s`",
                "cuont: there is no key `cuont` here (did you mean `count`?)",
                "1: `a` must be text, and is a whole number",
                "1: `yes` must be true or false, and is a whole number",
                "yse: there is no key `yse` here (did you mean `yes`?)",
                "{ yse = true }: the key `yes` is missing in `inner`",
                ": the key `count` is missing (How many)",
            ]
        );
    }

    #[test]
    fn of_several_shapes_the_one_that_was_meant_is_explained() {
        let one = |text: &str| wrong(&format!("count = 1\non_error = {text}")).join("; ");
        assert_eq!(one("'stpo'"), "'stpo': `stpo` is none of the words for `on_error` (did you mean `stop`?)");
        assert_eq!(
            one("{ send_too = 'x' }"),
            "send_too: there is no key `send_too` here (did you mean `send_to`?); { send_too = 'x' }: the key `send_to` is missing in `on_error`"
        );
        assert_eq!(one("{ send_to = 5 }"), "5: `send_to` must be text, and is a whole number");
        assert!(
            one("5").contains("`on_error` must be `stop` or `drop` or a table, and is a whole number"),
            "{}",
            one("5")
        );
    }
}
