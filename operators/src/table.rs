//! [`Table`]: keys and what they stand for now, kept current by somebody else.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

/// Keys and their values as they are now: what a lookup reads, and something outside of the pipeline's rows keeps current.
///
/// A clone is the same table. Readers look a whole batch up at once, so that all of its rows see the table at one moment.
/// It is no state: checkpoints do not hold it, and rows that are processed again see it as it is then.
///
/// ```
/// use millstream_operators::Table;
/// let table = Table::default();
/// table.put("ann", "gold");
/// assert_eq!(table.look_up([Some("ann"), Some("bob"), None]), [Some("gold".into()), None, None]);
/// ```
#[derive(Clone, Default)]
pub struct Table(Arc<RwLock<HashMap<String, Bytes>>>);

impl Table {
    /// A table that holds these values.
    pub fn of<K: Into<String>, V: Into<Bytes>>(values: impl IntoIterator<Item = (K, V)>) -> Self {
        let table = Table::default();
        table.replace(values.into_iter().map(|(key, value)| (key.into(), value.into())).collect());
        table
    }

    /// Sets what a key stands for.
    pub fn put(&self, key: impl Into<String>, value: impl Into<Bytes>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(key.into(), value.into());
    }

    /// The key stands for nothing any more.
    pub fn remove(&self, key: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Sets all of it in one moment.
    pub fn replace(&self, all: HashMap<String, Bytes>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = all;
    }

    /// What each of the keys stands for now; nothing for no key.
    pub fn look_up<'k>(&self, keys: impl IntoIterator<Item = Option<&'k str>>) -> Vec<Option<Bytes>> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        keys.into_iter().map(|key| table.get(key?).cloned()).collect()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({} keys)", self.len())
    }
}
