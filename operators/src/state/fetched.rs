//! [`Fetched`]: entries that were read while nothing could be changed.

use std::sync::OnceLock;

/// Entries read from elsewhere for whoever holds a shared reference, kept until they are forgotten all at once.
pub(super) struct Fetched<K, S> {
    chains: OnceLock<Vec<Chain<K, S>>>,
    all: OnceLock<Vec<(K, S)>>,
}

type Chain<K, S> = OnceLock<Box<Link<K, S>>>;

struct Link<K, S> {
    key: K,
    value: S,
    next: Chain<K, S>,
}

const CHAINS: usize = 1_024;

impl<K, S> Default for Fetched<K, S> {
    fn default() -> Self {
        Fetched { chains: OnceLock::new(), all: OnceLock::new() }
    }
}

impl<K: Eq, S> Fetched<K, S> {
    fn chain(&self, hash: u64) -> Option<&Chain<K, S>> {
        let chains = self.chains.get_or_init(|| (0..CHAINS).map(|_| OnceLock::new()).collect());
        chains.get(usize::try_from(hash >> 32).unwrap_or_default() % CHAINS)
    }

    /// The value of a key, read if it was not kept.
    pub(super) fn get(&self, key: &K, hash: u64, read: impl FnOnce() -> Option<(K, S)>) -> Option<&S> {
        let mut next = self.chain(hash)?;
        while let Some(link) = next.get() {
            if link.key == *key {
                return Some(&link.value);
            }
            next = &link.next;
        }
        let (key, value) = read()?;
        Some(&next.get_or_init(|| Box::new(Link { key, value, next: OnceLock::new() })).value)
    }

    /// All of them, read once.
    pub(super) fn all(&self, read: impl FnOnce() -> Vec<(K, S)>) -> &[(K, S)] {
        self.all.get_or_init(read)
    }
}
