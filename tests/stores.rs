//! What every checkpoint store promises, on each of them.

#![allow(clippy::unwrap_used, reason = "it is test code, though not all inside a test")]

use std::sync::Arc;

use bytes::Bytes;
use millstream::broker::{ConnectOptions, NatsServer};
use millstream::checkpoint::{BlobId, KvStore, LocalStore, MemoryStore, Revision, Store, StoreError};
use millstream::connectors::Connections;
use millstream_tests::support::weed::Weed;

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Two instances of a pipeline that keep their checkpoints at one place.
async fn contract(mine: impl Store, theirs: impl Store) {
    nothing_is_there_at_first(&mine).await;
    a_manifest_is_written_over_the_one_that_was_read_and_no_other(&mine, &theirs).await;
    the_last_manifests_stay(&mine).await;
    pieces_are_kept_once_under_their_id(&mine, &theirs).await;
    savepoints_have_names(&mine).await;
    pipelines_whose_names_begin_alike_are_apart(&mine).await;
    what_is_removed_begins_anew(&mine, &theirs).await;
}

async fn nothing_is_there_at_first(store: &impl Store) {
    assert!(store.read("p").await.unwrap().is_none() && store.history("p").await.unwrap().is_empty());
    assert!(store.blobs("p").await.unwrap().is_empty() && store.saved("p").await.unwrap().is_empty());
    let id = BlobId::of(b"state");
    assert!(store.get("p", id).await.unwrap().is_none() && !store.unsave("p", "before").await.unwrap());
    store.forget("p", id).await.unwrap();
    store.remove("p").await.unwrap();
}

async fn a_manifest_is_written_over_the_one_that_was_read_and_no_other(mine: &impl Store, theirs: &impl Store) {
    let first = mine.write("p", Revision(0), text("mine, first")).await.unwrap();
    assert_eq!(theirs.read("p").await.unwrap(), Some((first, text("mine, first"))));
    assert!(matches!(theirs.write("p", Revision(0), text("theirs, first")).await, Err(StoreError::Fenced)));
    let second = theirs.write("p", first, text("theirs, second")).await.unwrap();
    assert!(second > first);
    assert!(matches!(mine.write("p", first, text("mine, second")).await, Err(StoreError::Fenced)));
    assert_eq!(mine.read("p").await.unwrap(), Some((second, text("theirs, second"))));
    // Of many at once, one.
    let all = (0..8).map(|n| mine.write("p", second, text(&format!("at once {n}"))));
    let written = futures::future::join_all(all).await;
    let (won, lost): (Vec<_>, Vec<_>) = written.into_iter().partition(Result::is_ok);
    // Whoever sees another write under way may not know yet.
    assert!(won.len() == 1 && !lost.iter().any(|lost| matches!(lost, Err(StoreError::Failed(_)))), "{won:?} {lost:?}");
}

async fn the_last_manifests_stay(store: &impl Store) {
    let (mut revision, mut last) = store.read("p").await.unwrap().unwrap();
    for n in 0..5 {
        last = text(&format!("manifest {n}"));
        revision = store.write("p", revision, last.clone()).await.unwrap();
    }
    let history = store.history("p").await.unwrap();
    assert_eq!(history.first(), Some(&(revision, last)));
    let texts: Vec<&Bytes> = history.iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(texts, ["manifest 4", "manifest 3", "manifest 2"]);
    assert!(history.is_sorted_by(|(a, _), (b, _)| a > b));
}

async fn pieces_are_kept_once_under_their_id(mine: &impl Store, theirs: &impl Store) {
    let few = (text("state"), Bytes::new());
    // More than a message of the server holds.
    let many = Bytes::from((0..3 << 20).map(|n: u32| (n % 251) as u8).collect::<Vec<u8>>());
    for bytes in [few.0, few.1, many] {
        let id = BlobId::of(&bytes);
        for store in [mine as &dyn Store, theirs, mine] {
            store.put("p", id, bytes.clone()).await.unwrap();
        }
        assert_eq!(theirs.get("p", id).await.unwrap(), Some(bytes.clone()));
        let blobs = mine.blobs("p").await.unwrap();
        let one: Vec<u64> = blobs.iter().filter(|blob| blob.id == id).map(|blob| blob.size).collect();
        assert_eq!(one, [bytes.len() as u64]);
        for _ in 0..2 {
            mine.forget("p", id).await.unwrap();
        }
        assert!(theirs.get("p", id).await.unwrap().is_none() && theirs.blobs("p").await.unwrap().is_empty());
    }
}

async fn savepoints_have_names(store: &impl Store) {
    let newest = store.read("p").await.unwrap();
    // A name that is taken stays with what has it.
    for (name, bytes, has) in [("b", "one", true), ("a", "two", true), ("b", "three", false), ("b", "one", true)] {
        assert_eq!(store.save("p", name, text(bytes)).await.unwrap(), has, "{name} {bytes}");
    }
    let all = store.saved("p").await.unwrap();
    assert_eq!(all, [("a".to_owned(), text("two")), ("b".to_owned(), text("one"))]);
    assert!(store.unsave("p", "b").await.unwrap() && !store.unsave("p", "b").await.unwrap());
    assert_eq!(store.saved("p").await.unwrap(), [("a".to_owned(), text("two"))]);
    assert!(store.save("p", "b", text("three")).await.unwrap(), "a name that was let go of");
    assert!(store.unsave("p", "b").await.unwrap());
    assert_eq!(store.read("p").await.unwrap(), newest, "a savepoint is no revision");
}

async fn pipelines_whose_names_begin_alike_are_apart(store: &impl Store) {
    store.put("p", BlobId::of(b"state"), text("state")).await.unwrap();
    for other in ["p2", "p-q", "P"] {
        assert!(store.read(other).await.unwrap().is_none() && store.blobs(other).await.unwrap().is_empty());
        assert!(store.saved(other).await.unwrap().is_empty() && store.history(other).await.unwrap().is_empty());
        store.write(other, Revision(0), text("another")).await.unwrap();
        store.remove(other).await.unwrap();
    }
    assert!(store.read("p").await.unwrap().is_some() && store.blobs("p").await.unwrap().len() == 1);
}

async fn what_is_removed_begins_anew(mine: &impl Store, theirs: &impl Store) {
    mine.remove("p").await.unwrap();
    assert!(theirs.read("p").await.unwrap().is_none() && theirs.history("p").await.unwrap().is_empty());
    assert!(theirs.saved("p").await.unwrap().is_empty() && theirs.blobs("p").await.unwrap().is_empty());
    let first = theirs.write("p", Revision(0), text("anew")).await.unwrap();
    assert_eq!(mine.read("p").await.unwrap(), Some((first, text("anew"))));
}

#[tokio::test]
async fn in_memory() {
    let store = MemoryStore::default();
    contract(store.clone(), store).await;
}

#[tokio::test]
async fn in_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    contract(LocalStore::new(directory.path()), LocalStore::new(directory.path())).await;
}

#[tokio::test]
async fn on_a_server() {
    let server = NatsServer::start().await.unwrap();
    let store = || KvStore::new(Arc::new(Connections::to_nats(ConnectOptions::to(server.url())).unwrap()), 1);
    contract(store(), store()).await;
}

#[tokio::test]
async fn in_a_bucket() {
    let weed = Weed::start().await;
    contract(weed.store("deep/below"), weed.store("deep/below")).await;
}
