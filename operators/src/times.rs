//! [`Times`]: the event times of a batch's rows.

use std::ops::Deref;
use std::sync::OnceLock;
use std::vec::IntoIter;

use crate::{Payload, Timestamp};

/// The event times of a batch's rows, to be read as a slice.
///
/// Rows that all have one time, as those of one message or of a source that knows none, take no memory for it, and picking
/// some of them costs nothing, until somebody looks at the time of each.
///
/// ```
/// use millstream_operators::{Times, Timestamp};
/// let noon = Timestamp::from_micros(12);
/// let mut times = Times::same(noon, 3);
/// times.truncate(2);
/// assert_eq!((times.as_same(), &times[..]), (Some(noon), &[noon, noon][..]));
/// ```
#[derive(Clone, Debug)]
pub struct Times(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Each(Vec<Timestamp>),
    Same {
        time: Timestamp,
        rows: usize,
        // Made for who looks at each.
        each: OnceLock<Vec<Timestamp>>,
    },
}

impl Times {
    /// One time for so many rows.
    pub fn same(time: Timestamp, rows: usize) -> Self {
        Times(Kind::Same { time, rows, each: OnceLock::new() })
    }

    /// The time of all rows, where they are known to have one.
    pub fn as_same(&self) -> Option<Timestamp> {
        match &self.0 {
            Kind::Same { time, .. } => Some(*time),
            Kind::Each(_) => None,
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Kind::Each(times) => times.len(),
            Kind::Same { rows, .. } => *rows,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The time of each row, as a column of its own.
    pub fn into_vec(self) -> Vec<Timestamp> {
        match self.0 {
            Kind::Each(times) => times,
            Kind::Same { time, rows, each } => each.into_inner().unwrap_or_else(|| vec![time; rows]),
        }
    }

    /// Puts the time of one more row behind these.
    pub fn push(&mut self, time: Timestamp) {
        match &mut self.0 {
            Kind::Each(times) => times.push(time),
            Kind::Same { .. } => self.append(Times::same(time, 1)),
        }
    }

    /// Leaves the times of the first `len` rows, and gives memory back when most of it would stand empty.
    pub fn truncate(&mut self, len: usize) {
        match &mut self.0 {
            Kind::Each(times) => crate::batch::shorten(times, len),
            Kind::Same { rows, each, .. } => {
                *rows = len.min(*rows);
                each.take();
            }
        }
    }

    /// The times of some rows, in this order; rows that there are not are left out.
    pub(crate) fn select(&self, rows: impl IntoIterator<Item = usize>) -> Times {
        let rows = rows.into_iter();
        match &self.0 {
            Kind::Each(times) => rows.filter_map(|row| times.get(row).copied()).collect(),
            Kind::Same { time, rows: all, .. } => Times::same(*time, rows.filter(|row| row < all).count()),
        }
    }

    /// Puts the times of other rows behind these.
    pub(crate) fn append(&mut self, other: Times) {
        match (&mut self.0, &other.0) {
            (Kind::Same { time, rows, each }, Kind::Same { time: theirs, rows: more, .. }) if time == theirs => {
                *rows += more;
                each.take();
            }
            (Kind::Each(times), _) => times.extend(other.into_vec()),
            _ => {
                let mut times = std::mem::take(self).into_vec();
                times.extend(other.into_vec());
                *self = times.into();
            }
        }
    }

    /// Deals the times out as [`Payload::scatter`] does.
    pub(crate) fn scatter(self, to: &[u32], parts: usize) -> Vec<Times> {
        let Kind::Same { time, .. } = self.0 else {
            return self.into_vec().scatter(to, parts).into_iter().map(Times::from).collect();
        };
        let mut counts = vec![0; parts];
        for part in to {
            if let Some(count) = counts.get_mut(*part as usize) {
                *count += 1;
            }
        }
        counts.into_iter().map(|rows| Times::same(time, rows)).collect()
    }

    /// Takes the times from row `at` on away.
    pub(crate) fn split_off(&mut self, at: usize) -> Times {
        let at = at.min(self.len());
        match &mut self.0 {
            Kind::Each(times) => times.split_off(at).into(),
            Kind::Same { time, rows, each } => {
                each.take();
                Times::same(*time, std::mem::replace(rows, at) - at)
            }
        }
    }
}

impl Default for Times {
    fn default() -> Self {
        Times(Kind::Each(Vec::new()))
    }
}

impl Deref for Times {
    type Target = [Timestamp];

    fn deref(&self) -> &[Timestamp] {
        match &self.0 {
            Kind::Each(times) => times,
            Kind::Same { time, rows, each } => each.get_or_init(|| vec![*time; *rows]),
        }
    }
}

impl From<Vec<Timestamp>> for Times {
    fn from(times: Vec<Timestamp>) -> Self {
        Times(Kind::Each(times))
    }
}

impl FromIterator<Timestamp> for Times {
    fn from_iter<I: IntoIterator<Item = Timestamp>>(times: I) -> Self {
        times.into_iter().collect::<Vec<_>>().into()
    }
}

impl IntoIterator for Times {
    type Item = Timestamp;
    type IntoIter = IntoIter<Timestamp>;

    fn into_iter(self) -> IntoIter<Timestamp> {
        self.into_vec().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    proptest! {
        #[test]
        fn times_that_are_the_same_behave_as_each_by_itself(rows in 0usize..9, more in 0usize..9, cut in 0usize..12, looked: bool) {
            let both = || {
                let same = Times::same(at(7), rows);
                if looked {
                    prop_assert_eq!(same.iter().count(), rows);
                }
                Ok([same, Times::from(vec![at(7); rows])])
            };
            let all = |change: &dyn Fn(Times) -> Vec<Vec<Timestamp>>| {
                let [same, each] = both()?;
                prop_assert_eq!(same.len(), each.len());
                prop_assert_eq!(change(same), change(each));
                Ok(())
            };
            all(&|times| vec![times.to_vec(), times.into_vec()])?;
            all(&|mut times| { times.truncate(cut); vec![times.to_vec()] })?;
            all(&|mut times| { let tail = times.split_off(cut); vec![times.to_vec(), tail.to_vec()] })?;
            all(&|mut times| { times.push(at(7)); times.push(at(8)); vec![times.to_vec()] })?;
            for other in [Times::same(at(7), more), Times::same(at(8), more), Times::from(vec![at(9); more])] {
                all(&|mut times| { times.append(other.clone()); vec![times.to_vec(), times.into_iter().collect()] })?;
            }
            all(&|times| vec![times.select([2, 0, 8, 1]).to_vec()])?;
            let to: Vec<u32> = (0..rows as u32).map(|row| row % 3).collect();
            all(&|times| times.scatter(&to, 4).into_iter().map(Times::into_vec).collect())?;
        }
    }
}
