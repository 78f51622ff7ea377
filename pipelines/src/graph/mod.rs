//! The graph: plain data that every front end makes and the engine runs.
//!
//! A [`Graph`] has named [`Node`]s with typed ports, and [`Edge`]s between ports. A node carries a factory a subtask,
//! so that operators need not be `Clone`.

mod check;
mod erase;
mod explain;
mod memory;
mod once;
mod plan;
mod timed;

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millstream_operators::{AnyBatch, PortType, Result, Timestamp};

pub use check::check;
#[cfg(feature = "columnar")]
pub(crate) use check::{UNREAD, UNSAID};
pub use erase::{
    AnyRow, AsyncLimits, Boxed, Call, Called, DynAsync, DynOperator, DynSink, DynSource, erase, erase_async,
    erase_join, erase_sink, erase_source,
};
pub use explain::{View, explain};
pub use memory::stays_in_memory;
pub use once::{Protocol, protocol};
pub use plan::{Output, Plan, PlannedEdge, Stage, Step, plan};

/// A whole pipeline: what the engine runs.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The pipeline's name: state, consumers and pointers are found again by it.
    pub name: String,
    /// The nodes; a [`NodeId`] is an index into them.
    pub nodes: Vec<Node>,
    /// The edges.
    pub edges: Vec<Edge>,
    /// Runs of nodes that can also be done in one pass over a batch. The plan uses one where it applies.
    pub passes: Vec<Pass>,
    /// What holds for the pipeline as a whole.
    pub settings: Settings,
}

/// A node of a [`Graph`], by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// Something that is done to a stream, or where one begins or ends.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name, unique in the graph and stable, because state is found again by it.
    pub name: String,
    /// What it is: `filter`, `jetstream`.
    pub kind: Cow<'static, str>,
    /// What it does, for people: an expression, a stream, a subject.
    pub detail: String,
    /// How it is made.
    pub role: Role,
    /// What it takes; sources have no input.
    pub inputs: Vec<PortType>,
    /// What it gives: port 0 is the main output, side outputs follow; sinks have none.
    pub outputs: Vec<PortType>,
    /// How many subtasks it has; `None` for as many as the pipeline's default.
    pub parallelism: Option<u32>,
    /// Whether it goes by event time, which all rows that come to it must have, by whichever way.
    pub by_event_time: bool,
    /// Subjects and streams that it reads or writes outside, so that a sink that feeds its own source is found.
    pub touches: Vec<Touch>,
    /// What it does with streams outside: what permissions and a look at the server are made of.
    pub access: Vec<Access>,
    /// Whether it is a source whose rows are shared out among all processes that run the pipeline. It has no position of
    /// its own: what is not acknowledged comes again, here or elsewhere.
    pub shared: bool,
    /// Whether it may lose messages when something fails, and why.
    pub at_most_once: Option<String>,
    /// Whether it may store rows again when something fails, even where the pipeline promises effectively-once, and why.
    pub repeats: Option<String>,
}

/// A place outside that a node reads or writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touch {
    /// The system: `nats`.
    pub system: String,
    /// The stream, where it is one.
    pub stream: Option<String>,
    /// A subject, in which `*` and `>` are wildcards and a filled token counts as `*`. A source without reads all
    /// subjects of its stream; of a sink without it is not known what it writes to.
    pub subject: Option<String>,
}

/// What a node does with a stream outside.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// It reads a stream through a durable consumer of its own.
    Read {
        /// The stream.
        stream: String,
        /// Which of its subjects; none for all.
        subjects: Vec<String>,
        /// Whether it shares the stream with other processes: it acknowledges each message, and keeps no position.
        shared: bool,
        /// Whether its first start looks a time up in the stream.
        from_time: bool,
        /// Whether it listens to what the server says of messages that were delivered as often as they may be.
        advisories: bool,
    },
    /// It writes to a stream.
    Write {
        /// The stream.
        stream: String,
        /// The subjects that it publishes to, where a filled token counts as `*`; `None` when they are computed by code
        /// and not known.
        subjects: Option<Vec<String>>,
        /// Creates the stream with these subjects if there is none.
        create: Option<Vec<String>>,
        /// Adds these subjects to a stream that does not take them.
        extend: bool,
        /// Whether it relies on the stream's window of message ids.
        dedup: bool,
    },
    /// It keeps a table of the last message of each subject of a stream, such as a key-value bucket's.
    Follow {
        /// The stream.
        stream: String,
    },
}

/// What a node does with streams, for the node itself: it is among its resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses(pub Vec<Access>);

impl Uses {
    /// The subjects that it is known to publish to, where a filled token counts as `*`.
    pub fn publishes(&self) -> Vec<String> {
        let subjects = self.0.iter().filter_map(|access| match access {
            Access::Write { subjects, .. } => subjects.as_ref(),
            Access::Read { .. } | Access::Follow { .. } => None,
        });
        subjects.flatten().cloned().collect()
    }
}

