//! [`Progress`]: how far event time has come, and when to say so.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Watermarks;
use super::ended::{KEPT, forget};
use super::part::{LOOKS, Part, QUIET};
use crate::bugs::{Bug, planted};
use crate::{Cause, Code, Origin, Origins, Result, StateVisitor, Timestamp, Watermark};

/// What the generators of watermarks share: it sees event times and tells when the watermark has moved. Of the subjects that
/// are over, idle and behind the watermark, it remembers the last 256.
///
/// A time that is more than [`max_ahead`](Watermarks::max_ahead) (a day, unless something else is said; a minute at least) ahead
/// of all that came before does not move it by itself:
///
/// ```text
/// times       10:00  10:01  in 2091  10:02  10:03        a row whose time is wrong
/// watermark   10:00  10:01    10:01  10:02  10:03
///
/// times       Friday  Monday  Monday … 32 rows in all    there was nothing in between
/// watermark   Friday  Friday  Friday … Monday
/// ```
///
/// Of those that are far ahead 32 are believed, less those that come in between and are not. Where rows are days apart, that
/// is learnt, and gaps like those between them are no longer far. A row that the server stored about when it happened has
/// its clock as a witness: four such are believed, and one is enough if one of the eight rows before it was such a row too.
#[derive(Debug)]
pub struct Progress {
    watermarks: Watermarks,
    // By subject, or all under the empty one.
    pub(super) parts: BTreeMap<String, Part>,
    // So many of those that are over.
    pub(super) kept: usize,
    given: Timestamp,
    said: Said,
    // Looks at the clock since the start, until the first row.
    quiet: u8,
}

/// What was told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Time,
    Idle,
}

// Rows may be so far apart whatever is said: less is no gap.
const NO_GAP: Duration = Duration::from_secs(60);

impl Progress {
    /// Nothing is seen yet.
    pub fn new(watermarks: Watermarks) -> Self {
        let (parts, given) = (BTreeMap::new(), Timestamp::MIN);
        Progress { watermarks, parts, kept: KEPT, given, said: Said::Nothing, quiet: 0 }
    }

    /// Whether an event time is too far ahead of the message that its row came from.
    ///
    /// # Errors
    /// The cause to reject the row with.
    pub fn judge(&self, time: Timestamp, origin: Option<&Origin>) -> Result<(), Cause> {
        // The clock of who reads a file judges nothing: another day it would judge otherwise.
        let published_at = origin.and_then(Origin::published_at);
        let (Some(most), Some(published_at)) = (self.watermarks.most_ahead(), published_at) else { return Ok(()) };
        if time <= published_at.saturating_add(most) {
            return Ok(());
        }
        let words =
            format!("its event time {time} is more than {most:?} ahead of {published_at}, when its message was stored");
        Err(Cause::new(Code::EventTime, words))
    }

    /// Takes note of the event times of rows, which come from messages, where that is known.
    pub fn saw_all(&mut self, times: &[Timestamp], origins: Option<&Origins>) {
        // The clock of who reads a file bears nothing out: another day it would judge otherwise.
        let stored_at = |row| origins?.get(row)?.published_at();
        match origins.filter(|_| self.watermarks.per_subject) {
            Some(origins) => {
                for (row, time) in times.iter().enumerate() {
                    let subject = origins.get(row).map_or("", |origin| origin.subject());
                    self.saw(subject, &[*time], |_| stored_at(row));
                }
            }
            None => self.saw("", times, stored_at),
        }
    }

