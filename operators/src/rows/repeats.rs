//! [`Repeats`]: which rows of a key repeat one that was there before.

use std::time::Duration;

use crate::Timestamp;

/// Which rows repeat one of the same key: those within a span of event time of the first of them, or those that follow each
/// other within it.
///
/// Of each key one time is noted. It is kept for twice the span behind the watermark: rows that are behind the watermark by no
/// more than the span are judged as if they had come in time, and of later ones it may not be known any more that they are
/// repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeats {
    span: Duration,
    follow: bool,
}

impl Repeats {
    /// Rows repeat the first one of their key as long as their times are within `span` of it.
    pub fn of_first(span: Duration) -> Self {
        Repeats { span, follow: false }
    }

    /// Rows repeat others of their key as long as none of them is more than `span` behind the newest.
    pub fn of_newest(span: Duration) -> Self {
        Repeats { span, follow: true }
    }

    /// What is noted of a key: the time of its first row, or of its newest.
    pub(crate) fn word(self) -> &'static str {
        if self.follow { "newest" } else { "first" }
    }

    /// Whether a row is a repeat, where a time of its key is noted; and what is to be noted now.
    pub(crate) fn judge(self, noted: Option<Timestamp>, time: Timestamp) -> (bool, Timestamp) {
        match noted {
            Some(noted) if self.follow => (time.since(noted) <= self.span, noted.max(time)),
            Some(noted) if time.since(noted).max(noted.since(time)) <= self.span => (true, noted),
            _ => (false, time),
        }
    }

    /// When a key is forgotten of which a time is noted.
    pub(crate) fn gone_at(self, noted: Timestamp) -> Timestamp {
        noted.saturating_add(self.span).saturating_add(self.span).saturating_add(Duration::from_micros(1))
    }
}
