//! [`LocalStore`]: keeps checkpoints in a directory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use millstream_operators::{Fault, FaultKind, Retry, Timestamp};

use super::segment::BlobId;
use super::store::{Blob, Revision, Store, StoreError, Stored, is_it, taken};

/// Checkpoints as files of one directory: manifests `<pipeline>.<revision>`, what they speak of as
/// `<pipeline>.segments/<sha256>`, savepoints `<pipeline>.savepoint.<name>`. Each is written beside, synced, and linked
/// under its name, and then the directory is synced. The manifests of the two revisions before the newest stay, so that
/// nothing is ever overwritten.
///
/// A directory serves one machine: compare-and-set holds between processes because the name of a revision can be taken
/// only once (a hard link fails if it exists).
#[derive(Clone, Debug)]
pub struct LocalStore(Arc<Directory>);

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    // After a failed sync nobody knows what the disk holds: nothing more is written until the process starts anew.
    poisoned: Mutex<Option<String>>,
    // The directories that survive a crash.
    made: Mutex<BTreeSet<PathBuf>>,
}

/// So many manifests are kept.
const MANIFESTS: u64 = 3;
/// How many files this process has begun to write.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// What to do where there is a file of that name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IfThere {
    Fenced,
    Keep,
}

impl LocalStore {
    /// A store in `directory`, which is created if it is not there.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        LocalStore(Arc::new(Directory { path: directory.into(), poisoned: Mutex::new(None), made: Mutex::default() }))
    }

    /// Does it where waiting for a disk keeps nobody waiting.
    fn work<'a, T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directory) -> Result<T, StoreError> + Send + 'static,
    ) -> Stored<'a, T> {
        let directory = Arc::clone(&self.0);
        Box::pin(async move {
            match tokio::task::spawn_blocking(move || work(&directory)).await {
                Ok(done) => done,
                Err(error) => {
                    let fault = Fault::new(FaultKind::Panic, "work on the checkpoint directory did not end");
                    Err(StoreError::Failed(fault.because(error)))
                }
            }
        })
    }
}

impl Directory {
    /// The revisions of manifests that are there, the newest first.
    fn revisions(&self, pipeline: &str) -> Result<Vec<(Revision, PathBuf)>, StoreError> {
        let mut revisions = Vec::new();
        for (name, path) in self.files(&self.path)? {
            let revision = name.strip_prefix(pipeline).and_then(|rest| rest.strip_prefix('.')?.parse().ok());
            revisions.extend(revision.map(|revision| (Revision(revision), path)));
        }
        revisions.sort_unstable_by_key(|(revision, _)| std::cmp::Reverse(*revision));
        Ok(revisions)
    }