impl Access {
    /// The stream.
    pub fn stream(&self) -> &str {
        match self {
            Access::Read { stream, .. } | Access::Write { stream, .. } | Access::Follow { stream } => stream,
        }
    }
}

/// How a node is made.
#[derive(Clone)]
pub enum Role {
    /// Rows begin here.
    Source(Make<dyn DynSource>),
    /// Rows are changed here.
    Operator(Make<dyn DynOperator>),
    /// Rows are called for here.
    Async(Make<dyn DynAsync>, AsyncLimits),
    /// Rows wait here so that no more than a rate pass.
    Throttle(Rate),
    /// Rows end here.
    Sink(Make<dyn DynSink>),
}

/// Rows a span of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// How many rows.
    pub rows: u64,
    /// In what time.
    pub per: Duration,
}

/// Makes one instance for a subtask.
pub type Make<T> = Arc<dyn Fn(&Subtask) -> Result<Box<T>> + Send + Sync>;

/// Which instance of a node is made, and what it may use.
#[derive(Clone, Debug)]
pub struct Subtask {
    /// The pipeline's name.
    pub pipeline: Arc<str>,
    /// The node's name.
    pub node: Arc<str>,
    /// Its number, from 0.
    pub index: u32,
    /// How many there are.
    pub of: u32,
    /// Connections, clock and whatever else the runtime offers to nodes.
    pub resources: Resources,
}

/// Shared things by type: how connectors get at connections without the graph knowing of any.
#[derive(Clone, Default)]
pub struct Resources(Arc<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl Resources {
    /// For nodes that are made only to be asked what they keep, and never run.
    pub fn on_paper() -> Self {
        Resources::default().with(OnPaper)
    }

    /// The same resources, and one more of type `T`.
    #[must_use]
    pub fn with<T: Any + Send + Sync>(self, resource: T) -> Self {
        self.with_shared(Arc::new(resource))
    }

    /// The same resources, and one more of type `T` that others hold too.
    #[must_use]
    pub fn with_shared<T: Any + Send + Sync>(self, resource: Arc<T>) -> Self {
        let mut all = (*self.0).clone();
        all.insert(TypeId::of::<T>(), resource);
        Resources(Arc::new(all))
    }

    /// The resource of type `T`.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.get(&TypeId::of::<T>()).cloned().and_then(|any| any.downcast().ok())
    }
}

/// Among the [`Resources`] it says that the node is made only to be asked what it keeps: nothing is to be connected, and what
/// is missing for a run need not be missed.
#[derive(Clone, Copy, Debug, Default)]
pub struct OnPaper;

/// The engine's clock among the [`Resources`], for operators that need the time once a batch.
#[derive(Clone)]
pub struct Now(pub Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl fmt::Debug for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Now({})", (self.0)())
    }
}

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resources({})", self.0.len())
    }
}

/// An output port of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OutPort {
    /// The node.
    pub node: NodeId,
    /// The port: 0 is the main output.
    pub port: usize,
}

/// An input port of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InPort {
    /// The node.
    pub node: NodeId,
    /// The port; several edges may end at one.
    pub port: usize,
}

/// Rows of one output go to one input.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Where from.
    pub from: OutPort,
    /// Where to.
    pub to: InPort,
    /// To which subtask.
    pub route: Route,
}

/// To which subtask of the next node a row goes.
#[derive(Clone)]
pub enum Route {
    /// To the one with the same number. Where there are fewer, each sends to one of them; where there are more, batches are shared
    /// out as [`Rebalance`](Route::Rebalance) does, and rows of a key do not stay in order.
    Forward,
    /// Batch by batch, in turn.
    Rebalance,
    /// To all of them.
    Broadcast,
    /// To the one that owns the row's key group.
    Hash(KeyFn),
}

/// Writes the key group of each row: `key_fn(batch, key_groups, out)`.
pub type KeyFn = Arc<dyn Fn(&AnyBatch, u32, &mut Vec<u32>) + Send + Sync>;

/// A run of nodes, each the only reader of the one before it, that can be done in one pass over a batch.
#[derive(Clone)]
pub struct Pass {
    /// The nodes, in order.
    pub nodes: Vec<NodeId>,
    /// Makes the one operator that does the work of them all.
    pub make: Make<dyn DynOperator>,
}

