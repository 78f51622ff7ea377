//! [`RowVersions`]: how rows that an older program held for a join are read by a newer one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::state::{AsSaved, Read, ReadError};
use crate::{Result, StateValue, Versions};

/// The version of the types of the rows that a join holds, and how rows of older versions become such: where the type of the
/// left or of the right has changed. A side of which nothing is said of a version is as it was in the next one of which something is.
///
/// ```
/// use millstream_operators::join::RowVersions;
/// use serde::{Deserialize, Serialize};
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Order { id: u64, note: String }
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Payment { order: u64 }
///
/// // Orders of the program before had no note.
/// let versions = RowVersions::<Order, Payment>::new(2).left(1, |id: u64| Order { id, note: String::new() });
/// ```
pub struct RowVersions<L, R> {
    version: u32,
    left: BTreeMap<u32, ReadRow<L>>,
    right: BTreeMap<u32, ReadRow<R>>,
}

type ReadRow<T> = Arc<dyn Fn(AsSaved) -> Result<T, ReadError> + Send + Sync>;

/// Makes what is held of what was saved, in which rows of the left and of the right are as they were saved.
pub(super) type PutBoth<Raw, L, R, W> =
    fn(Raw, &dyn Fn(AsSaved) -> Result<L, ReadError>, &dyn Fn(AsSaved) -> Result<R, ReadError>) -> Result<W, ReadError>;

impl<L, R> Clone for RowVersions<L, R> {
    fn clone(&self) -> Self {
        RowVersions { version: self.version, left: self.left.clone(), right: self.right.clone() }
    }
}

impl<L, R> Default for RowVersions<L, R> {
    fn default() -> Self {
        RowVersions::new(1)
    }
}

impl<L, R> RowVersions<L, R> {
    /// Of rows that are of this version now, from 1 on.
    pub fn new(version: u32) -> Self {
        RowVersions { version: version.max(1), left: BTreeMap::new(), right: BTreeMap::new() }
    }

    /// A row of the left of an older version becomes one of this version by `migrate`.
    #[must_use]
    pub fn left<Old, F>(mut self, version: u32, migrate: F) -> Self
    where
        Old: DeserializeOwned,
        F: Fn(Old) -> L + Send + Sync + 'static,
    {
        self.left.insert(version, Arc::new(move |row: AsSaved| row.read().map(&migrate)));
        self
    }

    /// As [`left`](RowVersions::left), of rows of the right.
    #[must_use]
    pub fn right<Old, F>(mut self, version: u32, migrate: F) -> Self
    where
        Old: DeserializeOwned,
        F: Fn(Old) -> R + Send + Sync + 'static,
    {
        self.right.insert(version, Arc::new(move |row: AsSaved| row.read().map(&migrate)));
        self
    }

    /// The versions of what has rows of both sides in it.
    pub(super) fn of<Raw, W>(&self, put: PutBoth<Raw, L, R, W>) -> Versions<W>
    where
        Raw: DeserializeOwned + 'static,
        L: StateValue,
        R: StateValue,
        W: 'static,
    {
        let older = self.left.keys().chain(self.right.keys()).copied().filter(|version| *version < self.version);
        let way = |version| {
            // As it was in the next version of which something is said.
            let left = self.left.range(version..).next().map(|(_, read)| Arc::clone(read));
            let right = self.right.range(version..).next().map(|(_, read)| Arc::clone(read));
            let (left, right) =
                (left.unwrap_or_else(|| Arc::new(AsSaved::read)), right.unwrap_or_else(|| Arc::new(AsSaved::read)));
            let read: Read<W> = Arc::new(move |bytes: &mut &[u8]| put(rmp_serde::from_read(bytes)?, &*left, &*right));
            (version, read)
        };
        Versions::read_by(self.version, older.map(way).collect())
    }
}

impl<L, R> fmt::Debug for RowVersions<L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (left, right) = (self.left.keys().collect::<Vec<_>>(), self.right.keys().collect::<Vec<_>>());
        write!(f, "RowVersions({}, left from {left:?}, right from {right:?})", self.version)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{IntervalJoin, Pair, Sided, TemporalJoin, within};
    use super::*;
    use crate::testkit::Bench;
    use crate::window::KeyOf;
    use crate::{Operator, Saved, StateVisitor, Timestamp};

    type Old = (u8, u32);
    type Now = (u8, u32, String);

    fn saved<O: Operator<In = Vec<Sided<Old, Old>>>>(make: impl Fn(KeyOf<Sided<Old, Old>, u8>) -> O) -> Saved {
        let key = || Arc::new(|row: &Old| row.0);
        let mut bench = Bench::new(make(Sided::key_of(key(), key())));
        let rows = [(10, Sided::Left((1, 1))), (11, Sided::Right((1, 2))), (12, Sided::Left((1, 3)))];
        bench.batch(rows.map(|(time, row)| (Timestamp::from_micros(time), row)).into_iter().collect());
        bench.save()
    }

    fn key() -> KeyOf<Sided<Now, Old>, u8> {
        Sided::key_of(Arc::new(|row: &Now| row.0), Arc::new(|row: &Old| row.0))
    }

    /// What is given when event time has come to its end.
    fn given<O>(join: O, saved: &Saved) -> Vec<String>
    where
        O: Operator<In = Vec<Sided<Now, Old>>, Out = Vec<Pair<Now, Old>>>,
    {
        let mut bench = Bench::restored(join, saved);
        bench.watermark(Timestamp::MAX);
        bench.take().into_iter().map(|pair| format!("{pair:?}")).collect()
    }

    #[test]
    fn rows_that_an_older_program_held_are_read_as_what_they_are_now() {
        let versions = || RowVersions::<Now, Old>::new(2).left(1, |(key, n): Old| (key, n, "old".to_owned()));
        let before = saved(|key| IntervalJoin::new(within(Duration::ZERO, Duration::ZERO), (true, true), key));
        let now = || IntervalJoin::new(within(Duration::ZERO, Duration::ZERO), (true, true), key());
        let all = given(now().row_versions(versions()), &before);
        assert_eq!(all, [r#"Left((1, 1, "old"))"#, "Right((1, 2))", r#"Left((1, 3, "old"))"#]);
        let before = saved(|key| TemporalJoin::new(key));
        let all = given(TemporalJoin::new(key()).row_versions(versions()), &before);
        assert_eq!(all, [r#"Left((1, 1, "old"))"#, r#"Both((1, 3, "old"), (1, 2))"#]);
    }

    #[test]
    fn rows_of_a_version_without_a_way_are_refused() {
        let before = saved(|key| TemporalJoin::new(key));
        let mut now = TemporalJoin::new(key()).row_versions(RowVersions::new(2));
        let fault = now.state(&mut StateVisitor::restore(&before)).unwrap_err();
        assert!(fault.to_string().contains("no way from 1 to 2"), "{fault}");
    }
}
