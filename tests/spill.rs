//! State that does not fit in its memory: the same results as in memory, over crashes and other numbers of subtasks, and a
//! process that stays within its budget.
//!
//! `SPILL_KEYS` gives another number of keys for the process (CI: 120,000), `SPILL_BYTES` what is kept with each (CI: 2,048), and
//! `SPILL_MB` another budget (CI: 8).

#![allow(clippy::unwrap_used, reason = "it is test code, though not all inside a test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use millstream::checkpoint::{LocalStore, MemoryStore, Store};
use millstream::engine::Ended;
use millstream::pipelines::graph::Graph;
use millstream::prelude::*;
use millstream::testkit::{CollectSink, Collected, Flow, ListSource};
use millstream_tests::support::{Dice, Pump, chance};
use tokio::time::Instant;

type Row = (u16, u64);

/// Counts by key and in windows, over keys that are left and come back.
fn graph(rows: &ListSource<Row>, ends: bool, subtasks: u32, out: &Collected<(u16, u64)>) -> Graph {
    let pipeline = Pipeline::new("spilled").settings(|settings| {
        settings.parallelism = subtasks;
        settings.checkpoint_interval = Duration::from_millis(20);
        settings.batch_rows = 64;
    });
    let rows = if ends { rows.clone() } else { rows.clone().endless() };
    pipeline
        .source("rows", rows)
        .key_by(|row| row.0)
        .process(
            "changes",
            |visit, row: Row| {
                let before = visit.state().unwrap_or(0_u64);
                // Some keys are forgotten.
                *visit.state() = (!row.1.is_multiple_of(11)).then_some(before + row.1);
                let key = *visit.key();
                visit.give((key, before + row.1));
            },
            |_| {},
        )
        .key_by(|row| row.0)
        .fold("sum", 0_u64, |sum, row| *sum = sum.wrapping_mul(31).wrapping_add(row.1))
        .sink("out", CollectSink::new(out.clone()));
    pipeline.build().unwrap()
}

/// What comes last of each key, computed at once.
fn expected(rows: &[Row]) -> BTreeMap<u16, u64> {
    let (mut kept, mut sums): (BTreeMap<u16, u64>, BTreeMap<u16, u64>) = Default::default();
    for (key, number) in rows {
        let sum = kept.remove(key).unwrap_or(0) + number;
        if !number.is_multiple_of(11) {
            kept.insert(*key, sum);
        }
        let all = sums.entry(*key).or_default();
        *all = all.wrapping_mul(31).wrapping_add(sum);
    }
    sums
}

async fn runs(store: Arc<dyn Store>, budgets: [Option<usize>; 3]) {
    let folder = tempfile::tempdir().unwrap();
    let mut dice = Dice::new(chance());
    let rows: Vec<Row> = (0..30_000).map(|_| (dice.below(5_000) as u16, dice.below(1_000))).collect();
    let (list, out) = (ListSource::new([]), Collected::default());
    for (run, (budget, subtasks)) in budgets.into_iter().zip([1, 4, 3]).enumerate() {
        let part = rows.get(run * 10_000..(run + 1) * 10_000).unwrap();
        list.feed(part.iter().map(|row| (Timestamp::MIN, *row)));
        let flow = Flow::start_with(graph(&list, run == 2, subtasks, &out), Arc::clone(&store), |mut environment| {
            environment.state_memory = budget;
            environment.spill_to = folder.path().to_owned();
            environment
        });
        let flow = flow.unwrap();
        if run == 2 {
            let metrics = flow.metrics().clone();
            assert_eq!(flow.finish().await.unwrap(), Ended::Finished);
            if budget.is_some() {
                assert!(metrics.state().is_some(), "there is a budget");
            }
            continue;
        }
        let completed = flow.metrics().checkpoint().completed;
        let some = async {
            while flow.metrics().checkpoint().completed < completed + 5 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(120), some).await.is_ok();
        assert!(in_time, "no checkpoints for two minutes; the run: {:?}", flow.drain().await);
        if let (Some(state), Some(_)) = (flow.metrics().state(), budget) {
            assert!(state.held <= state.budget + (64 << 10), "{state:?}");
        }
        flow.crash().await;
    }
    let last: BTreeMap<u16, u64> = out.rows().into_iter().collect();
    assert!(last == expected(&rows), "sums differ");
}

#[tokio::test]
async fn a_flow_whose_state_does_not_fit_gives_what_it_gives_in_memory_over_crashes_and_other_numbers_of_subtasks() {
    runs(Arc::new(MemoryStore::default()), [Some(40_000), Some(10_000), Some(100_000)]).await;
}

#[tokio::test]
async fn a_budget_may_come_and_go_between_runs() {
    let folder = tempfile::tempdir().unwrap();
    runs(Arc::new(LocalStore::new(folder.path().join("one"))), [None, Some(20_000), None]).await;
    runs(Arc::new(LocalStore::new(folder.path().join("two"))), [Some(20_000), None, Some(20_000)]).await;
}

const SPILLED: &str = env!("CARGO_BIN_EXE_spilled");

