//! [`Store`]: tables in an LSM tree in a local directory.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fjall::config::PartitioningPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use millstream_operators::{Fault, FaultKind, Result, Retry, Scan, SpillStore, SpillTable, SpillView};

/// Of the budget entries in memory have a half; of the rest, what was read from tables has so much, and what was written
/// to them all and is not on the disk yet so much.
const READ: u64 = 8;
const WRITTEN: u64 = 16;
const MB: u64 = 1 << 20;
/// The tree stops writers for as long as it has more memtables or runs than it likes, whatever becomes of the threads that
/// would write them to the disk. So nothing is written while there are nearly as many.
const MEMTABLES: usize = 2;
const RUNS: usize = 18;
/// So many memtables of all tables may wait to be written to the disk.
const WAITING: usize = 4;
const PAUSE: Duration = Duration::from_millis(5);
/// A snapshot of the tree, and an iterator, which has one, keep every memtable in memory that is made while they are open, whatever
/// table it is of. So much of the budget, or what every budget is too small for, may be written meanwhile, ...
const HELD: u64 = 4;
const LEAST_HELD: u64 = 8 * MB;
/// ... and so much is read by one iterator.
const PIECE: usize = 1 << 20;
/// No view is open.
const NONE: u64 = u64::MAX;

/// The tables of an attempt to run a pipeline. The directory goes with the last of them.
pub(super) struct Store(Arc<Tables>);

struct Tables {
    database: Database,
    path: PathBuf,
    written: u64,
    made: AtomicU64,
    // What all tables have in memory that is not being written to the disk.
    fresh: AtomicU64,
    // What was ever written to them, how much that was when each of the views was made that are open, and the oldest of them.
    total: AtomicU64,
    views: Mutex<BTreeMap<u64, usize>>,
    oldest: AtomicU64,
    held: u64,
    open: Mutex<BTreeMap<u64, Open>>,
    _lock: Arc<File>,
}

/// A table, and what it has of `fresh`.
type Open = (Keyspace, Arc<AtomicU64>);

struct Table {
    number: u64,
    tables: Arc<Tables>,
    keyspace: Keyspace,
    fresh: Arc<AtomicU64>,
}

struct View {
    tables: Arc<Tables>,
    keyspace: Keyspace,
    snapshot: Snapshot,
    made_at: u64,
}

impl Store {
    pub(super) fn open(path: PathBuf, budget: usize, lock: Arc<File>) -> Result<Self> {
        let budget = budget as u64;
        let database = Database::builder(&path)
            .temporary(true)
            .manual_journal_persist(true)
            // Of two, the first would put the message that asks for a compaction back as fast as it can while the other compacts.
            .worker_threads(1)
            .max_journaling_size((budget / 2).max(64 * MB))
            .cache_size((budget / READ).max(MB))
            .open();
        let wrong = |error| {
            let words = format!("the spill store in {} cannot be opened", path.display());
            Fault::new(FaultKind::Operator, words).because(error).retry_with(Retry::Backoff)
        };
        let database = database.map_err(wrong)?;
        let written = (budget / WRITTEN).clamp(MB, 64 * MB);
        let held = (budget / HELD).max(LEAST_HELD);
        let (made, fresh, open) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::default());
        let (total, views, oldest) = (AtomicU64::new(0), Mutex::default(), AtomicU64::new(NONE));
        let tables = Tables { database, path, written, made, fresh, total, views, oldest, held, open, _lock: lock };
        Ok(Store(Arc::new(tables)))
    }
}

