//! [`TableNode`]: a table outside that rows are looked up in, and the verb for it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use millstream_operators::rows::{Format, Json, Lookup, MsgPack, Text};
use millstream_operators::{PortType, Problem, Rejected, Result, Side, Table};

use super::{Pipeline, Stream};
use crate::graph::{Access, DynOperator, Make, Node, Role, Subtask, erase};

/// A table that is kept outside of the pipeline, such as a key-value bucket: what rows of a stream are looked up in.
pub struct TableNode {
    /// What it is, for people.
    pub detail: String,
    /// How it is had: all subtasks may share one.
    pub make: MakeTable,
    /// Which streams are read for it.
    pub access: Vec<Access>,
    /// What is wrong with its settings.
    pub problems: Vec<Problem>,
}

/// Gives a subtask its table.
pub type MakeTable = Arc<dyn Fn(&Subtask) -> Result<Table> + Send + Sync>;

/// Rows with what was found for them, and those whose entry cannot be read.
pub type LookedUp<T, V> = (Stream<(T, Option<V>)>, Stream<Rejected<T>>);

/// A table whose values are read as a `V`.
pub struct TableOf<V> {
    table: TableNode,
    read: Arc<Read<V>>,
}

type Read<V> = dyn Fn(&Bytes) -> std::result::Result<V, String> + Send + Sync;

impl TableNode {
    /// Its values are JSON, by serde.
    pub fn json<V: Send + 'static>(self) -> TableOf<V>
    where
        Json: Format<V>,
    {
        self.of(Json)
    }

    /// Its values are MessagePack, by serde.
    pub fn msgpack<V: Send + 'static>(self) -> TableOf<V>
    where
        MsgPack: Format<V>,
    {
        self.of(MsgPack)
    }

    /// Its values are UTF-8 text.
    pub fn text(self) -> TableOf<String> {
        self.of(Text)
    }

    fn of<V: Send + 'static>(self, format: impl Format<V>) -> TableOf<V> {
        let read = move |entry: &Bytes| {
            let mut read = None;
            format.decode(entry, &mut |row| {
                read.get_or_insert(row);
            });
            read.unwrap_or_else(|| Err(millstream_operators::Cause::operator("it is empty")))
                .map_err(|why| why.to_string())
        };
        TableOf { table: self, read: Arc::new(read) }
    }

    /// Notes what is wrong with it, of the node that looks rows up in it.
    pub(super) fn note_problems(&self, pipeline: &Pipeline, node: &str) {
        for problem in &self.problems {
            let mut problem = problem.clone();
            node.clone_into(&mut problem.node);
            pipeline.problem(problem);
        }
    }

    /// Gives a node what it has to do with the table.
    pub(super) fn attach(&self, node: &mut Node, key: &str) {
        node.detail = if key.is_empty() { self.detail.clone() } else { format!("{key} in {}", self.detail) };
        node.access.clone_from(&self.access);
    }
}

impl<T: Send + 'static> Stream<T> {
    /// Each row with what a table outside has for its key at that moment, or nothing; rows whose entry cannot be read go to
    /// the second stream. The first row waits until the whole table is there.
    ///
    /// What is found depends on when: rows that are processed again after a failure may find something else. For a join
    /// that does not, make a stream of the table's changes and use [`as_of`](super::Join::as_of). See [`Lookup`] for a timeline.
    pub fn lookup<V, F>(self, name: &str, table: TableOf<V>, key: F) -> LookedUp<T, V>
    where
        V: Send + 'static,
        F: Fn(&T) -> String + Send + Sync + 'static,
    {
        let TableOf { table, read } = table;
        let (key, make_table) = (Arc::new(key), Arc::clone(&table.make));
        let read = Arc::new(move |entry: &Bytes| read(entry));
        let make: Make<dyn DynOperator> = Arc::new(move |subtask: &Subtask| {
            let table = make_table(subtask)?;
            Ok(erase(Lookup::<T, V, _, _>::new(table, Arc::clone(&key), Arc::clone(&read))))
        });
        let mut node = Node::new(name, "lookup", Role::Operator(make));
        table.attach(&mut node, "");
        node.inputs = vec![PortType::of::<Vec<T>>("in")];
        let rejected = Side::<Rejected<T>>::rejected(1).port_type();
        node.outputs = vec![PortType::of::<Vec<(T, Option<V>)>>(PortType::MAIN), rejected];
        table.note_problems(self.pipeline(), name);
        let [main, rejected] = self.wire(node).ports();
        (main.of(), rejected.of())
    }
}

impl fmt::Debug for TableNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TableNode({})", self.detail)
    }
}

impl<V> fmt::Debug for TableOf<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TableOf({})", self.table.detail)
    }
}
