//! [`Registry`]: which kinds of nodes a pipeline file may name, and how each is declared.
//!
//! A kind is a [`Spec`]: a struct that serde reads from the node's table, and a way to wire it by calling the DSL. The
//! registry of this crate has the steps; the runtime adds its connectors, and users add kinds of their own.

mod common;
mod join;
mod outlets;
mod schema;
mod steps;
mod units;
mod wiring;

use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

pub use common::{OneOrMany, RejectedWord};
pub(crate) use common::{Payloads, Records, RejectedRows, Rows, StepKeys};
pub(crate) use outlets::{Outlets, Unknown};
pub use schema::file_schema;
pub(crate) use units::{DURATION, SIZE};
pub use units::{Ordered, Size, Span};
pub(crate) use wiring::{Common, Ends, StandIn};
pub use wiring::{Subjects, Wiring};

/// A kind of node of a pipeline file.
///
/// The fields are the keys of the node's table, besides those that all nodes of its place have (`name`, `from`,
/// `format`, ...). Doc comments on them become the help of editors, and `deny_unknown_fields` is implied.
///
/// ```
/// use millstream_pipelines::registry::{Registry, Spec, Wiring};
/// use schemars::JsonSchema;
/// use serde::Deserialize;
///
/// /// Keeps rows whose `column` is not null.
/// #[derive(Deserialize, JsonSchema)]
/// struct Present {
///     /// The column that must be there.
///     present: String,
/// }
///
/// impl Spec for Present {
///     const KIND: &'static str = "present";
///
///     fn wire(self, wiring: &mut Wiring<'_>) {
///         let rows = wiring.input().filter(wiring.name(), &format!("\"{}\" is not null", self.present));
///         wiring.output(rows);
///     }
/// }
///
/// let registry = Registry::default().step::<Present>();
/// ```
pub trait Spec: DeserializeOwned + JsonSchema + 'static {
    /// The word for it: the value of `kind`. In a step, a key of this name says so as well.
    const KIND: &'static str;

    /// The settings of its own that name sources or steps whose rows it takes besides those of `from`, such as
    /// `join.with`; see [`Wiring::rows`].
    const READS: &'static [&'static str] = &[];

    /// Adds its nodes to the pipeline. What is wrong is noted with [`Wiring::problem`], not returned: all mistakes are
    /// reported at once.
    fn wire(self, wiring: &mut Wiring<'_>);
}

/// Where a kind of node stands, and so which keys it shares with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A source of messages, which a format makes rows of.
    Payloads,
    /// A source of rows.
    Rows,
    /// A step.
    Step,
    /// A sink of messages, which a format makes of rows.
    Records,
    /// A sink of rejected rows.
    Rejected,
}

/// The kinds of nodes that a pipeline file may name.
///
/// A text in a table that is marked `"x-secret": true` in its JSON Schema may be given by reference, as
/// `{ env = "NAME" }` or `{ file = "path" }`.
#[derive(Clone)]
pub struct Registry {
    kinds: Vec<Arc<Kind>>,
    tables: Vec<Arc<Table>>,
}

/// A kind of node.
pub(crate) struct Kind {
    pub(crate) word: &'static str,
    pub(crate) place: Place,
    /// The keys of its own, as a JSON Schema of an object.
    pub(crate) schema: Json,
    /// The settings that name other rows.
    pub(crate) reads: &'static [&'static str],
    #[expect(clippy::type_complexity, reason = "it stands here once")]
    wire: Box<dyn Fn(Spanned<DeValue<'_>>, &mut Wiring<'_>) -> Result<(), toml::de::Error> + Send + Sync>,
}

/// A table of the file that belongs to the runtime and not to a node.
pub(crate) struct Table {
    pub(crate) word: &'static str,
    pub(crate) schema: Json,
    #[expect(clippy::type_complexity, reason = "it stands here once")]
    pub(crate) read: Box<
        dyn Fn(Spanned<DeValue<'_>>) -> Result<Arc<dyn std::any::Any + Send + Sync>, toml::de::Error> + Send + Sync,
    >,
}

impl Default for Registry {
    /// The steps that every pipeline file has.
    fn default() -> Self {
        let empty = Registry { kinds: Vec::new(), tables: Vec::new() };
        steps::all(empty)
    }
}

impl Registry {
    /// Adds a kind of source that gives messages; the table also says their `format` and `schema`.
    #[must_use]
    pub fn source<S: Spec>(self) -> Self {
        self.with::<S>(Place::Payloads)
    }