    fn files(&self, of: &Path) -> Result<Vec<(String, PathBuf)>, StoreError> {
        let entries = match fs::read_dir(of) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failed("cannot be read", error)),
        };
        let files = entries.map(|entry| {
            let entry = entry?;
            Ok(entry.file_name().into_string().ok().map(|name| (name, entry.path())))
        });
        let files = files.collect::<io::Result<Vec<_>>>().map_err(|error| self.failed("cannot be read", error))?;
        Ok(files.into_iter().flatten().collect())
    }

    fn read(&self, path: &Path) -> Result<Option<Bytes>, StoreError> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(&format!("cannot be read at {}", path.display()), error)),
        }
    }

    fn segments(&self, pipeline: &str) -> PathBuf {
        self.path.join(format!("{pipeline}.segments"))
    }

    fn savepoint(&self, pipeline: &str, name: &str) -> String {
        format!("{pipeline}.savepoint.{name}")
    }

    /// Puts a file there whole, and returns when it survives a crash.
    fn place(&self, directory: &Path, name: &str, bytes: &[u8], if_there: IfThere) -> Result<(), StoreError> {
        if let Some(why) = &*self.poisoned.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(StoreError::Failed(self.closed(why)));
        }
        self.make(directory)?;
        let path = directory.join(name);
        if if_there == IfThere::Keep
            && let Some(there) = self.read(&path)?
        {
            if there == bytes {
                // Whoever placed it may have died before its name was synced.
                return self.sync(directory);
            }
            // It is damaged: kept, for whoever wants to know how, but not under this name.
            let aside = directory.join(format!("{name}.damaged"));
            fs::rename(&path, aside).map_err(|error| self.failed("cannot be written", error))?;
        }
        // Of its own also where one process writes the same twice at once.
        let number = WRITES.fetch_add(1, Ordering::Relaxed);
        let beside = directory.join(format!(".{name}.{}.{number}", std::process::id()));
        let written = File::create(&beside).and_then(|mut file| file.write_all(bytes).map(|()| file));
        let file = match written {
            Ok(file) => file,
            Err(error) => {
                // Nothing points to it: a full disk costs one checkpoint, and the next may fit.
                let _ = fs::remove_file(&beside);
                return Err(self.failed("cannot be written", error));
            }
        };
        let synced = file.sync_all();
        let named = synced.and_then(|()| fs::hard_link(&beside, &path));
        let _ = fs::remove_file(&beside);
        match named {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && if_there == IfThere::Fenced => {
                return Err(StoreError::Fenced);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(self.poison("a sync failed", error)),
            Ok(()) => {}
        }
        self.sync(directory)
    }

    fn make(&self, directory: &Path) -> Result<(), StoreError> {
        let is_made = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if is_made().contains(directory) && directory.is_dir() {
            return Ok(());
        }
        let missing: Vec<&Path> = directory.ancestors().take_while(|there| !there.is_dir()).collect();
        fs::create_dir_all(directory).map_err(|error| self.failed("cannot be created", error))?;
        // What is in a directory survives only if the directory does; who made it may have died before it was synced.
        let named = missing.iter().copied().chain([directory]).filter_map(Path::parent);
        for parent in named.filter(|parent| !parent.as_os_str().is_empty()) {
            // It was there before, and who may not look at what it is in has not made it.
            if !missing.is_empty() || File::open(parent).is_ok() {
                self.sync(parent)?;
            }
        }
        is_made().insert(directory.to_owned());
        Ok(())
    }

    fn sync(&self, directory: &Path) -> Result<(), StoreError> {
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| self.poison("a sync of the directory failed", error))
    }

    fn write(&self, pipeline: &str, expected: Revision, manifest: &[u8]) -> Result<Revision, StoreError> {
        let there = self.revisions(pipeline)?;
        if there.first().map(|(revision, _)| *revision).unwrap_or_default() != expected {
            return Err(StoreError::Fenced);
        }
        let next = Revision(expected.0 + 1);
        self.place(&self.path, &format!("{pipeline}.{}", next.0), manifest, IfThere::Fenced)?;
        for (revision, path) in there {
            if revision.0 + MANIFESTS <= next.0 {
                let _ = fs::remove_file(path);
            }
        }
        Ok(next)
    }

    fn remove_file(&self, path: &Path) -> Result<bool, StoreError> {
        match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.failed("cannot be emptied", error)),
        }
    }

    fn remove(&self, pipeline: &str) -> Result<(), StoreError> {
        // Manifests first: what they speak of is then of no use to anybody.
        for (_, path) in self.revisions(pipeline)? {
            self.remove_file(&path)?;
        }
        for (name, path) in self.files(&self.path)? {
            if name.starts_with(&self.savepoint(pipeline, "")) {
                self.remove_file(&path)?;
            }
        }
        match fs::remove_dir_all(self.segments(pipeline)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.failed("cannot be emptied", error)),
            _ => Ok(()),
        }
    }

    fn poison(&self, why: &str, error: io::Error) -> StoreError {
        *self.poisoned.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
        StoreError::Failed(self.closed(why).because(error))
    }

    /// Trying again is of no use while this process lives.
    fn closed(&self, why: &str) -> Fault {
        let words = format!("is closed for writing since {why}: start the program anew when its disk is in order");
        self.fault(&words).retry_with(Retry::Never)
    }

    fn failed(&self, what: &str, error: io::Error) -> StoreError {
        StoreError::Failed(self.fault(what).because(error))
    }

    fn fault(&self, what: &str) -> Fault {
        Fault::new(FaultKind::Checkpoint, format!("the checkpoint directory {} {what}", self.path.display()))
    }
}

