//! [`Forming`]: micro-batches in the making, and [`Pace`]: how much sources read for one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use millstream_operators::{Epoch, Fault, Record, Result, Then};
use tokio::time::Instant;

use super::report::{Part, TaskId};
use super::round::{Member, Round};
use crate::checkpoint::SourcePosition;

/// Epochs whose outputs are complete and wait to be stored together, behind which the sources stood there.
#[derive(Debug)]
pub(super) struct Formed {
    pub(super) epoch: Epoch,
    pub(super) then: Then,
    pub(super) sources: BTreeMap<String, Vec<SourcePosition>>,
    pub(super) outputs: Vec<Arc<[Record]>>,
    pub(super) count: usize,
    pub(super) bytes: usize,
}

/// Epochs on their way: barriers that are drawn, and outputs that are complete and not stored yet.
///
/// ```text
/// drawn:  [9] [8] [7] --all tasks passed--> formed: [6] [5] [4] --together, as many as fit--> stored
/// ```
#[derive(Debug)]
pub(super) struct Forming {
    rounds: VecDeque<(Round, Instant)>,
    formed: VecDeque<Formed>,
    // How many records, and how many bytes of them, are stored in one step.
    most: (usize, usize),
}

/// So many barriers are under way at once: the next batch forms while one is stored.
const ROUNDS: usize = 4;
/// So many epochs with few outputs may wait for one that has some.
const EPOCHS: usize = 256;

impl Forming {
    pub(super) fn new(most: (usize, usize)) -> Self {
        Forming { rounds: VecDeque::new(), formed: VecDeque::new(), most }
    }

    /// From now on so many are stored in one step.
    pub(super) fn bound(&mut self, most: (usize, usize)) {
        self.most = most;
    }

    /// Whether another barrier may be drawn: the next batch is not full yet.
    pub(super) fn has_room(&self) -> bool {
        let count: usize = self.formed.iter().map(|formed| formed.count).sum();
        let bytes: usize = self.formed.iter().map(|formed| formed.bytes).sum();
        self.rounds.len() < ROUNDS && self.formed.len() < EPOCHS && count < self.most.0 && bytes < self.most.1
    }

    /// Whether no barrier is under way.
    pub(super) fn is_still(&self) -> bool {
        self.rounds.is_empty()
    }

    /// Whether nothing is under way, and nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.rounds.is_empty() && self.formed.is_empty()
    }

    /// A barrier was drawn.
    pub(super) fn draw(&mut self, round: Round) {
        self.rounds.push_back((round, Instant::now()));
    }

    /// The barrier that is under way for the longest, and since when.
    pub(super) fn oldest(&self) -> Option<(&Round, Instant)> {
        self.rounds.front().map(|(round, since)| (round, *since))
    }

    /// Takes a task's part; gives for each epoch that is complete by it how many rows were read and what they became, in
    /// records and bytes.
    ///
    /// # Errors
    /// There is no such barrier, or a step keeps state after all: both mean that Millstream is wrong.
    pub(super) fn take(&mut self, task: TaskId, member: &Member, epoch: Epoch, part: Part) -> Result<Vec<[usize; 3]>> {
        let round = self.rounds.iter_mut().find(|(round, _)| round.barrier.epoch == epoch);
        let Some((round, _)) = round else {
            return Err(Fault::bug(format!("{task:?} reports on epoch {epoch}, which is not open")));
        };
        round.take(task, member, part)?;
        let mut complete = Vec::new();
        while let Some((round, _)) = self.rounds.pop_front_if(|(round, _)| round.is_complete()) {
            let Round { barrier, sources, operators, rows, mut records, .. } = round;
            if let Some(node) = operators.keys().next() {
                return Err(Fault::bug("it keeps state, which it did not list at the start").at(node));
            }
            records.sort_by_key(|(subtask, _)| *subtask);
            let outputs: Vec<Arc<[Record]>> =
                records.into_iter().map(|(_, records)| records).filter(|records| !records.is_empty()).collect();
            let count = outputs.iter().map(|records| records.len()).sum();
            let bytes = outputs.iter().flat_map(|records| records.iter()).map(size).sum();
            complete.push([rows, count, bytes]);
            self.formed.push_back(Formed { epoch: barrier.epoch, then: barrier.then, sources, outputs, count, bytes });
        }
        Ok(complete)
    }

    /// The epochs that are complete, as many as can be stored together; the first one alone where it is too large. Those
    /// without outputs wait for some, unless they are asked for or the last.
    pub(super) fn cut(&mut self, without_outputs_too: bool) -> Option<Formed> {
        let mut first = self.formed.pop_front()?;
        while let Some(next) = self.formed.pop_front_if(|next| fits(&first, next, self.most)) {
            first = Formed {
                outputs: first.outputs.into_iter().chain(next.outputs).collect(),
                count: first.count + next.count,
                bytes: first.bytes + next.bytes,
                ..next
            };
        }
        if first.count > 0 || without_outputs_too || first.then != Then::GoOn {
            return Some(first);
        }
        self.formed.push_front(first);
        None
    }

    /// Whether this can be stored in one step.
    pub(super) fn is_one_step(&self, formed: &Formed) -> bool {
        formed.count <= 1 || (formed.count <= self.most.0 && formed.bytes <= self.most.1)
    }
}

