//! A checkpoint in a directory is killed at each of its system calls, by `strace`: whoever starts then finds the old one or
//! the new one, whole.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "it is test code, and counts are printed")]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use millstream_tests::support::copy;

const COMMIT: &str = env!("CARGO_BIN_EXE_commit");
const SIGKILL: i32 = 9;

/// The calls by which files come to be, one set a run, as `strace` counts each thread's by themselves.
const CALLS: [&str; 6] =
    ["openat", "write", "fsync,fdatasync", "link,linkat,rename,renameat,renameat2", "unlink,unlinkat", "mkdir,mkdirat"];

fn commit(directory: &Path, part: u32) -> Output {
    Command::new(COMMIT).args([&directory.display().to_string(), &part.to_string()]).output().unwrap()
}

/// As [`commit`], killed when a thread has come to its `number`th call of these; whether it was.
fn killed(directory: &Path, part: u32, calls: &str, number: u32) -> bool {
    let inject = format!("inject={calls}:signal=SIGKILL:when={number}");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e", &inject, COMMIT]);
    let output = command.args([&directory.display().to_string(), &part.to_string()]).output().unwrap();
    // It ends as what it traces does.
    let dead = output.status.signal() == Some(SIGKILL) || output.status.code() == Some(128 + SIGKILL);
    assert!(dead || output.status.success(), "{calls} {number}: {}", String::from_utf8_lossy(&output.stderr));
    dead
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

#[test]
fn a_checkpoint_that_is_killed_at_any_system_call_is_the_old_one_or_the_new_one() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (first, directory) = (folder.path().join("first"), folder.path().join("killed"));
    assert_eq!(counted(&commit(&first, 1)), "{1: 2000}");
    let mut kills = 0;
    for calls in CALLS {
        for number in 1.. {
            copy(&first, &directory);
            let was_killed = killed(&directory, 2, calls, number);
            kills += u32::from(was_killed);
            // From the old one it counts the second part again; from the new one there is nothing left to count.
            let second = counted(&commit(&directory, 2));
            assert!(second == "{2: 2000}" || second == "{}", "{calls} {number}: {second}");
            assert_eq!(counted(&commit(&directory, 3)), "{3: 2000}", "{calls} {number}");
            std::fs::remove_dir_all(&directory).unwrap();
            if !was_killed {
                break;
            }
        }
    }
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
