//! [`Batching`]: rows are gathered into groups, each a row of its own.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Batch, Operator, Outbox, Result, StateVisitor, Timestamp, Turn};

/// When a group is complete: at the first limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// So many rows.
    pub rows: usize,
    /// So many bytes; a row that goes over it is the last of its group.
    pub bytes: usize,
    /// So long after its first row, on the engine's clock. Groups that time completes are not the same in a replay.
    pub time: Option<Duration>,
}

impl Group {
    /// Groups of so many rows.
    pub fn of(rows: usize) -> Self {
        Group { rows: rows.max(1), bytes: usize::MAX, time: None }
    }

    /// The same, but complete at so many bytes.
    #[must_use]
    pub fn or_bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// The same, but complete so long after the first row.
    #[must_use]
    pub fn or_after(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }
}

/// Gathers rows into groups, each a row of its own: a group is given when it is complete ([`Group`]).
///
/// ```text
/// rows (3, or after 1s)   1   2   3       | 4   5 |       | 6 |  the end
/// clock                                   |       | 1s    |   |
/// groups                          [1 2 3] |       | [4 5] |   |  [6]
/// ```
///
/// A group has the latest of the times of its rows, or that of the watermark if that is later, so that it is not late for
/// windows behind; as it comes of several messages, it has none of its own. What is left at the end is a group too, whose rows
/// come again where a later run finds more of the input. So is what is left when the input is
/// [idle](crate::Watermark::Idle): event time goes on without it then, and the rows would be late. Each subtask gathers for
/// itself.
///
/// # State
/// The rows of the group that is not complete. They belong to a subtask, so that a run with another number of subtasks does not
/// go on from them.
pub struct Batching<T> {
    limit: Group,
    size: Size<T>,
    held: Held<T>,
    now: Timestamp,
    number: u64,
    // Which groups the wakes that will come are for: one that comes after its group was sent means nothing.
    wakes: VecDeque<u64>,
}

type Size<T> = Arc<dyn Fn(&T) -> usize + Send + Sync>;

#[derive(Serialize, Deserialize)]
struct Held<T> {
    rows: Vec<T>,
    bytes: usize,
    time: Timestamp,
}

impl<T> Batching<T> {
    /// The operator that gathers up to `limit`; `size` tells the bytes of a row.
    pub fn new(limit: Group, size: Size<T>) -> Self {
        let held = Held { rows: Vec::new(), bytes: 0, time: Timestamp::MIN };
        Batching { limit, size, held, now: Timestamp::MIN, number: 1, wakes: VecDeque::new() }
    }
}

impl<T: Send + 'static> Batching<T> {
    fn give(&mut self, out: &mut Outbox<'_, Vec<Vec<T>>>) {
        if self.held.rows.is_empty() {
            return;
        }
        let rows = std::mem::take(&mut self.held.rows);
        let bytes = std::mem::take(&mut self.held.bytes);
        let time = std::mem::replace(&mut self.held.time, Timestamp::MIN).max(self.now);
        out.send(Batch::at(time, vec![rows]).weighing(bytes));
        self.number += 1;
    }

    fn ask(&mut self, out: &mut Outbox<'_, Vec<Vec<T>>>) {
        if let Some(time) = self.limit.time
            && !self.held.rows.is_empty()
            && self.wakes.back() != Some(&self.number)
        {
            self.wakes.push_back(self.number);
            out.wake_after(time);
        }
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Operator for Batching<T> {
    type In = Vec<T>;
    type Out = Vec<Vec<T>>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        for (time, row) in batch {
            self.held.bytes = self.held.bytes.saturating_add((self.size)(&row));
            self.held.time = self.held.time.max(time);
            self.held.rows.push(row);
            if self.held.rows.len() >= self.limit.rows || self.held.bytes >= self.limit.bytes {
                self.give(out);
            }
        }
        self.ask(out);
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        // What is behind would take what comes after the end of time for late.
        match now {
            Timestamp::MAX => self.give(out),
            now => self.now = self.now.max(now),
        }
        Ok(Turn::Done)
    }

    fn on_idle(&mut self, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        self.give(out);
        Ok(Turn::Done)
    }

    fn on_wake(&mut self, _: Timestamp, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        // The engine wakes once at the start, unasked; after a restore rows may be held for which nobody asked yet.
        if self.wakes.pop_front() == Some(self.number) {
            self.give(out);
        }
        self.ask(out);
        Ok(Turn::Done)
    }

    fn on_end(&mut self, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        self.give(out);
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.time("now", &mut self.now)?;
        visit.value("held", &mut self.held)
    }
}

