//! [`MemoryTables`]: a spill store that is none: what spills is in memory all the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::{Fault, FaultKind, Result, Scan, SpillStore, SpillTable, SpillView};

/// Tables in memory; fails when it is told to.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryTables {
    pub(crate) fails: Arc<AtomicBool>,
    pub(crate) tables: Arc<AtomicUsize>,
    pub(crate) scanned: Arc<AtomicUsize>,
}

struct MemoryTable {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    fails: Arc<AtomicBool>,
    scanned: Arc<AtomicUsize>,
}

impl MemoryTable {
    fn works(&self) -> Result {
        match self.fails.load(Ordering::Relaxed) {
            true => Err(Fault::new(FaultKind::Operator, "the disk is gone")),
            false => Ok(()),
        }
    }
}

impl SpillStore for MemoryTables {
    fn table(&self) -> Result<Box<dyn SpillTable>> {
        self.tables.fetch_add(1, Ordering::Relaxed);
        let (fails, scanned) = (Arc::clone(&self.fails), Arc::clone(&self.scanned));
        Ok(Box::new(MemoryTable { entries: BTreeMap::new(), fails, scanned }))
    }
}

impl SpillTable for MemoryTable {
    fn put(&mut self, entries: Vec<(Vec<u8>, Vec<u8>)>) -> Result {
        self.works()?;
        if entries.iter().any(|(key, _)| key.len() >= 1 << 16) {
            return Err(Fault::bug("a table takes no long keys"));
        }
        self.entries.extend(entries);
        Ok(())
    }

    fn remove(&mut self, key: Vec<u8>) -> Result {
        self.works()?;
        self.entries.remove(&key);
        Ok(())
    }

    fn view(&self) -> Result<Box<dyn SpillView>> {
        self.works()?;
        let (fails, scanned) = (Arc::clone(&self.fails), Arc::clone(&self.scanned));
        Ok(Box::new(MemoryTable { entries: self.entries.clone(), fails, scanned }))
    }
}

impl SpillView for MemoryTable {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.works()?;
        Ok(self.entries.get(key).cloned())
    }

    fn scan_while(&self, from: &[u8], take: &mut Scan<'_>) -> Result {
        self.works()?;
        for (key, value) in self.entries.range(from.to_vec()..) {
            self.scanned.fetch_add(1, Ordering::Relaxed);
            if !take(key, value)? {
                break;
            }
        }
        Ok(())
    }
}