    /// Adds a kind of source that gives rows.
    #[must_use]
    pub fn rows_source<S: Spec>(self) -> Self {
        self.with::<S>(Place::Rows)
    }

    /// Adds a kind of step.
    #[must_use]
    pub fn step<S: Spec>(self) -> Self {
        self.with::<S>(Place::Step)
    }

    /// Adds a kind of sink that takes messages; the table also says their `format`, `subject` and `headers`.
    #[must_use]
    pub fn sink<S: Spec>(self) -> Self {
        self.with::<S>(Place::Records)
    }

    /// Adds a kind of sink for rejected rows.
    #[must_use]
    pub fn rejected_sink<S: Spec>(self) -> Self {
        self.with::<S>(Place::Rejected)
    }

    /// Adds a table of the file, such as `[nats]`, for whoever runs the pipeline.
    #[must_use]
    pub fn table<T: DeserializeOwned + JsonSchema + Send + Sync + 'static>(mut self, word: &'static str) -> Self {
        let read =
            |value: Spanned<DeValue<'_>>| Ok(Arc::new(T::deserialize(ValueDeserializer::from(value))?) as Arc<_>);
        self.tables.retain(|table| table.word != word);
        self.tables.push(Arc::new(Table { word, schema: schema_of::<T>(), read: Box::new(read) }));
        self
    }

    fn with<S: Spec>(mut self, place: Place) -> Self {
        let wire = |value: Spanned<DeValue<'_>>, wiring: &mut Wiring<'_>| {
            S::deserialize(ValueDeserializer::from(value))?.wire(wiring);
            Ok(())
        };
        self.kinds.retain(|kind| !(kind.word == S::KIND && kind.place.section() == place.section()));
        let (word, reads) = (S::KIND, S::READS);
        self.kinds.push(Arc::new(Kind { word, place, schema: schema_of::<S>(), reads, wire: Box::new(wire) }));
        self
    }

    /// The kinds of a section of the file.
    pub(crate) fn kinds(&self, section: Section) -> impl Iterator<Item = &Arc<Kind>> + Clone {
        self.kinds.iter().filter(move |kind| kind.place.section() == section)
    }

    pub(crate) fn kind(&self, section: Section, word: &str) -> Option<&Arc<Kind>> {
        self.kinds(section).find(|kind| kind.word == word)
    }

    pub(crate) fn tables(&self) -> &[Arc<Table>] {
        &self.tables
    }
}

/// A section of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    /// `[sources.NAME]`
    Sources,
    /// `[[steps]]`
    Steps,
    /// `[sinks.NAME]`
    Sinks,
}

impl Section {
    /// The word for one thing in it.
    pub(crate) fn one(self) -> &'static str {
        match self {
            Section::Sources => "source",
            Section::Steps => "step",
            Section::Sinks => "sink",
        }
    }
}

impl Place {
    pub(crate) fn section(self) -> Section {
        match self {
            Place::Payloads | Place::Rows => Section::Sources,
            Place::Step => Section::Steps,
            Place::Records | Place::Rejected => Section::Sinks,
        }
    }

    /// The keys that all kinds of this place share.
    pub(crate) fn common(self) -> Json {
        match self {
            Place::Payloads => schema_of::<Payloads>(),
            Place::Rows => schema_of::<Rows>(),
            Place::Step => schema_of::<StepKeys>(),
            Place::Records => schema_of::<Records>(),
            Place::Rejected => schema_of::<RejectedRows>(),
        }
    }
}

impl Kind {
    /// Reads the keys of its own and wires the node.
    pub(crate) fn wire(&self, table: Spanned<DeTable<'_>>, to: &mut Wiring<'_>) -> Result<(), toml::de::Error> {
        let span = table.span();
        (self.wire)(Spanned::new(span, DeValue::Table(table.into_inner())), to)
    }
}

/// The JSON Schema of a type, with everything that it refers to in `$defs`.
pub(crate) fn schema_of<T: JsonSchema>() -> Json {
    let generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
    let mut schema = generator.into_root_schema_for::<T>();
    schema.remove("$schema");
    schema.into()
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.kinds.iter().map(|kind| (kind.place, kind.word))).finish()
    }
}
