//! [`Spill`]: where keyed state goes that outgrows its memory.
//!
//! An entry is in memory, or in a table of a store outside of it, and never in both:
//!
//! ```text
//!  get, entry, remove: in the map? --no--> in the table? --it is taken out, and comes into the map
//!  the budget is used up: entries go, first those that have not changed since the last barrier --> table, many at once
//!
//!  barrier --> shards as they are (Arc) + a view of the table as it is --elsewhere--> runs, a part at a time
//!              + the keys that have changed and are in the map no more
//! ```
//!
//! - Shards are a cache of single entries. The table knows nothing of shards: its keys are a key group and an encoded key,
//!   so a row costs one look-up however large the state is, and a key that is in the map costs what it did before.
//! - Timers from some time on are in a table of their own, in the order in which they are due.
//! - Without a budget there is no table: each access of a map has one branch more.
//! - What has changed since the last barrier is noted in the shard while it is in the map; when it leaves, its key is written
//!   down, and so is one that is removed. A set of changes looks those keys up, in the map and in the view, and nothing else.
//! - Snapshots and restores go through runs of a few MB: neither has the state in memory. A view of the table costs nothing at
//!   the barrier, and is the state at the barrier whatever comes behind it.
//! - Tables are a cache: they begin empty, are never synced, and go with their map. What is right is in the checkpoint.
//! - The budget is one for all maps of a pipeline. Each tells how much it holds, by its entries and samples of how long they
//!   are when encoded; while all together hold too much, each lets go of its share when it is asked to, or grows.
//! - Maps have no errors. What a table says that is one is kept here, the entry counts as missing, and the engine asks
//!   [`Spill::check`] behind each call of an operator, before anything that came of it has left: a fault, and the run begins
//!   again at the last checkpoint.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Fault, FaultKind, Result};

/// Tables of encoded entries outside of memory: a cache, which nobody relies on behind a restart.
pub trait SpillStore: Send + Sync + fmt::Debug {
    /// A new table without entries; what it holds goes when it is dropped.
    ///
    /// # Errors
    /// It cannot be made.
    fn table(&self) -> Result<Box<dyn SpillTable>>;

    /// Whether so much was written behind a view that is still there that nothing more should be before it is gone: what a store
    /// has to keep for views may have to stay in memory.
    fn is_behind(&self) -> bool {
        false
    }
}

/// Entries by key, of bytes.
pub trait SpillTable: SpillView + Sync {
    /// Puts entries in; no key comes twice.
    ///
    /// # Errors
    /// It is not known what the table holds from now on.
    fn put(&mut self, entries: Vec<(Vec<u8>, Vec<u8>)>) -> Result;

    /// Takes an entry out.
    ///
    /// # Errors
    /// As [`put`](SpillTable::put).
    fn remove(&mut self, key: Vec<u8>) -> Result;

    /// The table as it is now, whatever becomes of it.
    ///
    /// # Errors
    /// None can be made.
    fn view(&self) -> Result<Box<dyn SpillView>>;
}

/// Takes a key and its value, and says whether it wants more.
pub type Scan<'a> = dyn FnMut(&[u8], &[u8]) -> Result<bool> + 'a;

