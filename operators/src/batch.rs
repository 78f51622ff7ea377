//! [`Batch`]: rows that travel together, and [`Payload`]: what rows may be.

use std::any::Any;

use crate::{Fault, Origins, Times, Timestamp};

/// Rows that travel together: a `Vec<T>` in typed pipelines, a `RecordBatch` in columnar ones, an
/// [`Either`](crate::Either) in front of a join.
///
/// The batch is the unit of work: everything that the engine does, it does once a payload and not once a row.
pub trait Payload: Any + Send {
    /// How many rows there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Deals the rows out to `parts` payloads: row `i` goes to part `to[i]`, order is kept within a part.
    ///
    /// The engine calls it where rows are exchanged by key. `to` has one entry a row, each less than `parts`.
    fn scatter(self, to: &[u32], parts: usize) -> Vec<Self>
    where
        Self: Sized;

    /// Takes the rows from row `at` on away, and gives them; there are none where there are no more than `at` rows.
    ///
    /// The engine calls it where only some rows of a batch may pass.
    #[must_use]
    fn split_off(&mut self, at: usize) -> Self
    where
        Self: Sized;
}

impl<T: Send + 'static> Payload for Vec<T> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn scatter(self, to: &[u32], parts: usize) -> Vec<Self> {
        let expected = self.len() / parts.max(1) + 1;
        let mut dealt: Vec<Self> = (0..parts).map(|_| Vec::with_capacity(expected)).collect();
        for (row, part) in self.into_iter().zip(to) {
            if let Some(part) = dealt.get_mut(*part as usize) {
                part.push(row);
            }
        }
        dealt
    }

    fn split_off(&mut self, at: usize) -> Self {
        Vec::split_off(self, at.min(self.len()))
    }
}

/// A payload with the event time of each row, where each came from, and what the batch weighs.
///
/// The columns are of equal length, always: every way to make or change a batch keeps it so.
///
/// ```
/// use millstream_operators::{Batch, Timestamp};
/// let batch: Batch<Vec<u32>> = [(1, 10), (2, 20)].map(|(t, n)| (Timestamp::from_micros(t), n)).into_iter().collect();
/// assert_eq!(batch.rows(), &[10, 20]);
/// ```
#[derive(Clone, Debug)]
pub struct Batch<P> {
    pub(crate) times: Times,
    pub(crate) rows: P,
    pub(crate) origins: Option<Origins>,
    pub(crate) weight: usize,
}

/// A batch taken apart; see [`Batch::into_parts`].
#[derive(Clone, Debug)]
pub struct Parts<P> {
    /// The event time of each row.
    pub times: Times,
    /// The rows.
    pub rows: P,
    /// Where each row came from, if that is known.
    pub origins: Option<Origins>,
    /// Bytes that the batch accounts for in bounded queues.
    pub weight: usize,
}

impl<P: Payload> Batch<P> {
    /// Puts rows and their times together; the batch weighs nothing and its rows come from nowhere.
    ///
    /// # Errors
    /// A fault when there are not as many times as rows.
    pub fn new(times: Vec<Timestamp>, rows: P) -> Result<Self, Fault> {
        Batch::from_parts(Parts { times: times.into(), rows, origins: None, weight: 0 })
    }

    /// Puts a batch together.
    ///
    /// # Errors
    /// A fault when the columns are not of one length.
    pub fn from_parts(parts: Parts<P>) -> Result<Self, Fault> {
        let Parts { times, rows, origins, weight } = parts;
        let named = origins.as_ref().map_or(rows.len(), Origins::len);
        if times.len() != rows.len() || named != rows.len() {
            let (rows, times) = (rows.len(), times.len());
            return Err(Fault::bug(format!("a batch of {rows} rows was given {times} times and {named} origins")));
        }
        Ok(Batch { times, rows, origins, weight })
    }

