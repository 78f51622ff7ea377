//! [`Snapshots`]: the state of a stage's operators as segments, made while the operators go on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::Either;
use millstream_operators::{Fault, Frozen, Result, Saved};
use tokio::sync::RwLock;

use super::beside::{Beside, Wanted};
use crate::checkpoint::{BlobId, NodeState, Segment, Store, StoreError};

/// What an operator held at a barrier, as a checkpoint keeps it.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) small: Saved,
    pub(crate) keyed: BTreeMap<String, Vec<Segment>>,
    /// Bytes that are to be stored under their ids, if they are not yet.
    pub(crate) blobs: Vec<(BlobId, Bytes)>,
}

/// Those of a stage, by node.
#[derive(Debug)]
pub(crate) enum All {
    /// They are to be in the checkpoint.
    Taken(Vec<(Arc<str>, Snapshot)>),
    /// The store does not take them: then there is no checkpoint.
    Refused(Fault),
}

impl All {
    /// Of a task without state.
    pub(crate) fn none() -> Self {
        All::Taken(Vec::new())
    }
}

/// What is kept of the snapshots of a subtask: the segments that the next ones go on from.
#[derive(Clone, Debug)]
pub(crate) struct Snapshots {
    key_groups: u32,
    runs: Arc<Mutex<Runs>>,
    uploads: Option<Uploads>,
    beside: Beside,
}

/// Where segments are stored as they are made, where all of them together may be more than fits in memory.
#[derive(Clone, Debug)]
pub(crate) struct Uploads {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) pipeline: Arc<str>,
    /// What is put while this is read is not deleted.
    pub(crate) settled: Arc<RwLock<()>>,
}

type Runs = BTreeMap<Arc<str>, BTreeMap<String, Vec<Segment>>>;

/// State with fewer entries is encoded where it is: to hand it over would take longer.
const FEW: usize = 1_024;
/// More runs behind a whole one take longer to play than they save; of a large one somewhat more.
const MOST_RUNS: usize = 16;
const LARGE: u64 = 4 << 20;
const PAUSE: Duration = Duration::from_secs(1);

impl Snapshots {
    /// Of a subtask that begins without state, in so many key groups.
    pub(crate) fn new(key_groups: u32, beside: Beside) -> Self {
        Snapshots { key_groups, runs: Arc::default(), uploads: None, beside }
    }

    /// The same, where segments are stored as they are made.
    #[must_use]
    pub(crate) fn storing(mut self, uploads: Uploads) -> Self {
        self.uploads = Some(uploads);
        self
    }

    /// Goes on from what a checkpoint has of an operator of this very subtask.
    pub(crate) fn resume(&self, node: &str, state: &NodeState) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.insert(node.into(), state.keyed.clone());
    }

    /// Encodes what is frozen. Snapshots must be taken in the order in which they were frozen, one behind the other, and none left
    /// out. Where it is handed over, that is done at once, and goes on though nobody polls.
    ///
    /// # Errors
    /// What cannot be encoded.
    pub(crate) fn take(&self, frozen: Vec<(Arc<str>, Frozen)>) -> impl Future<Output = Result<All>> + Send + 'static {
        let entries: usize = frozen.iter().map(|(_, frozen)| frozen.len()).sum();
        let this = self.clone();
        if entries < FEW && self.uploads.is_none() {
            return Either::Left(async move { this.encode(frozen, None) });
        }
        let what = "state could not be encoded for a checkpoint";
        Either::Right(self.beside.work(what, move |wanted| this.encode(frozen, Some(wanted))))
    }

    fn encode(&self, frozen: Vec<(Arc<str>, Frozen)>, wanted: Option<&Wanted>) -> Result<All> {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut all, mut refused) = (Vec::new(), None);
        for (node, frozen) in frozen {
            let before = runs.remove(&node).unwrap_or_default();
            match self.of_node(frozen, before, wanted, &mut refused) {
                Ok(snapshot) => {
                    runs.insert(Arc::clone(&node), snapshot.keyed.clone());
                    all.push((node, snapshot));
                }
                Err(fault) => match refused.take() {
                    None => return Err(fault.at(&node)),
                    // Nothing of it is kept in memory: the next ones tell everything.
                    Some(refused) => {
                        runs.clear();
                        return Ok(All::Refused(refused.at(&node)));
                    }
                },
            }
        }
        Ok(All::Taken(all))
    }

    fn of_node(
        &self,
        frozen: Frozen,
        mut before: BTreeMap<String, Vec<Segment>>,
        wanted: Option<&Wanted>,
        refused: &mut Option<Fault>,
    ) -> Result<Snapshot> {
        let (small, pieces) = frozen.into_parts();
        let (mut keyed, mut blobs) = (BTreeMap::new(), Vec::new());
        for (name, piece) in pieces {
            let mut segments = before.remove(&name).unwrap_or_default();
            let (whole, mut is_first) = (wants_whole(&segments), true);
            piece.encode_in_parts(self.key_groups, whole, &mut |run| {
                wanted.map_or(Ok(()), Wanted::check)?;
                if run.whole && is_first {
                    segments.clear();
                }
                is_first = false;
                if run.whole || !run.is_empty() {
                    let (segment, bytes) = Segment::pack(&run, run.whole)?;
                    match (bytes, &self.uploads, wanted) {
                        (None, ..) => {}
                        (Some(bytes), Some(uploads), Some(wanted)) => {
                            uploads.store(segment.sha256, bytes, wanted, refused)?;
                        }
                        // It is left to the coordinator.
                        (Some(bytes), ..) => blobs.push((segment.sha256, bytes)),
                    }
                    segments.push(segment);
                }
                Ok(())
            })?;
            keyed.insert(name, segments);
        }
        Ok(Snapshot { small, keyed, blobs })
    }
}

