//! [`KeyedStream`]: rows that are grouped by a key.

use std::fmt;
use std::sync::Arc;

use millstream_operators::rows::Fold;
use millstream_operators::{Key, Operator, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Stream;
use crate::graph::Subtask;

/// Rows with a key each: rows of one key keep their order and meet in one subtask of the next node, which may keep state
/// for them.
pub struct KeyedStream<K, T> {
    stream: Stream<T>,
    key: Arc<dyn Fn(&T) -> K + Send + Sync>,
}

impl<K: Key, T: Send + 'static> KeyedStream<K, T> {
    pub(super) fn new(stream: Stream<T>, key: Arc<dyn Fn(&T) -> K + Send + Sync>) -> Self {
        KeyedStream { stream, key }
    }

    /// Keeps a value for each key, from `first` on; every row changes that of its key, and the key with its new value
    /// goes on. The values are state: they survive a restart.
    pub fn fold<S, F>(self, name: &str, first: S, change: F) -> Stream<(K, S)>
    where
        K: Ord + Serialize + DeserializeOwned,
        S: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
        F: Fn(&mut S, T) + Send + Sync + 'static,
    {
        let change = Arc::new(change);
        let key = Arc::clone(&self.key);
        let make = move |_: &Subtask| {
            let key = Arc::clone(&key);
            Ok(Fold::new(Arc::new(move |row: &T| key(row)), first.clone(), Arc::clone(&change)))
        };
        self.rows().node(name, "fold", make).main()
    }

    /// Your own operator, each subtask of which sees all rows of its keys.
    pub fn operator<U, O, M>(self, name: &str, kind: &'static str, make: M) -> Stream<U>
    where
        U: Send + 'static,
        O: Operator<In = Vec<T>, Out = Vec<U>>,
        M: Fn(&Subtask) -> Result<O> + Send + Sync + 'static,
    {
        self.rows().operator(name, kind, make)
    }

    /// The rows as a stream whose next node gets those of one key in one subtask.
    pub fn rows(self) -> Stream<T> {
        self.stream.hashed(self.key)
    }
}

impl<K, T> fmt::Debug for KeyedStream<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyedStream({:?})", self.stream)
    }
}
