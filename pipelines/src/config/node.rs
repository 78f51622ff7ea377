//! [`NodeTable`]: the table of one node of the file, checked and ready to be wired.

use std::ops::Range;
use std::sync::Arc;

use millstream_operators::Problem;
use millstream_operators::suggest::{did_you_mean, list};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use toml::Spanned;
use toml::de::{DeValue, ValueDeserializer};

use super::validate::{Check, article};
use super::variables::Outside;
use super::{Mistake, Table, Value};
use crate::graph::UNSAID;
use crate::registry::{Common, Kind, Payloads, Place, Records, Registry, RejectedWord, Rows, Section, StepKeys};

/// A node of the file.
pub(super) struct NodeTable<'f> {
    pub(super) name: String,
    pub(super) section: Section,
    /// Where its name stands.
    pub(super) at: Range<usize>,
    /// The whole table, to find the places of its settings in.
    pub(super) table: Value<'f>,
    /// What can be wired; nothing when something is wrong with the table.
    pub(super) ready: Option<Ready<'f>>,
    /// The names that it reads, with their places, even if something else is wrong with it.
    pub(super) from: Vec<(String, Range<usize>)>,
    /// Those that it reads by settings of its own.
    pub(super) reads: Vec<Read>,
}

/// The name of other rows in a setting.
pub(super) struct Read {
    pub(super) setting: &'static str,
    pub(super) name: String,
    pub(super) at: Range<usize>,
}

/// A table without mistakes.
pub(super) struct Ready<'f> {
    pub(super) kind: Arc<Kind>,
    /// The keys of its own kind.
    pub(super) own: Spanned<Table<'f>>,
    pub(super) common: Common,
    pub(super) on_error: Option<RejectedWord>,
    pub(super) parallelism: Option<u32>,
    /// Keys whose values are not what was meant, because something is wrong with them: what follows from that is no
    /// mistake of its own.
    pub(super) lacking: Vec<String>,
}

/// Puts the keys that all kinds of a place share and those of one kind together into one schema.
pub(crate) fn merged(common: &Json, own: &Json) -> Json {
    let mut merged = Map::new();
    for part in ["properties", "$defs"] {
        let entries = [common, own].into_iter().filter_map(|schema| schema.get(part)?.as_object());
        let all: Map<String, Json> = entries.flat_map(|map| map.iter().map(|(k, v)| (k.clone(), v.clone()))).collect();
        merged.insert(part.to_owned(), Json::Object(all));
    }
    let required = [common, own].into_iter().filter_map(|schema| schema.get("required")?.as_array());
    merged.insert("required".to_owned(), required.flatten().cloned().collect());
    merged.insert("type".to_owned(), "object".into());
    merged.insert("additionalProperties".to_owned(), false.into());
    if let Some(description) = own.get("description") {
        merged.insert("description".to_owned(), description.clone());
    }
    Json::Object(merged)
}

/// Reads the table of a node; what is wrong with it is noted.
pub(super) fn read<'f>(
    name: Option<(String, Range<usize>)>,
    mut value: Value<'f>,
    section: Section,
    registry: &Registry,
    outside: &Outside<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<NodeTable<'f>> {
    let span = value.span();
    let DeValue::Table(table) = value.get_ref() else {
        let what = format!("a {} is a table, and this is {}", section.one(), article(value.get_ref()));
        mistakes.push(Mistake::at(span, what));
        return None;
    };
    let text = |key: &str| table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value);
    let (name, at) = match name {
        Some(named) => named,
        None => match text("name").map(|value| (value.get_ref().as_str(), value.span())) {
            Some((Some(name), at)) => (name.to_owned(), at),
            _ => (String::new(), span.clone()),
        },
    };
    let from = text("from").map(names).unwrap_or_default();
    let before = mistakes.len();
    let at_table = span.clone();
    let kind = kind_of(table, &at, section, registry, mistakes);
    let mut ready = None;
    let reads = kind.as_ref().map(|kind| kind.reads).unwrap_or_default();
    if let Some(kind) = kind {
        let schema = merged(&kind.place.common(), &kind.schema);
        Check::new(&schema, outside).all(&mut value, "", mistakes);
        let own = mistakes.get(before..).unwrap_or_default();
        if own.is_empty() {
            match split(&value, &kind, Vec::new()) {
                Ok(made) => ready = Some(made),
                Err(error) => mistakes.push(Mistake::at(error.span().or(Some(span)), error.message())),
            }
        } else {
            // The rest of the table may have mistakes as well, which only show when it is wired.
            ready = mend(&value, &schema, own, &at_table, &kind);
        }
    }
    let mut node = NodeTable { name, section, at, table: value, ready, from, reads: Vec::new() };
    node.reads = reads.iter().filter_map(|setting| node.read(setting)).collect();
    Some(node)
}

