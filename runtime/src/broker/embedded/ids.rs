//! [`Ids`]: the message ids a stream has seen of late.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use super::due::after;

/// Message ids and the sequences they were stored at, for one window of time.
#[derive(Debug, Default)]
pub(super) struct Ids {
    seqs: HashMap<Arc<str>, u64, BuildHasherDefault<DefaultHasher>>,
    /// In the order in which they came; an id is here once for each time it came.
    order: VecDeque<(i64, Arc<str>, u64)>,
}

impl Ids {
    /// Where the message with this id is, if it came within `window` nanoseconds.
    pub(super) fn find(&mut self, id: &str, now: i64, window: u64) -> Option<u64> {
        while let Some((at, id, seq)) = self.order.front() {
            if after(*at, window) > now {
                break;
            }
            if self.seqs.get(id) == Some(seq) {
                self.seqs.remove(id);
            }
            self.order.pop_front();
        }
        self.seqs.get(id).copied()
    }

    /// Forgets the ids of messages that are not to be known any more.
    pub(super) fn retain(&mut self, known: impl Fn(u64) -> bool) {
        self.seqs.retain(|_, seq| known(*seq));
    }

    pub(super) fn insert(&mut self, id: &str, seq: u64, now: i64) {
        let id: Arc<str> = id.into();
        self.seqs.insert(Arc::clone(&id), seq);
        self.order.push_back((now, id, seq));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_known_for_a_window() {
        let mut ids = Ids::default();
        ids.insert("a", 1, 100);
        assert_eq!(ids.find("a", 149, 50), Some(1));
        assert_eq!(ids.find("a", 150, 50), None);
        ids.insert("a", 2, 150);
        assert_eq!(ids.find("a", 160, 50), Some(2));
    }
}