    /// Takes note of the event times of some rows; `subject` is empty unless subjects are told apart. When the message of a
    /// row was stored, where that is known, is told by `stored_at`.
    pub(super) fn saw(&mut self, subject: &str, times: &[Timestamp], stored_at: impl Fn(usize) -> Option<Timestamp>) {
        let (Some(least), Some(highest)) = (times.iter().copied().min(), times.iter().max()) else { return };
        let most = self.watermarks.most_ahead().map(|most| most.max(NO_GAP));
        let near = most.map_or(Watermarks::MAX_AHEAD, |most| most.max(Watermarks::MAX_AHEAD));
        let is_witnessed = |row: usize, time: Timestamp| {
            let is_near =
                |stored: Timestamp| stored <= time.saturating_add(near) && time <= stored.saturating_add(near);
            stored_at(row).is_some_and(is_near)
        };
        if !self.parts.contains_key(subject) {
            // Not the first row: its time may be the one that is wrong.
            self.parts.insert(subject.to_owned(), Part::at(least));
        }
        let Some(part) = self.parts.get_mut(subject) else { return };
        part.quiet = 0;
        match most.filter(|most| !part.ahead.is_empty() || part.is_far(*highest, *most)) {
            None => {
                part.highest = part.highest.max(*highest);
                let last = times.iter().enumerate().skip(times.len().saturating_sub(8));
                for (row, time) in last {
                    part.witnessed = part.witnessed << 1 | u8::from(is_witnessed(row, *time));
                }
            }
            Some(most) => {
                for (row, time) in times.iter().enumerate() {
                    part.saw(*time, most, is_witnessed(row, *time));
                }
            }
        }
    }

    /// The watermark, if there is something new to say.
    pub fn news(&mut self) -> Option<Watermark> {
        let live = self.parts.values().filter(|part| !part.is_idle()).map(|part| part.highest).min();
        let Some(slowest) = live else {
            // An input that never gave a row is silent as well.
            let is_new = self.said != Said::Idle && (!self.parts.is_empty() || self.quiet == QUIET);
            return is_new.then(|| {
                self.said = Said::Idle;
                Watermark::Idle
            });
        };
        let reached = slowest.saturating_sub(self.late());
        if reached <= self.given && self.said == Said::Time {
            return None;
        }
        self.said = Said::Time;
        self.given = self.given.max(reached);
        Some(Watermark::At(self.given))
    }

    fn late(&self) -> Duration {
        self.watermarks.max_lateness * u32::from(!planted(Bug::NoLateness))
    }

    /// How long until the clock is to be looked at, if it must be.
    pub fn look_after(&self) -> Option<Duration> {
        self.watermarks.idle_after.map(|span| span / LOOKS)
    }

    /// The clock is looked at: whoever has given nothing for long is idle.
    pub fn look(&mut self) {
        let looks = if planted(Bug::IdleTooSoon) { QUIET } else { 1 };
        self.quiet = self.quiet.saturating_add(looks).min(QUIET);
        for part in self.parts.values_mut() {
            part.quiet = part.quiet.saturating_add(looks).min(QUIET);
        }
        self.forget();
    }

    /// Nothing comes for now, for certain.
    pub fn fall_silent(&mut self) {
        self.quiet = QUIET;
        self.parts.values_mut().for_each(|part| part.quiet = QUIET);
        self.forget();
    }

    fn forget(&mut self) {
        let told = self.given.saturating_add(self.late());
        forget(&mut self.parts, told, self.kept);
    }