impl<T> fmt::Debug for Batching<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batching({:?}, {} rows held)", self.limit, self.held.rows.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testkit::{Bench, cuts_do_not_matter, timed};

    fn eight_bytes() -> Size<i64> {
        Arc::new(|_| 8)
    }

    #[test]
    fn groups_are_complete_by_rows_or_bytes_and_the_rest_at_the_end() {
        let by_rows = cuts_do_not_matter(|| Batching::new(Group::of(4), eight_bytes()), &timed(0..10));
        assert_eq!(by_rows, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
        let by_bytes = cuts_do_not_matter(|| Batching::new(Group::of(9).or_bytes(17), eight_bytes()), &timed(0..4));
        assert_eq!(by_bytes, [vec![0, 1, 2], vec![3]]);
    }

    proptest! {
        #[test]
        fn groups_are_those_of_the_definition(
            sizes in prop::collection::vec(0usize..30, 1..60), rows in 1usize..7, bytes in 1usize..80,
        ) {
            let make = || Batching::new(Group::of(rows).or_bytes(bytes), Arc::new(|size: &usize| *size));
            let (mut expected, mut group) = (Vec::new(), Vec::new());
            for size in &sizes {
                group.push(*size);
                if group.len() == rows || group.iter().sum::<usize>() >= bytes {
                    expected.push(std::mem::take(&mut group));
                }
            }
            expected.extend((!group.is_empty()).then_some(group));
            prop_assert_eq!(cuts_do_not_matter(make, &timed(sizes)), expected);
        }
    }

    #[test]
    fn time_completes_a_group_and_an_old_wake_does_not() {
        let second = Duration::from_secs(1);
        let mut bench = Bench::new(Batching::new(Group::of(2).or_after(second), eight_bytes()));
        bench.rows(0..1);
        bench.advance(second / 2);
        bench.rows(1..3);
        assert_eq!(bench.take(), [vec![0, 1]]);
        bench.advance(second / 2);
        assert!(bench.take().is_empty(), "the wake was for the group before");
        bench.advance(second / 2);
        assert_eq!(bench.take(), [vec![2]]);
    }

    #[test]
    fn a_group_is_given_when_it_is_full_or_old_or_when_nothing_follows() {
        let mut bench = Bench::new(Batching::new(Group::of(3).or_after(Duration::from_secs(1)), eight_bytes()));
        bench.rows(1..4);
        assert_eq!(bench.take(), [vec![1, 2, 3]]);
        bench.rows(4..6);
        assert!(bench.take().is_empty());
        bench.advance(Duration::from_secs(1));
        assert_eq!(bench.take(), [vec![4, 5]]);
        bench.rows(6..7);
        bench.end();
        assert_eq!(bench.take(), [vec![6]]);
    }

    #[test]
    fn rows_do_not_wait_for_a_full_group_while_event_time_goes_on_without_them() {
        let mut bench = Bench::new(Batching::new(Group::of(3), eight_bytes()));
        bench.rows(1..3);
        bench.idle();
        assert_eq!(bench.take(), [vec![1, 2]]);
        bench.idle();
        assert!(bench.take().is_empty(), "nothing is left");
    }

    #[test]
    fn a_group_has_the_latest_time_of_its_own_rows_and_is_not_given_behind_the_watermark() {
        let at = Timestamp::from_micros;
        let groups = || Batching::new(Group::of(2), eight_bytes());
        let mut bench = Bench::new(groups());
        let rows = [(9, 1), (3, 2), (5, 3), (4, 4), (6, 5)].map(|(time, row)| (at(time), row));
        bench.batch(rows.into_iter().collect());
        bench.watermark(at(50));
        let mut times: Vec<_> = bench.take_batches().iter().map(|group| group.times()[0]).collect();
        let mut bench = Bench::restored(groups(), &bench.save());
        bench.batch([(at(7), 6), (at(60), 7)].into_iter().collect());
        bench.watermark(Timestamp::MAX);
        times.extend(bench.take_batches().iter().map(|group| group.times()[0]));
        assert_eq!(times, [9, 5, 50, 60].map(at), "what is left is given before the end of time goes on");
        bench.end();
        assert!(bench.take().is_empty());
    }
}
