//! [`LocalStore`]: keeps manifests in a directory.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use millstream_operators::{Fault, FaultKind};

use super::store::{Revision, Store, StoreError, Stored};

/// Manifests as files `<pipeline>.<revision>` in one directory: written beside, synced, renamed, the directory synced.
/// The file of the revision before stays, so that nothing is ever overwritten.
///
/// A directory serves one machine: compare-and-set holds between processes because the name of a revision can be taken
/// only once (a hard link fails if it exists).
#[derive(Debug)]
pub struct LocalStore {
    directory: PathBuf,
    // After a failed sync nobody knows what the disk holds: nothing more is written until the process starts anew.
    poisoned: Mutex<Option<String>>,
}

impl LocalStore {
    /// A store in `directory`, which is created if it is not there.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        LocalStore { directory: directory.into(), poisoned: Mutex::new(None) }
    }

    fn newest(&self, pipeline: &str) -> std::io::Result<Option<(Revision, PathBuf)>> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut newest = None;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let revision = name.to_str().and_then(|name| name.strip_prefix(pipeline)?.strip_prefix('.')?.parse().ok());
            if let Some(revision) = revision.map(Revision)
                && newest.as_ref().is_none_or(|(newest, _)| revision > *newest)
            {
                newest = Some((revision, entry.path()));
            }
        }
        Ok(newest)
    }

    fn write_now(&self, pipeline: &str, expected: Revision, manifest: &[u8]) -> Result<Revision, StoreError> {
        if let Some(why) = &*self.poisoned.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(StoreError::Failed(self.fault(&format!("is closed for writing since {why}"))));
        }
        let failed = |what: &str, error: std::io::Error| StoreError::Failed(self.fault(what).because(error));
        fs::create_dir_all(&self.directory).map_err(|e| failed("cannot be created", e))?;
        let newest = self.newest(pipeline).map_err(|e| failed("cannot be read", e))?;
        if newest.map(|(revision, _)| revision).unwrap_or_default() != expected {
            return Err(StoreError::Fenced);
        }
        let next = Revision(expected.0 + 1);
        let (beside, name) = (
            self.directory.join(format!(".{pipeline}.{}.{}", next.0, std::process::id())),
            self.directory.join(format!("{pipeline}.{}", next.0)),
        );
        let written = File::create(&beside).and_then(|mut file| file.write_all(manifest).map(|()| file));
        let file = match written {
            Ok(file) => file,
            Err(error) => {
                // Nothing points to it: a full disk costs one checkpoint, and the next may fit.
                let _ = fs::remove_file(&beside);
                return Err(failed("cannot be written", error));
            }
        };
        let synced = file.sync_all();
        let named = synced.and_then(|()| fs::hard_link(&beside, &name));
        let _ = fs::remove_file(&beside);
        match named {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Err(StoreError::Fenced),
            Err(error) => return Err(self.poison("a sync failed", error)),
            Ok(()) => {}
        }
        if let Err(error) = File::open(&self.directory).and_then(|directory| directory.sync_all()) {
            return Err(self.poison("a sync of the directory failed", error));
        }
        self.forget_before(pipeline, expected);
        Ok(next)
    }

    /// Keeps the revision before the newest, and drops older ones.
    fn forget_before(&self, pipeline: &str, keep: Revision) {
        for revision in (1..keep.0).rev() {
            if fs::remove_file(self.directory.join(format!("{pipeline}.{revision}"))).is_err() {
                break;
            }
        }
    }

    fn poison(&self, why: &str, error: std::io::Error) -> StoreError {
        *self.poisoned.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
        StoreError::Failed(self.fault(why).because(error))
    }

    fn fault(&self, what: &str) -> Fault {
        Fault::new(FaultKind::Checkpoint, format!("the checkpoint directory {} {what}", self.directory.display()))
    }
}

impl Store for LocalStore {
    fn read<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Option<(Revision, Bytes)>> {
        Box::pin(async move {
            let newest = self.newest(pipeline).and_then(|newest| match newest {
                Some((revision, path)) => fs::read(path).map(|bytes| Some((revision, Bytes::from(bytes)))),
                None => Ok(None),
            });
            newest.map_err(|error| StoreError::Failed(self.fault("cannot be read").because(error)))
        })
    }

    fn write<'a>(&'a self, pipeline: &'a str, expected: Revision, manifest: Bytes) -> Stored<'a, Revision> {
        Box::pin(async move { self.write_now(pipeline, expected, &manifest) })
    }

    fn remove<'a>(&'a self, pipeline: &'a str) -> Stored<'a, ()> {
        Box::pin(async move {
            while let Some((_, path)) =
                self.newest(pipeline).map_err(|e| StoreError::Failed(self.fault("cannot be read").because(e)))?
            {
                fs::remove_file(&path).map_err(|e| StoreError::Failed(self.fault("cannot be emptied").because(e)))?;
            }
            Ok(())
        })
    }

    fn describe(&self, pipeline: &str) -> String {
        Path::new(&self.directory).join(pipeline).display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_write_is_read_and_the_one_before_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::new(directory.path());
        assert!(store.read("p").await.unwrap().is_none());
        let mut revision = Revision(0);
        for n in 0..5u8 {
            revision = store.write("p", revision, Bytes::from(vec![n])).await.unwrap();
        }
        assert_eq!(
            LocalStore::new(directory.path()).read("p").await.unwrap(),
            Some((Revision(5), Bytes::from_static(&[4])))
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn a_write_over_an_older_revision_is_fenced() {
        let directory = tempfile::tempdir().unwrap();
        let (mine, theirs) = (LocalStore::new(directory.path()), LocalStore::new(directory.path()));
        let first = mine.write("p", Revision(0), Bytes::new()).await.unwrap();
        theirs.write("p", first, Bytes::new()).await.unwrap();
        assert!(matches!(mine.write("p", first, Bytes::new()).await, Err(StoreError::Fenced)));
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_written_is_a_fault_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "in the way").unwrap();
        let error = LocalStore::new(&file).write("p", Revision(0), Bytes::new()).await.unwrap_err();
        let StoreError::Failed(fault) = error else { panic!("{error}") };
        assert!(fault.to_string().contains("file"), "{fault}");
    }
}
