//! [`Spilling`]: the tables of a pipeline's state that does not fit in memory, in an LSM tree in a local directory.
//!
//! The directory is a cache. A run begins with an empty one, and nothing in it is synced or read by a later run.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(not(feature = "spill"))]
use millstream_operators::Retry;
use millstream_operators::{Fault, FaultKind, Result, Spill};

/// A directory that no other process uses at the same time.
#[derive(Debug)]
#[cfg_attr(not(feature = "spill"), expect(dead_code, reason = "there are no tables without the feature"))]
pub(crate) struct Spilling {
    path: PathBuf,
    budget: usize,
    key_groups: u32,
    // Held as long as the directory is used, by tables too; a process that is killed lets go of it.
    lock: Arc<File>,
    attempts: std::sync::atomic::AtomicU32,
}

/// Of one pipeline on one machine, so many may run at a time.
const MOST: u32 = 1_000;
const LOCK: &str = "lock";

impl Spilling {
    /// Takes a directory of the pipeline below `place` that nobody uses, and empties it. State may use `budget` bytes.
    ///
    /// # Errors
    /// A setup fault when there is none to be had.
    pub(crate) fn open(place: &Path, pipeline: &str, budget: usize, key_groups: u32) -> Result<Self> {
        for number in 0..MOST {
            let path = place.join(format!("{pipeline}.{number}"));
            let wrong = |error| wrong(&path, error);
            fs::create_dir_all(&path).map_err(wrong)?;
            let lock = File::create(path.join(LOCK)).map_err(wrong)?;
            match lock.try_lock() {
                Ok(()) => {
                    empty(&path).map_err(wrong)?;
                    let attempts = std::sync::atomic::AtomicU32::new(0);
                    return Ok(Spilling { path, budget, key_groups, lock: Arc::new(lock), attempts });
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(wrong(error)),
            }
        }
        let words = format!("state cannot be spilled to {}: {MOST} runs of {pipeline} use it", place.display());
        Err(Fault::new(FaultKind::Setup, words))
    }
}

fn wrong(path: &Path, error: std::io::Error) -> Fault {
    Fault::new(FaultKind::Setup, format!("state cannot be spilled to {}", path.display())).because(error)
}

/// What a run left that was killed.
fn empty(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_name() == LOCK {
            true => {}
            false if entry.file_type()?.is_dir() => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

#[cfg(not(feature = "spill"))]
impl Spilling {
    /// # Errors
    /// Always.
    pub(crate) fn begin(&self) -> Result<Arc<Spill>> {
        let words = format!(
            "state is to keep within {} bytes of memory, and this program was built without the feature `spill`",
            self.budget
        );
        Err(Fault::new(FaultKind::Setup, words).retry_with(Retry::Never))
    }
}

#[cfg(feature = "spill")]
impl Spilling {
    /// Empty tables for an attempt to run the pipeline.
    ///
    /// # Errors
    /// A fault when they cannot be made.
    pub(crate) fn begin(&self) -> Result<Arc<Spill>> {
        let attempt = self.attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let store = super::lsm::Store::open(self.path.join(attempt.to_string()), self.budget, Arc::clone(&self.lock))?;
        // The other half is the store's, and what a checkpoint shares while it is written.
        Ok(Arc::new(Spill::new(Arc::new(store), self.key_groups, self.budget / 2)))
    }
}

#[cfg(all(test, feature = "spill"))]
mod tests {
    use super::*;

    #[test]
    fn two_runs_have_a_directory_each_and_what_a_killed_one_left_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Spilling::open(folder.path(), "p", 1 << 20, 128).unwrap();
        let (one, two) = (open(), open());
        assert_ne!(one.path, two.path);
        fs::create_dir_all(one.path.join("7")).unwrap();
        fs::write(one.path.join("7").join("left"), "over").unwrap();
        let path = one.path.clone();
        drop(one);
        assert_eq!(open().path, path);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_is_in_use_as_long_as_there_are_tables_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Spilling::open(folder.path(), "p", 1 << 20, 128).unwrap();
        let spilling = open();
        let (path, spill) = (spilling.path.clone(), spilling.begin().unwrap());
        drop(spilling);
        assert_ne!(open().path, path);
        drop(spill);
        assert_eq!(open().path, path);
    }
}
