//! Ends and stores that behave badly on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millstream_operators::{Batch, Epoch, Fault, FaultKind, Result, Sink};
use tokio::sync::watch;

use crate::checkpoint::{Blob, BlobId, Manifest, MemoryStore, Revision, Store, StoreError, Stored};
use crate::connectors::Collected;

/// Opens and shuts what waits behind it.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// A gate that is shut.
    pub fn shut() -> Self {
        Gate(Arc::new(watch::Sender::new(false)))
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn pass(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// A sink that takes nothing while its gate is shut.
#[derive(Clone, Debug)]
pub struct StallingSink<T> {
    gate: Gate,
    collected: Collected<T>,
}

impl<T> StallingSink<T> {
    /// A sink into `collected`, behind `gate`.
    pub fn new(gate: Gate, collected: Collected<T>) -> Self {
        StallingSink { gate, collected }
    }
}

impl<T: Clone + Send + 'static> Sink for StallingSink<T> {
    type In = Vec<T>;

    async fn write(&mut self, batch: Batch<Vec<T>>) -> Result {
        self.gate.pass().await;
        self.collected.add(batch.into_parts().rows);
        Ok(())
    }

    async fn flush(&mut self, _: Epoch) -> Result {
        self.gate.pass().await;
        Ok(())
    }
}

/// How many wait, however many have the store that they wait for.
#[derive(Clone, Debug, Default)]
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// Counts as long as it is there.
    fn one(&self) -> OneWaits {
        self.0.fetch_add(1, Ordering::SeqCst);
        OneWaits(self.clone())
    }
}

struct OneWaits(Waiting);

