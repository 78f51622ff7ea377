//! [`Versions`]: how state that an older program has saved is read by a newer one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::as_saved::{AsSaved, ReadError};
use crate::{Fault, FaultKind};

/// Reads a value off the front of some bytes.
pub(super) type ReadValue<S> = dyn Fn(&mut &[u8]) -> Result<S, ReadError> + Send + Sync;
pub(crate) type Read<S> = Arc<ReadValue<S>>;

/// Makes a value of what was saved, in which parts are as they were saved.
pub(crate) type Put<Raw, S, W> = fn(Raw, &dyn Fn(AsSaved) -> Result<S, ReadError>) -> Result<W, ReadError>;

/// The version of a type of state, and how values of older versions become such: where a program changes what it keeps, and is to
/// go on from the checkpoints of the program before.
///
/// State is of version 1 unless something else is said. What was saved in a version without a way from it to this one, or in a
/// newer one, is refused.
///
/// ```
/// use millstream_operators::{Frozen, Keyed, StateVisitor, Versions};
/// use serde::{Deserialize, Serialize};
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Total { sum: f64, rows: u64 }
///
/// // The program before kept a sum.
/// let (mut sums, mut frozen) = (Keyed::from_iter([("a".to_owned(), 7.5)]), Frozen::default());
/// StateVisitor::freeze(&mut frozen).keyed("totals", &mut sums).unwrap();
/// let saved = frozen.encode(128).unwrap();
///
/// let versions = Versions::new(2).migrate(1, |sum: f64| Total { sum, rows: 0 });
/// let mut totals = Keyed::<String, Total>::default();
/// StateVisitor::restore(&saved).keyed_as("totals", &mut totals, &versions).unwrap();
/// assert_eq!(totals.get(&"a".to_owned()).unwrap().sum, 7.5);
/// ```
pub struct Versions<S> {
    version: u32,
    from: BTreeMap<u32, Read<S>>,
}

impl<S> Clone for Versions<S> {
    fn clone(&self) -> Self {
        Versions { version: self.version, from: self.from.clone() }
    }
}

impl<S> Default for Versions<S> {
    fn default() -> Self {
        Versions::new(1)
    }
}

impl<S> Versions<S> {
    /// Of state that is of this version now, from 1 on.
    pub fn new(version: u32) -> Self {
        Versions { version: version.max(1), from: BTreeMap::new() }
    }

    /// A value of an older version becomes one of this version by `migrate`. Its type must be what it was then, but for its
    /// name.
    #[must_use]
    pub fn migrate<Old, F>(mut self, version: u32, migrate: F) -> Self
    where
        Old: DeserializeOwned,
        F: Fn(Old) -> S + Send + Sync + 'static,
    {
        let read: Read<S> = Arc::new(move |bytes: &mut &[u8]| rmp_serde::from_read(bytes).map(&migrate));
        self.from.insert(version, read);
        self
    }

    /// The same, of this version now.
    #[must_use]
    pub fn now(mut self, version: u32) -> Self {
        self.version = version.max(1);
        self
    }

    /// The version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Of values that have one of these in them: `put` makes such a value of what was saved, of which it reads the part with
    /// what it is given.
    pub(crate) fn within<Raw, W>(&self, put: Put<Raw, S, W>) -> Versions<W>
    where
        Raw: DeserializeOwned + 'static,
        S: 'static,
        W: 'static,
    {
        let within = |(version, read): (&u32, &Read<S>)| {
            let read = Arc::clone(read);
            let part = move |part: AsSaved| read(&mut part.bytes()?.as_slice());
            let read: Read<W> = Arc::new(move |bytes: &mut &[u8]| put(rmp_serde::from_read(bytes)?, &part));
            (*version, read)
        };
        Versions { version: self.version, from: self.from.iter().map(within).collect() }
    }

    /// Of state that is of this version now, where values of older ones are read so.
    pub(crate) fn read_by(version: u32, from: BTreeMap<u32, Read<S>>) -> Self {
        Versions { version, from }
    }

    /// How a value of a version is read; `None` if it is of this one.
    ///
    /// # Errors
    /// It cannot be: a fault that says what there is and what is missing.
    pub(super) fn reader(&self, name: &str, saved: u32) -> Result<Option<Read<S>>, Fault> {
        if saved == self.version {
            return Ok(None);
        }
        let now = self.version;
        if saved > now {
            let words = format!(
                "state `{name}` was saved in version {saved} by a newer program, and this one knows version {now}; start the newer program, or from an older savepoint"
            );
            return Err(Fault::new(FaultKind::Setup, words));
        }
        let words = || {
            format!(
                "state `{name}` was saved in version {saved}, and is of version {now} in this program, which has no way from {saved} to {now}: add `migrate({saved}, |old: ...| ...)`"
            )
        };
        self.from.get(&saved).cloned().map(Some).ok_or_else(|| Fault::new(FaultKind::Setup, words()))
    }
}

impl<S> fmt::Debug for Versions<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Versions({}, from {:?})", self.version, self.from.keys().collect::<Vec<_>>())
    }
}
