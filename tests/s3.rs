//! Checkpoints in a bucket of a real service that speaks S3: kills, an absence, damage, twins, and the command line.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "it is test code, though not all inside a test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream::broker::NatsServer;
use millstream::checkpoint::{BlobId, Revision, S3Store, Store};
use millstream::operators::FaultKind;
use millstream::testkit::{Collected, Flow};
use millstream_tests::support::counts::{graph, keys, three_runs};
use millstream_tests::support::damaged::{Base, Must, assert_named, keep_log};
use millstream_tests::support::weed::Weed;
use millstream_tests::support::{Dice, Running, Said, setting};
use tokio::time::{Instant, sleep};

const MILLSTREAM: &str = env!("CARGO_BIN_EXE_own");
const PLACE: &str = "s3://ckpt/stories";

/// A pipeline file in a folder of its own, whose checkpoints are in a bucket.
struct Story {
    weed: Weed,
    folder: tempfile::TempDir,
}

impl Story {
    /// Of generated rows with so many ids, which come again and again, the first of each id comes out.
    async fn of(ids: u64, interval: &str, lines: &str) -> Story {
        let story = Story { weed: Weed::start().await, folder: tempfile::tempdir().unwrap() };
        let text = format!(
            r#"
name = "firsts"
checkpoint = {{ interval = "{interval}" }}

[sources.made]
kind = "generate"
fields = {{ id = "'order-' || (n % {ids})", n = "n" }}
on_error = "stop"
{lines}

[[steps]]
name = "come"
from = "made"
processing_time = {{ every = "1s" }}

[[steps]]
name = "firsts"
from = "come"
dedup = {{ by = ["id"], within = "1h" }}

[sinks.out]
kind = "file"
from = "firsts"
path = "{}"
format = "json"
"#,
            story.out().display()
        );
        fs::write(story.file(), text).unwrap();
        story
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("pipeline.toml")
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// Starts the program, with the file in place of the word FILE.
    fn start(&self, words: &[&str]) -> Running {
        let file = self.file().display().to_string();
        let all: Vec<&str> = words.iter().map(|word| if *word == "FILE" { file.as_str() } else { word }).collect();
        let of_bucket = self.weed.variables();
        let mut variables: Vec<(&str, &str)> = of_bucket.iter().map(|(name, value)| (*name, value.as_str())).collect();
        variables.push(("MILLSTREAM_CHECKPOINTS", PLACE));
        Running::start(MILLSTREAM, &all, &variables)
    }

    async fn call(&self, words: &[&str]) -> Said {
        self.start(words).ended_within(Duration::from_secs(90)).await
    }

    fn store(&self) -> S3Store {
        self.weed.store("stories")
    }

    /// Waits for the checkpoint of so many rows, or of more.
    async fn until_rows(&self, rows: u64) {
        let (store, deadline) = (self.store(), Instant::now() + Duration::from_secs(60));
        loop {
            let newest = store.read("firsts").await.ok().flatten();
            let text = newest.map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            let json: serde_json::Value =
                text.lines().nth(1).map_or_else(Default::default, |line| serde_json::from_str(line).unwrap());
            let stood = json.pointer("/sources/made/0/position").cloned().unwrap_or_default();
            let stood = stood.as_u64().or_else(|| stood.as_object()?.values().find_map(serde_json::Value::as_u64));
            if stood.is_some_and(|stood| stood >= rows) {
                return;
            }
            assert!(Instant::now() < deadline, "no checkpoint of {rows} rows: {text}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn lines(&self) -> usize {
        fs::read_to_string(self.out()).map_or(0, |text| text.lines().count())
    }

    async fn until_lines(&self, lines: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.lines() < lines {
            assert!(Instant::now() < deadline, "{lines} lines did not come");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// How often each row is in the output.
    fn written(&self) -> BTreeMap<u64, u32> {
        let mut times = BTreeMap::new();
        for line in fs::read_to_string(self.out()).unwrap().lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            *times.entry(row["n"].as_u64().unwrap()).or_default() += 1;
        }
        times
    }
}

#[tokio::test]
async fn state_survives_kills_and_other_numbers_of_subtasks_in_a_bucket() {
    let weed = Weed::start().await;
    let store = Arc::new(weed.store("stories"));
    three_runs(Arc::clone(&store) as Arc<dyn Store>, &keys(&mut Dice::new(2), 20_000, 60_000)).await;
    let kept = store.blobs("counts").await.unwrap();
    println!("{} pieces of {} bytes", kept.len(), kept.iter().map(|blob| blob.size).sum::<u64>());
    assert!(!kept.is_empty(), "the state was in the manifests all along");
    // One is damaged, until it is put again.
    let (id, whole) = (kept[0].id, store.get("counts", kept[0].id).await.unwrap().unwrap());
    weed.tamper(&format!("stories/counts/segments/{id}"), Some(b"stale"));
    assert_eq!(store.get("counts", id).await.unwrap(), Some(Bytes::from_static(b"stale")));
    for _ in 0..2 {
        store.put("counts", id, whole.clone()).await.unwrap();
        assert_eq!(store.get("counts", id).await.unwrap(), Some(whole.clone()));
    }
    assert_eq!(store.blobs("counts").await.unwrap().len(), kept.len());
}

#[tokio::test]
async fn a_killed_process_goes_on_from_the_bucket_with_its_state() {
    let story = Story::of(5_000, "100ms", "rate = 20000\ncount = 60000").await;
    for rows in [4_000, 20_000] {
        let run = story.start(&["run", "FILE"]);
        story.until_rows(rows).await;
        let said = run.killed().await;
        assert_eq!(said.code, None, "it ended by itself: {}", said.err);
    }
    let said = story.call(&["run", "FILE"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    // Without its state each run would give the ids that come again.
    let written = story.written();
    assert!(written.keys().copied().eq(0..5_000), "{:?}", written.keys().rev().take(3).collect::<Vec<_>>());
    println!("killed twice: {} repeats", written.values().sum::<u32>() - 5_000);
}

#[tokio::test]
async fn a_run_waits_while_the_bucket_is_away_and_goes_on_by_itself() {
    let mut story = Story::of(5_000, "100ms", "rate = 5000\ncount = 40000").await;
    let mut run = story.start(&["run", "FILE"]);
    story.until_rows(2_000).await;
    story.weed.kill_9();
    run.says("s3://ckpt/stories does not answer").await;
    story.weed.restart().await;
    let said = run.ended_within(Duration::from_secs(90)).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let written = story.written();
    assert!(written.len() == 5_000 && written.values().all(|times| *times == 1), "{}", written.len());
    // Who starts while it is away waits for it.
    story.weed.kill_9();
    let mut run = story.start(&["run", "FILE"]);
    run.says("the last checkpoint cannot be read yet").await;
    story.weed.restart().await;
    assert_eq!(run.ended_within(Duration::from_secs(90)).await.code, Some(0));
    assert_eq!(story.written().len(), 5_000);
}

#[tokio::test]
async fn of_two_instances_the_last_starter_wins_and_the_other_ends() {
    let story = Story::of(100, "1s", "rate = 1000").await;
    let first = story.start(&["run", "FILE"]);
    story.until_rows(1_000).await;
    let second = story.start(&["run", "FILE"]);
    let said = first.ended().await;
    assert!(
        said.code == Some(3) && said.err.contains("another instance of pipeline firsts has taken over"),
        "{said:?}"
    );
    second.signal("TERM");
    let said = second.ended().await;
    assert_eq!(said.code, Some(0), "{said:?}");
}

/// All that is kept of a pipeline: manifests, the oldest first, and pieces.
#[derive(PartialEq)]
struct Copied {
    manifests: Vec<(Revision, Bytes)>,
    pieces: Vec<(BlobId, Bytes)>,
}

impl Copied {
    async fn of(store: &dyn Store) -> Copied {
        let mut pieces = Vec::new();
        for blob in store.blobs("counts").await.unwrap() {
            pieces.extend(store.get("counts", blob.id).await.unwrap().map(|bytes| (blob.id, bytes)));
        }
        let manifests = store.history("counts").await.unwrap().into_iter().rev().collect();
        Copied { manifests, pieces }
    }

    /// Puts all of it elsewhere, and gives the names of the objects and what is in them.
    async fn put(&self, weed: &Weed, (prefix, store): (&str, &S3Store)) -> Vec<(String, Bytes)> {
        let mut objects = Vec::new();
        for (revision, bytes) in &self.manifests {
            // What they say of their place holds for these names alone.
            let name = manifest(*revision);
            weed.tamper(&format!("{prefix}/{name}"), Some(bytes));
            objects.push((name, bytes.clone()));
        }
        for (id, bytes) in &self.pieces {
            store.put("counts", *id, bytes.clone()).await.unwrap();
            objects.push((format!("counts/segments/{id}"), bytes.clone()));
        }
        objects
    }

    /// Nothing of it is gone or changed there but by retention: a manifest goes when there are three newer ones. Damaged state
    /// that the run has written anew is beside it.
    async fn assert_kept(&self, weed: &Weed, (prefix, store): (&str, &S3Store), how: &str) {
        let after = Copied::of(store).await;
        let newest = after.manifests.last().unwrap().0.0;
        for kept in &self.manifests {
            assert!(kept.0.0 + 3 <= newest || after.manifests.contains(kept), "{how}: {:?} is not as it was", kept.0);
        }
        for (id, bytes) in &self.pieces {
            let is_there = after.pieces.iter().any(|(other, there)| (other, there) == (id, bytes));
            let aside = || weed.look(&format!("{prefix}/counts/segments/{id}.damaged"));
            assert!(is_there || aside().as_deref() == Some(&**bytes), "{how}: {id} is not as it was");
        }
    }
}

fn manifest(revision: Revision) -> String {
    format!("counts/manifests/{:020}", revision.0)
}

/// Damages one of the objects in one of many ways; says which, and how.
fn damage(dice: &mut Dice, weed: &Weed, prefix: &str, objects: &[(String, Bytes)]) -> (String, &'static str) {
    let (name, bytes) = &objects[usize::try_from(dice.below(objects.len() as u64)).unwrap()];
    let at = usize::try_from(dice.below(bytes.len() as u64)).unwrap();
    let mut changed = bytes.to_vec();
    let how = match dice.below(5) {
        0 => {
            changed.truncate(at);
            "truncated"
        }
        1 | 2 => {
            changed[at] ^= 1 << dice.below(8);
            "flipped"
        }
        3 => {
            changed = b"nothing of the kind".to_vec();
            "foreign"
        }
        _ => {
            weed.tamper(&format!("{prefix}/{name}"), None);
            return (name.clone(), "missing");
        }
    };
    weed.tamper(&format!("{prefix}/{name}"), Some(&changed));
    (name.clone(), how)
}

#[tokio::test]
async fn what_is_damaged_in_a_bucket_is_named_or_the_checkpoint_before_is_used_and_nothing_is_deleted() {
    keep_log();
    let (weed, mut dice) = (Weed::start().await, Dice::new(4));
    let base =
        Base::of(&mut dice, async |attempt| Arc::new(weed.store(&format!("base/{attempt}"))) as Arc<dyn Store>).await;
    let whole = Copied::of(&*base.store).await;
    // How many runs went on from the newest, from one before it, and not at all.
    let (mut newest, mut before_it, mut refused) = (0, 0, 0);
    // In the last all pieces are damaged.
    let rounds: u64 = setting("MILLSTREAM_DAMAGED", 20) + 1;
    for round in 0..rounds {
        let prefix = format!("damaged/{round}");
        let place = weed.store(&prefix);
        let objects = whole.put(&weed, (&prefix, &place)).await;
        let (name, how) = match round {
            0 => {
                let (revision, older) = base.older(&mut dice);
                weed.tamper(&format!("{prefix}/{}", manifest(revision)), Some(older));
                (manifest(revision), "an older checkpoint of the same pipeline")
            }
            _ => damage(&mut dice, &weed, &prefix, &objects),
        };
        let (gone, mut how) = (how == "missing", format!("{name} is {how}"));
        let mut damaged = BTreeSet::from([name.rsplit('/').next().unwrap().to_owned()]);
        if round + 1 == rounds {
            how.push_str(", and all pieces");
            for (name, _) in objects.iter().filter(|(name, _)| name.contains("segments")) {
                weed.tamper(&format!("{prefix}/{name}"), Some(b"nothing of the kind"));
                damaged.insert(name.rsplit('/').next().unwrap().to_owned());
            }
        }
        let manifests: Vec<String> = base.manifests.iter().map(|(revision, _)| format!("{:020}", revision.0)).collect();
        let (before, out) = (Copied::of(&place).await, Collected::default());
        let shown = format!("s3://ckpt/{prefix}/counts");
        let flow = Flow::start_with(graph(&base.rows, true, 2, &out), Arc::new(place.clone()), |e| e).unwrap();
        match (flow.finish().await, base.must(&manifests, &damaged)) {
            (Ok(ended), Must::GoOnFrom(from)) => {
                *if from == 0 { &mut newest } else { &mut before_it } += 1;
                base.assert_from(from, ended, &out, &how);
                let damaged = damaged.first().unwrap();
                assert_named(&shown, damaged, gone && manifests.contains(damaged), from, &how);
                before.assert_kept(&weed, (&prefix, &place), &how).await;
            }
            (Err(fault), Must::Refuse) => {
                refused += 1;
                let said = fault.chain();
                assert_eq!(fault.kind(), FaultKind::Checkpoint, "{how}: {said}");
                assert!(said.contains(&shown) && damaged.iter().any(|name| said.contains(name)), "{how}: {said}");
                assert!(Copied::of(&place).await == before, "{how}: something was changed");
            }
            (done, _) => panic!("{how}: {done:?}"),
        }
    }
    println!("damaged checkpoints: {newest} runs from the newest, {before_it} from one before it, {refused} refused");
    assert!(before_it > 0 && refused > 0);
}

#[tokio::test]
async fn the_command_line_looks_at_names_starts_from_and_removes_what_is_in_a_bucket() {
    let (story, nats) = (Story::of(1_000_000, "100ms", "rate = 1000").await, NatsServer::start().await.unwrap());
    let none = story.call(&["checkpoint", "ls", "FILE"]).await;
    assert!(none.code == Some(0) && none.out.contains("has no checkpoints at s3://ckpt/stories/firsts"), "{none:?}");
    let run = story.start(&["run", "FILE"]);
    story.until_rows(2_000).await;
    let saved = story.call(&["savepoint", "FILE", "before-v2"]).await;
    assert!(saved.code == Some(0) && saved.out.contains("savepoint before-v2 of firsts: checkpoint"), "{saved:?}");
    run.signal("TERM");
    assert_eq!(run.ended().await.code, Some(0));
    let list = story.call(&["checkpoint", "ls", "FILE", "--checkpoints", PLACE]).await;
    assert!(list.out.contains("(newest)") && list.out.contains("before-v2"), "{list:?}");
    let show = story.call(&["checkpoint", "show", "FILE", "before-v2"]).await;
    assert!(show.out.contains("source made[0/1] stood at") && show.out.contains("operator firsts[0/1]"), "{show:?}");
    let verified = story.call(&["checkpoint", "verify", "FILE"]).await;
    assert!(verified.code == Some(0) && verified.out.contains("before-v2: checkpoint"), "{verified:?}");
    let lines = story.lines();
    let again = story.start(&["run", "FILE", "--from", "before-v2"]);
    story.until_lines(lines + 500).await;
    again.signal("TERM");
    let said = again.ended().await;
    assert_eq!(said.code, Some(0), "{said:?}");

    let url = nats.url();
    let looked = story.call(&["doctor", "FILE", "--nats", &url]).await;
    assert!(looked.out.contains("place    s3://ckpt/stories/firsts, for checkpoints: there are some"), "{looked:?}");
    let rights = story.call(&["permissions", "FILE"]).await;
    assert!(
        rights.err.contains("s3:PutObject and s3:DeleteObject on arn:aws:s3:::ckpt/stories/firsts/*"),
        "{rights:?}"
    );

    for piece in story.store().blobs("firsts").await.unwrap() {
        story.weed.tamper(&format!("stories/firsts/segments/{}", piece.id), Some(b"nothing of the kind"));
    }
    let damaged = story.call(&["checkpoint", "verify", "FILE"]).await;
    let named = "in s3://ckpt/stories/firsts should have";
    assert!(damaged.code == Some(1) && damaged.out.contains(named), "{damaged:?}");
    let removed = story.call(&["checkpoint", "rm", "FILE", "before-v2"]).await;
    assert_eq!(removed.code, Some(0), "{removed:?}");
    let removed = story.call(&["remove", "FILE", "--yes", "--nats", &url]).await;
    assert!(removed.code == Some(0) && removed.out.contains("checkpoints, s3://ckpt/stories/firsts"), "{removed:?}");
    assert!(story.store().read("firsts").await.unwrap().is_none());
    assert!(story.store().blobs("firsts").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_bucket_that_is_not_there_or_refuses_is_named_with_the_way_out() {
    let weed = Weed::start().await;
    let mut wrong = weed.options("stories");
    wrong.secret_access_key = Some("another".to_owned().into());
    let mut missing = weed.options("stories");
    missing.bucket = "nowhere".to_owned();
    for (options, words) in [(wrong, "refuses this user: check key"), (missing, "is not there: create the bucket")] {
        let error = S3Store::new(options).unwrap().read("p").await.unwrap_err();
        let millstream::checkpoint::StoreError::Failed(fault) = error else { panic!("{error}: {words}") };
        assert!(fault.to_string().contains(words) && fault.to_string().contains("s3://"), "{fault}");
    }
}