impl Tables {
    fn failed(&self, what: &str, error: fjall::Error) -> Fault {
        // What stopped the thread that writes to the disk, nobody tells.
        let full = match &error {
            fjall::Error::Io(_) | fjall::Error::Poisoned | fjall::Error::Storage(_) => ": is its disk full, or broken?",
            _ => "",
        };
        let words = format!("the spill store in {} {what}{full}", self.path.display());
        Fault::new(FaultKind::Operator, words).because(error)
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the views that are open.
    fn with_views<T>(&self, work: impl FnOnce(&mut BTreeMap<u64, usize>) -> T) -> T {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(&mut views);
        views.retain(|_, count| *count > 0);
        self.oldest.store(views.first_key_value().map_or(NONE, |(made_at, _)| *made_at), Ordering::Relaxed);
        done
    }

    /// Lets the table with the most in memory write it to the disk, if all together have too much.
    fn write_some(&self) {
        if self.fresh.load(Ordering::Relaxed) <= self.written {
            return;
        }
        let open = self.open();
        let takes = open.values().filter(|(keyspace, _)| keyspace.sealed_memtable_count() < MEMTABLES);
        if let Some((keyspace, fresh)) = takes.max_by_key(|(_, fresh)| fresh.load(Ordering::Relaxed)) {
            // What is wrong with the tree is found out by the next who writes.
            if let Err(error) = keyspace.rotate_memtable() {
                tracing::debug!("a table of spilled state is not written to the disk: {error}");
            }
            self.fresh.fetch_sub(fresh.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

impl SpillStore for Store {
    fn table(&self) -> Result<Box<dyn SpillTable>> {
        let Store(tables) = self;
        let number = tables.made.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            tracing::info!(directory = %tables.path.display(), "state outgrows its memory, and spills");
        }
        // What is read for one key is then a few kB, whatever the table's size: a filter in one piece would be read, and
        // checked, whole.
        let pieces = || PartitioningPolicy::all(true);
        let options = || {
            KeyspaceCreateOptions::default()
                .manual_journal_persist(true)
                .max_memtable_size(tables.written * 2)
                .filter_block_partitioning_policy(pieces())
                .index_block_partitioning_policy(pieces())
        };
        let keyspace = tables.database.keyspace(&number.to_string(), options);
        let keyspace = keyspace.map_err(|error| tables.failed("has no room for another table", error))?;
        let fresh = Arc::new(AtomicU64::new(0));
        tables.open().insert(number, (keyspace.clone(), Arc::clone(&fresh)));
        Ok(Box::new(Table { number, tables: Arc::clone(tables), keyspace, fresh }))
    }

    fn is_behind(&self) -> bool {
        let Store(tables) = self;
        let oldest = tables.oldest.load(Ordering::Relaxed);
        tables.total.load(Ordering::Relaxed).saturating_sub(oldest) > tables.held
    }
}

impl Table {
    /// Waits until the tree takes something without waiting itself.
    fn has_room(&self) -> Result {
        while self.keyspace.sealed_memtable_count() >= MEMTABLES
            || self.keyspace.l0_table_count() >= RUNS
            || self.tables.database.outstanding_flushes() >= WAITING
        {
            self.works()?;
            #[expect(clippy::disallowed_methods, reason = "it is a thread that may wait for a disk")]
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Fails if the tree is written to no more.
    fn works(&self) -> Result {
        let persisted = self.tables.database.persist(PersistMode::Buffer);
        persisted.map_err(|error| self.tables.failed("cannot be written", error))
    }

    fn wrote(&self, bytes: usize) {
        self.fresh.fetch_add(bytes as u64, Ordering::Relaxed);
        self.tables.total.fetch_add(bytes as u64, Ordering::Relaxed);
        self.tables.fresh.fetch_add(bytes as u64, Ordering::Relaxed);
        self.tables.write_some();
    }
}

/// About what an entry takes in memory beside its bytes.
const ENTRY: usize = 64;

impl SpillTable for Table {
    fn put(&mut self, entries: Vec<(Vec<u8>, Vec<u8>)>) -> Result {
        self.has_room()?;
        let mut batch = self.tables.database.batch();
        let mut bytes = 0;
        for (key, value) in entries {
            bytes += key.len() + value.len() + ENTRY;
            batch.insert(&self.keyspace, key, value);
        }
        batch.commit().map_err(|error| self.tables.failed("cannot be written", error))?;
        self.wrote(bytes);
        Ok(())
    }

    fn remove(&mut self, key: Vec<u8>) -> Result {
        self.has_room()?;
        let bytes = key.len() + ENTRY;
        self.keyspace.remove(key).map_err(|error| self.tables.failed("cannot be written", error))?;
        self.wrote(bytes);
        Ok(())
    }

    fn view(&self) -> Result<Box<dyn SpillView>> {
        let (tables, keyspace) = (Arc::clone(&self.tables), self.keyspace.clone());
        let made_at = tables.with_views(|views| {
            let made_at = tables.total.load(Ordering::Relaxed);
            *views.entry(made_at).or_default() += 1;
            made_at
        });
        let snapshot = tables.database.snapshot();
        Ok(Box::new(View { tables, keyspace, snapshot, made_at }))
    }
}

impl SpillView for Table {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = self.keyspace.get(key).map_err(|error| self.tables.failed("cannot be read", error))?;
        Ok(found.map(|value| value.to_vec()))
    }

    fn scan_while(&self, from: &[u8], take: &mut Scan<'_>) -> Result {
        let mut from = Some(from.to_vec());
        while let Some(first) = from.take() {
            let mut read = 0;
            each(&self.tables, self.keyspace.range(first..), &mut |key, value| {
                if read >= PIECE {
                    from = Some(key.to_vec());
                    return Ok(false);
                }
                read += key.len() + value.len() + ENTRY;
                take(key, value)
            })?;
        }
        Ok(())
    }
}

impl SpillView for View {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = self.snapshot.get(&self.keyspace, key);
        Ok(found.map_err(|error| self.tables.failed("cannot be read", error))?.map(|value| value.to_vec()))
    }

    fn scan_while(&self, from: &[u8], take: &mut Scan<'_>) -> Result {
        each(&self.tables, self.snapshot.range(&self.keyspace, from..), take)
    }
}

fn each(tables: &Tables, entries: fjall::Iter, take: &mut Scan<'_>) -> Result {
    for entry in entries {
        let (key, value) = entry.into_inner().map_err(|error| tables.failed("cannot be read", error))?;
        if !take(&key, &value)? {
            break;
        }
    }
    Ok(())
}

impl Drop for View {
    fn drop(&mut self) {
        self.tables.with_views(|views| {
            if let Some(count) = views.get_mut(&self.made_at) {
                *count = count.saturating_sub(1);
            }
        });
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.tables.open().remove(&self.number);
        self.tables.fresh.fetch_sub(self.fresh.load(Ordering::Relaxed), Ordering::Relaxed);
        // A view keeps its files as long as it is there.
        if let Err(error) = self.tables.database.delete_keyspace(self.keyspace.clone()) {
            tracing::debug!("a table of spilled state is not deleted before the run ends: {error}");
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &std::path::Path, budget: usize) -> Store {
        let lock = Arc::new(File::create(folder.join("lock")).unwrap());
        Store::open(folder.join("0"), budget, lock).unwrap()
    }

    fn count(view: &dyn SpillView) -> usize {
        let mut count = 0;
        view.scan(&mut |_, _| {
            count += 1;
            Ok(())
        })
        .unwrap();
        count
    }

    fn entry(n: u32) -> (Vec<u8>, Vec<u8>) {
        (n.to_be_bytes().to_vec(), vec![7; 100])
    }

    #[test]
    fn a_view_is_the_table_as_it_was_whatever_becomes_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let (store, path) = (store(folder.path(), 1 << 20), folder.path().join("0"));
        let mut table = store.table().unwrap();
        table.put((0..1_000).map(entry).collect()).unwrap();
        let view = table.view().unwrap();
        for n in 0..500_u32 {
            table.remove(n.to_be_bytes().to_vec()).unwrap();
        }
        for some in 1..90 {
            table.put((some * 1_000..(some + 1) * 1_000).map(entry).collect()).unwrap();
        }
        assert_eq!((count(&*view), view.get(&3_u32.to_be_bytes()).unwrap()), (1_000, Some(vec![7; 100])));
        assert_eq!(table.get(&3_u32.to_be_bytes()).unwrap(), None);
        let mut last = Vec::new();
        let from = 89_998_u32.to_be_bytes();
        let all = |key: &[u8], _: &[u8]| {
            last.push(key.to_vec());
            Ok(true)
        };
        table.scan_while(&from, &mut { all }).unwrap();
        assert_eq!(last, [89_998_u32, 89_999].map(|n| n.to_be_bytes().to_vec()));
        drop(table);
        assert_eq!(count(&*view), 1_000);
        drop((view, store));
        assert!(!path.exists(), "what was spilled goes with the run");
    }

    #[test]
    fn many_tables_have_no_more_in_memory_than_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), 16 << 20);
        let mut tables: Vec<_> = (0..20).map(|_| store.table().unwrap()).collect();
        for some in 0..50 {
            for table in &mut tables {
                table.put((some * 100..(some + 1) * 100).map(entry).collect()).unwrap();
            }
        }
        let active = store.0.open().values().map(|(keyspace, _)| active(keyspace)).sum::<u64>();
        // All of them have 14 MB, of which each could keep 2.
        assert!(active <= 3 << 20, "{active}");
        assert!(tables.iter().all(|table| count(&**table) == 5_000));
    }

    #[test]
    fn what_is_written_while_a_table_is_read_does_not_stay_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), 16 << 20);
        let (mut read, mut written) = (store.table().unwrap(), store.table().unwrap());
        for some in 0..50 {
            read.put((some * 4_000..(some + 1) * 4_000).map(entry).collect()).unwrap();
        }
        let mut most = 0;
        let mut expected = 0..200_000_u32;
        let mut piece = Vec::new();
        let take = |key: &[u8], value: &[u8]| {
            assert_eq!(key, expected.next().unwrap().to_be_bytes());
            piece.push((key.to_vec(), value.to_vec()));
            if piece.len() == 1_000 {
                written.put(std::mem::take(&mut piece)).unwrap();
                most = most.max(memtables(&store.0.open()[&1].0));
            }
            Ok(())
        };
        read.scan(&mut { take }).unwrap();
        assert_eq!((expected.next(), count(&*written)), (None, 200_000));
        // All of it is 34 MB, and would count many times.
        assert!(most < 24 << 20, "{most}");
    }

    #[test]
    fn who_writes_much_behind_a_view_is_behind_until_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), 1 << 20);
        let mut table = store.table().unwrap();
        let mut write = |from: u32| {
            for some in from..from + 60 {
                table.put((some * 1_000..(some + 1) * 1_000).map(entry).collect()).unwrap();
            }
            table.view().unwrap()
        };
        let first = write(0);
        assert!(!store.is_behind(), "what was written before does not count");
        let second = write(60);
        assert!(store.is_behind());
        drop(second);
        assert!(store.is_behind(), "the older view keeps it");
        let third = write(120);
        drop(first);
        assert!(!store.is_behind(), "behind the newer one nothing was written");
        drop(third);
        assert_eq!(store.0.with_views(|views| views.len()), 0);
    }

    fn active(keyspace: &Keyspace) -> u64 {
        use fjall::AbstractTree;
        keyspace.tree.active_memtable().size()
    }

    /// All that are still in memory, some of them several times.
    fn memtables(keyspace: &Keyspace) -> u64 {
        use fjall::AbstractTree;
        keyspace.tree.version_memtable_size_sum()
    }
}
