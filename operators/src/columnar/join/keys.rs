//! [`Keys`]: what a join holds of each key: the rows of both sides in the order of time, and when to come back to it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use foldhash::fast::FixedState;

use crate::columnar::group::KeyBytes;

/// The left or the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Something of the left and of the right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Both<T> {
    pub(super) left: T,
    pub(super) right: T,
}

impl<T> Both<T> {
    pub(super) fn of(&self, side: Side) -> &T {
        match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        }
    }

    pub(super) fn of_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Left => &mut self.left,
            Side::Right => &mut self.right,
        }
    }
}

/// A row that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Its time.
    pub(super) time: i64,
    /// The last time that a row of the other side can have to be joined with it.
    pub(super) last: i64,
    /// Its number in the store of its side.
    pub(super) number: u64,
}

/// The rows of a key on one side, in the order of time, those of one time as they came.
pub(super) type List = VecDeque<Held>;

/// What is held of a key.
pub(super) struct Key {
    bytes: KeyBytes,
    /// Whether some of its columns are null: such a key is equal to none.
    pub(super) is_null: bool,
    /// The rows of the left and of the right.
    pub(super) lists: Both<List>,
    // When to come back to it: the earliest that was asked for.
    due: Option<i64>,
    found: Option<Box<Found>>,
}

/// What was found out of the rows of a key, so that not all of them are looked through each time.
#[derive(Default)]
struct Found {
    // The rows of the left that tell until when they may be joined: those that are gone first come first. Some have been
    // joined since, and let go.
    ends: BinaryHeap<Reverse<Ending>>,
    // How many rows stand in the list of the left though they are gone: they are before all that may come.
    gone: usize,
    // Where the first session begins, and up to which time its rows are known to follow each other.
    session: Option<(i64, i64)>,
}

/// A row by when it is gone, its time and its number; and the last time of its partners.
type Ending = (i64, i64, u64, i64);

/// So many timers or places are kept though nobody needs them.
const FEW: usize = 1_024;

/// All keys of which rows are held, by a number each.
pub(super) struct Keys {
    numbers: HashMap<KeyBytes, u32, FixedState>,
    keys: Vec<Key>,
    free: Vec<u32>,
    // A key may be in it several times; what is not its `due` counts for nothing.
    timers: BinaryHeap<Reverse<(i64, u32)>>,
    // The bytes of all keys.
    length: usize,
}

/// A key takes about so many bytes of memory beside its own, which are there twice.
const KEY: usize = 224;

impl Held {
    /// When it can be joined no more.
    pub(super) fn gone_at(&self) -> i64 {
        self.last.max(self.time).saturating_add(1)
    }
}

impl Key {
    /// Holds a row, which may tell by itself until when it can be joined.
    pub(super) fn insert(&mut self, side: Side, held: Held, tells_its_end: bool) {
        if tells_its_end {
            let Held { time, last, number } = held;
            self.found.get_or_insert_default().ends.push(Reverse((held.gone_at(), time, number, last)));
        }
        insert(self.lists.of_mut(side), held);
    }

    /// The rows of the left that tell their ends and are gone at `at`, as far as they `stay` until now; in the order of time.
    pub(super) fn take_ended(&mut self, at: i64, mut stays: impl FnMut(u64) -> bool) -> Vec<Held> {
        let Some(found) = &mut self.found else { return Vec::new() };
        let mut ended = Vec::new();
        while let Some(Reverse((_, time, number, last))) = found.ends.peek().copied().filter(|Reverse(end)| end.0 <= at)
        {
            found.ends.pop();
            ended.extend(stays(number).then_some(Held { time, last, number }));
        }
        ended.sort_unstable_by_key(|held| (held.time, held.number));
        // Each row is taken out of the list once, and the list gone through when half of it is gone.
        found.gone += ended.len();
        if found.gone * 2 >= self.lists.left.len() {
            found.gone = 0;
            self.lists.left.retain(|held| held.gone_at() > at);
        }
        ended
    }

