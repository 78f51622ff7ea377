//! A checkpoint in a directory is killed at each of its system calls, by `strace`: whoever starts then finds the old one or
//! the new one, whole.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "it is test code, and counts are printed"
)]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use millstream_tests::support::copy;

const COMMIT: &str = env!("CARGO_BIN_EXE_commit");
const SIGKILL: i32 = 9;

/// The calls by which files come to be, and go.
const CALLS: &str = "openat,creat,write,pwrite64,writev,ftruncate,fsync,fdatasync,link,linkat,rename,renameat,renameat2,unlink,\
                     unlinkat,mkdir,mkdirat,rmdir";
/// So many of each the thread that writes makes before: more than any other thread makes in all.
const BEFORE: usize = 50;

fn commit(directory: &Path, part: u32) -> Output {
    Command::new(COMMIT).args([&directory.display().to_string(), &part.to_string()]).output().unwrap()
}

/// A call on the folder of checkpoints: which one, the how manyth of its name the thread has made, and on what.
#[derive(Clone, Debug)]
struct Call {
    name: String,
    number: usize,
    file: String,
}

/// As [`commit`], traced, and killed at the call of this name and number; the calls on the folder, and whether it was killed.
fn traced(directory: &Path, part: u32, kill: Option<(&str, usize)>) -> (Vec<Call>, bool) {
    let (folder, log) = (directory.display().to_string(), directory.with_extension("log"));
    let mut command = Command::new("strace");
    // Cargo's is long, and each folder of it is one more place where the loader looks for a library.
    command.env_remove("LD_LIBRARY_PATH");
    command.args(["-f", "-qq", "-y", "-s", "8", "-e", "signal=none", "-e", &format!("trace={CALLS}"), "-o"]).arg(&log);
    if let Some((name, number)) = kill {
        command.args(["-e", &format!("inject={name}:signal=SIGKILL:when={number}")]);
    }
    let output = command.args([COMMIT, &folder, &part.to_string(), &BEFORE.to_string()]).output().unwrap();
    // It ends as what it traces does.
    let dead = output.status.signal() == Some(SIGKILL) || output.status.code() == Some(128 + SIGKILL);
    assert!(dead || output.status.success(), "{kill:?}: {}", String::from_utf8_lossy(&output.stderr));
    (calls(&std::fs::read_to_string(&log).unwrap(), &folder), dead)
}

/// The calls on a folder that a trace tells of.
fn calls(trace: &str, folder: &str) -> Vec<Call> {
    let (mut made, mut calls) = (BTreeMap::<(&str, &str), usize>::new(), Vec::new());
    let mut writers = std::collections::BTreeSet::new();
    for line in trace.lines() {
        let (thread, rest) = line.split_once(' ').unwrap();
        // The end of a call that was interrupted in the trace, or of a thread.
        let Some((name, arguments)) = rest.trim_start().split_once('(').filter(|(name, _)| !name.contains(' ')) else {
            continue;
        };
        let number = made.entry((thread, name)).or_default();
        *number += 1;
        // What a link is made of is a file of the folder, too.
        if let Some((_, path)) = arguments.split_once(folder) {
            let file: String = path.chars().take_while(|c| !matches!(c, '"' | '>')).collect();
            calls.push(Call { name: name.to_owned(), number: *number, file: without_numbers(&file) });
            writers.insert(thread);
        }
    }
    let others = made.iter().filter(|((thread, _), _)| !writers.contains(thread)).map(|(_, made)| *made);
    // Only then does the number of a call say whose it is.
    assert!(writers.len() <= 1 && others.max().unwrap_or(0) < BEFORE, "{made:?}");
    assert!(calls.iter().all(|call| call.number > BEFORE), "{calls:?}");
    calls
}

/// Which process and which run it was, and what state there is, differs.
fn without_numbers(file: &str) -> String {
    let parts = file.split(['.', '/']);
    let is_name = |part: &&str| !part.is_empty() && !part.chars().all(|c| c.is_ascii_hexdigit());
    parts.filter(is_name).collect::<Vec<_>>().join(".")
}