    /// Rows that all have one time.
    pub fn at(time: Timestamp, rows: P) -> Self {
        Batch { times: Times::same(time, rows.len()), rows, origins: None, weight: 0 }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The rows.
    pub fn rows(&self) -> &P {
        &self.rows
    }

    /// The event time of each row.
    pub fn times(&self) -> &[Timestamp] {
        &self.times
    }

    /// Where each row came from, if that is known.
    pub fn origins(&self) -> Option<&Origins> {
        self.origins.as_ref()
    }

    /// Bytes that the batch accounts for in bounded queues: at a source the bytes on the wire, and row-wise
    /// operators hand it on.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// The same batch with another weight: for what grows or shrinks rows.
    #[must_use]
    pub fn weighing(mut self, bytes: usize) -> Self {
        self.weight = bytes;
        self
    }

    /// The same batch, with the origin of each row.
    ///
    /// # Errors
    /// A fault when there are not as many origins as rows.
    pub fn with_origins(self, origins: Origins) -> Result<Self, Fault> {
        Batch::from_parts(Parts { origins: Some(origins), ..self.into_parts() })
    }

    /// Takes the batch apart, to build another from what was in it.
    pub fn into_parts(self) -> Parts<P> {
        let Batch { times, rows, origins, weight } = self;
        Parts { times, rows, origins, weight }
    }

    /// Other rows with the same times and origins, one for one.
    ///
    /// # Errors
    /// A fault when `change` gives another number of rows.
    pub fn map_rows<Q: Payload>(self, change: impl FnOnce(P) -> Q) -> Result<Batch<Q>, Fault> {
        let Parts { times, rows, origins, weight } = self.into_parts();
        Batch::from_parts(Parts { times, rows: change(rows), origins, weight })
    }

    /// Deals the rows out to `parts` batches, as [`Payload::scatter`] does; weight goes with the rows.
    pub fn scatter(self, to: &[u32], parts: usize) -> Vec<Batch<P>> {
        let Batch { times, rows, origins, weight } = self;
        let each = weight / times.len().max(1);
        let times = times.scatter(to, parts);
        let rows = rows.scatter(to, parts);
        let mut origins = origins.map(|origins| origins.scatter(to, parts).into_iter());
        let with_origins = times.into_iter().zip(rows).map(|(times, rows)| {
            let origins = origins.as_mut().and_then(Iterator::next);
            let weight = each * times.len();
            Batch { times, rows, origins, weight }
        });
        with_origins.collect()
    }

    /// Takes the rows from row `at` on away, and gives them with all that belongs to them; weight goes with the rows.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Batch<P> {
        let (at, before) = (at.min(self.len()), self.len());
        let weight = scaled_to(self.weight, before - at, before);
        self.weight -= weight;
        Batch {
            times: self.times.split_off(at),
            rows: self.rows.split_off(at),
            origins: self.origins.as_mut().map(|origins| origins.split_off(at)),
            weight,
        }
    }
}

impl<T: Send + 'static> Batch<Vec<T>> {
    /// Keeps the rows for which `keep` says so, in place.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let before = self.times.len();
        let (mut seen, mut kept) = (0, 0);
        let mut of_row = self.origins.as_mut().map(Origins::rows_mut);
        let is_same = self.times.as_same().is_some();
        let mut times = if is_same { Vec::new() } else { std::mem::take(&mut self.times).into_vec() };
        self.rows.retain(|row| {
            let stays = keep(row);
            if stays {
                // `kept <= seen < len`: plain moves to the front, without a second pass.
                if !is_same {
                    times.swap(kept, seen);
                }
                if let Some(of_row) = &mut of_row {
                    of_row.swap(kept, seen);
                }
                kept += 1;
            }
            seen += 1;
            stays
        });
        shorten(&mut self.rows, kept);
        if !is_same {
            self.times = times.into();
        }
        self.times.truncate(kept);
        if let Some(origins) = &mut self.origins {
            shorten(origins.rows_mut(), kept);
        }
        self.weight = scaled(self.weight, kept, before);
    }
}

