//! [`Progress`]: how far event time has come, and when to say so.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Watermarks;
use crate::{Cause, Code, Origin, Result, StateVisitor, Timestamp, Watermark};

/// What the generators of watermarks share: it sees event times and tells when the watermark has moved.
#[derive(Debug)]
pub struct Progress {
    watermarks: Watermarks,
    // By subject, or all under the empty one.
    parts: BTreeMap<String, Part>,
    given: Timestamp,
    // What was told last is that everything is silent.
    idle: bool,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    highest: Timestamp,
    // Looks at the clock since the last row.
    quiet: u8,
}

// The clock is looked at twice in a span of silence; after three looks without a row at least a whole one has passed.
const LOOKS: u32 = 2;
const QUIET: u8 = 3;

impl Progress {
    /// Nothing is seen yet.
    pub fn new(watermarks: Watermarks) -> Self {
        Progress { watermarks, parts: BTreeMap::new(), given: Timestamp::MIN, idle: false }
    }

    /// Whether rows must be told apart by subject.
    pub fn is_per_subject(&self) -> bool {
        self.watermarks.per_subject
    }

    /// Whether an event time is too far ahead of the message that its row came from.
    ///
    /// # Errors
    /// The cause to reject the row with.
    pub fn judge(&self, time: Timestamp, origin: Option<&Origin>) -> Result<(), Cause> {
        let (Some(most), Some(origin)) = (self.watermarks.max_ahead, origin) else { return Ok(()) };
        // A source without times of its own says nothing about when a message was stored.
        if origin.stored_at <= Timestamp::from_micros(0) || time <= origin.stored_at.saturating_add(most) {
            return Ok(());
        }
        let words = format!(
            "its event time {time} is more than {most:?} ahead of {}, when its message was stored",
            origin.stored_at
        );
        Err(Cause::new(Code::EventTime, words))
    }

    /// Takes note of an event time; `subject` is empty unless subjects are told apart.
    pub fn saw(&mut self, subject: &str, time: Timestamp) {
        match self.parts.get_mut(subject) {
            Some(part) => {
                part.highest = part.highest.max(time);
                part.quiet = 0;
            }
            None => {
                self.parts.insert(subject.to_owned(), Part { highest: time, quiet: 0 });
            }
        }
    }

    /// The watermark, if there is something new to say.
    pub fn news(&mut self) -> Option<Watermark> {
        let live = self.parts.values().filter(|part| part.quiet < QUIET).map(|part| part.highest).min();
        let Some(slowest) = live else {
            let is_new = !self.parts.is_empty() && !self.idle;
            self.idle |= is_new;
            return is_new.then_some(Watermark::Idle);
        };
        let reached = slowest.saturating_sub(self.watermarks.max_lateness);
        if reached <= self.given && !self.idle {
            return None;
        }
        self.idle = false;
        self.given = self.given.max(reached);
        Some(Watermark::At(self.given))
    }

    /// How long until the clock is to be looked at, if it must be.
    pub fn look_after(&self) -> Option<Duration> {
        self.watermarks.idle_after.map(|span| span / LOOKS)
    }

    /// The clock is looked at: whoever has given nothing for long is idle.
    pub fn look(&mut self) {
        for part in self.parts.values_mut() {
            part.quiet = part.quiet.saturating_add(1).min(QUIET);
        }
    }

    /// Lists the state.
    ///
    /// # Errors
    /// As [`StateVisitor::times`].
    pub fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        let mut highest = self.parts.iter().map(|(subject, part)| (subject.clone(), part.highest)).collect();
        visit.times("highest", &mut highest)?;
        self.parts = highest
            .into_iter()
            .map(|(subject, highest)| {
                let quiet = self.parts.get(&subject).map_or(0, |part| part.quiet);
                (subject, Part { highest, quiet })
            })
            .collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::bounded_lateness;
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn five_seconds() -> Watermarks {
        bounded_lateness(Duration::from_secs(5))
    }

    #[test]
    fn the_watermark_follows_the_highest_time_and_never_goes_back() {
        let mut progress = Progress::new(five_seconds());
        assert_eq!(progress.news(), None);
        progress.saw("", at(100));
        assert_eq!(progress.news(), Some(Watermark::At(at(95))));
        progress.saw("", at(97));
        assert_eq!(progress.news(), None);
    }

    #[test]
    fn the_slowest_subject_holds_the_watermark_until_it_is_idle() {
        let mut progress = Progress::new(five_seconds().per_subject().idle_after(Duration::from_secs(30)));
        progress.saw("slow", at(50));
        progress.saw("quick", at(100));
        assert_eq!(progress.news(), Some(Watermark::At(at(45))));
        for _ in 0..2 {
            progress.look();
            progress.saw("quick", at(110));
            assert_eq!(progress.news(), None);
        }
        progress.look();
        progress.saw("quick", at(120));
        assert_eq!(progress.news(), Some(Watermark::At(at(115))));
        // It speaks again: nothing goes back, and it holds the others from now on.
        progress.saw("slow", at(60));
        progress.saw("quick", at(130));
        assert_eq!(progress.news(), None);
    }

    #[test]
    fn when_all_are_silent_it_says_so_once_and_comes_back_where_it_was() {
        let mut progress = Progress::new(five_seconds().idle_after(Duration::from_secs(30)));
        progress.saw("", at(100));
        assert_eq!(progress.news(), Some(Watermark::At(at(95))));
        (0..3).for_each(|_| progress.look());
        assert_eq!((progress.news(), progress.news()), (Some(Watermark::Idle), None));
        progress.saw("", at(90));
        assert_eq!(progress.news(), Some(Watermark::At(at(95))));
    }

    #[test]
    fn a_time_far_ahead_of_its_message_is_refused() {
        let progress = Progress::new(five_seconds().max_ahead(Duration::from_secs(60)));
        let origin = Origin { stored_at: at(1_000), ..Origin::default() };
        assert!(progress.judge(at(1_060), Some(&origin)).is_ok());
        let cause = progress.judge(at(1_061), Some(&origin)).unwrap_err();
        assert_eq!(cause.code, Code::EventTime);
        assert!(progress.judge(at(1_061), None).is_ok());
        assert!(progress.judge(at(1_061), Some(&Origin::default())).is_ok());
    }
}