/// As [`commit`], whose calls to sync a file fail as on a broken disk, each thread's first.
fn unsynced(directory: &Path, part: u32) -> Output {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1", COMMIT]);
    command.args([&directory.display().to_string(), &part.to_string()]).output().unwrap()
}

fn is_here() -> bool {
    let is_here = Command::new("strace").arg("-V").output().is_ok();
    if !is_here {
        // `tests/setup` installs it where it may.
        println!("strace is not here: nothing was killed");
        assert!(std::env::var_os("MILLSTREAM_REQUIRES_STRACE").is_none(), "strace is not here");
    }
    is_here
}

fn counted(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Kills a commit of this part at each of its calls on the folder, which is a copy of `first` where there is one: from the old
/// checkpoint the part is counted again, from the new one there is nothing left to count. How often it was killed.
fn killed_at_each_call(folder: &Path, first: Option<&Path>, part: u32) -> usize {
    let directory = folder.join("killed");
    let begin = || {
        let _ = std::fs::remove_dir_all(&directory);
        if let Some(first) = first {
            copy(first, &directory);
        }
    };
    begin();
    let (wanted, was_killed) = traced(&directory, part, None);
    assert!(!was_killed);
    let (mut kinds, again) = (BTreeMap::<&str, usize>::new(), format!("{{{part}: 2000}}"));
    let (mut hit, mut old) = (Vec::new(), 0);
    for call in &wanted {
        // The how manyth of these on the folder; beside them the thread writes to wake another, more or less often.
        let place = kinds.entry(&call.name).or_default();
        *place += 1;
        let (mut number, mut tries) = (call.number, 0);
        let made = loop {
            tries += 1;
            assert!(tries < 50, "part {part}: {call:?} is not to be hit");
            begin();
            let (made, was_killed) = traced(&directory, part, Some((&call.name, number)));
            let of_name: Vec<&Call> = made.iter().filter(|made| made.name == call.name).collect();
            match of_name.last() {
                Some(last) if was_killed && last.number == number && of_name.len() == *place => break (*last).clone(),
                _ if was_killed && of_name.len() < *place => number += 1,
                _ => number -= 1,
            }
        };
        hit.push(made);
        let next = counted(&commit(&directory, part));
        assert!(next == again || next == "{}", "part {part}, {call:?}: {next}");
        old += usize::from(next == again);
        let behind = part + 1;
        assert_eq!(counted(&commit(&directory, behind)), format!("{{{behind}: 2000}}"), "part {part}, {call:?}");
    }
    println!("part {part}: {} kills, {kinds:?}; {old} times from the old one", hit.len());
    assert!(old > 0 && old < hit.len(), "part {part}: it was always the same one");
    // Nothing that one that lives does was left out.
    let names = |calls: &[Call]| {
        let mut names: Vec<_> = calls.iter().map(|call| (call.name.clone(), call.file.clone())).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(&hit), names(&wanted), "part {part}");
    hit.len()
}

#[test]
fn a_checkpoint_that_is_killed_at_any_system_call_is_the_old_one_or_the_new_one() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    assert_eq!(counted(&commit(&first, 1)), "{1: 2000}");
    let kills = killed_at_each_call(folder.path(), None, 1) + killed_at_each_call(folder.path(), Some(&first), 2);
    println!("{kills} kills");
    assert!(kills > 60, "{kills}");
}

#[test]
fn after_a_sync_that_failed_nothing_more_is_written_until_the_program_starts_anew() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("checkpoints");
    assert_eq!(counted(&commit(&directory, 1)), "{1: 2000}");
    let names = || {
        let files = std::fs::read_dir(&directory).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<String> = files.filter(|name| !name.starts_with('.')).collect();
        files.sort_unstable();
        files
    };
    let before = names();
    let failed = unsynced(&directory, 2);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success() && said.contains("is closed for writing since a sync failed"), "{said}");
    assert_eq!(names(), before, "no checkpoint came of it");
    assert_eq!(counted(&commit(&directory, 2)), "{2: 2000}");
}
