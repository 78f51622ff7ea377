//! A checkpoint in a directory is killed at each of its system calls, or each of them fails, by `strace`: whoever starts then
//! finds the old one or the new one, whole.

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
    failed: bool,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// The process is killed there.
    Killed,
    /// It fails, as on a broken or a full disk, and nothing is done.
    Failed(&'static str),
}

/// As [`commit`], traced, with the fate of the call of this name and number; the calls on the folder, which of them had that
/// fate, and how the process ended.
fn traced(directory: &Path, part: u32, hit: Option<(Fate, &str, usize)>) -> (Vec<Call>, Option<usize>, Output) {
    let (folder, log) = (directory.display().to_string(), directory.with_extension("log"));
    let mut command = Command::new("strace");
    // Cargo's is long, and each folder of it is one more place where the loader looks for a library.
    command.env_remove("LD_LIBRARY_PATH");
    command.args(["-f", "-qq", "-y", "-s", "8", "-e", "signal=none", "-e", &format!("trace={CALLS}"), "-o"]).arg(&log);
    if let Some((fate, name, number)) = hit {
        let what = match fate {
            Fate::Killed => "signal=SIGKILL".to_owned(),
            Fate::Failed(error) => format!("error={error}"),
        };
        command.args(["-e", &format!("inject={name}:{what}:when={number}")]);
    }
    let output = command.args([COMMIT, &folder, &part.to_string(), &BEFORE.to_string()]).output().unwrap();
    // It ends as what it traces does.
    let dead = output.status.signal() == Some(SIGKILL) || output.status.code() == Some(128 + SIGKILL);
    let calls = calls(&std::fs::read_to_string(&log).unwrap(), &folder);
    let at = match hit {
        Some((Fate::Killed, name, number)) if dead => {
            calls.iter().rposition(|call| call.name == name).filter(|at| calls[*at].number == number)
        }
        Some((Fate::Failed(_), ..)) => calls.iter().position(|call| call.failed),
        _ => None,
    };
    let may_fail = at.is_some_and(|at| calls[at].failed);
    assert!(dead || may_fail || output.status.success(), "{hit:?}: {}", String::from_utf8_lossy(&output.stderr));
    (calls, at, output)
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
            let failed = line.ends_with("(INJECTED)");
            calls.push(Call { name: name.to_owned(), number: *number, file: without_numbers(&file), failed });
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

/// A commit of this part with the fate of each of its calls on the folder, which is a copy of `first` where there is one: from the
/// old checkpoint the part is counted again, from the new one there is nothing left to count. How often it met it.
fn at_each_call(fate: Fate, folder: &Path, first: Option<&Path>, part: u32) -> usize {
    let directory = folder.join("hit");
    let begin = || {
        let _ = std::fs::remove_dir_all(&directory);
        if let Some(first) = first {
            copy(first, &directory);
        }
    };
    begin();
    let (wanted, _, _) = traced(&directory, part, None);
    let (mut kinds, again) = (BTreeMap::<&str, usize>::new(), format!("{{{part}: 2000}}"));
    let (mut hit, mut old, mut well) = (Vec::new(), 0, 0);
    for call in &wanted {
        // The how manyth of these on the folder; beside them the thread writes to wake another, more or less often.
        let place = kinds.entry(&call.name).or_default();
        *place += 1;
        let (mut number, mut tries) = (call.number, 0);
        let (made, output) = loop {
            tries += 1;
            assert!(tries < 50, "part {part}: {call:?} is not to be hit");
            begin();
            let (made, at, output) = traced(&directory, part, Some((fate, &call.name, number)));
            let of_name = |calls: &[Call]| calls.iter().filter(|made| made.name == call.name).count();
            match at {
                Some(at) if of_name(&made[..=at]) == *place => break (made[at].clone(), output),
                Some(at) if of_name(&made[..=at]) > *place => number -= 1,
                Some(_) => number += 1,
                None if fate == Fate::Killed && of_name(&made) < *place => number += 1,
                None => number -= 1,
            }
        };
        hit.push(made);
        let said = String::from_utf8_lossy(&output.stderr);
        let next = counted(&commit(&directory, part));
        assert!(next == again || next == "{}", "part {part}, {call:?}: {next}");
        if output.status.success() {
            assert_eq!(next, "{}", "part {part}, {call:?}: it said that all was well: {said}");
            well += 1;
        } else if fate != Fate::Killed {
            assert!(said.contains("the checkpoint directory"), "part {part}, {call:?}: {said}");
        }
        old += usize::from(next == again);
        let behind = part + 1;
        assert_eq!(counted(&commit(&directory, behind)), format!("{{{behind}: 2000}}"), "part {part}, {call:?}");
    }
    println!("part {part}: {} calls {fate:?}, {kinds:?}; {old} times from the old one, {well} ended well", hit.len());
    // Where a call fails, the next try may bring it.
    assert!(fate != Fate::Killed || old > 0 && old < hit.len(), "part {part}: it was always the same one");
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
    let killed = |first, part| at_each_call(Fate::Killed, folder.path(), first, part);
    let kills = killed(None, 1) + killed(Some(&first), 2);
    println!("{kills} kills");
    assert!(kills > 60, "{kills}");
}

#[test]
fn a_checkpoint_any_of_whose_system_calls_fails_is_the_old_one_or_the_new_one_and_what_is_said_to_be_there_is() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    assert_eq!(counted(&commit(&first, 1)), "{1: 2000}");
    let failed = |error| at_each_call(Fate::Failed(error), folder.path(), Some(&first), 2);
    let failures = failed("EIO") + failed("ENOSPC");
    println!("{failures} failures");
    assert!(failures > 60, "{failures}");
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
