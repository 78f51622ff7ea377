//! [`Spilling`]: the tables of a pipeline's state that does not fit in memory, in an LSM tree in a local directory.
//!
//! The directory is a cache. A run begins with an empty one, and nothing in it is synced or read by a later run.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_operators::{Fault, FaultKind, Result, Retry, Spill};

/// A directory that no other process uses at the same time.
#[derive(Debug)]
#[cfg_attr(not(feature = "spill"), expect(dead_code, reason = "there are no tables without the feature"))]
pub(crate) struct Spilling {
    path: PathBuf,
    budget: usize,
    key_groups: u32,
    // Held as long as the directory is used; a process that is killed lets go of it.
    _lock: File,
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
                    return Ok(Spilling { path, budget, key_groups, _lock: lock, attempts });
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
mod lsm {
    use std::fmt;
    use std::sync::atomic::{AtomicU64, Ordering};

    use fjall::config::PartitioningPolicy;
    use fjall::{Database, Keyspace, KeyspaceCreateOptions, Readable, Snapshot};
    use millstream_operators::{Scan, SpillStore, SpillTable, SpillView};

    use super::*;

    /// Of the budget entries in memory have a half; of the rest, what was read from tables has so much, and what was written
    /// to one and is not on the disk yet so much.
    const READ: u64 = 8;
    const WRITTEN: u64 = 16;
    const MB: u64 = 1 << 20;

    impl Spilling {
        /// Empty tables for an attempt to run the pipeline.
        ///
        /// # Errors
        /// A fault when they cannot be made.
        pub(crate) fn begin(&self) -> Result<Arc<Spill>> {
            let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
            let path = self.path.join(attempt.to_string());
            let budget = self.budget as u64;
            let database = Database::builder(&path)
                .temporary(true)
                .manual_journal_persist(true)
                .worker_threads(2)
                .max_journaling_size((budget / 2).max(64 * MB))
                .cache_size((budget / READ).max(MB))
                .open();
            let database = database.map_err(|error| failed("cannot be opened", error).retry_with(Retry::Backoff))?;
            let written = (budget / WRITTEN).clamp(MB, 64 * MB);
            let store = Store { database, path, written, tables: AtomicU64::new(0) };
            Ok(Arc::new(Spill::new(Arc::new(store), self.key_groups, self.budget / 2)))
        }
    }

    struct Store {
        database: Database,
        path: PathBuf,
        written: u64,
        tables: AtomicU64,
    }

    struct Table {
        database: Database,
        keyspace: Keyspace,
    }

    struct View {
        keyspace: Keyspace,
        snapshot: Snapshot,
    }

    fn failed(what: &str, error: fjall::Error) -> Fault {
        Fault::new(FaultKind::Operator, format!("the spill store {what}")).because(error)
    }

    impl SpillStore for Store {
        fn table(&self) -> Result<Box<dyn SpillTable>> {
            let name = self.tables.fetch_add(1, Ordering::Relaxed).to_string();
            if name == "0" {
                tracing::info!(directory = %self.path.display(), "state outgrows its memory, and spills");
            }
            // What is read for one key is then a few kB, whatever the table's size: a filter in one piece would be read, and
            // checked, whole.
            let pieces = || PartitioningPolicy::all(true);
            let options = || {
                KeyspaceCreateOptions::default()
                    .manual_journal_persist(true)
                    .max_memtable_size(self.written)
                    .filter_block_partitioning_policy(pieces())
                    .index_block_partitioning_policy(pieces())
            };
            let keyspace = self.database.keyspace(&name, options);
            let keyspace = keyspace.map_err(|error| failed("has no room for another table", error))?;
            Ok(Box::new(Table { database: self.database.clone(), keyspace }))
        }
    }

    impl SpillTable for Table {
        fn put(&mut self, entries: Vec<(Vec<u8>, Vec<u8>)>) -> Result {
            let mut batch = self.database.batch();
            for (key, value) in entries {
                batch.insert(&self.keyspace, key, value);
            }
            batch.commit().map_err(|error| failed("cannot be written", error))
        }

        fn remove(&mut self, key: Vec<u8>) -> Result {
            self.keyspace.remove(key).map_err(|error| failed("cannot be written", error))
        }

        fn view(&self) -> Result<Box<dyn SpillView>> {
            Ok(Box::new(View { keyspace: self.keyspace.clone(), snapshot: self.database.snapshot() }))
        }
    }

    impl SpillView for Table {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
            let found = self.keyspace.get(key).map_err(|error| failed("cannot be read", error))?;
            Ok(found.map(|value| value.to_vec()))
        }

        fn scan_while(&self, take: &mut Scan<'_>) -> Result {
            each(self.keyspace.iter(), take)
        }
    }

    impl SpillView for View {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
            let found = self.snapshot.get(&self.keyspace, key).map_err(|error| failed("cannot be read", error))?;
            Ok(found.map(|value| value.to_vec()))
        }

        fn scan_while(&self, take: &mut Scan<'_>) -> Result {
            each(self.snapshot.iter(&self.keyspace), take)
        }
    }

    fn each(entries: fjall::Iter, take: &mut Scan<'_>) -> Result {
        for entry in entries {
            let (key, value) = entry.into_inner().map_err(|error| failed("cannot be read", error))?;
            if !take(&key, &value)? {
                break;
            }
        }
        Ok(())
    }

    impl Drop for Table {
        fn drop(&mut self) {
            // A view keeps its files as long as it is there.
            if let Err(error) = self.database.delete_keyspace(self.keyspace.clone()) {
                tracing::debug!("a table of spilled state is not deleted before the run ends: {error}");
            }
        }
    }

    impl fmt::Debug for Store {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.path.display().to_string())
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_view_is_the_table_as_it_was_whatever_becomes_of_it() {
            let folder = tempfile::tempdir().unwrap();
            let spilling = Spilling::open(folder.path(), "p", 1 << 20, 128).unwrap();
            let database = Database::builder(spilling.path.join("0")).temporary(true).open().unwrap();
            let path = spilling.path.join("0");
            let store = Store { database, path: path.clone(), written: MB, tables: AtomicU64::new(0) };
            let mut table = store.table().unwrap();
            let entry = |n: u32| (n.to_be_bytes().to_vec(), vec![7; 100]);
            table.put((0..1_000).map(entry).collect()).unwrap();
            let view = table.view().unwrap();
            for n in 0..500_u32 {
                table.remove(n.to_be_bytes().to_vec()).unwrap();
            }
            table.put((1_000..90_000).map(entry).collect()).unwrap();
            let count = |view: &dyn SpillView| {
                let mut count = 0;
                view.scan(&mut |_, _| {
                    count += 1;
                    Ok(())
                })
                .unwrap();
                count
            };
            assert_eq!((count(&*view), view.get(&3_u32.to_be_bytes()).unwrap()), (1_000, Some(vec![7; 100])));
            assert_eq!(table.get(&3_u32.to_be_bytes()).unwrap(), None);
            drop(table);
            assert_eq!(count(&*view), 1_000);
            drop((view, store));
            assert!(!path.exists(), "what was spilled goes with the run");
        }

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
    }
}