    /// Lists the state.
    ///
    /// # Errors
    /// As [`StateVisitor::times`].
    pub fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.shape("event time")?;
        let mut highest = self.parts.iter().map(|(subject, part)| (subject.clone(), part.highest)).collect();
        visit.times("highest", &mut highest)?;
        let micros = |subject: &String, span: i64| (subject.clone(), Timestamp::from_micros(span));
        let witnessed = self.parts.iter().filter(|(_, part)| part.witnessed != 0);
        let mut witnessed =
            witnessed.map(|(subject, part)| micros(subject, i64::from(part.witnessed))).collect::<BTreeMap<_, _>>();
        visit.times("witnessed", &mut witnessed)?;
        let apart = self.parts.iter().filter(|(_, part)| !part.apart.is_zero());
        let span = |apart: Duration| i64::try_from(apart.as_micros()).unwrap_or(i64::MAX);
        let mut apart = apart.map(|(subject, part)| micros(subject, span(part.apart))).collect::<BTreeMap<_, _>>();
        visit.times("apart", &mut apart)?;
        let mut ahead = BTreeMap::new();
        for (subject, part) in &self.parts {
            for (place, (time, counts)) in part.ahead.iter().enumerate() {
                ahead.insert(format!("{place:02} {counts} {subject}"), *time);
            }
        }
        visit.times("ahead", &mut ahead)?;
        // A subject that was idle may be behind it; what was told does not go back.
        visit.time("given", &mut self.given)?;
        if visit.is_restoring() {
            if planted(Bug::ForgetWatermark) {
                (highest, self.given) = (BTreeMap::new(), Timestamp::MIN);
            }
            let part = |(subject, highest): (String, Timestamp)| {
                let mut part = Part::at(highest);
                let number = |times: &BTreeMap<_, Timestamp>| times.get(&subject).map_or(0, |time| time.as_micros());
                part.witnessed = u8::try_from(number(&witnessed)).unwrap_or_default();
                part.apart = Duration::from_micros(u64::try_from(number(&apart)).unwrap_or_default());
                (subject, part)
            };
            self.parts = highest.into_iter().map(part).collect();
            for (place, time) in ahead {
                let mut words = place.splitn(3, ' ').skip(1);
                let (Some(counts), Some(subject)) = (words.next(), words.next()) else { continue };
                if let (Ok(counts), Some(part)) = (counts.parse(), self.parts.get_mut(subject)) {
                    part.ahead.push_back((time, counts));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::super::part::BELIEVED;
    use super::super::{ascending, bounded_lateness};
    use super::*;
    use crate::Frozen;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn five_seconds() -> Watermarks {
        bounded_lateness(Duration::from_secs(5))
    }

    fn saw(progress: &mut Progress, subject: &str, times: &[Timestamp]) {
        progress.saw(subject, times, |_| None);
    }

    #[test]
    fn the_watermark_follows_the_highest_time_and_never_goes_back() {
        let mut progress = Progress::new(five_seconds());
        assert_eq!(progress.news(), None);
        saw(&mut progress, "", &[at(100)]);
        assert_eq!(progress.news(), Some(Watermark::At(at(95))));
        saw(&mut progress, "", &[at(97)]);
        assert_eq!(progress.news(), None);
    }

    #[test]
    fn when_all_are_silent_it_says_so_once_and_comes_back_where_it_was() {
        let mut progress = Progress::new(five_seconds().idle_after(Duration::from_secs(30)));
        saw(&mut progress, "", &[at(100)]);
        assert_eq!(progress.news(), Some(Watermark::At(at(95))));
        (0..3).for_each(|_| progress.look());
        assert_eq!((progress.news(), progress.news()), (Some(Watermark::Idle), None));
        saw(&mut progress, "", &[at(90)]);
        assert_eq!(progress.news(), Some(Watermark::At(at(95))));
    }

    #[test]
    fn an_input_that_never_gives_a_row_is_idle_as_well() {
        let mut progress = Progress::new(five_seconds().idle_after(Duration::from_secs(30)));
        for _ in 0..2 {
            progress.look();
            assert_eq!(progress.news(), None);
        }
        progress.look();
        assert_eq!((progress.news(), progress.news()), (Some(Watermark::Idle), None));
        saw(&mut progress, "", &[at(100)]);
        assert_eq!(progress.news(), Some(Watermark::At(at(95))));
    }

    /// Days behind the first.
    fn day(days: i64) -> Timestamp {
        at(days * 86_400)
    }

    #[test]
    fn one_row_far_ahead_moves_nothing_wherever_it_stands() {
        for wrong in 0..4 {
            let mut times = [at(100), at(101), at(102), at(103)];
            times[wrong] = day(20_000);
            for cut in 1..=times.len() {
                let mut progress = Progress::new(ascending());
                // By itself the first row of all is what there is to go by.
                for times in times.chunks(cut).filter(|times| *times != [day(20_000)] || wrong > 0) {
                    saw(&mut progress, "", times);
                }
                let rest = if wrong == 3 { at(102) } else { at(103) };
                assert_eq!(progress.news(), Some(Watermark::At(rest)), "the wrong one at {wrong}, cut in {cut}");
            }
        }
    }

    #[test]
    fn how_far_ahead_rows_may_be_of_others_is_what_was_said() {
        let wrong = at(1_000 + 23 * 3_600);
        for (said, moves) in [(Some(60), false), (Some(0), false), (Some(24 * 3_600), true), (None, true)] {
            let watermarks = ascending();
            let mut progress = Progress::new(match said {
                Some(seconds) => watermarks.max_ahead(Duration::from_secs(seconds)),
                None => watermarks,
            });
            saw(&mut progress, "", &[at(1_000), at(1_001), wrong, at(1_002)]);
            let expected = if moves { wrong } else { at(1_002) };
            assert_eq!(progress.news(), Some(Watermark::At(expected)), "{said:?}");
        }
    }

    #[test]
    fn a_gap_is_believed_when_many_rows_are_behind_it() {
        let mut progress = Progress::new(ascending());
        saw(&mut progress, "", &[at(100)]);
        let monday = |n: u32| at(3 * 86_400 + i64::from(n));
        let mut all: Vec<_> = (1..BELIEVED).map(monday).collect();
        all.insert(7, day(30_000));
        saw(&mut progress, "", &all[1..]);
        assert_eq!(progress.news(), Some(Watermark::At(at(100))));
        // One that is not far ahead tells against it, and no more than that.
        saw(&mut progress, "", &[at(101), monday(1)]);
        assert_eq!(progress.news(), Some(Watermark::At(at(101))));
        saw(&mut progress, "", &[monday(0)]);
        assert_eq!(progress.news(), Some(Watermark::At(monday(BELIEVED - 1))), "but for the one that is wrong");
    }

    #[test]
    fn rows_without_a_time_worth_the_name_in_between_do_not_hold_it_for_ever() {
        let mut progress = Progress::new(ascending());
        for n in 0..2_000 {
            saw(&mut progress, "", &[if n % 20 == 0 { at(0) } else { at(1_700_000_000 + n) }]);
        }
        assert_eq!(progress.news(), Some(Watermark::At(at(1_700_001_999))));
    }

    #[test]
    fn that_rows_are_days_apart_is_learnt() {
        let mut progress = Progress::new(ascending());
        let working = |n: i64| day(n / 5 * 7 + n % 5 * 26 / 24);
        (0..100).for_each(|n| saw(&mut progress, "", &[working(n * 2)]));
        assert_eq!(progress.news(), Some(Watermark::At(working(198))));
    }

    #[test]
    fn a_gap_is_believed_at_once_where_rows_are_stored_when_they_happen() {
        let mut progress = Progress::new(ascending());
        live(&mut progress, day(1));
        for mut progress in [restored(&mut progress), progress] {
            live(&mut progress, day(8));
            assert_eq!(progress.news(), Some(Watermark::At(day(8))));
        }
    }

    /// A row that is stored a second after it happened.
    fn live(progress: &mut Progress, time: Timestamp) {
        progress.saw("", &[time], |_| Some(time.saturating_add(Duration::from_secs(1))));
    }

    /// What a restart makes of it.
    fn restored(progress: &mut Progress) -> Progress {
        let mut frozen = Frozen::default();
        progress.state(&mut StateVisitor::freeze(&mut frozen)).unwrap();
        let mut restored = Progress::new(progress.watermarks);
        restored.state(&mut StateVisitor::restore(&frozen.encode(128).unwrap())).unwrap();
        restored
    }

    #[test]
    fn a_device_whose_first_rows_have_no_time_worth_the_name_holds_nobody_for_long() {
        let mut progress = Progress::new(ascending());
        progress.saw("", &[at(0)], |_| Some(day(20_000)));
        (0..4).for_each(|n| live(&mut progress, day(20_000).saturating_add(Duration::from_secs(n))));
        assert_eq!(progress.news(), Some(Watermark::At(day(20_000).saturating_add(Duration::from_secs(3)))));
    }

    #[test]
    fn rows_that_the_server_bears_out_are_not_held_by_as_many_that_it_does_not() {
        let mut progress = Progress::new(ascending());
        for n in 0..100 {
            progress.saw("", &[at(0)], |_| Some(day(20_000 + n)));
            live(&mut progress, day(20_000 + n));
        }
        assert_eq!(progress.news(), Some(Watermark::At(day(20_099))));
    }

    #[test]
    fn a_few_wrong_rows_that_nobody_bears_out_do_not_decide_where_a_gap_ends() {
        let mut progress = Progress::new(ascending());
        saw(&mut progress, "", &[day(1)]);
        (0..4).for_each(|_| saw(&mut progress, "", &[day(40_000)]));
        (0..4).for_each(|n| live(&mut progress, day(20_000 + n)));
        assert_eq!(progress.news(), Some(Watermark::At(day(20_003))));
    }

    #[test]
    fn a_straggler_does_not_make_the_rows_behind_it_incredible() {
        let mut progress = Progress::new(ascending());
        for n in 0..20 {
            live(&mut progress, day(2 * n));
            if n == 10 {
                progress.saw("", &[day(15)], |_| Some(day(20)));
            }
        }
        assert_eq!(progress.news(), Some(Watermark::At(day(38))));
    }

    #[test]
    fn what_was_seen_of_a_gap_and_learnt_of_gaps_is_known_over_restarts() {
        let mut progress = Progress::new(ascending());
        saw(&mut progress, "", &[day(0)]);
        for n in 0..40 {
            saw(&mut progress, "", &[day(7 + 2 * n)]);
            progress = restored(&mut progress);
        }
        assert_eq!(progress.news(), Some(Watermark::At(day(7 + 2 * 39))));
    }

    #[test]
    fn of_old_rows_that_are_stored_now_one_that_says_it_is_of_now_is_a_mistake() {
        let times = [day(1), day(300), day(1), day(300), day(2)];
        for cut in 1..=times.len() {
            let mut progress = Progress::new(ascending());
            times.chunks(cut).for_each(|times| progress.saw("", times, |_| Some(day(300))));
            assert_eq!(progress.news(), Some(Watermark::At(day(2))), "cut in {cut}");
        }
    }

    #[test]
    fn how_far_ahead_a_row_may_be_of_its_message_does_not_hold_time() {
        let mut progress = Progress::new(ascending().max_ahead(Duration::ZERO));
        [100, 110, 120].iter().for_each(|time| progress.saw("", &[at(*time)], |_| Some(at(time + 10))));
        assert_eq!(progress.news(), Some(Watermark::At(at(120))));
    }

    #[test]
    fn the_time_at_which_a_line_was_read_bears_nothing_out() {
        let with = |subject: &'static str| {
            let mut progress = Progress::new(ascending());
            progress.saw("", &[day(1); 9], |_| None);
            let subject_bytes = Bytes::from_static(subject.as_bytes());
            let message = |sequence| Origin {
                sequence,
                stored_at: day(300),
                subject_bytes: subject_bytes.clone(),
                ..Origin::default()
            };
            let origins = Origins::one_each(Arc::default(), (1..=4).map(message).collect::<Vec<_>>());
            progress.saw_all(&[day(300); 4], Some(&origins));
            progress.news()
        };
        assert_eq!(with(""), Some(Watermark::At(day(1))), "four lines are no proof");
        assert_eq!(with("orders"), Some(Watermark::At(day(300))), "four messages of that day are");
    }

    #[test]
    fn a_time_far_ahead_of_its_message_is_refused() {
        let progress = Progress::new(five_seconds().max_ahead(Duration::from_secs(60)));
        let subject_bytes = Bytes::from_static(b"orders");
        let origin = Origin { stored_at: at(1_000), subject_bytes, ..Origin::default() };
        assert!(progress.judge(at(1_060), Some(&origin)).is_ok());
        let cause = progress.judge(at(1_061), Some(&origin)).unwrap_err();
        assert_eq!(cause.code, Code::EventTime);
        assert!(progress.judge(at(1_061), None).is_ok());
        assert!(progress.judge(at(1_061), Some(&Origin::default())).is_ok());
        let line = Origin { subject_bytes: Bytes::new(), ..origin };
        assert!(progress.judge(at(1_061), Some(&line)).is_ok(), "a line was read now, whenever it was written");
    }
}
