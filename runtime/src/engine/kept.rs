//! [`Keeping`]: the savepoints of checkpoints that a run begins from without some of what they have.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use millstream_operators::{Fault, FaultKind};

use crate::checkpoint::{
    self, BlobId, Manifest, Revision, StateIn, Store, StoreError, as_stored, is_outdated, read_revision,
};

/// The savepoint of what is left out, from a look at the checkpoint to the run's own first one, over all attempts of a run.
///
/// Others may begin from the same checkpoint and keep it under the same name: a savepoint is taken back only by the run that made
/// it, and only while nobody can have gone on without what it has.
pub(super) struct Keeping<'a> {
    store: &'a dyn Store,
    pipeline: &'a str,
    // Those that this run has made.
    made: BTreeSet<String>,
    // What the attempt that is under way has made, or has begun to make.
    kept: Option<Kept>,
    // A first checkpoint of this run may be there, or come yet: a write that nobody waits for any more may still be under way.
    may_have_written: bool,
}

struct Kept {
    savepoint: String,
    bytes: Bytes,
    /// The checkpoint that it keeps, and what is left out of that.
    revision: Revision,
    names: Vec<String>,
}

/// What a run leaves out of the checkpoint that it begins from, and the savepoint that has it.
#[derive(Clone, Debug)]
pub(crate) struct LeftOut {
    names: Vec<String>,
    savepoint: String,
    bytes: Bytes,
}

const TRIES: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

impl<'a> Keeping<'a> {
    pub(super) fn new(store: &'a dyn Store, pipeline: &'a str) -> Self {
        Keeping { store, pipeline, made: BTreeSet::new(), kept: None, may_have_written: false }
    }

    /// Keeps the checkpoint that has this revision as a savepoint, for who leaves out what it has of these. Not to be dropped
    /// before it is done: the savepoint might come after it was taken back.
    ///
    /// # Errors
    /// What the store says.
    pub(super) async fn keep(
        &mut self,
        (manifest, revision): (&Manifest, Revision),
        names: Vec<String>,
    ) -> Result<LeftOut, StoreError> {
        let (store, pipeline) = (self.store, self.pipeline);
        let (bytes, beside) = as_stored(manifest.encode().map_err(StoreError::Failed)?);
        // What has this name is this.
        let id = BlobId::of(&bytes).to_string();
        let savepoint = format!("before-{}-{}", manifest.epoch, id.get(..8).unwrap_or(&id));
        let left_out = LeftOut { names: names.clone(), savepoint: savepoint.clone(), bytes: bytes.clone() };
        if !self.made.contains(&savepoint) {
            if store.saved(pipeline).await?.iter().any(|(other, _)| *other == savepoint) {
                return Ok(left_out);
            }
            self.made.insert(savepoint.clone());
        }
        self.kept = Some(Kept { savepoint: savepoint.clone(), bytes: bytes.clone(), revision, names });
        if let Some((id, bytes)) = beside {
            store.put(pipeline, id, bytes).await?;
        }
        if !store.save(pipeline, &savepoint, bytes).await? {
            // It is another's.
            self.kept = None;
            self.made.remove(&savepoint);
            let words = format!("something else is kept as savepoint {savepoint}, of what the pipeline no longer has");
            return Err(StoreError::Failed(Fault::new(FaultKind::Checkpoint, words)));
        }
        Ok(left_out)
    }

    /// Whether all of it is there; false if not, and a run has gone on since: it may have deleted what only this checkpoint named,
    /// before it could see that a savepoint does.
    ///
    /// # Errors
    /// It is damaged, or the store does not tell.
    pub(super) async fn is_whole(&self, left_out: &LeftOut, revision: Revision) -> Result<bool, StoreError> {
        let (store, pipeline, name) = (self.store, self.pipeline, &left_out.savepoint);
        let Err(error) = checkpoint::savepoint(store, pipeline, name, StateIn::Store).await else { return Ok(true) };
        let is_damaged = matches!(&error, StoreError::Failed(fault) if fault.kind() == FaultKind::Checkpoint);
        if !is_damaged || !is_outdated(store, pipeline, revision).await? {
            return Err(error);
        }
        tracing::info!(pipeline, %error, "the last checkpoint went while it was kept as savepoint {name}");
        Ok(false)
    }

