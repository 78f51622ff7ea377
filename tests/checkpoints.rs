//! Checkpoints with state: in every store, over crashes and other numbers of subtasks, damaged in every way.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "it is test code, though not all inside a test"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream::broker::{ConnectOptions, Js, NatsServer, Purge};
use millstream::checkpoint::{KvStore, LocalStore, MemoryStore, Store};
use millstream::connectors::Connections;
use millstream::engine::Ended;
use millstream::operators::FaultKind;
use millstream::pipelines::graph::Graph;
use millstream::prelude::*;
use millstream::testkit::{CollectSink, Collected, Flow};
use millstream_tests::support::counts::{Rows, counted, graph, keys, last, listed, three_runs, until_checkpoints};
use millstream_tests::support::damaged::{Base, Must, assert_named, keep_log};
use millstream_tests::support::{Dice, Running, call, copy};
use tokio::time::Instant;

const MILLSTREAM: &str = env!("CARGO_BIN_EXE_own");

#[tokio::test]
async fn state_survives_kills_and_other_numbers_of_subtasks_in_memory_and_in_a_directory() {
    let keys = keys(&mut Dice::new(1), 20_000, 60_000);
    three_runs(Arc::new(MemoryStore::default()), &keys).await;
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::new(directory.path()));
    three_runs(Arc::clone(&store) as Arc<dyn Store>, &keys).await;
    assert!(!store.blobs("counts").await.unwrap().is_empty(), "the state was in the manifests all along");
}

#[tokio::test]
async fn state_survives_kills_and_other_numbers_of_subtasks_on_a_server() {
    let server = NatsServer::start().await.unwrap();
    let connections = Arc::new(Connections::to_nats(ConnectOptions::to(server.url())).unwrap());
    let store = Arc::new(KvStore::new(connections, 1));
    three_runs(Arc::clone(&store) as Arc<dyn Store>, &keys(&mut Dice::new(2), 100_000, 200_000)).await;
    let js = Js::new(server.connect().await.unwrap());
    let objects = js.objects("mill_counts").await.unwrap();
    let kept = store.blobs("counts").await.unwrap();
    println!("{} objects of {} bytes", objects.len(), objects.iter().map(|object| object.size).sum::<u64>());
    assert!(!objects.is_empty() && objects.len() == kept.len());
    // Chunks of one are lost: it is damaged, until it is put again.
    let (id, whole) = (kept[0].id, store.get("counts", kept[0].id).await.unwrap().unwrap());
    let chunks = Purge { filter: Some("$O.mill_counts.C.>".into()), ..Purge::default() };
    js.purge("OBJ_mill_counts", &chunks).await.unwrap();
    assert_ne!(store.get("counts", id).await.unwrap(), Some(whole.clone()));
    for _ in 0..2 {
        store.put("counts", id, whole.clone()).await.unwrap();
        assert_eq!(store.get("counts", id).await.unwrap(), Some(whole.clone()));
    }
    store.remove("counts").await.unwrap();
    assert!(js.objects("mill_counts").await.unwrap().is_empty() && store.read("counts").await.unwrap().is_none());
}

#[tokio::test]
async fn a_savepoint_stays_whole_while_the_pipeline_goes_on_and_a_run_starts_from_it() {
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(directory.path()));
    let keys = keys(&mut Dice::new(3), 5_000, 5_000);
    let (rows, out) = (Rows::new(listed(keys.clone())).at_once(1_000), Collected::default());
    let flow = Flow::start_with(graph(&rows, false, 2, &out), Arc::clone(&store), |e| e).unwrap();
    until_checkpoints(&flow, 3).await;
    flow.drain().await.unwrap();
    let (_, newest) = store.read("counts").await.unwrap().unwrap();
    store.save("counts", "before", newest).await.unwrap();

    // Another run changes all of the state several times over.
    let flow = Flow::start_with(graph(&rows, false, 2, &out), Arc::clone(&store), |e| e).unwrap();
    for round in 1..=6 {
        rows.feed(listed(keys.clone()));
        until_checkpoints(&flow, round).await;
    }
    flow.drain().await.unwrap();
    assert_eq!(last(&out), counted(&keys.repeat(7)));

    let again = Collected::default();
    let from = |mut environment: millstream::engine::Environment| {
        environment.savepoint = Some("before".to_owned());
        environment
    };
    let flow = Flow::start_with(graph(&rows, true, 2, &again), Arc::clone(&store), from).unwrap();
    flow.finish().await.unwrap();
    assert_eq!(again.rows().len(), keys.len() * 6, "it reads again what came since");
    assert_eq!(last(&again), counted(&keys.repeat(7)));

    let missing = |mut environment: millstream::engine::Environment| {
        environment.savepoint = Some("after".to_owned());
        environment
    };
    let flow = Flow::start_with(graph(&rows, true, 2, &again), store, missing).unwrap();
    let fault = flow.finish().await.unwrap_err();
    assert!(fault.chain().contains("there is no savepoint after") && fault.chain().contains("before"), "{fault}");
}

fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

/// Damages a file of a directory in one of many ways; says which, and how.
fn damage(dice: &mut Dice, directory: &Path, base: &Base, foreign: &[u8]) -> (PathBuf, &'static str) {
    let all = files(directory);
    let count = all.len() as u64;
    let (path, bytes) = all.into_iter().nth(usize::try_from(dice.below(count)).unwrap()).unwrap();
    let mut changed = bytes.clone();
    let at = usize::try_from(dice.below(bytes.len() as u64)).unwrap();
    let how = match dice.below(7) {
        0 => {
            changed.truncate(at);
            "truncated"
        }
        1 | 2 => {
            changed[at] ^= 1 << dice.below(8);
            "flipped"
        }
        3 => {
            changed = foreign.to_vec();
            "foreign"
        }
        4 => {
            let text =
                String::from_utf8_lossy(&bytes).replacen("millstream-checkpoint 2", "millstream-checkpoint 3", 1);
            changed = if text.as_bytes() == bytes { b"newer".to_vec() } else { text.into_bytes() };
            "newer"
        }
        5 => {
            let (revision, older) = base.older(dice);
            let path = directory.join(format!("counts.{}", revision.0));
            fs::write(&path, older).unwrap();
            return (path, "an older checkpoint of the same pipeline");
        }
        _ => {
            fs::remove_file(&path).unwrap();
            return (path, "missing");
        }
    };
    fs::write(&path, changed).unwrap();
    (path, how)
}

/// Nothing is gone or changed but by retention: a manifest goes when there are three newer ones. Damaged state that the run has
/// written anew is beside it.
fn assert_kept(before: &BTreeMap<PathBuf, Vec<u8>>, after: &BTreeMap<PathBuf, Vec<u8>>, how: &str) {
    let revision = |path: &Path| path.extension().and_then(|revision| revision.to_str()?.parse::<u64>().ok());
    let newest = after.keys().filter_map(|path| revision(path)).max().unwrap();
    for (path, bytes) in before {
        let there = after.get(path);
        let is_kept = match revision(path) {
            Some(revision) if revision + 3 <= newest => there.is_none_or(|there| there == bytes),
            Some(_) => there == Some(bytes),
            None => there == Some(bytes) || after.get(&path.with_extension("damaged")) == Some(bytes),
        };
        assert!(is_kept, "{how}: {} was changed or deleted, and the newest is {newest}", path.display());
    }
}

