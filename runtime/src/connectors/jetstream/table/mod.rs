//! Key-value buckets as tables that rows are looked up in.

mod dsl;
mod follow;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use millstream_operators::{Fault, FaultKind, Result, Table};
use millstream_pipelines::graph::{OnPaper, Subtask};
use tokio::task::JoinSet;

use crate::broker::Connections;
use crate::engine::Latch;

pub use dsl::kv_table;

/// The tables of a pipeline, by their buckets; nodes find it among the resources. Each is read once however many subtasks
/// look rows up in it, and followed until this is dropped.
#[derive(Debug)]
pub struct Tables {
    connections: Option<Arc<Connections>>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    tables: HashMap<String, Table>,
    followers: JoinSet<()>,
}

impl Tables {
    /// Tables that follow the buckets of a server.
    pub fn of_server(connections: Arc<Connections>) -> Self {
        Tables { connections: Some(connections), open: Mutex::default() }
    }

    /// Tables that hold what is given, and nothing else: for trials without a server.
    pub fn given(tables: impl IntoIterator<Item = (String, Table)>) -> Self {
        let open = Open { tables: tables.into_iter().collect(), ..Open::default() };
        Tables { connections: None, open: Mutex::new(open) }
    }

    /// The table of a bucket, for a node that is being made. The first time it begins to be followed, and holds the latch
    /// until all of it is there.
    fn table(&self, bucket: &str, subtask: &Subtask) -> Table {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = open.tables.get(bucket) {
            return table.clone();
        }
        let table = Table::default();
        open.tables.insert(bucket.to_owned(), table.clone());
        if let Some(connections) = &self.connections {
            let latch: Arc<Latch> = subtask.resources.get().unwrap_or_default();
            let following = follow::follow(Arc::clone(connections), bucket.to_owned(), table.clone(), latch.hold());
            open.followers.spawn(following);
        }
        table
    }
}

/// The table of a bucket, of the pipeline that a subtask belongs to.
fn table_of(bucket: &str, subtask: &Subtask) -> Result<Table> {
    if subtask.resources.get::<OnPaper>().is_some() {
        return Ok(Table::default());
    }
    let tables: Option<Arc<Tables>> = subtask.resources.get();
    let none = || Fault::new(FaultKind::Setup, "there are no tables here: run it with `millstream::run` or a `Launch`");
    Ok(tables.ok_or_else(none)?.table(bucket, subtask))
}
