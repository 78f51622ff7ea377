//! [`SizeLimit`]: how large a message may be, which only the sink knows and only the encoder can act on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes of headers and payload that what is behind a sink takes in one message. Clones share it: the sink sets it when it
/// is open, before any row comes, and the encoder before it rejects rows that would be larger.
#[derive(Clone, Debug)]
pub struct SizeLimit(Arc<AtomicUsize>);

impl Default for SizeLimit {
    fn default() -> Self {
        SizeLimit(Arc::new(AtomicUsize::new(usize::MAX)))
    }
}

impl SizeLimit {
    /// So many are taken from now on.
    pub fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// How many are taken; no limit until the sink has said one.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}