fn fits(first: &Formed, next: &Formed, most: (usize, usize)) -> bool {
    next.count == 0 || (first.count + next.count <= most.0 && first.bytes + next.bytes <= most.1)
}

fn size(record: &Record) -> usize {
    record.subject.len() + record.headers.wire_len() + record.payload.len()
}

/// How many rows each source reads between two barriers, so that three epochs fill a batch: what rows become was seen
/// before.
#[derive(Debug)]
pub(super) struct Pace {
    sources: usize,
    most: (usize, usize),
    // The part of a batch that a row took, of late.
    share: f64,
}

impl Pace {
    pub(super) fn new(sources: usize, most: (usize, usize)) -> Self {
        Pace { sources: sources.max(1), most, share: 0.0 }
    }

    /// From now on a batch has so many records and bytes.
    pub(super) fn bound(&mut self, most: (usize, usize)) {
        self.share *= self.most.0 as f64 / most.0.max(1) as f64;
        self.most = most;
    }

    /// So many.
    pub(super) fn rows(&self) -> usize {
        let rows = (1.0 / (3.0 * self.share).max(f64::EPSILON)).round();
        (rows.min((self.most.0 / 3) as f64) as usize / self.sources).max(1)
    }

    /// An epoch of so many rows became so many records and bytes.
    pub(super) fn saw(&mut self, [rows, count, bytes]: [usize; 3]) {
        if rows == 0 {
            return;
        }
        let share =
            (count as f64 / self.most.0.max(1) as f64).max(bytes as f64 / self.most.1.max(1) as f64) / rows as f64;
        // A larger one counts at once, a smaller one by and by.
        self.share = share.max(self.share * 0.98 + share * 0.02);
    }
}

#[cfg(test)]
mod tests {
    use millstream_operators::Barrier;

    use super::*;

    const MOST: (usize, usize) = (999, 8 << 20);

    fn formed(epoch: u64, count: usize, then: Then) -> Formed {
        let outputs = vec![Arc::from(vec![Record::of("x"); count])];
        Formed { epoch: Epoch(epoch), then, sources: BTreeMap::new(), outputs, count, bytes: count }
    }

    fn forming(all: impl IntoIterator<Item = Formed>) -> Forming {
        Forming { formed: all.into_iter().collect(), ..Forming::new(MOST) }
    }

    fn cuts(mut forming: Forming, empty_too: bool) -> Vec<(u64, usize)> {
        std::iter::from_fn(|| forming.cut(empty_too)).map(|formed| (formed.epoch.0, formed.count)).collect()
    }

