//! [`load`]: from the text of a file to a pipeline, or to everything that is wrong with it.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use millstream_operators::Problem;
use millstream_operators::suggest::did_you_mean;
use serde::Deserialize;
use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::node::{self, NodeTable, Ready};
use super::place::Text;
use super::problem::place;
use super::unit_test::{self, UnitTest};
use super::validate::Check;
use super::variables::Outside;
use super::{FileSettings, Mistake, Report, Table, Value};
use crate::dsl::{Frame, OnRejected, Pipeline, SinkNode, SourceNode};
use crate::graph::{Graph, UNREAD, check};
use crate::registry::{Common, Ends, Outlets, Registry, RejectedWord, Section, StandIn, Unknown, Wiring, schema_of};

type Variable<'a> = Box<dyn Fn(&str) -> Option<String> + 'a>;
type SecretFile<'a> = Box<dyn Fn(&str) -> Result<String, String> + 'a>;

/// What a file is read with.
pub struct Options<'a> {
    registry: &'a Registry,
    variable: Variable<'a>,
    secret_file: SecretFile<'a>,
    ends: Ends,
}

impl<'a> Options<'a> {
    /// The kinds of nodes that there are; no variable is set, and there are no files of secrets.
    pub fn new(registry: &'a Registry) -> Self {
        let secret_file = |_: &str| Err("no files can be read here".to_owned());
        Options { registry, variable: Box::new(|_| None), secret_file: Box::new(secret_file), ends: Ends::default() }
    }

    /// Where the values of `${NAME}` come from.
    #[must_use]
    pub fn variables(mut self, variable: impl Fn(&str) -> Option<String> + 'a) -> Self {
        self.variable = Box::new(variable);
        self
    }

    /// How the file of a secret is read.
    #[must_use]
    pub fn secret_files(mut self, read: impl Fn(&str) -> Result<String, String> + 'a) -> Self {
        self.secret_file = Box::new(read);
        self
    }

    /// Another source in place of one of the file: it gives rows, as JSON objects by column.
    #[must_use]
    pub fn rows_for(self, source: &str, make: impl Fn() -> SourceNode + 'static) -> Self {
        self.stand_in(source, StandIn { make: Arc::new(make), messages: false })
    }

    /// Another source in place of one of the file: it gives messages in the format of the one that it stands for.
    #[must_use]
    pub fn messages_for(self, source: &str, make: impl Fn() -> SourceNode + 'static) -> Self {
        self.stand_in(source, StandIn { make: Arc::new(make), messages: true })
    }

    fn stand_in(mut self, source: &str, stand_in: StandIn) -> Self {
        self.ends.sources.insert(source.to_owned(), stand_in);
        self
    }

    /// Another sink in place of one of the file: it is given rows as JSON objects.
    #[must_use]
    pub fn sink_for(mut self, sink: &str, make: impl Fn() -> SinkNode + 'static) -> Self {
        self.ends.sinks.insert(sink.to_owned(), Arc::new(make));
        self
    }
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Options({:?})", self.registry)
    }
}

/// A pipeline file that nothing is wrong with.
#[derive(Clone)]
#[non_exhaustive]
pub struct Loaded {
    /// The graph.
    pub graph: Graph,
    /// Its tests.
    pub tests: Vec<UnitTest>,
    /// The names of its sources, in the order of the file.
    pub sources: Vec<String>,
    /// The names of its sinks, in the order of the file.
    pub sinks: Vec<String>,
    tables: HashMap<&'static str, Arc<dyn Any + Send + Sync>>,
}

impl Loaded {
    /// A table that the registry knows, such as `[nats]`, if the file has it.
    pub fn table<T: Any + Send + Sync>(&self, word: &str) -> Option<Arc<T>> {
        self.tables.get(word).cloned()?.downcast().ok()
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Loaded({}, {} nodes)", self.graph.name, self.graph.nodes.len())
    }
}

