//! [`load`]: a checkpoint from its store, every piece checked before it is believed.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use millstream_operators::{Fault, FaultKind, Outputs, Result, Retry, Run, Saved};

use super::manifest::Manifest;
use super::segment::{BlobId, Segment};
use super::store::{Revision, Store, StoreError};

/// A checkpoint and the state that it names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Restored {
    pub(crate) manifest: Manifest,
    pub(crate) states: BTreeMap<String, Vec<(u32, Saved)>>,
    pub(crate) outputs: BTreeMap<String, Vec<Outputs>>,
}

/// Where the state of a checkpoint goes when it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateIn {
    /// All of it comes.
    Memory,
    /// It is checked, and read again by who restores it: it may be more than fits in memory.
    Store,
}

/// So many segments are read at once.
const AT_ONCE: usize = 8;
const AT_ONCE_WITHIN_BUDGET: usize = 2;
/// A manifest with more bytes is stored as a blob, and the store's own has but its id.
const MOST: usize = 128 << 10;
const POINTER: &str = "millstream-checkpoint-in ";

/// The bytes to store as the newest manifest, and those to put under an id before, if they are many.
pub(crate) fn as_stored(manifest: Bytes) -> (Bytes, Option<(BlobId, Bytes)>) {
    if manifest.len() <= MOST {
        return (manifest, None);
    }
    let id = BlobId::of(&manifest);
    (format!("{POINTER}{id}").into(), Some((id, manifest)))
}

/// The manifest that stored bytes are or point to, and the blob that it is in, if it is in one.
///
/// # Errors
/// It is damaged, or cannot be read.
pub(crate) async fn read_manifest(
    store: &dyn Store,
    pipeline: &str,
    stored: &[u8],
) -> Result<(Manifest, Option<BlobId>), StoreError> {
    let place = store.describe(pipeline);
    let pointer = std::str::from_utf8(stored).ok().and_then(|text| text.strip_prefix(POINTER));
    let Some(pointer) = pointer else {
        return Ok((Manifest::decode(stored, pipeline, &place).map_err(StoreError::Failed)?, None));
    };
    let damaged = |what: &str| {
        let words = format!("the checkpoint in {place} {what}");
        StoreError::Failed(Fault::new(FaultKind::Checkpoint, words).retry_with(Retry::Never))
    };
    let id: BlobId = pointer.trim().parse().map_err(damaged)?;
    let bytes = store.get(pipeline, id).await?;
    let bytes = bytes.ok_or_else(|| damaged(&format!("is in {id}, which is missing")))?;
    Ok((Manifest::decode(&bytes, pipeline, &place).map_err(StoreError::Failed)?, Some(id)))
}

/// As [`read_manifest`], of what the store has as this revision: it is also the one that was written as that. An older one of the
/// pipeline under its name is as whole as it ever was.
///
/// # Errors
/// It is damaged, or another one, or cannot be read.
pub(crate) async fn read_revision(
    store: &dyn Store,
    pipeline: &str,
    (revision, stored): (Revision, &[u8]),
) -> Result<(Manifest, Option<BlobId>), StoreError> {
    let (manifest, inside) = read_manifest(store, pipeline, stored).await?;
    if let Some(after) = manifest.after
        && !store.follows(pipeline, Revision(after), revision).await?
    {
        let words = format!(
            "the checkpoint in {} is not the one that was written there, but checkpoint {} of the same pipeline, made {}, which was written behind revision {after}: somebody has put it there. Nothing is deleted",
            store.manifest(pipeline, revision),
            manifest.epoch,
            manifest.at
        );
        return Err(StoreError::Failed(Fault::new(FaultKind::Checkpoint, words).retry_with(Retry::Never)));
    }
    Ok((manifest, inside))
}

/// Whether a checkpoint has been written since the newest had this revision.
pub(crate) async fn is_outdated(store: &dyn Store, pipeline: &str, revision: Revision) -> Result<bool, StoreError> {
    Ok(store.read(pipeline).await?.is_some_and(|(newest, _)| newest > revision))
}