#[tokio::test]
async fn a_damaged_checkpoint_is_refused_by_name_or_the_one_before_is_used_and_nothing_is_deleted() {
    keep_log();
    let (mut dice, folder) = (Dice::new(4), tempfile::tempdir().unwrap());
    let of_attempt = |attempt: u32| folder.path().join(attempt.to_string()).join("counts");
    let base =
        Base::of(&mut dice, async |attempt| Arc::new(LocalStore::new(of_attempt(attempt))) as Arc<dyn Store>).await;
    let kept = PathBuf::from(base.store.describe("counts")).parent().unwrap().to_owned();
    let foreign = {
        let other = MemoryStore::default();
        let mut graph = graph(&Rows::new(listed(0..3)), true, 1, &Collected::default());
        graph.name = "others".to_owned();
        let flow = Flow::start_with(graph, Arc::new(other.clone()), |e| e).unwrap();
        flow.finish().await.unwrap();
        other.read("others").await.unwrap().unwrap().1
    };
    // How many runs went on from the newest, from one before it, and not at all.
    let (mut newest, mut before_it, mut refused) = (0, 0, 0);
    let rounds = 500;
    for _ in 0..rounds {
        let place = tempfile::tempdir().unwrap();
        copy(&kept, place.path());
        let directory = place.path().join("counts");
        let (path, how) = damage(&mut dice, &directory, &base, &foreign);
        let damaged = path.file_name().unwrap().to_str().unwrap().to_owned();
        let (how, gone) = (format!("{} is {how}", path.display()), how == "missing");
        let manifests: Vec<String> =
            base.manifests.iter().map(|(revision, _)| format!("counts.{}", revision.0)).collect();
        let (before, out) = (files(&directory), Collected::default());
        let store = Arc::new(LocalStore::new(&directory));
        let flow = Flow::start_with(graph(&base.rows, true, 2, &out), store, |e| e).unwrap();
        match (flow.finish().await, base.must(&manifests, &[damaged.clone()].into())) {
            (Ok(ended), Must::GoOnFrom(from)) => {
                *if from == 0 { &mut newest } else { &mut before_it } += 1;
                base.assert_from(from, ended, &out, &how);
                let is_gone_manifest = gone && manifests.contains(&damaged);
                assert_named(&directory.display().to_string(), &damaged, is_gone_manifest, from, &how);
                assert_kept(&before, &files(&directory), &how);
            }
            (Err(fault), Must::Refuse) => {
                refused += 1;
                let said = fault.chain();
                assert_eq!(fault.kind(), FaultKind::Checkpoint, "{how}: {said}");
                let place = directory.display().to_string();
                assert!(said.contains(&place) && said.contains(&damaged), "{how}: {said}");
                assert!(files(&directory) == before, "{how}: something was changed");
            }
            (done, _) => panic!("{how}: {done:?}"),
        }
    }
    println!("damaged checkpoints: {newest} runs from the newest, {before_it} from one before it, {refused} refused");
    assert!(newest > 0 && before_it > rounds / 10 && refused > 0);
}

#[tokio::test]
async fn the_command_line_lists_shows_checks_names_and_starts_from_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (file, checkpoints, out) = (path("pipeline.toml"), path("checkpoints"), path("out.ndjson"));
    let text = format!(
        r#"
name = "firsts"

[sources.made]
kind = "generate"
rate = 20000
fields = {{ id = "'order-' || n" }}
on_error = "stop"

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
path = "{out}"
format = "json"
"#
    );
    fs::write(&file, text).unwrap();
    let with = |words: &[&str]| {
        let mut all: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        all.extend(["--checkpoints".to_owned(), checkpoints.clone()]);
        all
    };
    let call = async |words: &[&str]| {
        let words = with(words);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        call(MILLSTREAM, &words, &[]).await
    };
    let none = call(&["checkpoint", "ls", &file]).await;
    assert!(none.code == Some(0) && none.out.contains("has no checkpoints"), "{none:?}");
    // Until it has written so many lines more.
    let run = async |words: &[&str], more: usize| {
        let lines = lines_of(&out) + more;
        let words = with(words);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let run = Running::start(MILLSTREAM, &words, &[]);
        let deadline = Instant::now() + Duration::from_secs(30);
        while lines_of(&out) < lines {
            assert!(Instant::now() < deadline, "{lines} lines did not come: {}", run.err());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        run.signal("TERM");
        let ended = run.ended().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
    };
    run(&["run", &file], 5_000).await;

    let saved = call(&["savepoint", &file, "before-v2"]).await;
    assert!(saved.code == Some(0) && saved.out.contains("savepoint before-v2 of firsts: checkpoint"), "{saved:?}");
    let again = call(&["savepoint", &file, "before-v2"]).await;
    assert!(again.code == Some(2) && again.err.contains("there is a savepoint before-v2 already"), "{again:?}");
    let list = call(&["checkpoint", "ls", &file]).await;
    assert!(
        list.out.contains("(newest)") && list.out.contains("before-v2") && list.out.contains("kB of state"),
        "{list:?}"
    );
    let show = call(&["checkpoint", "show", &file, "before-v2"]).await;
    assert!(show.out.contains("source made[0/1] stood at") && show.out.contains("operator firsts[0/1]"), "{show:?}");
    let verified = call(&["checkpoint", "verify", &file]).await;
    assert!(verified.code == Some(0) && verified.out.contains("before-v2: checkpoint"), "{verified:?}");
    run(&["run", &file, "--from", "before-v2"], 5_000).await;
    let wrong = call(&["run", &file, "--from", "after"]).await;
    assert!(wrong.code == Some(2) && wrong.err.contains("there is no savepoint after"), "{wrong:?}");

    let segments = Path::new(&checkpoints).join("firsts.segments");
    let segment = fs::read_dir(&segments).unwrap().next().unwrap().unwrap().path();
    fs::write(&segment, "nothing of the kind").unwrap();
    let damaged = call(&["checkpoint", "verify", &file]).await;
    let name = segment.file_name().unwrap().to_string_lossy();
    assert!(damaged.code == Some(1) && damaged.out.contains(&*name), "{damaged:?}");
    let removed = call(&["checkpoint", "rm", &file, "before-v2"]).await;
    assert_eq!(removed.code, Some(0), "{removed:?}");
    let gone = call(&["checkpoint", "rm", &file, "before-v2"]).await;
    assert!(gone.code == Some(1) && gone.err.contains("there is no savepoint before-v2"), "{gone:?}");
}

