//! Checkpoints to damage: a run that left three different ones, what must be gone on from when some of it is not whole, and what
//! was said of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use millstream::checkpoint::{Revision, Store};
use millstream::engine::Ended;
use millstream::testkit::{Collected, Flow};
use tokio::time::sleep;

use super::Dice;
use super::counts::{Rows, counted, graph, last, listed, until_checkpoints};

/// A pipeline that has come to three checkpoints, each at another row, and the rows that it has to read again or has not read.
pub struct Base {
    pub store: Arc<dyn Store>,
    /// What a run that goes on from any of them reads.
    pub rows: Rows,
    total: u64,
    expected: BTreeMap<u64, u64>,
    /// The newest first.
    pub manifests: Vec<(Revision, Bytes)>,
}

/// What must become of a run that starts from what is damaged.
pub enum Must {
    /// It goes on from this one, of those in [`Base::manifests`].
    GoOnFrom(usize),
    Refuse,
}

impl Base {
    /// Runs the pipeline, in the store that is made for each attempt, until it is so.
    pub async fn of(dice: &mut Dice, make: impl AsyncFn(u32) -> Arc<dyn Store>) -> Base {
        const KEYS: u64 = 10_000;
        // All keys once, and then a few of them again and again, so that checkpoints build on one that all of them name.
        let mut keys: Vec<u64> = (0..KEYS).collect();
        keys.extend((0..1_000_000).map(|_| dice.below(KEYS / 20) * 20));
        for attempt in 0..20 {
            let (store, rows) = (make(attempt).await, Rows::new([]).at_once(500));
            let (first, later) = keys.split_at(KEYS as usize);
            rows.feed(listed(first.iter().copied()));
            let graph = graph(&rows, false, 2, &Collected::default());
            let flow = Flow::start_with(graph, Arc::clone(&store), |e| e).unwrap();
            until_checkpoints(&flow, 3).await;
            let completed = flow.metrics().checkpoint().completed;
            // Some come before each checkpoint, the last one too.
            let some = async {
                for piece in later.chunks(50) {
                    rows.feed(listed(piece.iter().copied()));
                    sleep(Duration::from_millis(1)).await;
                }
            };
            let until_drained = async {
                until_checkpoints(&flow, completed + 3).await;
                flow.drain().await.unwrap();
            };
            tokio::select! {
                () = until_drained => {}
                () = some => panic!("no checkpoints come"),
            }
            let manifests = store.history("counts").await.unwrap();
            let at: BTreeSet<u64> = manifests.iter().map(|(_, manifest)| position(manifest)).collect();
            let pieces = store.blobs("counts").await.unwrap();
            let shared =
                pieces.iter().any(|piece| manifests.iter().all(|(_, manifest)| names(manifest, &piece.id.to_string())));
            let newest = position(&manifests[0].1) as usize;
            println!("attempt {attempt}: checkpoints at rows {at:?}, {} pieces, some of all: {shared}", pieces.len());
            if at.len() == 3 && shared {
                // All keys come once more, so that the last of each tells what was restored.
                let all: Vec<u64> = keys.into_iter().take(newest).chain(0..KEYS).collect();
                let (total, expected) = (all.len() as u64, counted(&all));
                return Base { store, rows: Rows::new(listed(all)).at_once(500), total, expected, manifests };
            }
        }
        panic!("no run left three different checkpoints");
    }

    /// One of the newer checkpoints, and one before it, which is as whole as ever, to put in its place.
    pub fn older(&self, dice: &mut Dice) -> (Revision, &Bytes) {
        let last = self.manifests.len() as u64 - 1;
        let newer = dice.below(last);
        let older = newer + 1 + dice.below(last - newer);
        (self.manifests[newer as usize].0, &self.manifests[older as usize].1)
    }

    /// By what is damaged, among the names of pieces and of these manifests, the newest first: the newest that is whole is gone
    /// on from, as the rows behind all of them are there.
    pub fn must(&self, manifests: &[String], damaged: &BTreeSet<String>) -> Must {
        let whole = |(name, (_, manifest)): (&String, &(Revision, Bytes))| {
            !damaged.contains(name) && !damaged.iter().any(|piece| names(manifest, piece))
        };
        manifests.iter().zip(&self.manifests).position(whole).map_or(Must::Refuse, Must::GoOnFrom)
    }

    /// A run has given all that follows one of the checkpoints, no row more or less, and from its state.
    pub fn assert_from(&self, manifest: usize, ended: Ended, out: &Collected<(u64, u64)>, how: &str) {
        assert_eq!(ended, Ended::Finished, "{how}");
        let due = self.total - position(&self.manifests[manifest].1);
        assert_eq!(out.rows().len() as u64, due, "{how}: not all rows behind the checkpoint, or others");
        assert!(last(out) == self.expected, "{how}: it did not go on from its state");
    }
}

/// How many rows a checkpoint has.
fn position(manifest: &[u8]) -> u64 {
    let json = manifest.split(|byte| *byte == b'\n').nth(1).unwrap();
    let json: serde_json::Value = serde_json::from_slice(json).unwrap();
    json.pointer("/sources/rows/0/position").and_then(serde_json::Value::as_u64).unwrap()
}

fn names(manifest: &[u8], piece: &str) -> bool {
    String::from_utf8_lossy(manifest).contains(piece)
}

/// What this process logs as a warning or an error, from the first call on.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl Write for Log {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps from now on what is logged, of all tests of this process.
pub fn keep_log() {
    let kept = tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::WARN);
    let _ = kept.with_ansi(false).with_writer(|| Log).try_init();
}

/// The lines that speak of a place.
pub fn logged(place: &str) -> Vec<String> {
    let log = String::from_utf8_lossy(&LOG.lock().unwrap()).into_owned();
    log.lines().filter(|line| line.contains(place)).map(str::to_owned).collect()
}

/// What is damaged, or gone, is named: `damaged` by its own name, a manifest that was taken away by the gap that it leaves.
/// Nobody needs to know of what is not looked at, as an older checkpoint than the one that is used.
pub fn assert_named(place: &str, damaged: &str, is_gone_manifest: bool, from: usize, how: &str) {
    let said = logged(place);
    let refused = said.iter().any(|line| line.contains("cannot be gone on from") && line.contains(damaged));
    let taken = said.iter().any(|line| line.contains("one was taken away"));
    match (from, is_gone_manifest) {
        (0, false) => assert!(!refused && !taken, "{how}: {said:?}"),
        // It cannot be told which.
        (_, true) => assert!(taken, "{how}: {said:?}"),
        _ => assert!(refused, "{how}: {said:?}"),
    }
}
