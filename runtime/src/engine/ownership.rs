//! [`Ownership`]: whether a run is still the one that may complete checkpoints.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use millstream_operators::{Fault, FaultKind, Result, Retry};

use crate::checkpoint::{Manifest, Revision, Store, StoreError};

/// The checkpoint that a run wrote last, against the newest there is: sources find it among the resources, and ask before they
/// do what would harm a run that has taken over.
pub struct Ownership {
    store: Arc<dyn Store>,
    pipeline: Arc<str>,
    /// The run's name, which its checkpoints bear.
    run: Arc<str>,
    /// The run whose checkpoint it begins from, whose place it takes.
    before: Arc<str>,
    revision: AtomicU64,
    // Whether a first checkpoint may be there, also if nobody waits for its write any more.
    may_have_written: AtomicBool,
}

const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Ownership {
    /// Of a run that begins from a checkpoint that the run `before` wrote.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        pipeline: Arc<str>,
        (run, before): (Arc<str>, Arc<str>),
        revision: Revision,
    ) -> Self {
        let (revision, may_have_written) = (AtomicU64::new(revision.0), AtomicBool::new(false));
        Ownership { store, pipeline, run, before, revision, may_have_written }
    }

    /// A name for a run, unlike that of any other.
    pub(crate) fn name_run() -> Arc<str> {
        // The keys of a hasher are as random as the standard library gives them.
        format!("{:016x}", RandomState::new().hash_one(std::process::id())).into()
    }

    /// The run's name.
    pub(crate) fn run(&self) -> &str {
        &self.run
    }

    /// Refuses to begin again from a checkpoint that another run has written since this one began or wrote its own: whoever
    /// started later has taken over, and a restart after a fault is no start. The run whose place it takes may have written
    /// one more.
    ///
    /// # Errors
    /// Another run has taken over.
    pub(crate) fn may_restart_from(&self, newest: Revision, manifest: &Manifest) -> Result {
        let since = newest.0 > self.revision.load(Ordering::Acquire);
        let known = manifest.run == *self.run || manifest.run == *self.before;
        if since && !known { Err(fenced(&self.pipeline)) } else { Ok(()) }
    }

    /// A write begins.
    pub(crate) fn writes(&self) {
        self.may_have_written.store(true, Ordering::Release);
    }

    /// The store has refused the run's first write: another has written since.
    pub(crate) fn was_refused(&self) {
        self.may_have_written.store(false, Ordering::Release);
    }

    /// Whether the run's first checkpoint may be there, or come yet.
    pub(crate) fn may_have_written(&self) -> bool {
        self.may_have_written.load(Ordering::Acquire)
    }

    /// The run has written this checkpoint.
    pub(crate) fn wrote(&self, revision: Revision) {
        self.revision.store(revision.0, Ordering::Release);
    }

    /// What ends a run that has found this fault: that another one has taken over, if the newest checkpoint is later than its
    /// own, for then what it found is the other's. It waits until the store tells. After what may be tried again it is found out
    /// when the run begins again.
    pub(crate) async fn blame(&self, fault: Fault) -> Fault {
        if fault.retry() != Retry::Never {
            return fault;
        }
        let mut told = false;
        loop {
            match self.store.read(&self.pipeline).await {
                Ok(Some((newest, _))) if newest.0 > self.revision.load(Ordering::Acquire) => {
                    return fenced(&self.pipeline);
                }
                Ok(_) | Err(StoreError::Failed(_) | StoreError::Fenced) => return fault,
                Err(StoreError::Unknown(away)) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(pipeline = %self.pipeline, "the run ends, and waits for the store to tell whether another instance has taken over: {}: {}", away.chain(), fault.chain());
                    }
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        }
    }

    /// Waits until the newest checkpoint is known to be this run's. If another run has written one, it waits until the
    /// coordinator finds that out and ends the run.
    ///
    /// # Errors
    /// The store does not tell: that may be tried again.
    pub async fn held(&self) -> Result {
        loop {
            match self.store.read(&self.pipeline).await {
                Ok(found) => {
                    // A write whose answer is on its way is known a moment later.
                    let newest = found.map(|(revision, _)| revision).unwrap_or_default();
                    if newest.0 <= self.revision.load(Ordering::Acquire) {
                        return Ok(());
                    }
                }
                Err(StoreError::Failed(fault)) => {
                    let words = "whether another run has taken over is not known";
                    return Err(Fault::new(FaultKind::Connection, words).because(fault));
                }
                Err(StoreError::Unknown(_) | StoreError::Fenced) => {}
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// The fault of a run that another one has taken over from.
pub(super) fn fenced(pipeline: &str) -> Fault {
    Fault::new(FaultKind::Fenced, format!("another instance of pipeline {pipeline} has taken over; this one stops"))
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ownership(of {})", self.pipeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::FailingStore;

    #[tokio::test(start_paused = true)]
    async fn whose_outputs_were_found_is_asked_until_the_store_tells() {
        let store = FailingStore::default();
        let newest = store.write("p", Revision(0), "a checkpoint".into()).await.unwrap();
        for (own, kind) in [(Revision(0), FaultKind::Fenced), (newest, FaultKind::Checkpoint)] {
            let run = Ownership::new(Arc::new(store.clone()), "p".into(), ("one".into(), "".into()), own);
            store.answer_no_read(2);
            let found = || Fault::new(FaultKind::Checkpoint, "outputs that no checkpoint has");
            assert_eq!(run.blame(found().retry_with(Retry::Never)).await.kind(), kind);
            assert_eq!(run.blame(found().retry_with(Retry::Backoff)).await.kind(), FaultKind::Checkpoint);
        }
    }
}