/// What a process takes that has nothing to do with how much state there is: code, threads, batches on their way, tables that are
/// being written, and the parts of a checkpoint that are being compressed. With small entries it is half of it.
const BASE: u64 = 136 << 20;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn high_water(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)).map_or(0, |text| text.parse::<u64>().unwrap() * 1024)
}

fn manifests(directory: &Path) -> u64 {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let numbers = files.filter_map(|file| file.file_name().to_str()?.strip_prefix("spilled.")?.parse().ok());
    numbers.max().unwrap_or(0)
}

/// How many bytes the files of a folder have; they come and go meanwhile.
fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => bytes_in(&entry.path()),
            about => about.map_or(0, |about| about.len()),
        })
        .sum()
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// How much memory the process takes that holds all of its state, once it has all keys.
async fn resident_in_memory(keys: u64, bytes: u64) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [folder.path().display().to_string(), keys.to_string(), "1".into(), (1_u64 << 40).to_string()];
    let bytes = bytes.to_string();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain([bytes.as_str()]).collect();
    let (mut process, mut most) = (Pump::start_with(SPILLED, &arguments), 0);
    while process.ended().is_none() {
        most = most.max(high_water(process.id()));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    most
}

#[tokio::test]
async fn a_process_that_is_killed_again_and_again_counts_more_keys_than_fit_within_its_budget() {
    let (keys, bytes) = (setting("SPILL_KEYS", 120_000), setting("SPILL_BYTES", 2_048));
    let (budget, rounds) = (setting("SPILL_MB", 8) << 20, 2);
    // Else the bound below would hold whatever is done with state.
    let in_memory = resident_in_memory(keys, bytes).await;
    assert!(2 * in_memory > 3 * (budget + BASE), "{:.1} MiB resident with all state in memory", mb(in_memory));
    let folder = tempfile::tempdir().unwrap();
    // Some hundred MB are written several times: a disk that others use would be what the test waits for.
    let _disk = Disk::at(folder.path(), "8g");
    let path = folder.path().display().to_string();
    let arguments = [path.clone(), keys.to_string(), rounds.to_string(), budget.to_string(), bytes.to_string()];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (checkpoints, spill) = (folder.path().join("checkpoints"), folder.path().join("spill"));
    let (mut kills, mut most, mut spilled, started) = (0, 0, 0, Instant::now());
    let mut dice = Dice::new(chance());
    loop {
        let mut process = Pump::start_with(SPILLED, &arguments);
        // Each run is killed behind some checkpoints more, the first while it has not spilled yet.
        let until = manifests(&checkpoints) + 2 + 2 * kills + dice.below(4);
        let status = loop {
            (most, spilled) = (most.max(high_water(process.id())), spilled.max(bytes_in(&spill)));
            if let Some(status) = process.ended() {
                break Some(status);
            }
            if kills < 2 && manifests(&checkpoints) >= until {
                process.kill_9();
                break None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        match status {
            Some(status) => {
                assert!(status.success(), "{status}");
                break;
            }
            None => kills += 1,
        }
    }
    let text = std::fs::read_to_string(folder.path().join("out")).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len() as u64, keys, "each key is complete once");
    for (key, line) in lines.into_iter().enumerate() {
        assert_eq!(line, format!("customer-{key:08} {rounds}"));
    }
    println!(
        "{keys} keys with {bytes} bytes each, {} rows, a budget of {:.0} MiB: at most {:.1} MiB resident ({:.1} with all state \
         in memory), {:.1} MiB spilled, {kills} kills, {:?}",
        keys * rounds,
        mb(budget),
        mb(most),
        mb(in_memory),
        mb(spilled),
        started.elapsed()
    );
    assert!(most <= budget + BASE, "{:.1} MiB resident", mb(most));
    // What is on the disk is compressed.
    assert!(spilled > 1 << 20, "{:.1} MiB spilled", mb(spilled));
    assert!(kills > 0);
}

/// A small disk, which only root can have; gone with the value.
struct Disk(std::path::PathBuf);

impl Disk {
    fn at(folder: &Path, size: &str) -> Option<Disk> {
        std::fs::create_dir_all(folder).unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder)
            .output();
        mount.is_ok_and(|said| said.status.success()).then(|| Disk(folder.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[tokio::test]
async fn a_disk_that_is_full_is_a_fault_that_names_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let spill = folder.path().join("spill");
    let Some(_disk) = Disk::at(&spill, "12m") else {
        println!("not seen: only root can have a small disk");
        return;
    };
    let path = folder.path().display().to_string();
    let arguments = [&path, "400000", "3", "8388608"];
    let mut process = Pump::start_with(SPILLED, &arguments);
    let (words, until) =
        (["restarting from the last checkpoint", "is its disk full"], Instant::now() + Duration::from_secs(120));
    while !words.iter().all(|words| process.said().contains(words)) {
        assert!(process.ended().is_none() && Instant::now() < until, "{}", process.said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(process.said().contains(&spill.display().to_string()), "{}", process.said());
    println!("{}", process.said().lines().find(|line| line.contains("is its disk full")).unwrap());
    process.kill_9();
}
