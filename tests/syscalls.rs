//! A checkpoint in a directory is killed at each of its system calls, or the call fails, by `strace`: whoever starts then finds the
//! old one or the new one, whole.

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

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    /// The program is killed at it.
    Kill,
    /// It fails, as on a broken disk.
    Fail,
}

/// What [`commit`] came to when it was traced.
struct Traced {
    /// Its calls on the folder; those up to the one that was harmed, if one was.
    calls: Vec<Call>,
    harmed: bool,
    output: Output,
}

/// As [`commit`], traced, where something becomes of the call of this name and number.
fn traced(directory: &Path, part: u32, harm: Option<(Harm, &str, usize)>) -> Traced {
    let (folder, log) = (directory.display().to_string(), directory.with_extension("log"));
    let mut command = Command::new("strace");
    // Cargo's is long, and each folder of it is one more place where the loader looks for a library.
    command.env_remove("LD_LIBRARY_PATH");
    command.args(["-f", "-qq", "-y", "-s", "8", "-e", "signal=none", "-e", &format!("trace={CALLS}"), "-o"]).arg(&log);
    if let Some((harm, name, number)) = harm {
        let what = match harm {
            Harm::Kill => "signal=SIGKILL",
            Harm::Fail => "error=EIO",
        };
        command.args(["-e", &format!("inject={name}:{what}:when={number}")]);
    }
    let output = command.args([COMMIT, &folder, &part.to_string(), &BEFORE.to_string()]).output().unwrap();
    // It ends as what it traces does.
    let dead = output.status.signal() == Some(SIGKILL) || output.status.code() == Some(128 + SIGKILL);
    let trace = std::fs::read_to_string(&log).unwrap();
    let of_folder = |line: &str| line.contains(&folder);
    // Any thread may have its call of this number fail.
    let failed = trace.lines().position(|line| line.ends_with("(INJECTED)") && of_folder(line));
    let harmed = match harm {
        Some((Harm::Fail, ..)) => failed.is_some() && trace.matches("(INJECTED)").count() == 1,
        _ => dead,
    };
    assert!(harm.is_some() || output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let upto = failed.map_or(trace.as_str(), |line| {
        let end = trace.match_indices('\n').nth(line).map_or(trace.len(), |(end, _)| end);
        trace.get(..end).unwrap_or_default()
    });
    Traced { calls: calls(upto, &folder), harmed, output }
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

/// Harms a commit of this part at each of its calls on the folder, which is a copy of `first` where there is one: from the old
/// checkpoint the part is counted again, from the new one there is nothing left to count. How often it was harmed.
fn harmed_at_each_call(harm: Harm, folder: &Path, first: Option<&Path>, part: u32) -> usize {
    let directory = folder.join("harmed");
    let begin = || {
        let _ = std::fs::remove_dir_all(&directory);
        if let Some(first) = first {
            copy(first, &directory);
        }
    };
    begin();
    let mut wanted = traced(&directory, part, None).calls;
    // By some writes a thread wakes another, which would wait for ever if one failed.
    wanted.retain(|call| harm == Harm::Kill || call.name != "write");
    let (mut kinds, again) = (BTreeMap::<&str, usize>::new(), format!("{{{part}: 2000}}"));
    let (mut hit, mut old, mut went_on) = (Vec::new(), 0, 0);
    for call in &wanted {
        // The how manyth of these on the folder; beside them the thread writes to wake another, more or less often.
        let place = kinds.entry(&call.name).or_default();
        *place += 1;
        let (mut number, mut tries) = (call.number, 0);
        let (made, output) = loop {
            tries += 1;
            assert!(tries < 50, "part {part}: {call:?} is not to be hit");
            begin();
            let Traced { calls, harmed, output } = traced(&directory, part, Some((harm, &call.name, number)));
            let of_name: Vec<&Call> = calls.iter().filter(|made| made.name == call.name).collect();
            match of_name.last() {
                Some(last) if harmed && last.number == number && of_name.len() == *place => {
                    break ((*last).clone(), output);
                }
                _ if harmed && of_name.len() < *place => number += 1,
                _ => number -= 1,
            }
        };
        hit.push(made);
        let next = counted(&commit(&directory, part));
        assert!(next == again || next == "{}", "part {part}, {call:?}: {next}");
        old += usize::from(next == again);
        if output.status.success() {
            // What failed did not matter, or was done again.
            assert_eq!((counted(&output), next.as_str()), (again.clone(), "{}"), "part {part}, {call:?}");
            went_on += 1;
        }
        let behind = part + 1;
        assert_eq!(counted(&commit(&directory, behind)), format!("{{{behind}: 2000}}"), "part {part}, {call:?}");
    }
    println!(
        "part {part}: {harm:?} at {} calls, {kinds:?}; {old} times from the old one, {went_on} times it went on itself",
        hit.len()
    );
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

/// As [`harmed_at_each_call`], of a first checkpoint and one behind it.
fn harmed_at_all(harm: Harm) {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    assert_eq!(counted(&commit(&first, 1)), "{1: 2000}");
    let times =
        harmed_at_each_call(harm, folder.path(), None, 1) + harmed_at_each_call(harm, folder.path(), Some(&first), 2);
    assert!(times > if harm == Harm::Kill { 60 } else { 40 }, "{times}");
}

/// What a kill does not show, as what was written outlives the process: that a file is synced before it gets its name, and the
/// folder with that name before the next file gets its own, the last of which is the manifest's.
#[test]
fn a_file_is_synced_before_it_is_named_and_its_folder_before_anything_speaks_of_it() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("checkpoints");
    for part in 1..=2 {
        let calls = traced(&directory, part, None).calls;
        let mut named = Vec::new();
        for (at, link) in calls.iter().enumerate().filter(|(_, call)| call.name.starts_with("link")) {
            let is_change = |call: &&Call| ["write", "pwrite64", "writev", "ftruncate", "fsync"].contains(&&*call.name);
            let before = calls[..at].iter().rev().filter(is_change).find(|call| call.file == link.file);
            assert_eq!(before.map(|call| &*call.name), Some("fsync"), "part {part}: {link:?}");
            let after = calls[at..].iter().skip(1).find(|call| call.name == "fsync" || call.name.starts_with("link"));
            let of = if link.file == "counts" { "" } else { &*link.file };
            let after = after.map(|call| (&*call.name, &*call.file));
            assert_eq!(after, Some(("fsync", of)), "part {part}: {link:?}");
            named.push(&*link.file);
        }
        assert_eq!(named.last(), Some(&"counts"), "part {part}");
        assert!(named.contains(&"counts.segments"), "part {part}: {named:?}");
    }
}

#[test]
fn a_checkpoint_that_is_killed_at_any_system_call_is_the_old_one_or_the_new_one() {
    harmed_at_all(Harm::Kill);
}

#[test]
fn a_checkpoint_of_which_any_system_call_fails_is_the_old_one_or_the_new_one() {
    harmed_at_all(Harm::Fail);
}

#[test]
fn after_a_sync_that_failed_nothing_more_is_written_and_the_program_ends() {
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
    let sync = traced(&directory, 2, None).calls.into_iter().find(|call| call.name == "fsync").unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(counted(&commit(&directory, 1)), "{1: 2000}");
    let failed = traced(&directory, 2, Some((Harm::Fail, "fsync", sync.number)));
    let said = String::from_utf8_lossy(&failed.output.stderr).into_owned();
    assert!(failed.harmed && !failed.output.status.success(), "{said}");
    assert!(said.contains("is closed for writing since a sync failed"), "{said}");
    assert_eq!(names(), before, "no checkpoint came of it");
    assert_eq!(counted(&commit(&directory, 2)), "{2: 2000}");
}