impl Drop for OneWaits {
    fn drop(&mut self) {
        let Waiting(count) = &self.0;
        count.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A store whose writes fail so many times: before they take effect, or after; and that may give no answers.
#[derive(Clone, Debug)]
pub struct FailingStore {
    inner: MemoryStore,
    refused: Arc<AtomicU32>,
    refused_blobs: Arc<AtomicU32>,
    held_blobs: Arc<watch::Sender<usize>>,
    holding: Waiting,
    unconfirmed: Arc<AtomicU32>,
    outdated: Arc<AtomicU32>,
    late: Arc<AtomicU32>,
    hidden: Arc<AtomicU32>,
    outrun: Arc<AtomicU32>,
    there_before: Arc<AtomicU32>,
    silent: Arc<AtomicU32>,
    answered_before: Arc<AtomicU32>,
    refused_names: Arc<AtomicU32>,
    questions: Arc<AtomicU32>,
    answers: Arc<AtomicU32>,
    unanswered: Waiting,
}

impl Default for FailingStore {
    fn default() -> Self {
        let counter = |from| Arc::new(AtomicU32::new(from));
        FailingStore {
            inner: MemoryStore::default(),
            refused: counter(0),
            refused_blobs: counter(0),
            held_blobs: Arc::new(watch::Sender::new(usize::MAX)),
            holding: Waiting::default(),
            unconfirmed: counter(0),
            outdated: counter(0),
            late: counter(0),
            hidden: counter(0),
            outrun: counter(0),
            there_before: counter(0),
            silent: counter(0),
            answered_before: counter(0),
            refused_names: counter(0),
            questions: counter(0),
            answers: counter(u32::MAX),
            unanswered: Waiting::default(),
        }
    }
}

impl FailingStore {
    /// The next `times` writes fail and are not kept.
    pub fn refuse(&self, times: u32) {
        self.refused.store(times, Ordering::SeqCst);
    }

    /// The next `times` blobs are not kept.
    pub fn refuse_blobs(&self, times: u32) {
        self.refused_blobs.store(times, Ordering::SeqCst);
    }

    /// Blobs of so many bytes or more wait until that is another number.
    pub fn hold_blobs_of(&self, bytes: usize) {
        self.held_blobs.send_replace(bytes);
    }

    /// How many of them wait.
    pub fn holding(&self) -> usize {
        self.holding.count()
    }

    /// How often somebody has asked for a blob.
    pub fn questions(&self) -> u32 {
        self.questions.load(Ordering::SeqCst)
    }

    /// Nobody who asks for a blob gets an answer but the next so many.
    pub fn answer_only(&self, times: u32) {
        self.answers.store(times, Ordering::SeqCst);
    }

    /// How many wait for an answer.
    pub fn unanswered(&self) -> usize {
        self.unanswered.count()
    }

    /// The next `times` writes are kept, but nobody learns it.
    pub fn lose_confirmation(&self, times: u32) {
        self.unconfirmed.store(times, Ordering::SeqCst);
    }

    /// The next `times` reads get no answer.
    pub fn answer_no_read(&self, times: u32) {
        self.answer_no_read_behind(0, times);
    }

    /// The next `first` reads are answered, and then `times` are not.
    pub fn answer_no_read_behind(&self, first: u32, times: u32) {
        self.answered_before.store(first, Ordering::SeqCst);
        self.silent.store(times, Ordering::SeqCst);
    }

    /// The next `times` savepoints are not kept.
    pub fn refuse_names(&self, times: u32) {
        self.refused_names.store(times, Ordering::SeqCst);
    }

    /// The next `times` reads are outdated when they are answered: whoever wrote last has written once more.
    pub fn outdate(&self, times: u32) {
        self.outdated.store(times, Ordering::SeqCst);
    }

    /// The next `times` writes take effect a second later, also where nobody waits for them any more.
    pub fn write_late(&self, times: u32) {
        self.late.store(times, Ordering::SeqCst);
    }

    /// The next `times` looks for manifests that were taken away fail.
    pub fn hide(&self, times: u32) {
        self.hidden.store(times, Ordering::SeqCst);
    }

    /// The next `times` blobs are gone when they are asked for: whoever wrote last has written once more.
    pub fn outrun(&self, times: u32) {
        self.outrun_behind(0, times);
    }

    /// The next `first` blobs are there, and then `times` are gone.
    pub fn outrun_behind(&self, first: u32, times: u32) {
        self.there_before.store(first, Ordering::SeqCst);
        self.outrun.store(times, Ordering::SeqCst);
    }

    async fn write_once_more(&self, pipeline: &str, revision: Revision, bytes: &Bytes) -> Result<(), StoreError> {
        let next = Manifest::decode(bytes, pipeline, "memory").and_then(|manifest| {
            let after = Some(revision.0);
            Manifest { after, ..manifest }.encode()
        });
        self.inner.write(pipeline, revision, next.unwrap_or_else(|_| bytes.clone())).await.map(drop)
    }
}

fn take_one(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Store for FailingStore {
    fn read<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Option<(Revision, Bytes)>> {
        Box::pin(async move {
            if !take_one(&self.answered_before) && take_one(&self.silent) {
                return Err(StoreError::Unknown(Fault::new(FaultKind::Connection, "no answer, as it was told")));
            }
            let found = self.inner.read(pipeline).await?;
            if let Some((revision, bytes)) = &found
                && take_one(&self.outdated)
            {
                self.write_once_more(pipeline, *revision, bytes).await?;
            }
            Ok(found)
        })
    }

    fn write<'a>(&'a self, pipeline: &'a str, expected: Revision, manifest: Bytes) -> Stored<'a, Revision> {
        Box::pin(async move {
            if take_one(&self.refused) {
                return Err(StoreError::Failed(Fault::new(FaultKind::Checkpoint, "no room, as it was told")));
            }
            if take_one(&self.late) {
                let (inner, pipeline) = (self.inner.clone(), pipeline.to_owned());
                let late = tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    inner.write(&pipeline, expected, manifest).await
                });
                let lost = |error| StoreError::Unknown(Fault::bug("a late write is gone").because(error));
                return late.await.map_err(lost)?;
            }
            let revision = self.inner.write(pipeline, expected, manifest).await?;
            if take_one(&self.unconfirmed) {
                return Err(StoreError::Unknown(Fault::new(FaultKind::Connection, "no answer, as it was told")));
            }
            Ok(revision)
        })
    }

    fn history<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<(Revision, Bytes)>> {
        self.inner.history(pipeline)
    }

    fn put<'a>(&'a self, pipeline: &'a str, id: BlobId, bytes: Bytes) -> Stored<'a, ()> {
        if take_one(&self.refused_blobs) {
            let no = Fault::new(FaultKind::Checkpoint, "no room for state, as it was told");
            return Box::pin(async { Err(StoreError::Failed(no)) });
        }
        if bytes.len() < *self.held_blobs.borrow() {
            return self.inner.put(pipeline, id, bytes);
        }
        let (mut held, holding) = (self.held_blobs.subscribe(), self.holding.one());
        Box::pin(async move {
            let _ = held.wait_for(|held| bytes.len() < *held).await;
            drop(holding);
            self.inner.put(pipeline, id, bytes).await
        })
    }

    fn get<'a>(&'a self, pipeline: &'a str, id: BlobId) -> Stored<'a, Option<Bytes>> {
        self.questions.fetch_add(1, Ordering::SeqCst);
        if !take_one(&self.answers) {
            let waits = self.unanswered.one();
            return Box::pin(async move {
                let _waits = waits;
                std::future::pending().await
            });
        }
        Box::pin(async move {
            if let Some((revision, bytes)) = self.inner.read(pipeline).await?
                && !take_one(&self.there_before)
                && take_one(&self.outrun)
            {
                self.write_once_more(pipeline, revision, &bytes).await?;
                return Ok(None);
            }
            self.inner.get(pipeline, id).await
        })
    }

    fn blobs<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<Blob>> {
        self.inner.blobs(pipeline)
    }

    fn forget<'a>(&'a self, pipeline: &'a str, id: BlobId) -> Stored<'a, ()> {
        self.inner.forget(pipeline, id)
    }

    fn save<'a>(&'a self, pipeline: &'a str, name: &'a str, manifest: Bytes) -> Stored<'a, bool> {
        if take_one(&self.refused_names) {
            let no = Fault::new(FaultKind::Connection, "no answer, as it was told");
            return Box::pin(async { Err(StoreError::Unknown(no)) });
        }
        self.inner.save(pipeline, name, manifest)
    }

    fn saved<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<(String, Bytes)>> {
        self.inner.saved(pipeline)
    }

    fn unsave<'a>(&'a self, pipeline: &'a str, name: &'a str) -> Stored<'a, bool> {
        self.inner.unsave(pipeline, name)
    }

    fn remove<'a>(&'a self, pipeline: &'a str) -> Stored<'a, ()> {
        self.inner.remove(pipeline)
    }

    fn describe(&self, pipeline: &str) -> String {
        self.inner.describe(pipeline)
    }

    fn manifest(&self, pipeline: &str, revision: Revision) -> String {
        self.inner.manifest(pipeline, revision)
    }

    fn taken<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Option<String>> {
        if take_one(&self.hidden) {
            let no = Fault::new(FaultKind::Permission, "no list, as it was told");
            return Box::pin(async { Err(StoreError::Failed(no)) });
        }
        self.inner.taken(pipeline)
    }
}