/// Leaves the first `len` values of a column, and gives memory back when most of it would stand empty: queues count
/// rows and bytes, and few rows must not hold the memory of many.
pub(crate) fn shorten<T>(column: &mut Vec<T>, len: usize) {
    column.truncate(len);
    if column.capacity() / 4 > len {
        column.shrink_to_fit();
    }
}

/// The share of `weight` that `kept` of `before` rows account for.
pub(crate) fn scaled(weight: usize, kept: usize, before: usize) -> usize {
    if kept == before { weight } else { weight / before.max(1) * kept }
}

/// The weight of `given` rows made of `of` rows that weigh `weight`; more rows weigh more.
pub(crate) fn scaled_to(weight: usize, given: usize, of: usize) -> usize {
    if given == of { weight } else { (weight as u128 * given as u128 / of.max(1) as u128) as usize }
}

impl<T: Send + 'static> FromIterator<(Timestamp, T)> for Batch<Vec<T>> {
    fn from_iter<I: IntoIterator<Item = (Timestamp, T)>>(rows: I) -> Self {
        let (times, rows): (Vec<_>, _) = rows.into_iter().unzip();
        Batch { times: times.into(), rows, origins: None, weight: 0 }
    }
}

impl<T> IntoIterator for Batch<Vec<T>> {
    type Item = (Timestamp, T);
    type IntoIter = std::iter::Zip<std::vec::IntoIter<Timestamp>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.times.into_iter().zip(self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::tests::numbered;

    fn batch(rows: &[i64]) -> Batch<Vec<i64>> {
        rows.iter().map(|n| (Timestamp::from_micros(*n), *n)).collect()
    }

    #[test]
    fn columns_of_another_length_are_refused() {
        assert!(Batch::new(vec![Timestamp::MIN], vec![1, 2]).is_err());
        assert!(batch(&[1]).with_origins(numbered(2)).is_err());
        assert!(batch(&[1]).map_rows(|_| vec![1, 2]).is_err());
    }

    #[test]
    fn retain_keeps_times_and_origins_beside_their_rows() {
        let mut batch = batch(&[0, 1, 2, 3, 4, 5]).with_origins(numbered(6)).unwrap().weighing(60);
        batch.retain(|n| n % 2 == 1);
        assert_eq!(batch.rows(), &[1, 3, 5]);
        assert_eq!(batch.times().iter().map(|t| t.as_micros()).collect::<Vec<_>>(), [1, 3, 5]);
        let origins = batch.origins().unwrap();
        assert_eq!((0..3).map(|i| origins.get(i).unwrap().sequence).collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(batch.weight(), 30);
    }

    #[test]
    fn scatter_deals_rows_with_all_that_belongs_to_them() {
        let batch = batch(&[0, 1, 2, 3]).with_origins(numbered(4)).unwrap().weighing(40);
        let parts = batch.scatter(&[1, 0, 1, 1], 2);
        assert_eq!((parts[0].rows(), parts[1].rows()), (&vec![1], &vec![0, 2, 3]));
        assert_eq!(parts[1].origins().unwrap().get(1).unwrap().sequence, 2);
        assert_eq!((parts[0].weight(), parts[1].weight()), (10, 30));
    }

    #[test]
    fn split_off_parts_rows_with_all_that_belongs_to_them() {
        let mut head = batch(&[0, 1, 2, 3]).with_origins(numbered(4)).unwrap().weighing(41);
        let tail = head.split_off(1);
        assert_eq!((head.rows(), tail.rows()), (&vec![0], &vec![1, 2, 3]));
        assert_eq!((head.times().len(), tail.times()[0].as_micros()), (1, 1));
        assert_eq!((head.origins().unwrap().len(), tail.origins().unwrap().get(2).unwrap().sequence), (1, 3));
        assert_eq!((head.weight(), tail.weight()), (11, 30));
        assert_eq!((head.split_off(9).len(), head.len()), (0, 1));
    }
}