fn names(value: &Value<'_>) -> Vec<(String, Range<usize>)> {
    let one = |value: &Value<'_>| value.get_ref().as_str().map(|name| (name.to_owned(), value.span()));
    match value.get_ref() {
        DeValue::Array(items) => items.iter().filter_map(one).collect(),
        _ => one(value).into_iter().collect(),
    }
}

/// Which kind a table is of: what `kind` says, or in a step the key that only one kind has.
fn kind_of(
    table: &Table<'_>,
    at: &Range<usize>,
    section: Section,
    registry: &Registry,
    mistakes: &mut Vec<Mistake>,
) -> Option<Arc<Kind>> {
    let known = || registry.kinds(section).map(|kind| kind.word);
    let all = list("kinds", known());
    if let Some((_, value)) = table.iter().find(|(key, _)| key.get_ref() == "kind") {
        let Some(word) = value.get_ref().as_str() else {
            let what = format!("`kind` must be text, and is {}", article(value.get_ref()));
            mistakes.push(Mistake::at(value.span(), what).help(all));
            return None;
        };
        let found = registry.kind(section, word).cloned();
        if found.is_none() {
            let what = format!("there is no kind of {} called `{word}`", section.one());
            mistakes.push(Mistake::at(value.span(), what).help(did_you_mean(word, "kinds", known())));
        }
        return found;
    }
    if section != Section::Steps {
        let what = format!("the {} does not say its kind", section.one());
        mistakes.push(Mistake::at(at.clone(), what).help(all.map(|all| format!("add `kind = \"…\"`; {all}"))));
        return None;
    }
    let said: Vec<_> = table.iter().filter(|(key, _)| registry.kind(section, key.get_ref()).is_some()).collect();
    match said.as_slice() {
        [(verb, _)] => registry.kind(section, verb.get_ref()).cloned(),
        [] => {
            let shared = ["name", "from", "kind", "on_error", "parallelism"];
            let odd = table.iter().find(|(key, _)| !shared.contains(&key.get_ref().as_ref()));
            let verbs = list("verbs", known());
            mistakes.push(match odd {
                Some((key, _)) => {
                    let owns = |kind: &&Arc<Kind>| {
                        kind.schema.get("properties").is_some_and(|own| own.get(key.get_ref().as_ref()).is_some())
                    };
                    match registry.kinds(section).find(owns).map(|kind| kind.word) {
                        Some(verb) => {
                            let what =
                                format!("`{}` belongs to the verb `{verb}`, which the step lacks", key.get_ref());
                            Mistake::at(key.span(), what).help(Some(format!("add `{verb} = …`")))
                        }
                        None => {
                            let what = format!("there is no verb `{}`, and the step has no other", key.get_ref());
                            Mistake::at(key.span(), what).help(did_you_mean(key.get_ref(), "verbs", known()))
                        }
                    }
                }
                None => Mistake::at(at.clone(), "the step does nothing").help(verbs),
            });
            None
        }
        [(first, _), (second, _), ..] => {
            let what = format!("the step does two things: `{}` and `{}`", first.get_ref(), second.get_ref());
            let help = "make two steps of it, the second reading the first".to_owned();
            mistakes.push(Mistake::at(second.span(), what).help(help));
            None
        }
    }
}

/// Takes the keys that all kinds share out of a checked table, and reads them.
fn split<'f>(value: &Value<'f>, kind: &Arc<Kind>, lacking: Vec<String>) -> Result<Ready<'f>, toml::de::Error> {
    let common_schema = kind.place.common();
    let shared = common_schema.get("properties").and_then(Json::as_object);
    let (mut common, mut own) = (Table::new(), Table::new());
    if let DeValue::Table(table) = value.get_ref() {
        for (key, value) in table {
            let is_own = kind.schema.get("properties").is_some_and(|own| own.get(key.get_ref().as_ref()).is_some());
            let is_shared = shared.is_some_and(|shared| shared.contains_key(key.get_ref().as_ref()));
            let to = if is_shared && !is_own { &mut common } else { &mut own };
            to.insert(key.clone(), value.clone());
        }
    }
    let span = value.span();
    let common = Value::new(span.clone(), DeValue::Table(common));
    let own = Spanned::new(span, own);
    let (kind, place) = (Arc::clone(kind), kind.place);
    let ready = |common, on_error, parallelism| Ready { kind, own, common, on_error, parallelism, lacking };
    Ok(match place {
        Place::Payloads => {
            let keys = Payloads::deserialize(ValueDeserializer::from(common))?;
            let on_error = keys.on_error.clone();
            ready(Common::Payloads(Box::new(keys)), on_error, None)
        }
        Place::Rows => ready(Common::Other, Rows::deserialize(ValueDeserializer::from(common))?.on_error, None),
        Place::Step => {
            let keys = StepKeys::deserialize(ValueDeserializer::from(common))?;
            ready(Common::Other, keys.on_error, keys.parallelism)
        }
        Place::Records => {
            let keys = Records::deserialize(ValueDeserializer::from(common))?;
            let (on_error, parallelism) = (keys.on_error.clone(), keys.parallelism);
            ready(Common::Records(Box::new(keys)), on_error, parallelism)
        }
        Place::Rejected => ready(Common::Other, None, None),
    })
}