    #[test]
    fn as_many_epochs_as_fit_are_stored_together_and_a_large_one_alone() {
        let all = [(1, 333), (2, 333), (3, 333), (4, 0), (5, 1), (6, 5_000), (7, 2)];
        let all = all.map(|(epoch, count)| formed(epoch, count, Then::GoOn));
        assert_eq!(cuts(forming(all), false), [(4, 999), (5, 1), (6, 5_000), (7, 2)]);
        let large = formed(1, 1_000, Then::GoOn);
        assert!(!forming([]).is_one_step(&large) && forming([]).is_one_step(&formed(1, 999, Then::GoOn)));
        let heavy = Formed { bytes: 9 << 20, ..formed(1, 1, Then::GoOn) };
        assert!(forming([]).is_one_step(&heavy), "a record of any size is stored");
    }

    #[test]
    fn epochs_without_outputs_wait_unless_they_are_asked_for_or_the_last() {
        let two = || [formed(1, 0, Then::GoOn), formed(2, 0, Then::GoOn)];
        assert_eq!(cuts(forming(two()), false), []);
        assert_eq!(cuts(forming(two()), true), [(2, 0)]);
        assert_eq!(cuts(forming([formed(1, 0, Then::GoOn), formed(2, 0, Then::Stop)]), false), [(2, 0)]);
    }

    #[test]
    fn an_epoch_is_complete_when_all_tasks_passed_and_in_its_turn() {
        let member =
            |source: Option<&str>, subtask| Member { source: source.map(Arc::from), sink: None, subtask, of: 2 };
        let (source, sinks) = (member(Some("in"), 0), [member(None, 0), member(None, 1)]);
        let tasks = [TaskId(0), TaskId(1), TaskId(2)];
        let mut forming = forming([]);
        for epoch in 1..=2 {
            forming.draw(Round::new(Barrier { epoch: Epoch(epoch), then: Then::GoOn }, tasks));
        }
        let position = |rows| Part::Position("7".into(), rows);
        let records = |n: usize| Part::Records(Arc::from(vec![Record::of("x"); n]));
        let mut seen = Vec::new();
        for (task, member, epoch, part) in [
            (0, &source, 1, position(5)),
            (0, &source, 2, position(6)),
            (2, &sinks[1], 1, records(3)),
            (1, &sinks[0], 1, records(1)),
            (1, &sinks[0], 2, records(0)),
            (2, &sinks[1], 2, records(0)),
        ] {
            seen.extend(forming.take(TaskId(task), member, Epoch(epoch), part).unwrap());
        }
        assert_eq!(seen, [[5, 4, 4], [6, 0, 0]]);
        let cut = forming.cut(false).unwrap();
        assert_eq!(cut.outputs.iter().map(|records| records.len()).collect::<Vec<_>>(), [1, 3], "subtasks in order");
        assert!(forming.take(TaskId(0), &source, Epoch(3), position(1)).is_err() && forming.is_empty());
    }

    #[test]
    fn what_rows_became_decides_how_many_are_read() {
        let mut pace = Pace::new(1, MOST);
        assert_eq!(pace.rows(), 333);
        pace.saw([333, 333, 333 * 100]);
        assert_eq!(pace.rows(), 333);
        pace.saw([333, 3_330, 33_300]);
        assert!((32..=34).contains(&pace.rows()), "{}", pace.rows());
        pace.saw([1, 100_000, 1 << 20]);
        assert_eq!(pace.rows(), 1);
        (0..2_000).for_each(|_| pace.saw([1, 1, 100]));
        assert_eq!(pace.rows(), 333, "a row that became many is forgotten");
        pace.saw([10, 10, 8 << 20]);
        assert_eq!(pace.rows(), 3, "bytes count as well");
        assert_eq!(Pace::new(4, MOST).rows(), 83);
        let mut pace = Pace::new(1, MOST);
        pace.saw([333, 333, 333]);
        pace.bound((99, MOST.1));
        assert_eq!(pace.rows(), 33, "the server takes less at once");
    }
}
