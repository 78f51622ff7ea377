//! [`Interval`], [`UntilInterval`], [`Unbounded`]: which times of rows of the right belong to a row of the left.

use std::fmt;
use std::time::Duration;

use crate::Problem;
use crate::window::{Emit, Until};

/// How much earlier or later than a row of the left the rows of the right may be that belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    // Right times are between left + from and left + to, both included.
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) allowed_lateness: Duration,
}

/// Rows of the right that are at most `before` earlier than a row of the left, or at most `after` later.
pub fn within(before: Duration, after: Duration) -> Interval {
    Interval { from: -micros(before), to: micros(after), allowed_lateness: Duration::ZERO }
}

impl Interval {
    /// Rows may be so much older than the watermark; what has no partner is known so much later, and the watermark that
    /// goes on stays behind as much.
    #[must_use]
    pub fn allowed_lateness(mut self, span: Duration) -> Self {
        self.allowed_lateness = span;
        self
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {:?} before to {:?} after", span(self.from), span(self.to))
    }
}

/// Rows of the right from so much earlier than a row of the left until a time that this row tells; see
/// [`until`](crate::window::until()).
#[derive(Clone, Copy)]
pub struct UntilInterval<F> {
    until: F,
    // Of which the end is not used.
    interval: Interval,
    // Early results were asked for, which a join does not give.
    emits: bool,
}

impl<F> Until<F> {
    /// In a join: rows of the right may also be so much earlier than the row of the left.
    pub fn earlier(self, span: Duration) -> UntilInterval<F> {
        let interval = within(span, Duration::ZERO).allowed_lateness(self.allowed_lateness);
        UntilInterval { until: self.time, interval, emits: self.emit != Emit::OnClose }
    }
}

impl<F> UntilInterval<F> {
    /// The interval, of which the end does not count, and what tells that.
    pub fn into_parts(self) -> (Interval, F) {
        (self.interval, self.until)
    }

    /// Whether early results were asked for, which a join does not give.
    pub fn emits(&self) -> bool {
        self.emits
    }

    /// As [`Interval::allowed_lateness`].
    #[must_use]
    pub fn allowed_lateness(mut self, span: Duration) -> Self {
        self.interval = self.interval.allowed_lateness(span);
        self
    }
}

impl<F> fmt::Display for UntilInterval<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {:?} before until a time of the left row", span(self.interval.from))
    }
}

impl<F> fmt::Debug for UntilInterval<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UntilInterval({self})")
    }
}

/// Rows meet however far apart they come, as long as they are not forgotten; see [`unbounded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unbounded {
    ttl: Duration,
}

/// Rows of both sides meet unless their times are more than `ttl` apart: a row is forgotten when event time is so much past
/// it. Pairs are given at once, and what has no partner is not known, so that this is for inner and semi joins.
///
/// ```text
/// left (ttl 10)    0         |     5   4 |
/// right               10  11 |           |
/// watermark                  | 15        |
/// pairs              0-10    |   5-10 5-11
/// late                               4   |
/// ```
///
/// Rows behind the watermark are late only when they would be forgotten already; they meet those that are not.
pub fn unbounded(ttl: Duration) -> Unbounded {
    Unbounded { ttl }
}

impl Unbounded {
    /// How long rows are kept.
    pub fn ttl(self) -> Duration {
        self.ttl
    }

    /// What is wrong with it: with the setting that is to blame, as pipeline files call it.
    pub fn problem(self) -> Option<Problem> {
        let what = "rows would be forgotten at once";
        let wrong = || Problem::at("", what).in_setting("ttl").help("say how long a row may wait for the other: `1d`");
        self.ttl.is_zero().then(wrong)
    }
}

impl fmt::Display for Unbounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rows forgotten after {:?}", self.ttl)
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

fn span(micros: i64) -> Duration {
    Duration::from_micros(micros.unsigned_abs())
}