/// What holds for a pipeline as a whole.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// What is promised about messages when something fails.
    pub guarantee: Guarantee,
    /// How many subtasks a node has where rows are shared out by key or in turn, unless it says otherwise. Nodes behind it
    /// have as many, and those before, in which rows keep the order of their source, as that has.
    pub parallelism: u32,
    /// How many key groups keyed rows are shared out in; fixed for the life of the pipeline.
    pub key_groups: u32,
    /// Rows of a batch at a source, at most.
    pub batch_rows: usize,
    /// How long a source may wait for a batch to fill, from its first row on. Zero, the default, means that a batch is
    /// what is there: a row that comes alone goes on alone and at once, and under load batches fill by themselves,
    /// because rows come while the ones before are worked on. Anything else saves work per batch at middling rates, and
    /// costs up to so much latency at low ones.
    pub linger: Duration,
    /// Rows that may wait in one channel.
    pub channel_rows: usize,
    /// Bytes that may wait in one channel.
    pub channel_bytes: usize,
    /// Time between checkpoints.
    pub checkpoint_interval: Duration,
    /// How long a checkpoint may take before it is given up.
    pub checkpoint_timeout: Duration,
    /// How many bytes of memory the state of all nodes may use, with what is needed to keep the rest on a disk: see
    /// the runtime. Without it all state is in memory.
    pub state_memory: Option<usize>,
    /// Whether the user accepts, in words, that at-most-once connectors lose messages.
    pub accept_loss: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            guarantee: Guarantee::AtLeastOnce,
            parallelism: 1,
            key_groups: millstream_operators::KeyGroup::DEFAULT_COUNT,
            batch_rows: 1024,
            linger: Duration::ZERO,
            channel_rows: 8 * 1024,
            channel_bytes: 8 << 20,
            checkpoint_interval: Duration::from_secs(1),
            checkpoint_timeout: Duration::from_secs(60),
            state_memory: None,
            accept_loss: false,
        }
    }
}

/// What a pipeline promises about messages when something fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Guarantee {
    /// Messages may be lost.
    AtMostOnce,
    /// Every message is in the output, perhaps more than once.
    AtLeastOnce,
    /// What comes of every message is in the output once: outputs are part of the checkpoint, and are stored when that is
    /// durable.
    EffectivelyOnce,
}

impl Graph {
    /// Adds a node; ports are connected with [`Graph::connect`].
    pub fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() - 1)
    }

    /// Connects an output with an input.
    pub fn connect(&mut self, from: OutPort, to: InPort, route: Route) {
        self.edges.push(Edge { from, to, route });
    }

    /// A node, if there is one of this number.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.0)
    }

    /// How many subtasks a node has: as many as it says; else as those that it reads from, so that rows which come in an
    /// order keep it; else, where rows are shared out by key, in turn or to all, the pipeline's default.
    pub fn parallelism(&self, id: NodeId) -> u32 {
        let default = self.settings.parallelism.max(1);
        let mut known: Vec<Option<u32>> = self.nodes.iter().map(|node| node.parallelism).collect();
        // Each round finds at least one, unless the rest is on a circle, which `check` refuses.
        for _ in 0..self.nodes.len() {
            for index in 0..self.nodes.len() {
                if known.get(index).is_some_and(Option::is_some) {
                    continue;
                }
                let mut edges = self.edges.iter().filter(|edge| edge.to.node == NodeId(index)).peekable();
                let is_shared_out = edges.peek().is_none()
                    || self
                        .edges
                        .iter()
                        .any(|edge| edge.to.node == NodeId(index) && !matches!(edge.route, Route::Forward));
                let found = match is_shared_out {
                    true => Some(default),
                    false => edges.map(|edge| known.get(edge.from.node.0).copied().flatten()).min().flatten(),
                };
                if let Some(known) = known.get_mut(index) {
                    *known = found;
                }
            }
        }
        known.get(id.0).copied().flatten().unwrap_or(default).max(1)
    }

    /// Whether its sources share what they read with other processes that run it, so that any number may run at once.
    /// [`check`] sees to it that all do or none.
    pub fn is_shared(&self) -> bool {
        let mut sources = self.nodes.iter().filter(|node| matches!(node.role, Role::Source(_))).peekable();
        sources.peek().is_some() && sources.all(|node| node.shared)
    }

    /// The edges that leave an output port.
    pub fn readers(&self, from: OutPort) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |edge| edge.from == from)
    }
}

impl Node {
    /// A node with a name, a kind and a role; ports and the rest are filled in by the caller.
    ///
    /// A sink is taken for one that may store rows again; whoever knows better sets [`repeats`](Node::repeats).
    pub fn new(name: impl Into<String>, kind: impl Into<Cow<'static, str>>, role: Role) -> Self {
        let repeats = "it stores rows as they come, and again after a failure";
        let repeats = matches!(role, Role::Sink(_)).then(|| repeats.to_owned());
        Node {
            name: name.into(),
            kind: kind.into(),
            detail: String::new(),
            role,
            inputs: Vec::new(),
            outputs: Vec::new(),
            parallelism: None,
            by_event_time: false,
            touches: Vec::new(),
            access: Vec::new(),
            shared: false,
            at_most_once: None,
            repeats,
        }
    }
}

impl Route {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Route::Forward => "forward",
            Route::Rebalance => "rebalance",
            Route::Broadcast => "broadcast",
            Route::Hash(_) => "hash",
        }
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Source(_) => "Source",
            Role::Operator(_) => "Operator",
            Role::Async(..) => "Async",
            Role::Throttle(_) => "Throttle",
            Role::Sink(_) => "Sink",
        })
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pass({:?})", self.nodes)
    }
}