fn lines_of(path: &str) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// Counts rows by key in words: what a later version of the program keeps.
fn in_words(rows: &Rows, version: u32, migrates: bool, out: &Collected<(u64, String)>) -> Graph {
    let pipeline =
        Pipeline::new("counts").settings(|settings| settings.checkpoint_interval = Duration::from_millis(20));
    let mut how = kept().version(version);
    if migrates {
        how = how.migrate(1, |count: u64| "|".repeat(usize::try_from(count).unwrap()));
    }
    pipeline
        .source("rows", rows.clone())
        .key_by(|key| *key)
        .keeping(how)
        .fold("count", String::new(), |strokes, _| strokes.push('|'))
        .sink("out", CollectSink::new(out.clone()));
    pipeline.build().unwrap()
}

#[tokio::test]
async fn a_newer_program_goes_on_from_the_state_of_the_one_before_which_then_refuses_it() {
    for budget in [None, Some(20_000)] {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let start = |graph: Graph| {
            Flow::start_with(graph, Arc::clone(&store), |mut environment| {
                environment.state_memory = budget;
                environment
            })
            .unwrap()
        };
        let (rows, counts, words) =
            (Rows::new(listed((0..6_000).map(|n| n % 2_000))), Collected::default(), Collected::default());
        assert_eq!(start(graph(&rows, true, 1, &counts)).finish().await.unwrap(), Ended::Finished);
        rows.feed(listed(0..2_000));
        assert_eq!(start(in_words(&rows, 2, true, &words)).finish().await.unwrap(), Ended::Finished);
        let words = words.rows();
        assert!(words.len() == 2_000 && words.iter().all(|(_, strokes)| strokes == "||||"), "{:?}", words.first());
        let refused = start(graph(&rows, true, 1, &counts)).finish().await.unwrap_err();
        assert_eq!((refused.kind(), refused.node()), (FaultKind::Setup, Some("count")));
        assert!(refused.chain().contains("`values` was saved in version 2 by a newer program"), "{}", refused.chain());
        let refused = start(in_words(&rows, 3, true, &Collected::default())).finish().await.unwrap_err();
        assert!(refused.chain().contains("no way from 2 to 3"), "{}", refused.chain());
        // What is refused stays as it is.
        let more = Collected::default();
        rows.feed(listed([7]));
        assert_eq!(start(in_words(&rows, 2, false, &more)).finish().await.unwrap(), Ended::Finished);
        assert_eq!(more.rows(), [(7, "|||||".to_owned())]);
    }
}
