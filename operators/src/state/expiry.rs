//! [`Expiry`]: when state of keys that nothing comes for any more is forgotten.

use std::collections::hash_map::Entry;
use std::fmt;
use std::time::Duration;

use super::{Keyed, StateKey, StateVisitor, Timers};
use crate::{Result, Timestamp};

/// Knows of each key when something last came for it, and which keys have been silent for longer than a span of event time:
///
/// ```text
/// rows of a key (span 10)      3      9               25 | 38             |
/// watermark                                              |             49 |
/// it is known from then        3 ---------------------|    25 ... 48      forgotten
///                                    its end is 19: the row at 25 finds nothing
/// ```
///
/// Whether a row finds the state of its key depends on the times of the rows of the key, and not on where watermarks fall
/// among them: a row more than the span behind the last one finds nothing. The watermark only says when nothing can come any
/// more that would find something, and lets it go. A row that is late, behind the watermark, may find its key forgotten.
///
/// ```
/// use std::time::Duration;
/// use millstream_operators::{Expiry, Timestamp};
/// let (at, mut expiry) = (Timestamp::from_micros, Expiry::new(Duration::from_micros(10)));
/// assert!(!expiry.touch(&"a", at(3)));
/// assert!(!expiry.touch(&"a", at(13)));
/// assert!(expiry.touch(&"a", at(24)), "what it had is to be forgotten first");
/// assert_eq!(expiry.next_gone(at(34)), None);
/// assert_eq!(expiry.next_gone(at(35)), Some("a"));
/// ```
pub struct Expiry<K> {
    after: Duration,
    last: Keyed<K, Timestamp>,
    // One for each key that is known; it may have lived on since.
    timers: Timers<K>,
}

impl<K: crate::Key + Ord> Expiry<K> {
    /// Forgets keys that are silent for longer than `after`.
    pub fn new(after: Duration) -> Self {
        Expiry { after, last: Keyed::default(), timers: Timers::default() }
    }

    /// Something comes for a key at `time`. True if what the key had is to be forgotten first.
    pub fn touch(&mut self, key: &K, time: Timestamp) -> bool {
        let end = |last: Timestamp| last.saturating_add(self.after);
        match self.last.entry(key.clone()) {
            Entry::Occupied(mut entry) => {
                let is_over = time > end(*entry.get());
                entry.insert(time.max(*entry.get()));
                is_over
            }
            Entry::Vacant(entry) => {
                entry.insert(time);
                self.timers.set(shortly_after(end(time)), key.clone());
                false
            }
        }
    }

    /// The next key that is to be forgotten when event time has come to `now`. The end of the input is no time: what is known
    /// then stays.
    pub fn next_gone(&mut self, now: Timestamp) -> Option<K> {
        if now == Timestamp::MAX {
            return None;
        }
        while let Some((at, key)) = self.timers.next_due(now) {
            let Some(last) = self.last.get(&key) else { continue };
            let gone = shortly_after(last.saturating_add(self.after));
            if gone <= at {
                self.last.remove(&key);
                return Some(key);
            }
            self.timers.set(gone, key);
        }
        None
    }

    /// How many keys are known.
    pub fn len(&self) -> usize {
        self.last.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.last.is_empty()
    }
}

impl<K: StateKey> Expiry<K> {
    /// Lists it among the state of an operator: the pieces `last` and `ends`.
    ///
    /// # Errors
    /// As [`StateVisitor::keyed`].
    pub fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.keyed("last", &mut self.last)?;
        visit.timers("ends", &mut self.timers)
    }
}

/// A row at the very end of the span still finds something.
fn shortly_after(time: Timestamp) -> Timestamp {
    time.saturating_add(Duration::from_micros(1))
}

impl<K> fmt::Debug for Expiry<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expiry(after {:?}, {:?})", self.after, self.last)
    }
}
