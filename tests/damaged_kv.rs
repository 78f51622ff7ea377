//! Checkpoints on a server, some of them damaged: a run goes on from one that is whole, says which is not, and deletes nothing.
//! `MILLSTREAM_DAMAGED` gives more rounds (CI: 20).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "it is test code")]
#![allow(clippy::print_stdout, reason = "counts are printed")]

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use millstream::broker::{ConnectOptions, Connection, Js, NatsServer};
use millstream::checkpoint::{BlobId, KvStore, Store};
use millstream::connectors::Connections;
use millstream::operators::FaultKind;
use millstream::testkit::{Collected, Flow};
use millstream_tests::support::counts::graph;
use millstream_tests::support::damaged::{Base, Must, assert_named, keep_log};
use millstream_tests::support::{Dice, copy, setting};

const BUCKET: &str = "mill_counts";

fn store(server: &NatsServer) -> Arc<KvStore> {
    Arc::new(KvStore::new(Arc::new(Connections::to_nats(ConnectOptions::to(server.url())).unwrap()), 1))
}

/// Bytes that are no longer what they were, and how.
fn changed(dice: &mut Dice, bytes: &[u8]) -> (Bytes, &'static str) {
    let at = usize::try_from(dice.below(bytes.len() as u64)).unwrap();
    let mut changed = bytes.to_vec();
    let how = match dice.below(3) {
        0 => {
            changed.truncate(at);
            "truncated"
        }
        1 => {
            changed[at] ^= 1 << dice.below(8);
            "flipped"
        }
        _ => {
            changed = b"nothing of the kind".to_vec();
            "foreign"
        }
    };
    (changed.into(), how)
}

async fn pieces(store: &KvStore) -> Vec<(BlobId, Bytes)> {
    let mut pieces = Vec::new();
    for blob in store.blobs("counts").await.unwrap() {
        pieces.extend(store.get("counts", blob.id).await.unwrap().map(|bytes| (blob.id, bytes)));
    }
    pieces
}

/// What was damaged: the piece, if it is one, and how.
struct Damage {
    piece: Option<BlobId>,
    how: String,
}

/// Damages a piece, or puts something in the place of the newest manifest.
async fn damage(dice: &mut Dice, connection: &Connection, store: &KvStore, base: &Base) -> Damage {
    let js = Js::new(connection.clone());
    let put = async |bytes: Bytes| js.kv_put(BUCKET, "ckpt", bytes).await.unwrap();
    match dice.below(10) {
        0 | 1 => {
            let (bytes, how) = changed(dice, &base.manifests[0].1);
            put(bytes).await;
            Damage { piece: None, how: format!("the newest manifest is {how}") }
        }
        2 | 3 => {
            put(base.manifests[usize::try_from(dice.below(3)).unwrap()].1.clone()).await;
            Damage { piece: None, how: "there is an older manifest of the same pipeline".to_owned() }
        }
        kind => {
            let pieces = store.blobs("counts").await.unwrap();
            let id = pieces[usize::try_from(dice.below(pieces.len() as u64)).unwrap()].id;
            let bytes = store.get("counts", id).await.unwrap().unwrap();
            js.object_delete(BUCKET, &id.to_string()).await.unwrap();
            let how = match kind {
                4 => "missing",
                _ => {
                    let (bytes, how) = changed(dice, &bytes);
                    js.object_put(BUCKET, &id.to_string(), bytes, id.as_bytes()).await.unwrap();
                    how
                }
            };
            Damage { piece: Some(id), how: format!("{id} is {how}") }
        }
    }
}

#[tokio::test]
async fn what_is_damaged_on_a_server_is_named_or_the_checkpoint_before_is_used_and_nothing_is_deleted() {
    keep_log();
    let (mut server, mut dice) = (NatsServer::start().await.unwrap(), Dice::new(9));
    let base = Base::of(&mut dice, async |_| {
        let store: Arc<dyn Store> = store(&server);
        // Each attempt begins with nothing.
        store.remove("counts").await.unwrap();
        store
    })
    .await;
    server.terminate().await;
    let kept = server.folder().join("data");
    let (mut newest, mut before_it, mut refused) = (0, 0, 0);
    // In the last all pieces are damaged.
    let rounds: u64 = setting("MILLSTREAM_DAMAGED", 20) + 1;
    for round in 0..rounds {
        let folder = tempfile::tempdir().unwrap();
        copy(&kept, folder.path());
        let mut server = NatsServer::start_in(folder.path(), "").await.unwrap();
        let (connection, place) = (server.connect().await.unwrap(), store(&server));
        let Damage { piece, mut how } = damage(&mut dice, &connection, &place, &base).await;
        let mut damaged: BTreeSet<String> = piece.iter().map(ToString::to_string).collect();
        if round + 1 == rounds {
            how.push_str(", and all pieces");
            let js = Js::new(connection.clone());
            for blob in place.blobs("counts").await.unwrap() {
                let (name, foreign) = (blob.id.to_string(), Bytes::from_static(b"nothing of the kind"));
                js.object_put(BUCKET, &name, foreign, blob.id.as_bytes()).await.unwrap();
                damaged.insert(name);
            }
        }
        let manifests: Vec<String> = base.manifests.iter().map(|(revision, _)| revision.0.to_string()).collect();
        let (before, pieces, out) =
            (place.history("counts").await.unwrap(), pieces(&place).await, Collected::default());
        let flow = Flow::start_with(graph(&base.rows, true, 2, &out), place.clone(), |e| e).unwrap();
        match (flow.finish().await, base.must(&manifests, &damaged)) {
            (Ok(ended), Must::GoOnFrom(from)) => {
                *if from == 0 && piece.is_some() { &mut newest } else { &mut before_it } += 1;
                base.assert_from(from, ended, &out, &how);
                match piece {
                    Some(piece) => assert_named(&server.url(), &piece.to_string(), false, from, &how),
                    // It is the newest that is not believed.
                    None => assert_named(&server.url(), "`ckpt`", false, 1, &how),
                }
            }
            (Err(fault), Must::Refuse) => {
                refused += 1;
                let said = fault.chain();
                assert_eq!(fault.kind(), FaultKind::Checkpoint, "{how}: {said}");
                assert!(said.contains(&server.url()), "{how}: {said}");
                assert_eq!(place.history("counts").await.unwrap(), before, "{how}: something was changed");
            }
            (done, _) => panic!("{how}: {done:?}"),
        }
        // Damaged state that the run has written anew is beside it.
        let js = Js::new(connection.clone());
        for (id, bytes) in pieces {
            let aside = js.object_get(BUCKET, &format!("{id}.damaged")).await.unwrap();
            let is_there = place.get("counts", id).await.unwrap().as_ref() == Some(&bytes);
            assert!(is_there || aside.as_ref() == Some(&bytes), "{how}: {id} is not as it was");
        }
        server.kill_9();
    }
    println!("damaged checkpoints: {newest} runs from the newest, {before_it} from one before it, {refused} refused");
    assert!(before_it > 0 && refused > 0);
}
