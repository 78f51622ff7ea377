//! [`TimeWindows`]: windows of equal length at equal distances.

use std::fmt;
use std::time::Duration;

use super::Emit;
use crate::Timestamp;

/// Windows of equal length at equal distances, aligned to the epoch: `[start, end)`.
///
/// ```
/// use std::time::Duration;
/// use millstream_operators::window::{sliding, tumbling};
/// let minute = Duration::from_secs(60);
/// assert_eq!(tumbling(minute).allowed_lateness(minute / 6).to_string(), "tumbling 60s, 10s late allowed");
/// assert_eq!(sliding(minute * 5, minute).to_string(), "sliding 300s every 60s");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeWindows {
    pub(super) size: i64,
    pub(super) every: i64,
    pub(super) offset: i64,
    pub(super) allowed_lateness: Duration,
    pub(super) emit: Emit,
    // What was said to have no length, and has the shortest that there is.
    pub(super) no_size: bool,
    pub(super) no_distance: bool,
}

/// Windows that follow each other: each row is in one.
pub fn tumbling(size: Duration) -> TimeWindows {
    sliding(size, size)
}

/// Windows of length `size` that begin every `every`: each row is in `size / every` of them, and is taken in once for all
/// of them. Where `every` is longer than `size` rows in the gaps would be in no window, and get lost: a pipeline with such
/// windows is refused, as is one with spans of no length.
pub fn sliding(size: Duration, every: Duration) -> TimeWindows {
    let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX).max(1);
    let (no_size, no_distance) = (size.is_zero(), every.is_zero());
    let (size, every) = (micros(size), micros(every));
    let (offset, allowed_lateness, emit) = (0, Duration::ZERO, Emit::OnClose);
    TimeWindows { size, every, offset, allowed_lateness, emit, no_size, no_distance }
}

impl TimeWindows {
    /// Windows stay for so long after the watermark has passed their end: a row that comes then changes the result,
    /// which is given again.
    #[must_use]
    pub fn allowed_lateness(mut self, span: Duration) -> Self {
        self.allowed_lateness = span;
        self
    }

    /// Windows begin at so much after multiples of their distance from the epoch: for days of another time zone.
    #[must_use]
    pub fn offset(mut self, span: Duration) -> Self {
        self.offset = i64::try_from(span.as_micros()).unwrap_or(0).rem_euclid(self.every);
        self
    }

    /// When to give results of windows that are still open: when they close only, unless this is called.
    #[must_use]
    pub fn emit(mut self, emit: Emit) -> Self {
        self.emit = emit;
        self
    }

    /// The pieces that windows are made of and share: windows begin and end where pieces do.
    pub(crate) fn pane(&self) -> i64 {
        let (mut a, mut b) = (self.size, self.every);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    }

    /// Where windows begin and end alone.
    pub(crate) fn grid(self) -> Self {
        TimeWindows { allowed_lateness: Duration::ZERO, emit: Emit::OnClose, ..self }
    }

    /// When there are results of windows that are still open.
    #[cfg(feature = "columnar")]
    pub(crate) fn emits(&self) -> Emit {
        self.emit
    }

    /// How long a window is.
    #[cfg(feature = "columnar")]
    pub(crate) fn size(&self) -> i64 {
        self.size
    }

    /// How long windows stay after their end.
    #[cfg(feature = "columnar")]
    pub(crate) fn allowed_lateness_span(&self) -> Duration {
        self.allowed_lateness
    }

    fn floor(&self, time: i64, step: i64) -> i64 {
        let since = i128::from(time) - i128::from(self.offset);
        let start = since.div_euclid(i128::from(step)) * i128::from(step) + i128::from(self.offset);
        i64::try_from(start).unwrap_or(i64::MIN)
    }

    /// Where the piece begins that a time is in; `None` if it is between windows.
    pub(crate) fn pane_of(&self, time: Timestamp) -> Option<i64> {
        let time = time.as_micros();
        (time < self.last_end(time)).then(|| self.floor(time, self.pane()))
    }

    /// Where the last window ends that begins at or before a time.
    pub(crate) fn last_end(&self, time: i64) -> i64 {
        self.floor(time, self.every).saturating_add(self.size)
    }

    /// Where the first window ends that has a time in it and ends after `after`.
    pub(crate) fn first_end(&self, time: i64, after: i64) -> i64 {
        let earliest = time.saturating_sub(self.size).max(after.saturating_sub(self.size));
        // The first that begins after `earliest`.
        self.floor(earliest, self.every).saturating_add(self.every).saturating_add(self.size)
    }

    /// Where the windows end that have a time in them, from the first that ends after `after` to `last`.
    pub(crate) fn ends(self, time: i64, after: i64, last: i64) -> impl Iterator<Item = i64> {
        let mut after = after;
        std::iter::from_fn(move || {
            let end = self.first_end(time, after);
            // At the end of time there is no next one.
            let is_next = after < end && end <= last;
            after = end;
            is_next.then_some(end)
        })
    }

    /// The last time that a window with this end may still be changed.
    pub(crate) fn gone_at(&self, end: i64) -> Timestamp {
        Timestamp::from_micros(end).saturating_add(self.allowed_lateness)
    }
}

impl fmt::Display for TimeWindows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |micros: i64| Duration::from_micros(micros.unsigned_abs());
        match self.size == self.every {
            true => write!(f, "tumbling {:?}", span(self.size))?,
            false => write!(f, "sliding {:?} every {:?}", span(self.size), span(self.every))?,
        }
        if self.offset != 0 {
            write!(f, " from {:?}", span(self.offset))?;
        }
        if !self.allowed_lateness.is_zero() {
            write!(f, ", {:?} late allowed", self.allowed_lateness)?;
        }
        write!(f, "{}", self.emit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grid(size: i64, every: i64, offset: i64) -> TimeWindows {
        let micros = |n: i64| Duration::from_micros(n.unsigned_abs());
        sliding(micros(size), micros(every)).offset(micros(offset))
    }

    #[test]
    fn there_is_a_last_window_at_the_end_of_time() {
        let grid = grid(20, 7, 0);
        let ends: Vec<i64> = grid.ends(i64::MAX - 9, i64::MAX - 9, i64::MAX).collect();
        assert!(ends.len() <= 3 && ends.is_sorted() && ends.last() == Some(&i64::MAX), "{ends:?}");
    }

    proptest! {
        #[test]
        fn windows_are_those_of_the_definition(
            size in 1i64..30, every in 1i64..30, offset in 0i64..30, time in -200i64..200, after in -250i64..250,
        ) {
            let grid = grid(size, every, offset);
            // The definition: [k * every + offset, + size) for every whole k.
            let starts = (-500..500).map(|k| k * every + offset % every);
            let ends: Vec<i64> = starts.filter(|start| *start <= time && time < start + size).map(|start| start + size).collect();
            prop_assert_eq!(grid.pane_of(Timestamp::from_micros(time)).is_some(), !ends.is_empty());
            if let Some(pane) = grid.pane_of(Timestamp::from_micros(time)) {
                prop_assert!(pane <= time && time < pane + grid.pane());
                prop_assert_eq!(Some(grid.last_end(pane)), ends.last().copied());
                prop_assert_eq!(grid.ends(pane, after, 300).take(ends.len() + 1).filter(|end| ends.contains(end)).count(),
                    ends.iter().filter(|end| **end > after).count());
                if let Some(end) = ends.iter().find(|end| **end > after) {
                    prop_assert_eq!(grid.first_end(time, after), *end);
                    prop_assert_eq!(grid.first_end(pane, after), *end);
                }
            }
        }
    }
}