/// What a table holds, to be read.
pub trait SpillView: Send {
    /// The value of a key.
    ///
    /// # Errors
    /// It cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Gives keys that are not before `from` and their values to `take`, in the order of keys, few of them at a time in memory,
    /// until it says that it wants no more.
    ///
    /// # Errors
    /// They cannot be read, or what `take` says.
    fn scan_while(&self, from: &[u8], take: &mut Scan<'_>) -> Result;

    /// Gives all of them.
    ///
    /// # Errors
    /// As [`scan_while`](SpillView::scan_while).
    fn scan(&self, take: &mut dyn FnMut(&[u8], &[u8]) -> Result) -> Result {
        self.scan_while(&[], &mut |key, value| take(key, value).map(|()| true))
    }
}

/// How much memory the state of a pipeline may use, and uses.
#[derive(Debug, Default)]
pub struct SpillGauge {
    budget: usize,
    held: AtomicUsize,
    away: AtomicUsize,
}

impl SpillGauge {
    /// The bytes of memory that entries may use.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// About how many bytes of memory entries use.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// How many entries are in the store.
    pub fn away(&self) -> usize {
        self.away.load(Ordering::Relaxed)
    }
}

/// The memory that the state of a pipeline may use, and the store for the rest.
pub struct Spill {
    store: Arc<dyn SpillStore>,
    key_groups: u32,
    gauge: Arc<SpillGauge>,
    failed: AtomicBool,
    fault: Mutex<Option<Fault>>,
}

impl Spill {
    /// Lets entries that take more than `budget` bytes together go to `store`; of a pipeline with so many key groups.
    pub fn new(store: Arc<dyn SpillStore>, key_groups: u32, budget: usize) -> Self {
        let gauge = Arc::new(SpillGauge { budget, ..SpillGauge::default() });
        Spill { store, key_groups, gauge, failed: AtomicBool::new(false), fault: Mutex::new(None) }
    }

    /// Fails if the store has: what was read since may be wrong.
    ///
    /// # Errors
    /// What the store said.
    pub fn check(&self) -> Result {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        let words = "state that does not fit in memory cannot be kept outside of it";
        let first = Fault::new(FaultKind::Operator, words);
        Err(fault.map_or(first, |fault| {
            let retry = fault.retry();
            Fault::new(FaultKind::Operator, words).because(fault).retry_with(retry)
        }))
    }

    /// Whether operators should wait until snapshots are encoded, as [`SpillStore::is_behind`] says.
    pub fn is_behind(&self) -> bool {
        self.store.is_behind()
    }

    /// What there is to be seen of it, also when it is gone.
    pub fn gauge(&self) -> Arc<SpillGauge> {
        Arc::clone(&self.gauge)
    }

    /// The bytes of memory that entries may use.
    pub fn budget(&self) -> usize {
        self.gauge.budget()
    }

    /// About how many bytes of memory entries use.
    pub fn held(&self) -> usize {
        self.gauge.held()
    }

    /// How many entries are in the store.
    pub fn away(&self) -> usize {
        self.gauge.away()
    }

    pub(super) fn key_groups(&self) -> u32 {
        self.key_groups
    }

    pub(super) fn table(&self) -> Result<Box<dyn SpillTable>> {
        self.store.table()
    }

    /// What was asked for, or nothing and a fault to be found by [`check`](Spill::check).
    pub(super) fn or_fault<T>(&self, result: Result<T>) -> Option<T> {
        match result {
            Ok(found) => Some(found),
            Err(fault) => {
                self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
                self.failed.store(true, Ordering::Release);
                None
            }
        }
    }

    /// A map that held `before` bytes holds `now`.
    pub(super) fn holds(&self, before: usize, now: usize) {
        self.gauge.held.fetch_add(now, Ordering::Relaxed);
        self.gauge.held.fetch_sub(before, Ordering::Relaxed);
    }

    /// A map that had `before` entries in the store has `now`.
    pub(super) fn stores(&self, before: usize, now: usize) {
        self.gauge.away.fetch_add(now, Ordering::Relaxed);
        self.gauge.away.fetch_sub(before, Ordering::Relaxed);
    }

    /// How many of its `own` bytes a map should let go of.
    pub(super) fn excess(&self, own: usize) -> usize {
        let held = self.held();
        if held <= self.budget() {
            return 0;
        }
        // Somewhat more than needed, so that many go at once.
        let over = held - self.budget() / 8 * 7;
        let share = over as u128 * own as u128 / held.max(1) as u128;
        usize::try_from(share).unwrap_or(own).min(own)
    }
}

impl fmt::Debug for Spill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Spill({} of {} bytes in memory, {} entries in {:?})",
            self.held(),
            self.budget(),
            self.away(),
            self.store
        )
    }
}