/// Reads the state that a manifest names.
///
/// # Errors
/// A segment is missing or damaged; the fault names it.
pub(crate) async fn load(
    store: &dyn Store,
    pipeline: &str,
    manifest: Manifest,
    state: StateIn,
) -> Result<Restored, StoreError> {
    let place = store.describe(pipeline);
    let mut reads = Vec::new();
    for (node, states) in &manifest.operators {
        for (at, state) in states.iter().enumerate() {
            for (name, segments) in &state.keyed {
                reads.extend(segments.iter().map(|segment| (node.as_str(), at, name.as_str(), segment)));
            }
        }
    }
    let mut reading = Vec::new();
    for (node, _, _, segment) in &reads {
        reading.push(read_segment(store, pipeline, node, segment, &place));
    }
    let read: Vec<Run> = match state {
        StateIn::Memory => stream::iter(reading).buffered(AT_ONCE).try_collect().await?,
        StateIn::Store => {
            let checked = stream::iter(reading).buffered(AT_ONCE_WITHIN_BUDGET);
            checked.try_for_each(|_| std::future::ready(Ok(()))).await?;
            Vec::new()
        }
    };
    let mut runs: BTreeMap<(&str, usize), BTreeMap<String, Vec<Run>>> = BTreeMap::new();
    for ((node, at, name, _), run) in reads.into_iter().zip(read) {
        runs.entry((node, at)).or_default().entry(name.to_owned()).or_default().push(run);
    }
    let mut states = BTreeMap::new();
    for (node, all) in &manifest.operators {
        let saved = all.iter().enumerate().map(|(at, state)| {
            let runs = runs.remove(&(node.as_str(), at)).unwrap_or_default();
            (state.subtask, state.small.clone().with_runs(runs))
        });
        states.insert(node.clone(), saved.collect());
    }
    let outputs = load_outputs(store, pipeline, &manifest, &place).await?;
    Ok(Restored { manifest, states, outputs })
}

/// The outputs that a manifest keeps, without the records of those that are published.
async fn load_outputs(
    store: &dyn Store,
    pipeline: &str,
    manifest: &Manifest,
    place: &str,
) -> Result<BTreeMap<String, Vec<Outputs>>, StoreError> {
    let mut outputs: BTreeMap<String, Vec<Outputs>> = BTreeMap::new();
    for (node, logs) in &manifest.sinks {
        for log in logs {
            let pieces: &[Segment] = if log.published { &[] } else { &log.pieces };
            let mut reading = Vec::new();
            for piece in pieces {
                reading.push(read_bytes(store, pipeline, node, piece, place));
            }
            let bytes: Vec<Bytes> = stream::iter(reading).buffered(AT_ONCE).try_collect().await?;
            let read = log.unpack(&bytes, place).map_err(|fault| StoreError::Failed(fault.at(node)))?;
            outputs.entry(node.clone()).or_default().push(read);
        }
    }
    Ok(outputs)
}

/// A run of keyed state, checked.
///
/// # Errors
/// It is missing or damaged; the fault names it.
pub(crate) async fn read_run(
    store: &dyn Store,
    pipeline: &str,
    node: &str,
    segment: &Segment,
) -> Result<Run, StoreError> {
    read_segment(store, pipeline, node, segment, &store.describe(pipeline)).await
}

async fn read_segment(
    store: &dyn Store,
    pipeline: &str,
    node: &str,
    segment: &Segment,
    place: &str,
) -> Result<Run, StoreError> {
    let bytes = read_bytes(store, pipeline, node, segment, place).await?;
    segment.unpack(&bytes, place).map_err(|fault| StoreError::Failed(fault.at(node)))
}

async fn read_bytes(
    store: &dyn Store,
    pipeline: &str,
    node: &str,
    segment: &Segment,
    place: &str,
) -> Result<Bytes, StoreError> {
    let missing = || StoreError::Failed(segment.missing(place).at(node));
    match &segment.inline {
        Some(bytes) => Ok(bytes.clone()),
        None => store.get(pipeline, segment.sha256).await?.ok_or_else(missing),
    }
}

