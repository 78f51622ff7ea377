//! [`FrozenTable`]: the rows of a table of keys at a barrier.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;

use super::away::FrozenRows;
use super::codec::{KeyBytes, KeyCodec};
use super::key_set::KeySet;
use super::sealed::Sealed;
use super::table::alive;
use crate::{Fault, Result, Run, Snapshot};

/// Rows of which some are dead.
pub(super) struct FrozenChunk {
    pub(super) rows: RecordBatch,
    pub(super) live: Arc<Vec<bool>>,
    pub(super) count: usize,
    /// Whether they have changed since the last snapshot.
    pub(super) fresh: bool,
}

/// A table as it was.
pub(super) struct FrozenTable {
    pub(super) codec: Arc<KeyCodec>,
    pub(super) chunks: Vec<FrozenChunk>,
    /// What takes the place of rows of chunks, the last one last.
    pub(super) sealed: Vec<Arc<Sealed>>,
    /// Whether the last of them has changed since the last snapshot.
    pub(super) is_fresh: bool,
    pub(super) gone: Vec<KeyBytes>,
    pub(super) away: Option<FrozenRows>,
}

impl Snapshot for FrozenTable {
    /// A key that is sealed and in a chunk counts twice.
    fn len(&self) -> usize {
        let sealed: usize = self.sealed.iter().map(|sealed| sealed.len()).sum();
        let away = self.away.as_ref().map_or(0, FrozenRows::len);
        self.chunks.iter().map(|chunk| chunk.count).sum::<usize>() + away + sealed
    }

    fn encode_in_parts(self: Box<Self>, key_groups: u32, whole: bool, give: &mut dyn FnMut(Run) -> Result) -> Result {
        let FrozenTable { codec, chunks, sealed, is_fresh, gone, away } = *self;
        let wrong = |error| Fault::bug("the state of columns cannot be saved").because(error);
        let mut rows = Vec::new();
        // From the newest to the oldest: what a key has in a newer one takes the place of what it has in an older one.
        let mut seen = KeySet::new();
        let mut add = |of: &RecordBatch, mut live: Arc<Vec<bool>>, note: bool| -> Result {
            let is_first = seen.len() == 0;
            if note || !is_first {
                let (keys, _) = codec.apart(of)?;
                if !is_first {
                    let stands = |(row, live): (usize, &bool)| *live && seen.find(keys.get(row)).is_none();
                    live = Arc::new(live.iter().enumerate().map(stands).collect());
                }
                if note {
                    for row in 0..of.num_rows() {
                        seen.number(keys.get(row));
                    }
                }
            }
            rows.push(alive(of, &live).map_err(wrong)?);
            Ok(())
        };
        let fresh = sealed.len() - usize::from(is_fresh);
        for of in sealed.iter().skip(if whole { 0 } else { fresh }).rev() {
            add(&of.rows(&codec)?, Arc::new(vec![true; of.len()]), true)?;
        }
        for chunk in chunks.into_iter().filter(|chunk| whole || chunk.fresh) {
            add(&chunk.rows, chunk.live, false)?;
        }
        let put = codec.save_sorted(&rows, key_groups)?;
        let gone = if whole { BTreeMap::new() } else { codec.save_keys(&gone, key_groups)? };
        // First what says of keys that they are gone: some stand in a chunk again.
        away.map_or(Ok(()), |away| away.encode(key_groups, whole, give))?;
        Run::of_parts(whole, gone, put).in_parts(give)
    }
}
