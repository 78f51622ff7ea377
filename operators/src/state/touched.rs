//! [`Touched`]: which keys of a shard have changed since the last barrier.

/// The keys that have changed, by their hashes, and those that were taken out. What it takes is bounded by the shard.
#[derive(Clone, Debug)]
pub(super) struct Touched<K> {
    hashes: Vec<u64>,
    gone: Vec<K>,
    // More changed than is worth telling apart.
    all: bool,
    // More was taken out than is kept here: only a whole run tells.
    lost: bool,
}

/// So many changes are told apart however few keys there are.
const FEW: usize = 32;

impl<K> Default for Touched<K> {
    fn default() -> Self {
        Touched { hashes: Vec::new(), gone: Vec::new(), all: false, lost: false }
    }
}

impl<K> Touched<K> {
    /// The value of the key with this hash may change, in a shard of `len` keys.
    pub(super) fn touch(&mut self, hash: u64, len: usize) {
        if self.all || self.hashes.last() == Some(&hash) {
            return;
        }
        self.hashes.push(hash);
        if self.hashes.len() > len + FEW {
            self.hashes.sort_unstable();
            self.hashes.dedup();
            // A set that stays so large would be sorted again at once.
            self.all = self.hashes.len() > len / 2 + FEW / 2;
            if self.all {
                self.hashes = Vec::new();
            }
        }
    }

    /// The key is taken out, in a shard of `len` keys.
    pub(super) fn remove(&mut self, key: impl FnOnce() -> K, len: usize) {
        if self.lost {
            return;
        }
        self.gone.push(key());
        if self.gone.len() > len + FEW {
            (self.lost, self.gone) = (true, Vec::new());
        }
    }

    /// Whether nothing has changed.
    pub(super) fn is_empty(&self) -> bool {
        !self.all && !self.lost && self.hashes.is_empty() && self.gone.is_empty()
    }

    /// Whether what was taken out is no longer known.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Only a whole run tells from now on.
    pub(super) fn lose(&mut self) {
        (self.lost, self.gone) = (true, Vec::new());
    }

    /// The keys that were taken out; some may be there again.
    pub(super) fn gone(&self) -> &[K] {
        &self.gone
    }

    /// Takes those keys; from now on they are noted elsewhere.
    pub(super) fn take_gone(&mut self) -> Vec<K> {
        self.lost = false;
        std::mem::take(&mut self.gone)
    }

    /// Says of hashes whether they are among those that have changed.
    pub(super) fn finder(&mut self) -> impl Fn(u64) -> bool + '_ {
        self.hashes.sort_unstable();
        |hash| self.all || self.hashes.binary_search(&hash).is_ok()
    }

    /// Moves what concerns other keys, as `goes` says of their hashes, into another.
    pub(super) fn split_off(&mut self, goes: impl Fn(u64) -> bool, hash: impl Fn(&K) -> u64) -> Self {
        let (hashes, stay) = std::mem::take(&mut self.hashes).into_iter().partition(|hash| goes(*hash));
        let (gone, left) = std::mem::take(&mut self.gone).into_iter().partition(|key| goes(hash(key)));
        (self.hashes, self.gone) = (stay, left);
        Touched { hashes, gone, all: self.all, lost: self.lost }
    }
}