    /// From now on a first checkpoint of this run may be there.
    pub(super) fn may_have_written(&mut self) {
        self.may_have_written = true;
    }

    /// The attempt has gone on without it, or it is another's.
    pub(super) fn stays(&mut self) {
        self.kept = None;
    }

    /// What was kept is not whole: nobody can begin from it.
    pub(super) async fn discard(&mut self) {
        let Some(Kept { savepoint, .. }) = self.kept.take() else { return };
        if let Err(error) = self.store.unsave(self.pipeline, &savepoint).await {
            tracing::warn!(pipeline = self.pipeline, %error, "savepoint {savepoint} is not whole, and stays: remove it with `millstream checkpoint rm`");
        }
    }

    /// The attempt has ended before its first checkpoint: takes back what it kept, where nobody has left anything out.
    pub(super) async fn take_back(&mut self) {
        let Some(kept) = self.kept.take().filter(|_| !self.may_have_written) else { return };
        let (store, pipeline, savepoint) = (self.store, self.pipeline, &kept.savepoint);
        let taken = async {
            let is_needless = self.is_needless(&kept).await?;
            if is_needless {
                store.unsave(pipeline, savepoint).await?;
            }
            Ok::<bool, StoreError>(is_needless)
        };
        match taken.await {
            Ok(false) => {}
            Ok(true) => {
                // Another run may have gone on from it just now.
                let why = match self.is_needless(&kept).await {
                    Ok(true) => return,
                    Ok(false) => "another instance has gone on from it meanwhile".to_owned(),
                    Err(error) => format!("whether another instance has gone on from it is not known ({error})"),
                };
                tracing::warn!(pipeline, "savepoint {savepoint} was taken back, and is saved again: {why}");
                save_again(store, pipeline, savepoint, &kept.bytes).await;
            }
            Err(error) => {
                tracing::warn!(pipeline, %error, "it is not known whether savepoint {savepoint} is needed, so it may stay: see `millstream checkpoint ls`");
            }
        }
    }

    /// Nobody has left anything out as long as the checkpoint is the newest, or the newest still has all of it. Whose that is says
    /// nothing: who claims a checkpoint signs it, and leaves things out afterwards.
    async fn is_needless(&self, kept: &Kept) -> Result<bool, StoreError> {
        let Some((newest, stored)) = self.store.read(self.pipeline).await? else { return Ok(true) };
        if newest <= kept.revision {
            return Ok(true);
        }
        let newest = read_revision(self.store, self.pipeline, (newest, &stored)).await?.0;
        let has = |name: &String| newest.sources.contains_key(name) || newest.operators.contains_key(name);
        Ok(kept.names.iter().all(has))
    }
}

impl LeftOut {
    /// The first checkpoint without it is there, and so must the savepoint be: another run that began from the same checkpoint may
    /// have taken it back for want of one that has gone on.
    pub(super) async fn settle(&self, store: &dyn Store, pipeline: &str) {
        let LeftOut { names, savepoint, bytes } = self;
        let is_there = match store.saved(pipeline).await {
            Ok(saved) => saved.iter().any(|(name, _)| name == savepoint),
            Err(_) => false,
        };
        if !is_there {
            save_again(store, pipeline, savepoint, bytes).await;
        }
        tracing::warn!(
            pipeline, lost = ?names,
            "the last checkpoint has places or state of nodes that the pipeline no longer has; the run goes on without it, and all of it is kept as savepoint {savepoint}. If they only have other names now, stop, give them their names back, and start with `--from {savepoint}`"
        );
    }
}