    /// When the next of those is gone.
    pub(super) fn next_end(&self) -> Option<i64> {
        self.found.as_ref()?.ends.peek().map(|Reverse((at, ..))| *at)
    }

    /// The time up to which the rows of the session that begins at `start` are known to follow each other: all that have
    /// come since from then on belong to it as well.
    pub(super) fn session_until(&self, start: i64) -> Option<i64> {
        self.found.as_ref()?.session.filter(|(begun, _)| *begun == start).map(|(_, last)| last)
    }

    /// Notes that.
    pub(super) fn follow_session(&mut self, start: i64, last: i64) {
        self.found.get_or_insert_default().session = Some((start, last));
    }
}

impl Default for Keys {
    fn default() -> Self {
        let numbers = HashMap::with_hasher(FixedState::with_seed(0));
        Keys { numbers, keys: Vec::new(), free: Vec::new(), timers: BinaryHeap::new(), length: 0 }
    }
}

impl Keys {
    /// The number of a key.
    pub(super) fn number(&mut self, bytes: &[u8], is_null: bool) -> u32 {
        if let Some(number) = self.numbers.get(bytes) {
            return *number;
        }
        let key = Key { bytes: bytes.into(), is_null, lists: Both::default(), due: None, found: None };
        let number = match self.free.pop() {
            Some(number) => {
                if let Some(place) = self.keys.get_mut(number as usize) {
                    *place = key;
                }
                number
            }
            None => {
                self.keys.push(key);
                u32::try_from(self.keys.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.numbers.insert(bytes.into(), number);
        self.length += bytes.len();
        number
    }

    /// The number of a key of which something is held.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<u32> {
        self.numbers.get(bytes).copied()
    }

    /// The bytes of a key.
    pub(super) fn bytes(&self, number: u32) -> &[u8] {
        self.keys.get(number as usize).map_or(&[], |key| &key.bytes)
    }

    /// About how many bytes of memory it takes.
    pub(super) fn held(&self) -> usize {
        self.numbers.len() * KEY + self.length * 2
    }

    /// Takes out what is held of a key: when to come back to it, and its rows.
    pub(super) fn take(&mut self, number: u32) -> Option<(Option<i64>, Both<List>)> {
        let key = self.keys.get_mut(number as usize)?;
        let taken = (key.due.take(), std::mem::take(&mut key.lists));
        self.release(number);
        Some(taken)
    }

    /// Forgets what stands in the way of nothing but takes memory, when many keys are gone.
    pub(super) fn shrink(&mut self) {
        if self.timers.len() > 2 * self.numbers.len() + FEW {
            let is_asked =
                |(at, number): &(i64, u32)| self.keys.get(*number as usize).is_some_and(|key| key.due == Some(*at));
            let timers = std::mem::take(&mut self.timers).into_iter().filter(|Reverse(timer)| is_asked(timer));
            let mut timers: Vec<_> = timers.collect();
            timers.sort_unstable();
            timers.dedup();
            self.timers = timers.into();
        }
        if self.numbers.capacity() > 4 * self.numbers.len() + FEW {
            self.numbers.shrink_to(2 * self.numbers.len());
        }
    }

    /// What is held of a key.
    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Key> {
        self.keys.get_mut(number as usize)
    }

    /// Comes back to a key at `due`, or before if that was asked for.
    pub(super) fn come_back(&mut self, number: u32, due: i64) {
        if let Some(key) = self.keys.get_mut(number as usize).filter(|key| key.due.is_none_or(|before| due < before)) {
            key.due = Some(due);
            self.timers.push(Reverse((due, number)));
        }
    }

    /// The earliest time at which keys were asked for, if that is not after `now`.
    pub(super) fn next_at(&mut self, now: i64) -> Option<i64> {
        while let Some(Reverse((at, number))) = self.timers.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            if self.keys.get(number as usize).is_some_and(|key| key.due == Some(at)) {
                return Some(at);
            }
            self.timers.pop();
        }
        None
    }

    /// The keys that were asked for at `at`, the earliest time at which some were, the last in the order of keys first; none of
    /// them has a time to come back to any more.
    pub(super) fn due_at(&mut self, at: i64) -> Vec<u32> {
        let mut due = Vec::new();
        while let Some(Reverse((_, number))) = self.timers.peek().copied().filter(|Reverse((due, _))| *due <= at) {
            self.timers.pop();
            if let Some(key) = self.keys.get_mut(number as usize).filter(|key| key.due == Some(at)) {
                key.due = None;
                due.push(number);
            }
        }
        self.sort(&mut due);
        due
    }

    /// Sorts keys, the last first.
    pub(super) fn sort(&self, keys: &mut [u32]) {
        keys.sort_unstable_by(|a, b| self.bytes(*b).cmp(self.bytes(*a)));
    }

    /// Forgets a key of which nothing is held.
    pub(super) fn release(&mut self, number: u32) {
        let empty = |key: &&mut Key| key.lists.left.is_empty() && key.lists.right.is_empty();
        if let Some(key) = self.keys.get_mut(number as usize).filter(empty)
            && self.numbers.remove(&key.bytes).is_some()
        {
            key.due = None;
            self.length -= key.bytes.len();
            self.free.push(number);
        }
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }
}

/// Puts a row where its time says.
fn insert(list: &mut List, held: Held) {
    match list.back() {
        Some(last) if last.time > held.time => {
            let place = list.partition_point(|other| other.time <= held.time);
            list.insert(place, held);
        }
        _ => list.push_back(held),
    }
}

/// The places of the rows whose times are between these, both included.
pub(super) fn between(list: &List, from: i64, to: i64) -> std::ops::Range<usize> {
    let start = list.partition_point(|held| held.time < from);
    let end = list.partition_point(|held| held.time <= to);
    start..end.max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_due_once_each_and_in_their_order() {
        let mut keys = Keys::default();
        let [b, a] = [b"b", b"a"].map(|bytes| keys.number(bytes, false));
        for (key, due) in [(b, 20), (a, 20), (b, 10), (b, 20), (a, 20)] {
            keys.come_back(key, due);
        }
        assert_eq!(keys.next_at(9), None);
        assert_eq!((keys.next_at(30), keys.due_at(10)), (Some(10), vec![b]));
        keys.come_back(b, 20);
        assert_eq!(keys.next_at(30), Some(20));
        assert_eq!(keys.due_at(20), [b, a], "the last comes first, to be taken from the end");
        assert_eq!(keys.next_at(i64::MAX), None);
    }

    #[test]
    fn a_key_that_is_released_leaves_its_number_to_another() {
        let mut keys = Keys::default();
        let a = keys.number(b"a", false);
        keys.come_back(a, 5);
        keys.release(a);
        assert_eq!((keys.number(b"b", true), keys.len()), (a, 1));
        assert_eq!(keys.next_at(10), None, "what was asked for the other does not count");
        let held = Held { time: 1, last: 1, number: 0 };
        insert(&mut keys.get_mut(a).unwrap().lists.left, held);
        keys.release(a);
        assert_eq!(keys.len(), 1, "a row is held");
    }

    #[test]
    fn rows_of_a_time_stay_as_they_came() {
        let mut list = List::new();
        for (number, time) in (0..).zip([5, 3, 5, 9, 3]) {
            insert(&mut list, Held { time, last: time, number });
        }
        assert_eq!(list.iter().map(|held| held.number).collect::<Vec<_>>(), [1, 4, 0, 2, 3]);
        assert_eq!([between(&list, 3, 5), between(&list, 4, 4), between(&list, 6, 99)], [0..4, 2..2, 4..5]);
    }
}