impl Store for LocalStore {
    fn read<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Option<(Revision, Bytes)>> {
        let pipeline = pipeline.to_owned();
        self.work(move |directory| {
            let newest = directory.revisions(&pipeline)?.into_iter().next();
            let Some((revision, path)) = newest else { return Ok(None) };
            Ok(directory.read(&path)?.map(|bytes| (revision, bytes)))
        })
    }

    fn write<'a>(&'a self, pipeline: &'a str, expected: Revision, manifest: Bytes) -> Stored<'a, Revision> {
        let pipeline = pipeline.to_owned();
        self.work(move |directory| directory.write(&pipeline, expected, &manifest))
    }

    fn history<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<(Revision, Bytes)>> {
        let pipeline = pipeline.to_owned();
        self.work(move |directory| {
            let all = directory.revisions(&pipeline)?.into_iter();
            let read = all.map(|(revision, path)| Ok(directory.read(&path)?.map(|bytes| (revision, bytes))));
            read.filter_map(Result::transpose).collect()
        })
    }

    fn put<'a>(&'a self, pipeline: &'a str, id: BlobId, bytes: Bytes) -> Stored<'a, ()> {
        let pipeline = pipeline.to_owned();
        self.work(move |directory| {
            directory.place(&directory.segments(&pipeline), &id.to_string(), &bytes, IfThere::Keep)
        })
    }

    fn get<'a>(&'a self, pipeline: &'a str, id: BlobId) -> Stored<'a, Option<Bytes>> {
        let pipeline = pipeline.to_owned();
        self.work(move |directory| directory.read(&directory.segments(&pipeline).join(id.to_string())))
    }

    fn blobs<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<Blob>> {
        let pipeline = pipeline.to_owned();
        self.work(move |directory| {
            let files = directory.files(&directory.segments(&pipeline))?.into_iter();
            let blobs = files.filter_map(|(name, path)| {
                let (id, about) = (name.parse().ok()?, fs::metadata(path).ok()?);
                let since = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
                let stored_at = Timestamp::from_micros(since.as_micros().try_into().ok()?);
                Some(Blob { id, size: about.len(), stored_at })
            });
            Ok(blobs.collect())
        })
    }

    fn forget<'a>(&'a self, pipeline: &'a str, id: BlobId) -> Stored<'a, ()> {
        let pipeline = pipeline.to_owned();
        self.work(move |directory| directory.remove_file(&directory.segments(&pipeline).join(id.to_string())).map(drop))
    }