async fn save_again(store: &dyn Store, pipeline: &str, savepoint: &str, bytes: &Bytes) {
    let mut pause = FIRST_PAUSE;
    for _ in 0..TRIES {
        match store.save(pipeline, savepoint, bytes.clone()).await {
            Ok(true) => return,
            Ok(false) => {
                tracing::error!(
                    pipeline,
                    "something else is kept as savepoint {savepoint}: what the pipeline has left out may be lost"
                );
                return;
            }
            Err(error) => {
                tracing::warn!(pipeline, %error, "savepoint {savepoint} is not saved, trying again in {pause:?}");
            }
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    tracing::error!(pipeline, "savepoint {savepoint} could not be saved: what the pipeline has left out may be lost");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::MemoryStore;
    use crate::testkit::FailingStore;

    /// Of a run with a node `sum`, or of one without.
    fn manifest(has_sum: bool, after: u64) -> Manifest {
        let operators = has_sum.then(|| ("sum".to_owned(), Vec::new())).into_iter().collect();
        Manifest { pipeline: "p".into(), operators, after: Some(after), ..Manifest::default() }
    }

    async fn write(store: &dyn Store, manifest: &Manifest) -> Revision {
        store.write("p", Revision(manifest.after.unwrap()), manifest.encode().unwrap()).await.unwrap()
    }

    async fn saved(store: &dyn Store) -> usize {
        store.saved("p").await.unwrap().len()
    }

    #[tokio::test]
    async fn a_savepoint_is_taken_back_only_while_nobody_can_have_left_out_what_it_keeps() {
        let none: &[bool] = &[];
        for (since, has_written, stay) in
            [(none, false, 0), (&[true], false, 0), (&[true, false], false, 1), (none, true, 1)]
        {
            let (store, first) = (MemoryStore::default(), manifest(true, 0));
            let revision = write(&store, &first).await;
            let mut keeping = Keeping::new(&store, "p");
            keeping.keep((&first, revision), vec!["sum".into()]).await.unwrap();
            assert_eq!(saved(&store).await, 1);
            let mut newest = revision;
            for has_sum in since {
                newest = write(&store, &manifest(*has_sum, newest.0)).await;
            }
            if has_written {
                keeping.may_have_written();
            }
            keeping.take_back().await;
            assert_eq!(saved(&store).await, stay, "{since:?} {has_written}");
        }
    }

    #[tokio::test]
    async fn a_savepoint_that_was_there_before_is_not_taken_back() {
        let (store, first) = (MemoryStore::default(), manifest(true, 0));
        let revision = write(&store, &first).await;
        let (mut mine, mut theirs) = (Keeping::new(&store, "p"), Keeping::new(&store, "p"));
        for keeping in [&mut theirs, &mut mine] {
            keeping.keep((&first, revision), vec!["sum".into()]).await.unwrap();
        }
        mine.take_back().await;
        assert_eq!(saved(&store).await, 1);
        // What an attempt has made is the run's in the next one, too.
        theirs.stays();
        let left_out = theirs.keep((&first, revision), vec!["sum".into()]).await.unwrap();
        theirs.take_back().await;
        assert_eq!(saved(&store).await, 0);
        // Who has gone on relied on it.
        left_out.settle(&store, "p").await;
        assert_eq!(saved(&store).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_savepoint_is_saved_again_where_nobody_can_say_whether_it_is_needed() {
        let (store, first) = (FailingStore::default(), manifest(true, 0));
        let revision = write(&store, &first).await;
        let mut keeping = Keeping::new(&store, "p");
        keeping.keep((&first, revision), vec!["sum".into()]).await.unwrap();
        // The look before it is answered, the one behind it is not, and nor are the first tries.
        store.answer_no_read_behind(1, 1);
        store.refuse_names(3);
        keeping.take_back().await;
        assert_eq!(saved(&store).await, 1);
    }
}
