//! [`Retention`]: which blobs of a pipeline are still needed, and when the others go.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use millstream_operators::Timestamp;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::load::read_manifest;
use super::segment::BlobId;
use super::store::{Store, StoreError};

/// What the last checkpoints name stays, and what savepoints name; the rest goes, some of it at a time.
#[derive(Debug)]
pub(crate) struct Retention {
    store: Arc<dyn Store>,
    pipeline: Arc<str>,
    // What each of the last checkpoints names, the newest last.
    recent: VecDeque<BTreeSet<BlobId>>,
    dropped: BTreeSet<BlobId>,
    swept_at: Instant,
    sweep: Option<JoinHandle<()>>,
    // Whoever puts blobs beside the coordinator reads it, whoever deletes some writes it.
    settled: Arc<RwLock<()>>,
}

/// The previous checkpoints stay for the case that the newest turns out to be damaged.
const CHECKPOINTS: usize = 3;
const MANY: usize = 64;
const OFTEN: Duration = Duration::from_secs(60);
/// What no checkpoint names may be part of one that is just being written.
const ORPHANED: Duration = Duration::from_secs(3_600);

impl Retention {
    /// Of a pipeline whose newest checkpoint names these.
    pub(crate) fn new(store: Arc<dyn Store>, pipeline: Arc<str>, ids: BTreeSet<BlobId>) -> Self {
        let (recent, swept_at) = (VecDeque::from([ids]), Instant::now());
        Retention { store, pipeline, recent, dropped: BTreeSet::new(), swept_at, sweep: None, settled: Arc::default() }
    }

    /// What is put while this is read stays, if the next checkpoint names it.
    pub(crate) fn lock(&self) -> Arc<RwLock<()>> {
        Arc::clone(&self.settled)
    }

    /// Held while something is deleted; `None` when something is being put, or deleted already.
    fn unsettled(&self) -> Option<OwnedRwLockWriteGuard<()>> {
        Arc::clone(&self.settled).try_write_owned().ok()
    }

    /// Whether a blob is in the store for sure.
    pub(crate) fn has(&self, id: BlobId) -> bool {
        self.recent.iter().any(|ids| ids.contains(&id))
    }

    /// Waits until nothing is being deleted, so that what is put now stays.
    pub(crate) async fn settled(&mut self) {
        if let Some(sweep) = self.sweep.take() {
            let _ = sweep.await;
        }
    }

    /// A checkpoint that names these is durable.
    pub(crate) fn committed(&mut self, ids: BTreeSet<BlobId>) {
        self.dropped.retain(|id| !ids.contains(id));
        self.recent.push_back(ids);
        if self.recent.len() > CHECKPOINTS
            && let Some(old) = self.recent.pop_front()
        {
            let dropped: Vec<BlobId> = old.into_iter().filter(|id| !self.has(*id)).collect();
            self.dropped.extend(dropped);
        }
        let due = self.dropped.len() >= MANY || self.swept_at.elapsed() >= OFTEN;
        if due
            && !self.dropped.is_empty()
            && self.sweep.as_ref().is_none_or(JoinHandle::is_finished)
            && let Some(unsettled) = self.unsettled()
        {
            self.swept_at = Instant::now();
            let (store, pipeline, ids) =
                (Arc::clone(&self.store), Arc::clone(&self.pipeline), std::mem::take(&mut self.dropped));
            self.sweep = Some(tokio::spawn(async move {
                if let Err(error) = forget(&*store, &pipeline, ids).await {
                    tracing::debug!(%pipeline, "what no checkpoint needs any more is not deleted yet: {error}");
                }
                drop(unsettled);
            }));
        }
    }

    /// Deletes, beside everything else, what runs have left that ended before their checkpoint was complete.
    pub(crate) fn sweep_orphans(&mut self, now: Timestamp) {
        let (store, pipeline) = (Arc::clone(&self.store), Arc::clone(&self.pipeline));
        let Some(unsettled) = self.unsettled() else { return };
        self.sweep = Some(tokio::spawn(async move {
            if let Err(error) = forget_orphans(&*store, &pipeline, now).await {
                tracing::debug!(%pipeline, "what earlier runs may have left is not looked for: {error}");
            }
            drop(unsettled);
        }));
    }
}

impl Drop for Retention {
    /// The next run has one of its own, which would not wait for this one's.
    fn drop(&mut self) {
        if let Some(sweep) = &self.sweep {
            sweep.abort();
        }
    }
}

async fn forget(store: &dyn Store, pipeline: &str, ids: BTreeSet<BlobId>) -> Result<(), StoreError> {
    let mut pinned = BTreeSet::new();
    for (_, stored) in store.saved(pipeline).await? {
        pinned.extend(named_by(store, pipeline, &stored).await?);
    }
    for id in ids.difference(&pinned) {
        store.forget(pipeline, *id).await?;
    }
    Ok(())
}

async fn forget_orphans(store: &dyn Store, pipeline: &str, now: Timestamp) -> Result<(), StoreError> {
    let old = store.blobs(pipeline).await?.into_iter().filter(|blob| now.since(blob.stored_at) >= ORPHANED);
    let mut ids: BTreeSet<BlobId> = old.map(|blob| blob.id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    // One that cannot be read may name any of them: then all stay.
    for (_, stored) in store.history(pipeline).await? {
        for id in named_by(store, pipeline, &stored).await? {
            ids.remove(&id);
        }
    }
    forget(store, pipeline, ids).await
}

/// The blobs that a stored manifest names, and the one that it is in.
pub(crate) async fn named_by(store: &dyn Store, pipeline: &str, stored: &[u8]) -> Result<BTreeSet<BlobId>, StoreError> {
    let (manifest, inside) = read_manifest(store, pipeline, stored).await?;
    Ok(manifest.segments().map(|segment| segment.sha256).chain(inside).collect())
}