/// The newest checkpoint that is whole, and the revision of the newest that there is; `None` when there is none.
///
/// Where the newest is damaged, that is logged, and one before it is used: whether the sources still hold what comes
/// behind it is for them to find out. So it is where one was taken away. Nothing that is damaged is deleted or overwritten.
///
/// # Errors
/// None is whole: then the fault is what is wrong with the newest. Or fenced: a run has gone on while its checkpoint was read, and
/// has let go of what was not read yet.
pub(crate) async fn newest(
    store: &dyn Store,
    pipeline: &str,
    state: StateIn,
) -> Result<Option<(Revision, Restored)>, StoreError> {
    let Some((revision, stored)) = store.read(pipeline).await? else { return Ok(None) };
    match store.taken(pipeline).await {
        Ok(None) => {}
        Ok(Some(taken)) => tracing::warn!(
            pipeline,
            "{taken}; going on from the newest of them, if the sources still have what came since"
        ),
        // Whether the newest is whole is seen when it is read.
        Err(error) => tracing::warn!(pipeline, %error, "whether somebody has taken a manifest away cannot be seen"),
    }
    let wrong = match whole_revision(store, pipeline, (revision, &stored), state).await {
        Ok(restored) => return Ok(Some((revision, restored))),
        Err(error) => damaged(store, pipeline, revision, error)?,
    };
    if is_outdated(store, pipeline, revision).await? {
        return Err(overtaken(pipeline, &wrong));
    }
    for (older, stored) in store.history(pipeline).await? {
        if older >= revision {
            continue;
        }
        let restored = match whole_revision(store, pipeline, (older, &stored), state).await {
            Ok(restored) => restored,
            Err(error) => {
                let older = damaged(store, pipeline, older, error)?;
                tracing::error!(pipeline, "{}", older.chain());
                continue;
            }
        };
        let epoch = restored.manifest.epoch;
        tracing::error!(
            pipeline,
            "{}; going on from the one before it, checkpoint {epoch}, if the sources still have what came since",
            wrong.chain()
        );
        return Ok(Some((revision, restored)));
    }
    if is_outdated(store, pipeline, revision).await? {
        return Err(overtaken(pipeline, &wrong));
    }
    Err(StoreError::Failed(wrong))
}

/// What is missing was let go of by a run that has written checkpoints since.
fn overtaken(pipeline: &str, wrong: &Fault) -> StoreError {
    tracing::info!(pipeline, "another instance has gone on while its checkpoint was read: {}", wrong.chain());
    StoreError::Fenced
}

/// Why a manifest is not to be gone on from, with its name; an error where that is not known.
fn damaged(store: &dyn Store, pipeline: &str, revision: Revision, error: StoreError) -> Result<Fault, StoreError> {
    match error {
        StoreError::Failed(fault) if fault.kind() == FaultKind::Checkpoint => {
            let words = format!("{} cannot be gone on from", store.manifest(pipeline, revision));
            Ok(Fault::new(FaultKind::Checkpoint, words).because(fault).retry_with(Retry::Never))
        }
        other => Err(other),
    }
}

/// The checkpoint that is kept under a name, numbered and signed as if it were the newest, and the revision of the one
/// that is.
///
/// # Errors
/// There is none of this name, or it is damaged.
pub(crate) async fn savepoint(
    store: &dyn Store,
    pipeline: &str,
    name: &str,
    state: StateIn,
) -> Result<(Revision, Restored), StoreError> {
    let saved = store.saved(pipeline).await?;
    let Some((_, stored)) = saved.iter().find(|(other, _)| other == name) else {
        let names: Vec<&str> = saved.iter().map(|(name, _)| name.as_str()).collect();
        let there =
            if names.is_empty() { "there is none".to_owned() } else { format!("there are {}", names.join(", ")) };
        let words = format!("there is no savepoint {name} at {}: {there}", store.describe(pipeline));
        return Err(StoreError::Failed(Fault::new(FaultKind::Setup, words)));
    };
    let mut restored = whole(store, pipeline, stored, state).await?;
    let Some((revision, newest)) = store.read(pipeline).await? else { return Ok((Revision(0), restored)) };
    if let Ok((newest, _)) = read_manifest(store, pipeline, &newest).await {
        restored.manifest.epoch = restored.manifest.epoch.max(newest.epoch);
        restored.manifest.run = newest.run;
    }
    Ok((revision, restored))
}

async fn whole_revision(
    store: &dyn Store,
    pipeline: &str,
    (revision, stored): (Revision, &[u8]),
    state: StateIn,
) -> Result<Restored, StoreError> {
    let (manifest, _) = read_revision(store, pipeline, (revision, stored)).await?;
    load(store, pipeline, manifest, state).await
}