/// Reads a pipeline file: `text` is what stands in the file called `name`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(name: &str, text: &str, options: &Options<'_>) -> Result<Loaded, Report> {
    let held = Text { name: name.to_owned(), text: text.to_owned() };
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let mistakes = errors.iter().map(|error| Mistake::at(error.span(), error.message()));
        return Err(Report::of(held, mistakes.collect()));
    }
    let outside = Outside { variable: &*options.variable, secret_file: &*options.secret_file };
    let mut reader = Reader {
        options,
        outside,
        text: held,
        mistakes: Vec::new(),
        nodes: Vec::new(),
        repeated: false,
        named_at: None,
    };
    let loaded = reader.read(document);
    match loaded {
        Some(loaded) if reader.mistakes.is_empty() => Ok(loaded),
        _ => Err(Report::of(reader.text, reader.mistakes)),
    }
}

/// A file that is being read.
struct Reader<'a, 'f> {
    options: &'a Options<'a>,
    outside: Outside<'a>,
    text: Text,
    mistakes: Vec<Mistake>,
    nodes: Vec<NodeTable<'f>>,
    /// Whether a name is there twice.
    repeated: bool,
    /// Where the pipeline's name stands.
    named_at: Option<Range<usize>>,
}

impl<'f> Reader<'_, 'f> {
    fn read(&mut self, document: Spanned<Table<'f>>) -> Option<Loaded> {
        let span = document.span();
        let (mut top, mut tests, mut tables) = (Table::new(), None, HashMap::new());
        let settings_schema = schema_of::<FileSettings>();
        let known = settings_schema.get("properties").and_then(Json::as_object);
        for (key, mut value) in document.into_inner() {
            let word = key.get_ref().to_string();
            if word == "tests" {
                // What a test says is data, in which `${` means nothing.
                tests = Some(value);
                continue;
            }
            self.outside.fill(&mut value, &mut self.mistakes);
            let table = self.options.registry.tables().iter().find(|table| table.word == word);
            match (word.as_str(), table) {
                ("sources", _) => self.named(value, Section::Sources),
                ("steps", _) => self.steps(value),
                ("sinks", _) => self.named(value, Section::Sinks),
                (_, Some(table)) => {
                    let before = self.mistakes.len();
                    Check::new(&table.schema, &self.outside).all(&mut value, &word, &mut self.mistakes);
                    if self.mistakes.len() == before {
                        match (table.read)(value) {
                            Ok(read) => drop(tables.insert(table.word, read)),
                            Err(error) => self.mistakes.push(Mistake::at(error.span(), error.message())),
                        }
                    }
                }
                _ if known.is_some_and(|known| known.contains_key(&word)) => {
                    if word == "name" {
                        self.named_at = Some(value.span());
                    }
                    top.insert(key, value);
                }
                _ => {
                    let sections = ["sources", "steps", "sinks", "tests"].into_iter();
                    let tables = self.options.registry.tables().iter().map(|table| table.word);
                    let known: Vec<&str> =
                        known.into_iter().flat_map(|known| known.keys().map(String::as_str)).collect();
                    let help = did_you_mean(
                        &word,
                        "keys",
                        known.into_iter().chain(sections).chain(tables).collect::<Vec<_>>(),
                    );
                    self.mistakes.push(Mistake::at(key.span(), format!("there is no key `{word}` here")).help(help));
                }
            }
        }
        let settings = self.settings(Value::new(span.start..span.start, DeValue::Table(top)), &settings_schema);
        self.distinct();
        let of = |section| self.nodes.iter().filter(move |node| node.section == section).map(|node| node.name.clone());
        let (sources, sinks): (Vec<_>, Vec<_>) = (of(Section::Sources).collect(), of(Section::Sinks).collect());
        let tests = tests.map(|tests| unit_test::read(&tests, &sources, &sinks, &mut self.mistakes));
        let (tests, buckets) = tests.unwrap_or_default();
        self.standing_in(&sources, &sinks);
        let graph = self.wire(settings.as_ref())?;
        unit_test::check_buckets(&buckets, &graph, &mut self.mistakes);
        Some(Loaded { graph, tests, sources, sinks, tables })
    }

    fn settings(&mut self, mut value: Value<'f>, schema: &Json) -> Option<FileSettings> {
        let before = self.mistakes.len();
        Check::new(schema, &self.outside).all(&mut value, "", &mut self.mistakes);
        if self.mistakes.len() > before {
            return None;
        }
        match FileSettings::deserialize(ValueDeserializer::from(value)) {
            Ok(settings) => Some(settings),
            Err(error) => {
                self.mistakes.push(Mistake::at(error.span(), error.message()));
                None
            }
        }
    }

    fn named(&mut self, value: Value<'f>, section: Section) {
        let span = value.span();
        let DeValue::Table(table) = value.into_inner() else {
            let one = section.one();
            return self.mistakes.push(Mistake::at(span, format!("write a table for each {one}: `[{one}s.NAME]`")));
        };
        for (key, value) in table {
            let name = Some((key.get_ref().to_string(), key.span()));
            let read = node::read(name, value, section, self.options.registry, &self.outside, &mut self.mistakes);
            self.nodes.extend(read);
        }
    }

    fn steps(&mut self, value: Value<'f>) {
        let span = value.span();
        let DeValue::Array(steps) = value.into_inner() else {
            let what = "`steps` must be a list of tables: `[[steps]]`";
            return self.mistakes.push(Mistake::at(span, what));
        };
        for value in steps {
            let (registry, section) = (self.options.registry, Section::Steps);
            let read = node::read(None, value, section, registry, &self.outside, &mut self.mistakes);
            self.nodes.extend(read);
        }
    }

    /// Every name is there once.
    fn distinct(&mut self) {
        for (index, node) in self.nodes.iter().enumerate() {
            let before = self.nodes.iter().take(index).find(|before| before.name == node.name && !node.name.is_empty());
            if let Some(before) = before {
                let line = self.text.place(before.at.start).line;
                let what = format!("`{}` is the name of a {} in line {line} already", node.name, before.section.one());
                let help = "rename one: state and metrics are found by name".to_owned();
                self.repeated = true;
                self.mistakes.push(Mistake::at(node.at.clone(), what).help(help));
            }
        }
    }

    /// What stands in for a node that there is not is a mistake of whoever asked for it.
    fn standing_in(&mut self, sources: &[String], sinks: &[String]) {
        let ends = &self.options.ends;
        let asked = ends.sources.keys().map(|name| (name, "source", sources));
        for (name, word, known) in asked.chain(ends.sinks.keys().map(|name| (name, "sink", sinks))) {
            if !known.contains(name) {
                let help = did_you_mean(name, &format!("{word}s"), known.iter().map(String::as_str));
                self.mistakes
                    .push(Mistake::at(None, format!("there is no {word} `{name}` to stand in for")).help(help));
            }
        }
    }

    fn wire(&mut self, settings: Option<&FileSettings>) -> Option<Graph> {
        let name = settings.map_or("unnamed", |settings| settings.name.as_str());
        let pipeline = Pipeline::new(name);
        if let Some(settings) = settings {
            pipeline.configure(|to| settings.apply(to));
        }
        let nodes = std::mem::take(&mut self.nodes);
        let mut wired = Wired { rows: HashMap::new(), outlets: Outlets::default() };
        let default = settings.and_then(|settings| settings.on_error.clone());
        for index in self.order(&nodes) {
            if let Some(node) = nodes.get(index) {
                self.wire_one(node, &pipeline, default.as_ref(), &mut wired);
            }
        }
        for node in nodes.iter().filter(|node| node.is_outlet()) {
            if wired.outlets.is_unused(&node.name) {
                let what = format!("nothing is sent to `{}`", node.name);
                let help = format!(
                    "give it a `from`, or say `on_error = {{ send_to = \"{}\" }}` where rows are rejected",
                    node.name
                );
                self.mistakes.push(Mistake::at(node.at.clone(), what).help(help));
            }
        }
        let (graph, noted) = pipeline.gathered();
        // What a graph that is not whole lacks follows from mistakes that are known already.
        let is_whole = self.mistakes.is_empty() && noted.is_empty();
        let follows = |problem: &Problem| {
            let lacks = problem.node.is_empty() && !problem.what.starts_with("the pipeline's name");
            !is_whole && (lacks || problem.what.starts_with(UNREAD))
        };
        let found = check(&graph).into_iter().filter(|problem| !follows(problem));
        for problem in noted.iter().cloned().chain(found) {
            let node = nodes.iter().find(|node| node.is(&problem.node));
            if node.is_some_and(|node| node.lacks(&problem)) {
                continue;
            }
            let mistake = place(&self.text, &nodes, self.named_at.as_ref(), &problem);
            self.mistakes.push(mistake);
        }
        self.nodes = nodes;
        Some(graph)
    }

    /// The nodes in an order in which each comes after those that it reads; unknown names and circles are noted.
    fn order(&mut self, nodes: &[NodeTable<'_>]) -> Vec<usize> {
        let owner = |from: &str| from.split('.').next().unwrap_or_default().to_owned();
        let known: Vec<&str> =
            nodes.iter().filter(|node| node.section != Section::Sinks).map(|node| node.name.as_str()).collect();
        for (from, at) in nodes.iter().flat_map(NodeTable::upstream) {
            if !known.contains(&owner(from).as_str()) {
                let what = match nodes.iter().any(|node| node.name == owner(from)) {
                    true => format!("`{from}` is a sink, which gives no rows"),
                    false => format!("there is no source or step `{}`", owner(from)),
                };
                let help = did_you_mean(&owner(from), "sources and steps", known.iter().copied());
                self.mistakes.push(Mistake::at(at.clone(), what).help(help));
            }
        }
        let first = |node: &NodeTable<'_>| node.is_outlet() || node.section == Section::Sources;
        let rank = |node: &NodeTable<'_>| (!node.is_outlet(), node.section != Section::Sources);
        let mut order: Vec<usize> = (0..nodes.len()).filter(|i| nodes.get(*i).is_some_and(first)).collect();
        order.sort_by_key(|i| nodes.get(*i).map(rank));
        let mut rest: Vec<usize> = (0..nodes.len()).filter(|i| !order.contains(i)).collect();
        while let Some(place) = rest.iter().position(|i| {
            let waits = |from: &str| rest.iter().any(|j| nodes.get(*j).is_some_and(|other| other.name == owner(from)));
            nodes.get(*i).is_some_and(|node| !node.upstream().any(|(from, _)| waits(from)))
        }) {
            order.push(rest.remove(place));
        }
        let steps = |node: &&NodeTable<'_>| node.section == Section::Steps;
        let names: Vec<_> = rest.iter().filter_map(|i| nodes.get(*i)).filter(steps).collect();
        // Two nodes of one name seem to wait for each other.
        if let Some(first) = names.first()
            && !self.repeated
        {
            let circle: Vec<_> = names.iter().map(|node| format!("`{}`", node.name)).collect();
            let what = format!("rows would go round for ever through {}", circle.join(", "));
            let help = "a pipeline must not lead back to itself".to_owned();
            self.mistakes.push(Mistake::at(first.at.clone(), what).help(help));
        }
        order
    }

    fn wire_one(
        &mut self,
        node: &NodeTable<'_>,
        pipeline: &Pipeline,
        default: Option<&RejectedWord>,
        wired: &mut Wired,
    ) {
        let mut rows_of = |(from, at): (&str, &Range<usize>)| match wired.rows.get(from) {
            Some(rows) => rows.clone(),
            None => {
                self.unknown_output(from, at, wired);
                Frame::nowhere(pipeline.clone())
            }
        };
        let mut inputs: Vec<Frame> = node.from.iter().map(|(from, at)| rows_of((from, at))).collect();
        let others: HashMap<&str, Frame> =
            node.reads.iter().map(|read| (read.setting, rows_of((&read.name, &read.at)))).collect();
        let Some(ready) = &node.ready else {
            // Nobody reads what it would have read, which is no mistake of its own.
            inputs.iter().chain(others.values()).for_each(|input| drop(input.broken()));
            return wired.nothing(node, pipeline);
        };
        let on_rejected = match ready.lacking.iter().any(|key| key == "on_error") {
            // What was meant is not known, and that it is missing is no other mistake.
            true => Some(OnRejected::Drop),
            false => self.on_rejected(node, ready.on_error.as_ref().or(default), wired),
        };
        let main = inputs.iter().position(|input| !input.is_broken()).unwrap_or(0);
        let input = (!inputs.is_empty()).then(|| inputs.swap_remove(main));
        let common = match &ready.common {
            Common::Payloads(keys) => Common::Payloads(keys.clone()),
            Common::Records(keys) => Common::Records(keys.clone()),
            Common::Other => Common::Other,
        };
        let mut wiring = Wiring::new(
            pipeline,
            &node.name,
            (input.clone(), others),
            common,
            on_rejected,
            &self.options.ends,
            &mut wired.outlets,
        );
        if let Err(error) = wire_kind(ready, &mut wiring) {
            self.mistakes.push(Mistake::at(error.span(), error.message()));
            return wired.nothing(node, pipeline);
        }
        let (outputs, outlet) = wiring.finish();
        if let Some(subtasks) = ready.parallelism.filter(|_| node.section == Section::Sinks)
            && !pipeline.share_out(&node.name, subtasks)
        {
            let what = format!("`{}` is written by one instance alone, whatever its `parallelism` is", node.name);
            self.mistakes.push(Mistake::at(node.at.clone(), what).help("leave `parallelism` out".to_owned()));
        }
        if let Some(input) = input {
            self.more_inputs(node, &input, &inputs);
        }
        for (output, rows) in outputs {
            let rows = match ready.parallelism {
                Some(subtasks) => rows.parallelism(subtasks),
                None => rows,
            };
            // Its rows would have had a time, if what is wrong with that were right.
            let rows = match ready.lacking.iter().any(|key| key == "event_time") {
                true => rows.then(|rows| Some(rows.unchanged(&format!("{}/event_time", node.name), "event_time"))),
                false => rows,
            };
            let key = if output.is_empty() { node.name.clone() } else { format!("{}.{output}", node.name) };
            wired.rows.insert(key, rows);
        }
        if let Some(outlet) = outlet {
            wired.outlets.add(&node.name, outlet);
        }
    }

    /// Leads the other inputs of a node to where its first one goes.
    fn more_inputs(&self, node: &NodeTable<'_>, first: &Frame, others: &[Frame]) {
        let entrance = first.taken_by();
        for other in others {
            match &entrance {
                Some((entrance, route)) => other.enter(first.schema(), &node.name, *entrance, route.clone()),
                None => drop(other.broken()),
            }
        }
    }

    fn unknown_output(&mut self, from: &str, at: &Range<usize>, wired: &Wired) {
        let Some((owner, output)) = from.split_once('.') else { return };
        if !wired.rows.contains_key(owner) || wired.rows.get(owner).is_some_and(Frame::is_broken) {
            return;
        }
        let prefix = format!("{owner}.");
        let known: Vec<&str> = wired.rows.keys().filter_map(|name| name.strip_prefix(&prefix)).collect();
        let what = format!("`{owner}` has no output `{output}`");
        self.mistakes.push(Mistake::at(at.clone(), what).help(did_you_mean(output, "outputs", known)));
    }

    fn on_rejected(
        &mut self,
        node: &NodeTable<'_>,
        word: Option<&RejectedWord>,
        wired: &mut Wired,
    ) -> Option<OnRejected> {
        let resolved = wired.outlets.resolve(word?);
        Some(resolved.unwrap_or_else(|Unknown { what, help }| {
            let at = node.setting("on_error.send_to").map_or_else(|| node.at.clone(), Spanned::span);
            self.mistakes.push(Mistake::at(at, what).help(help));
            OnRejected::Drop
        }))
    }
}

fn wire_kind(ready: &Ready<'_>, wiring: &mut Wiring<'_>) -> Result<(), toml::de::Error> {
    ready.kind.wire(ready.own.clone(), wiring)
}

/// What the nodes that were wired give, by name and output.
struct Wired {
    rows: HashMap<String, Frame>,
    outlets: Outlets,
}

impl Wired {
    /// Notes that a node gives nothing because something is wrong with it.
    fn nothing(&mut self, node: &NodeTable<'_>, pipeline: &Pipeline) {
        self.rows.insert(node.name.clone(), Frame::nowhere(pipeline.clone()));
        self.outlets.add_broken(&node.name);
    }
}