impl Uploads {
    /// Stores a blob at once. If the store does not take it, why it does not is in `refused`.
    fn store(&self, id: BlobId, bytes: Bytes, wanted: &Wanted, refused: &mut Option<Fault>) -> Result {
        let Uploads { store, pipeline, settled } = self.clone();
        let stored = wanted.wait(async move {
            loop {
                let stays = settled.read().await;
                let put = store.put(&pipeline, id, bytes.clone()).await;
                drop(stays);
                match put {
                    Err(StoreError::Unknown(fault)) => {
                        tracing::warn!(%pipeline, "state is not stored, trying again in {PAUSE:?}: {}", fault.chain());
                        tokio::time::sleep(PAUSE).await;
                    }
                    other => return other,
                }
            }
        })?;
        match stored {
            Ok(()) => Ok(()),
            Err(StoreError::Failed(fault) | StoreError::Unknown(fault)) => {
                *refused = Some(fault);
                Err(Fault::bug("the store refused"))
            }
            Err(StoreError::Fenced) => Err(Fault::bug("a blob was fenced")),
        }
    }
}

/// Whether it is time for a whole run: for the first, and where those behind the last whole one, which may have several
/// parts, have become many or large.
fn wants_whole(segments: &[Segment]) -> bool {
    let parts = segments.iter().take_while(|segment| segment.whole).count();
    let (whole, changes) = segments.split_at(parts);
    let size = |segments: &[Segment]| segments.iter().map(|segment| segment.size).sum::<u64>();
    let most = MOST_RUNS - 1 + usize::try_from(size(whole) / LARGE).unwrap_or_default();
    whole.is_empty() || changes.len() >= most || size(changes) * 2 > size(whole)
}

#[cfg(test)]
mod tests {
    use millstream_operators::{Keyed, StateVisitor};

    use super::*;

    fn frozen(keyed: &mut Keyed<u64, u64>) -> Vec<(Arc<str>, Frozen)> {
        let mut frozen = Frozen::default();
        StateVisitor::freeze(&mut frozen).keyed("counts", keyed).unwrap();
        vec![("count".into(), frozen)]
    }

    async fn segments(snapshots: &Snapshots, keyed: &mut Keyed<u64, u64>) -> (Vec<Segment>, usize) {
        let All::Taken(mut all) = snapshots.take(frozen(keyed)).await.unwrap() else { panic!("refused") };
        let (_, snapshot) = all.remove(0);
        let written = snapshot.blobs.iter().map(|(_, bytes)| bytes.len()).sum();
        (snapshot.keyed.into_values().next().unwrap(), written)
    }

    #[tokio::test]
    async fn a_checkpoint_writes_what_has_changed_until_that_is_half_of_everything() {
        let mut keyed: Keyed<u64, u64> =
            (0..200_000_u64).map(|key| (key, key.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
        let snapshots = Snapshots::new(128, Beside::here().0);
        let (first, whole) = segments(&snapshots, &mut keyed).await;
        assert!(first.len() == 1 && first[0].whole);
        let (mut lengths, mut most) = (Vec::new(), 0);
        for round in 1..=12_u64 {
            for key in (0..200_000).filter(|key| key % 20 == round) {
                *keyed.entry(key).or_default() ^= round;
            }
            let (segments, written) = segments(&snapshots, &mut keyed).await;
            lengths.push(segments.len());
            if !segments.last().unwrap().whole {
                most = most.max(written);
            }
        }
        assert!(most * 10 < whole, "{most} of {whole}");
        assert!(lengths.contains(&1) && *lengths.iter().max().unwrap() > 5, "{lengths:?}");
        let (before, _) = segments(&snapshots, &mut keyed).await;
        let (after, written) = segments(&snapshots, &mut keyed).await;
        assert!(before == after && written == 0, "nothing has changed");
    }
}