async fn whole(store: &dyn Store, pipeline: &str, stored: &[u8], state: StateIn) -> Result<Restored, StoreError> {
    let (manifest, _) = read_manifest(store, pipeline, stored).await?;
    load(store, pipeline, manifest, state).await
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use millstream_operators::{Epoch, Headers};

    use super::*;
    use crate::broker::{Embedded, EmbeddedOptions};
    use crate::checkpoint::{KvStore, LocalStore};
    use crate::connectors::{Connections, Purpose};
    use crate::testkit::FailingStore;

    /// Writes so many checkpoints; gives their revisions and bytes.
    async fn written(store: &dyn Store, so_many: u64) -> Vec<(Revision, Bytes)> {
        let (mut all, mut revision) = (Vec::new(), Revision(0));
        for epoch in 0..so_many {
            let manifest =
                Manifest { pipeline: "p".into(), epoch: Epoch(epoch), after: Some(revision.0), ..Manifest::default() };
            let bytes = manifest.encode().unwrap();
            revision = store.write("p", revision, bytes.clone()).await.unwrap();
            all.push((revision, bytes));
        }
        all
    }

    async fn epoch_of_newest(store: &dyn Store) -> (Revision, u64) {
        let (revision, restored) = newest(store, "p", StateIn::Memory).await.unwrap().unwrap();
        (revision, restored.manifest.epoch.0)
    }

    /// A look at a checkpoint that is not the one that was written there says which it is.
    async fn assert_told(store: &dyn Store, place: &str) {
        let (revision, stored) = store.read("p").await.unwrap().unwrap();
        let Err(StoreError::Failed(told)) = read_revision(store, "p", (revision, &stored)).await else {
            panic!("it is believed")
        };
        let told = told.chain();
        assert!(told.contains(place) && told.contains("checkpoint 1 of the same pipeline"), "{told}");
    }

    #[tokio::test]
    async fn a_start_goes_on_where_nobody_can_tell_whether_a_manifest_was_taken_away() {
        let store = FailingStore::default();
        written(&store, 2).await;
        store.hide(1);
        assert_eq!(epoch_of_newest(&store).await, (Revision(2), 1));
    }

    #[tokio::test]
    async fn an_older_checkpoint_in_the_place_of_the_newest_is_not_believed_in_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::new(directory.path());
        written(&store, 4).await;
        assert_eq!(epoch_of_newest(&store).await, (Revision(4), 3));
        fs::copy(directory.path().join("p.2"), directory.path().join("p.4")).unwrap();
        assert_eq!(epoch_of_newest(&store).await, (Revision(4), 2), "the one before it is gone on from");
        assert_told(&store, &directory.path().join("p.4").display().to_string()).await;
        // Under a name it is what it is.
        let (_, older) = store.read("p").await.unwrap().unwrap();
        store.save("p", "older", older).await.unwrap();
        let (_, saved) = savepoint(&store, "p", "older", StateIn::Memory).await.unwrap();
        assert_eq!(saved.manifest.after, Some(1));
    }

    #[tokio::test]
    async fn an_older_checkpoint_in_the_place_of_the_newest_is_not_believed_on_a_server() {
        let connections = Arc::new(Connections::to_embedded(Embedded::new(EmbeddedOptions::default())));
        let store = KvStore::new(Arc::clone(&connections), 1);
        let all = written(&store, 2).await;
        // The server counts what has other keys, too.
        store.save("p", "between", Bytes::new()).await.unwrap();
        let third = Manifest { after: Some(all[1].0.0), ..Manifest::decode(&all[1].1, "p", "").unwrap() };
        let revision = store.write("p", all[1].0, third.encode().unwrap()).await.unwrap();
        assert!(revision.0 > all[1].0.0 + 1);
        // What has been pushed out since it was read tells nothing; what is earlier follows nothing.
        assert!(store.follows("p", all[1].0, Revision(revision.0 - 1)).await.unwrap());
        assert!(!store.follows("p", all[1].0, all[0].0).await.unwrap());
        assert!(matches!(store.follows("p", revision, Revision(revision.0 + 1)).await, Err(StoreError::Unknown(_))));
        assert_eq!(epoch_of_newest(&store).await, (revision, 1));
        let js = connections.js(Purpose::Control).await.unwrap();
        let put = js.kv_put("mill_p", "ckpt", all[1].1.clone()).await.unwrap();
        assert_eq!(epoch_of_newest(&store).await, (Revision(put), 1));
        assert_told(&store, &store.manifest("p", Revision(put))).await;
        // What somebody has deleted has a mark behind it, and what is removed leaves nothing; both begin anew.
        let mut deleted = Headers::NONE;
        deleted.push("KV-Operation", "DEL").unwrap();
        js.publish("$KV.mill_p.ckpt", deleted, Bytes::new()).await.unwrap();
        let first = written(&store, 1).await[0].0;
        assert_eq!(epoch_of_newest(&store).await, (first, 0));
        js.kv_purge("mill_p", "ckpt").await.unwrap();
        let first = written(&store, 1).await[0].0;
        assert_eq!(epoch_of_newest(&store).await, (first, 0));
        js.kv_purge("mill_p", "ckpt").await.unwrap();
        js.kv_put("mill_p", "ckpt", all[1].1.clone()).await.unwrap();
        assert_told(&store, "key `ckpt`").await;
    }
}
