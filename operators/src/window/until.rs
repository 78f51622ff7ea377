//! [`Until`]: windows that last until a time that rows tell.

use std::fmt;
use std::time::Duration;

use super::{Emit, OwnWindow};
use crate::Timestamp;

/// Windows that last until a time that their rows tell, such as the end of an auction or of an offer; see [`until`].
#[derive(Clone, Copy)]
pub struct Until<F> {
    pub(crate) time: F,
    pub(crate) allowed_lateness: Duration,
    pub(crate) emit: Emit,
}

/// One window of a key that lasts until the time that `time` tells of its rows, that time included; of several, until the
/// latest. It gives its result when the watermark is behind that.
///
/// ```text
/// rows (time-until)   3-10   7-10  |    | 12-20 |
/// watermark                        | 10 | 11    | 21
/// results                               | [3,11) of both rows   [12,21)
/// ```
///
/// The window of a row by itself is from its time to the one that it tells; windows of a key that overlap are one. So a row
/// that comes after the end begins another, and the order in which rows come does not matter.
///
/// In a join it is the latest time, that included, of a row of the right: see [`IntervalJoin`](crate::join::IntervalJoin).
pub fn until<F>(time: F) -> Until<F> {
    Until { time, allowed_lateness: Duration::ZERO, emit: Emit::OnClose }
}

impl<F> Until<F> {
    /// Windows stay for so long after the watermark has passed their end: a row that comes then changes the result,
    /// which is given again.
    #[must_use]
    pub fn allowed_lateness(mut self, span: Duration) -> Self {
        self.allowed_lateness = span;
        self
    }

    /// When to give results of windows that are still open: when they close only, unless this is called.
    #[must_use]
    pub fn emit(mut self, emit: Emit) -> Self {
        self.emit = emit;
        self
    }
}

impl<T, F: Fn(&T) -> Timestamp + Clone + Send + Sync + 'static> OwnWindow<T> for Until<F> {
    const KIND: &'static str = "until a time";

    fn end(&self, row: &T, time: Timestamp) -> Timestamp {
        (self.time)(row).max(time).saturating_add(Duration::from_micros(1))
    }

    fn lateness(&self) -> Duration {
        self.allowed_lateness
    }

    fn emits(&self) -> Emit {
        self.emit
    }
}

impl<F> fmt::Display for Until<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("until a time of the row")?;
        if !self.allowed_lateness.is_zero() {
            write!(f, ", {:?} late allowed", self.allowed_lateness)?;
        }
        write!(f, "{}", self.emit)
    }
}

impl<F> fmt::Debug for Until<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Until({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::tests::{Row, at, given, key, rows, sample, short, timeline};
    use super::super::{SessionWindowed, until};
    use crate::Rejected;
    use crate::aggregate::{Count, count};
    use crate::testkit::{Bench, Step, cases};
    use crate::window::OwnWindow;

    fn counts() -> SessionWindowed<Row, u8, Count, impl OwnWindow<Row>> {
        SessionWindowed::new(until(|row: &Row| at(row.1)), key(), Arc::new(count()))
    }

    /// Rows at a time that say until when.
    fn row((time, until): (i64, i64)) -> (crate::Timestamp, Row) {
        (at(time), (1, until))
    }

    #[test]
    fn a_window_gives_its_result_behind_the_latest_time_that_its_rows_tell() {
        let mut bench = Bench::new(counts());
        bench.batch([(3, 10), (7, 8)].into_iter().map(row).collect());
        bench.watermark(at(10));
        assert_eq!(short(&bench.take()), [], "a row of that very time may still come");
        bench.batch([(10, 10), (12, 20)].into_iter().map(row).collect());
        bench.watermark(at(11));
        assert_eq!(short(&bench.take()), [(1, 3, 11, 3)]);
        bench.batch([(9, 10)].into_iter().map(row).collect());
        assert_eq!(bench.take_side::<Rejected<Row>>(1).len(), 1);
        bench.end();
        assert_eq!(short(&bench.take()), [(1, 12, 21, 1)]);
    }

    #[test]
    fn a_row_that_tells_of_a_time_before_its_own_is_in_a_window_all_the_same() {
        let mut bench = Bench::new(counts());
        bench.watermark(at(7));
        bench.batch([(7, 3)].into_iter().map(row).collect());
        bench.end();
        assert_eq!(short(&bench.take()), [(1, 7, 8, 1)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(cases(1_000)))]

        #[test]
        fn windows_until_a_time_are_those_of_the_definition(steps in timeline(20), sample in sample()) {
            let telling = |step| match step {
                Step::Row(time, (key, number)) => Step::Row(time, (key, time.as_micros() + number * 7 % 25 - 5)),
                watermark => watermark,
            };
            let steps: Vec<Step<Row>> = steps.into_iter().map(telling).collect();
            let given = given(counts, &steps, sample);
            let mut spans: BTreeMap<u8, Vec<(i64, i64)>> = BTreeMap::new();
            for (time, (key, until)) in rows(&steps) {
                spans.entry(key).or_default().push((time, until.max(time) + 1));
            }
            let mut expected: Vec<(u8, i64, i64, u64)> = Vec::new();
            for (key, mut spans) in spans {
                spans.sort_unstable();
                for (start, end) in spans {
                    match expected.last_mut().filter(|last| last.0 == key && start < last.2) {
                        Some(last) => (last.2, last.3) = (last.2.max(end), last.3 + 1),
                        None => expected.push((key, start, end, 1)),
                    }
                }
            }
            expected.sort_unstable_by_key(|(key, _, end, _)| (*end, *key));
            prop_assert_eq!(short(&given), expected);
        }
    }
}