    fn save<'a>(&'a self, pipeline: &'a str, name: &'a str, manifest: Bytes) -> Stored<'a, bool> {
        let (pipeline, name) = (pipeline.to_owned(), name.to_owned());
        self.work(move |directory| {
            let name = directory.savepoint(&pipeline, &name);
            match directory.place(&directory.path, &name, &manifest, IfThere::Fenced) {
                Ok(()) => Ok(true),
                Err(StoreError::Fenced) => {
                    let there = directory.read(&directory.path.join(name))?;
                    // Whoever wrote it may have died before it was synced.
                    directory.sync(&directory.path)?;
                    is_it(there, &manifest)
                }
                Err(error) => Err(error),
            }
        })
    }

    fn saved<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<(String, Bytes)>> {
        let pipeline = pipeline.to_owned();
        self.work(move |directory| {
            let mut saved = Vec::new();
            for (name, path) in directory.files(&directory.path)? {
                if let Some(name) = name.strip_prefix(&directory.savepoint(&pipeline, ""))
                    && let Some(bytes) = directory.read(&path)?
                {
                    saved.push((name.to_owned(), bytes));
                }
            }
            saved.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            Ok(saved)
        })
    }

    fn unsave<'a>(&'a self, pipeline: &'a str, name: &'a str) -> Stored<'a, bool> {
        let (pipeline, name) = (pipeline.to_owned(), name.to_owned());
        self.work(move |directory| directory.remove_file(&directory.path.join(directory.savepoint(&pipeline, &name))))
    }

    fn remove<'a>(&'a self, pipeline: &'a str) -> Stored<'a, ()> {
        let pipeline = pipeline.to_owned();
        self.work(move |directory| directory.remove(&pipeline))
    }

    fn describe(&self, pipeline: &str) -> String {
        self.0.path.join(pipeline).display().to_string()
    }

    fn manifest(&self, pipeline: &str, revision: Revision) -> String {
        format!("{}.{}", self.describe(pipeline), revision.0)
    }

    fn taken<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Option<String>> {
        let (pipeline, place) = (pipeline.to_owned(), self.describe(pipeline));
        self.work(move |directory| {
            let look = || {
                let there: Vec<Revision> = directory.revisions(&pipeline)?.into_iter().map(|(one, _)| one).collect();
                Ok(taken(&there, MANIFESTS, &place))
            };
            // Another instance may write while the directory is read.
            if look()?.is_some() { look() } else { Ok(None) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_write_is_read_and_the_two_before_are_kept() {
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
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
        let history = store.history("p").await.unwrap();
        assert_eq!(history.iter().map(|(revision, _)| revision.0).collect::<Vec<_>>(), [5, 4, 3]);
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

    #[tokio::test]
    async fn bytes_are_kept_once_under_their_id_and_savepoints_under_their_name() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::new(directory.path().join("not/there/yet"));
        let bytes = Bytes::from_static(b"state");
        let id = BlobId::of(&bytes);
        assert!(store.get("p", id).await.unwrap().is_none() && store.blobs("p").await.unwrap().is_empty());
        for _ in 0..2 {
            store.put("p", id, bytes.clone()).await.unwrap();
        }
        assert_eq!(store.get("p", id).await.unwrap(), Some(bytes.clone()));
        let blobs = store.blobs("p").await.unwrap();
        assert_eq!(blobs.iter().map(|blob| (blob.id, blob.size)).collect::<Vec<_>>(), [(id, 5)]);
        for (manifest, has) in [(bytes.clone(), true), (Bytes::from_static(b"again"), false), (bytes.clone(), true)] {
            assert_eq!(store.save("p", "before", manifest).await.unwrap(), has);
        }
        assert_eq!(store.saved("p").await.unwrap(), [("before".to_owned(), bytes.clone())]);
        assert!(store.read("p").await.unwrap().is_none(), "a savepoint is no revision");
        assert!(store.unsave("p", "before").await.unwrap() && !store.unsave("p", "before").await.unwrap());
        store.forget("p", id).await.unwrap();
        store.forget("p", id).await.unwrap();
        assert!(store.get("p", id).await.unwrap().is_none());
        store.put("p", id, bytes).await.unwrap();
        store.write("p", Revision(0), Bytes::new()).await.unwrap();
        store.remove("p").await.unwrap();
        assert_eq!(fs::read_dir(directory.path().join("not/there/yet")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn bytes_that_are_damaged_are_stored_again_and_kept_aside() {
        let directory = tempfile::tempdir().unwrap();
        let (store, bytes) = (LocalStore::new(directory.path()), Bytes::from_static(b"state"));
        let id = BlobId::of(&bytes);
        store.put("p", id, bytes.clone()).await.unwrap();
        let path = directory.path().join("p.segments").join(id.to_string());
        fs::write(&path, "stale").unwrap();
        store.put("p", id, bytes.clone()).await.unwrap();
        assert_eq!(store.get("p", id).await.unwrap(), Some(bytes));
        assert_eq!(fs::read(path.with_extension("damaged")).unwrap(), b"stale");
        assert_eq!(store.blobs("p").await.unwrap().len(), 1);
    }
}
