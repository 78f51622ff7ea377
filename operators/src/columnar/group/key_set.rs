//! [`KeySet`]: keys, numbered as they come.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// Keys that stand side by side in one piece of memory, so that a million of them come and go with a few allocations.
pub(super) struct KeySet {
    bytes: Vec<u8>,
    /// Where in `bytes` each ends.
    ends: Vec<usize>,
    /// The hash of each key, so that it is not computed anew where the table grows, and its number.
    numbers: HashTable<(u64, usize)>,
    hasher: FixedState,
}

/// The key of a number.
fn key<'a>(bytes: &'a [u8], ends: &[usize], number: usize) -> &'a [u8] {
    let start = number.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0);
    let end = ends.get(number).copied().unwrap_or(start);
    bytes.get(start..end).unwrap_or_default()
}

impl KeySet {
    pub(super) fn new() -> Self {
        let hasher = FixedState::with_seed(0);
        KeySet { bytes: Vec::new(), ends: Vec::new(), numbers: HashTable::new(), hasher }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The key of a number; an empty one if there is none.
    pub(super) fn get(&self, number: usize) -> &[u8] {
        key(&self.bytes, &self.ends, number)
    }

    /// The keys from one number to another, by number.
    pub(super) fn range(&self, numbers: std::ops::Range<usize>) -> impl Iterator<Item = &[u8]> {
        numbers.map(|number| self.get(number))
    }

    /// The number of a key, if it is there.
    pub(super) fn find(&self, key: &[u8]) -> Option<usize> {
        let hash = self.hasher.hash_one(key);
        self.numbers.find(hash, |(of, number)| *of == hash && self.get(*number) == key).map(|(_, number)| *number)
    }

    /// The number of a key, which is the next one if it was not there.
    pub(super) fn number(&mut self, wanted: &[u8]) -> usize {
        let KeySet { bytes, ends, numbers, hasher } = self;
        let hash = hasher.hash_one(wanted);
        if let Some((_, number)) = numbers.find(hash, |(of, number)| *of == hash && key(bytes, ends, *number) == wanted)
        {
            return *number;
        }
        let next = ends.len();
        bytes.extend_from_slice(wanted);
        ends.push(bytes.len());
        numbers.insert_unique(hash, (hash, next), |(of, _)| *of);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_numbered_as_they_come_and_found_again() {
        let mut keys = KeySet::new();
        let texts: Vec<String> = (0..5_000).map(|n| "x".repeat(n % 7) + &(n / 7).to_string()).collect();
        let mut expected: Vec<&str> = Vec::new();
        for text in texts.iter().chain(&texts) {
            let place = expected.iter().position(|key| key == text);
            assert_eq!(keys.find(text.as_bytes()), place);
            assert_eq!(keys.number(text.as_bytes()), place.unwrap_or(expected.len()));
            if place.is_none() {
                expected.push(text);
            }
        }
        assert_eq!(keys.len(), expected.len());
        assert!(keys.range(0..keys.len()).eq(expected.iter().map(|key| key.as_bytes())));
        assert!(keys.get(keys.len()).is_empty() && keys.find(b"no").is_none());
    }

    #[test]
    fn the_empty_key_is_one_as_any_other() {
        let mut keys = KeySet::new();
        assert_eq!(keys.find(b""), None);
        assert_eq!((keys.number(b""), keys.number(b"a"), keys.number(b"")), (0, 1, 0));
        assert_eq!((keys.get(0), keys.get(1)), (&b""[..], &b"a"[..]));
    }
}
