//! [`claim`]: how a run ends another that makes checkpoints faster than this one gets ready.

use millstream_operators::Timestamp;

use crate::checkpoint::{Manifest, Revision, Store, StoreError, as_stored, read_revision};

/// So many checkpoints may come between what is read and what is written: two round trips, not a whole start.
const TRIES: u32 = 100;

/// Writes the newest checkpoint of the run `from` once more, in the name of the run `run`: `from` cannot write another, and
/// what is read from then on stays the newest until this run is ready. As if it had begun, and crashed behind its first
/// checkpoint.
///
/// Where the newest is of a third run, which has taken over, or it does not succeed, nothing has changed.
pub(super) async fn claim(store: &dyn Store, pipeline: &str, (run, from): (&str, &str), now: Timestamp) {
    for _ in 0..TRIES {
        match once(store, pipeline, (run, from), now).await {
            Ok(()) => return,
            Err(StoreError::Fenced) => {}
            Err(error) => {
                tracing::debug!(pipeline, %error, "the newest checkpoint cannot be taken over yet");
                return;
            }
        }
    }
}

/// The newest checkpoint, without its state, if it can be read now.
pub(super) async fn newest_written(store: &dyn Store, pipeline: &str) -> Option<(Revision, Manifest)> {
    let (revision, stored) = store.read(pipeline).await.ok()??;
    Some((revision, read_revision(store, pipeline, (revision, &stored)).await.ok()?.0))
}

async fn once(store: &dyn Store, pipeline: &str, (run, from): (&str, &str), now: Timestamp) -> Result<(), StoreError> {
    let Some((revision, stored)) = store.read(pipeline).await? else { return Ok(()) };
    let (mut manifest, _) = read_revision(store, pipeline, (revision, &stored)).await?;
    // A run that has claimed it does not need to again.
    if manifest.run != from || from == run {
        return Ok(());
    }
    run.clone_into(&mut manifest.run);
    (manifest.epoch, manifest.after, manifest.at) = (manifest.epoch.next(), Some(revision.0), now);
    let (bytes, beside) = as_stored(manifest.encode().map_err(StoreError::Failed)?);
    if let Some((id, bytes)) = beside {
        store.put(pipeline, id, bytes).await?;
    }
    store.write(pipeline, revision, bytes).await?;
    tracing::info!(pipeline, "another instance makes checkpoints faster than this one starts: it is ended first");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use millstream_operators::{Batch, Epoch, FaultKind, Source};
    use millstream_pipelines::dsl::Pipeline;
    use tokio::time::{sleep, timeout};

    use super::super::Ended;
    use super::super::tests::{graph, numbers, sink, source};
    use super::*;
    use crate::checkpoint::MemoryStore;
    use crate::testkit::{CollectSink, Collected, FailingStore, Flow, ListSource};

    /// Rows of a list, which is not open for half a second.
    #[derive(Clone)]
    struct Slow(ListSource<u32>);

    impl Source for Slow {
        type Out = Vec<u32>;
        type Position = usize;

        async fn open(&mut self, from: Option<usize>) -> millstream_operators::Result {
            sleep(Duration::from_millis(500)).await;
            self.0.open(from).await
        }

        async fn next(&mut self, most: usize) -> millstream_operators::Result<Option<Batch<Vec<u32>>>> {
            self.0.next(most).await
        }

        fn position(&self) -> usize {
            self.0.position()
        }
    }

    fn start(store: &Arc<dyn Store>) -> Flow {
        let mut graph = graph();
        graph.settings.checkpoint_interval = Duration::from_millis(50);
        let from = source(&mut graph, "in", Slow(ListSource::new(numbers(10)).endless()));
        sink(&mut graph, "out", from, CollectSink::<u32>::new(Collected::default()));
        Flow::start_with(graph, Arc::clone(store), |environment| environment).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_takes_over_though_it_takes_longer_than_is_between_two_checkpoints() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let first = start(&store);
        sleep(Duration::from_secs(2)).await;
        let second = start(&store);
        let fault = timeout(Duration::from_secs(5), first.finish()).await.unwrap().unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Fenced);
        sleep(Duration::from_secs(1)).await;
        assert!(second.metrics().checkpoint().completed > 1);
        assert_eq!(second.drain().await.unwrap(), Ended::Drained);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_claimed_once_leaves_who_has_started_since_alone() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let first = start(&store);
        sleep(Duration::from_secs(2)).await;
        let second = start(&store);
        sleep(Duration::from_secs(5)).await;
        assert!(first.finish().await.is_err());
        let third = start(&store);
        let fault = timeout(Duration::from_secs(10), second.finish()).await.unwrap().unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Fenced);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(third.drain().await.unwrap(), Ended::Drained);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_asked_to_stop_before_anything_was_read_has_drained() {
        let flow = start(&(Arc::new(MemoryStore::default()) as Arc<dyn Store>));
        sleep(Duration::from_millis(100)).await;
        assert_eq!(flow.drain().await.unwrap(), Ended::Drained);
    }

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_that_goes_while_it_is_read_is_outdated_and_not_damaged() {
        let store = FailingStore::default();
        let start = |numbers: std::ops::Range<u64>| {
            let list = ListSource::new(numbers.map(|number| (Timestamp::MIN, number)));
            let (pipeline, out) = (Pipeline::new("p"), Collected::<(u64, u64)>::default());
            let rows =
                pipeline.source("in", list).key_by(|number| *number).fold("count", 0_u64, |count, _| *count += 1);
            rows.sink("out", CollectSink::new(out.clone()));
            (Flow::start_with(pipeline.build().unwrap(), Arc::new(store.clone()), |e| e).unwrap(), out)
        };
        start(0..2_000).0.finish().await.unwrap();
        assert!(!store.blobs("p").await.unwrap().is_empty(), "all of its state is in the manifest");
        let run = async || newest_written(&store, "p").await.unwrap().1.run;
        let first = run().await;
        // Behind the third time it claims the newest, and nobody else writes any more.
        store.outrun(5);
        let (second, out) = start(0..3_000);
        second.finish().await.unwrap();
        assert_eq!(out.rows().len(), 1_000, "it goes on from the state and place");
        assert_ne!(run().await, first);
        // A bound there is.
        store.outrun(u32::MAX);
        let fault = start(0..4_000).0.finish().await.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Fenced, "{fault}");
        // And what is damaged is.
        store.outrun(0);
        for blob in store.blobs("p").await.unwrap() {
            store.forget("p", blob.id).await.unwrap();
        }
        let fault = start(0..4_000).0.finish().await.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Checkpoint, "{fault}");
    }

    #[tokio::test]
    async fn what_is_claimed_is_the_same_but_for_who_wrote_it() {
        let store = MemoryStore::default();
        claim(&store, "p", ("mine", "other"), Timestamp::from_millis(1)).await;
        assert!(store.read("p").await.unwrap().is_none(), "there is nothing to claim");
        let before = Manifest { pipeline: "p".into(), run: "other".into(), key_groups: 128, ..Manifest::default() };
        store.write("p", Revision(0), before.encode().unwrap()).await.unwrap();
        for from in ["third", "other", "other", "mine"] {
            claim(&store, "p", ("mine", from), Timestamp::from_millis(1)).await;
        }
        let (revision, stored) = store.read("p").await.unwrap().unwrap();
        let claimed = Manifest::decode(&stored, "p", "memory").unwrap();
        let wanted =
            Manifest { epoch: Epoch(1), after: Some(1), at: Timestamp::from_millis(1), run: "mine".into(), ..before };
        assert_eq!((revision, claimed), (Revision(2), wanted), "once is enough, and a third run is left alone");
    }
}