/// The table without the keys that are wrong; those that must be there get something in their place.
fn mend<'f>(
    value: &Value<'f>,
    schema: &Json,
    mistakes: &[Mistake],
    whole: &Range<usize>,
    kind: &Arc<Kind>,
) -> Option<Ready<'f>> {
    let DeValue::Table(table) = value.get_ref() else { return None };
    let within = |span: &Range<usize>| {
        let hit = |at: &Range<usize>| at != whole && span.start <= at.start && at.end <= span.end;
        mistakes.iter().filter_map(|mistake| mistake.at.as_ref()).any(hit)
    };
    let (mut mended, mut lacking) = (Table::new(), Vec::new());
    for (key, value) in table {
        match within(&key.span()) || within(&value.span()) {
            true => lacking.push(key.get_ref().to_string()),
            false => drop(mended.insert(key.clone(), value.clone())),
        }
    }
    let required = schema.get("required")?.as_array()?.iter().filter_map(Json::as_str);
    for key in required.filter(|key| !table_has(&mended, key)).collect::<Vec<_>>() {
        let text = placeholder(schema.get("properties")?.get(key)?, schema)?;
        let at = value.span().start..value.span().start;
        let text = DeValue::String(text.into());
        mended.insert(Spanned::new(at.clone(), key.to_owned().into()), Spanned::new(at, text));
        lacking.push(key.to_owned());
    }
    split(&Value::new(value.span(), DeValue::Table(mended)), kind, lacking).ok()
}

fn table_has(table: &Table<'_>, key: &str) -> bool {
    table.iter().any(|(name, _)| name.get_ref() == key)
}

/// A text that a schema takes, where it takes text.
fn placeholder(schema: &Json, root: &Json) -> Option<String> {
    let schema = match schema.get("$ref").and_then(Json::as_str).and_then(|name| name.strip_prefix('#')) {
        Some(pointer) => root.pointer(pointer)?,
        None => schema,
    };
    let words = |schema: &Json| {
        let listed = schema.get("enum").and_then(|all| all.as_array()?.first()?.as_str());
        listed.or_else(|| schema.get("const")?.as_str()).map(str::to_owned)
    };
    let alternatives = ["oneOf", "anyOf"].into_iter().filter_map(|word| schema.get(word)?.as_array()).flatten();
    let word = words(schema).or_else(|| alternatives.filter_map(words).next());
    word.or_else(|| (schema.get("type")?.as_str()? == "string").then(|| "placeholder".to_owned()))
}

impl<'f> NodeTable<'f> {
    /// The names of all that it reads, with their places.
    pub(super) fn upstream(&self) -> impl Iterator<Item = (&str, &Range<usize>)> {
        let from = self.from.iter().map(|(name, at)| (name.as_str(), at));
        from.chain(self.reads.iter().map(|read| (read.name.as_str(), &read.at)))
    }

    fn read(&self, setting: &'static str) -> Option<Read> {
        let value = self.setting(setting)?;
        Some(Read { setting, name: value.get_ref().as_str()?.to_owned(), at: value.span() })
    }

    /// Whether a node of the graph is this one or a part of it.
    pub(super) fn is(&self, node: &str) -> bool {
        !node.is_empty()
            && (self.name == node || node.strip_prefix(&self.name).is_some_and(|rest| rest.starts_with('/')))
    }

    /// Whether a problem follows from keys of the table that are wrong themselves.
    pub(super) fn lacks(&self, problem: &Problem) -> bool {
        let Some(ready) = &self.ready else { return false };
        let setting = problem.setting.as_deref().unwrap_or_default();
        let first = setting.split('.').next().unwrap_or_default();
        ready.lacking.iter().any(|key| key == first) || (!ready.lacking.is_empty() && problem.what == UNSAID)
    }

    /// Whether rows are led to it by a `from`; a sink without one takes rejected rows.
    pub(super) fn is_outlet(&self) -> bool {
        let DeValue::Table(table) = self.table.get_ref() else { return false };
        self.section == Section::Sinks && !table.iter().any(|(key, _)| key.get_ref() == "from")
    }

    /// The value of a setting, by its path of keys; the longest part of the path that is there.
    pub(super) fn setting(&self, path: &str) -> Option<&Value<'f>> {
        let (mut at, mut rest) = (&self.table, path);
        let mut found = None;
        while !rest.is_empty() {
            let DeValue::Table(table) = at.get_ref() else { break };
            // Keys may hold dots themselves.
            let key = table.iter().find(|(key, _)| {
                rest.strip_prefix(key.get_ref().as_ref()).is_some_and(|more| more.is_empty() || more.starts_with('.'))
            });
            let Some((key, value)) = key else { break };
            rest = rest.strip_prefix(key.get_ref().as_ref()).unwrap_or("").trim_start_matches('.');
            (at, found) = (value, Some(value));
        }
        found
    }
}
