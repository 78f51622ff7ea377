//! [`Watermarks`]: how far event time has come, judged by the rows seen.

use std::fmt;
use std::time::Duration;

use crate::Problem;
use crate::bugs::{Bug, planted};

/// How watermarks follow from event times.
///
/// The watermark is the highest event time seen, less the lateness that rows may have. It never goes back; a row that is
/// older than the watermark is late, and operators with windows say what becomes of it.
///
/// ```
/// use std::time::Duration;
/// use millstream_operators::watermarks::bounded_lateness;
/// let watermarks = bounded_lateness(Duration::from_secs(5)).idle_after(Duration::from_secs(30)).per_subject();
/// assert_eq!(watermarks.to_string(), "5s late at most, idle after 30s, per subject");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    pub(super) max_lateness: Duration,
    pub(super) idle_after: Option<Duration>,
    pub(super) max_ahead: Option<Duration>,
    pub(super) per_subject: bool,
}

/// Rows are out of order by at most `max_lateness`.
pub fn bounded_lateness(max_lateness: Duration) -> Watermarks {
    Watermarks { max_lateness, idle_after: None, max_ahead: Some(Watermarks::MAX_AHEAD), per_subject: false }
}

/// Event times never go back.
pub fn ascending() -> Watermarks {
    bounded_lateness(Duration::ZERO)
}

impl Watermarks {
    /// How far ahead of the time at which its message was stored an event time may be, unless something else is said.
    pub const MAX_AHEAD: Duration = Duration::from_secs(24 * 60 * 60);

    /// An input that is silent for so long, on the engine's clock, holds nobody back until it speaks again. (It is
    /// noticed after one and a half times that at the latest.) Windows that it would have filled may close without it.
    #[must_use]
    pub fn idle_after(mut self, span: Duration) -> Self {
        self.idle_after = Some(span);
        self
    }

    /// What is wrong with it: each with the setting that is to blame, as pipeline files call it.
    pub fn problem(&self) -> Option<Problem> {
        let wrong = |setting, what, help| Some(Problem::at("", what).in_setting(setting).help(help));
        match self.idle_after {
            Some(span) if span.is_zero() => {
                let what = "an input would be idle all the time, and looked at without a pause";
                wrong("idle_after", what, "say how long an input may be silent: `30s`")
            }
            None if self.per_subject => {
                let what = "a subject to which nothing more is written would hold all windows back for ever";
                wrong("per_subject", what, "say with `idle_after` how long a subject may be silent: `30s`")
            }
            _ => None,
        }
    }

    /// Each subject has a watermark of its own, and the slowest that is not idle counts: for streams whose producers
    /// write to a subject each and drift apart. It needs [`idle_after`](Self::idle_after): a subject to which nothing more is
    /// written would hold the others back for ever. Meant for tens or hundreds of subjects at a time; those that are over
    /// are forgotten, but for the last 256.
    #[must_use]
    pub fn per_subject(mut self) -> Self {
        self.per_subject = true;
        self
    }

    /// A row whose event time is more than `span` ahead of the time at which the server stored its message is rejected:
    /// a producer whose clock is wrong must not close every window. For the same reason the watermark does not follow a
    /// single row that is as far ahead of all rows before it; see [`Progress`](super::Progress).
    #[must_use]
    pub fn max_ahead(mut self, span: Duration) -> Self {
        self.max_ahead = Some(span);
        self
    }

    /// Event times may be as far ahead as they like.
    #[must_use]
    pub fn any_time_ahead(mut self) -> Self {
        self.max_ahead = None;
        self
    }

    /// How far ahead of its message a row may be.
    pub(super) fn most_ahead(&self) -> Option<Duration> {
        self.max_ahead.filter(|_| !planted(Bug::AnyTimeAhead))
    }
}

impl fmt::Display for Watermarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.max_lateness.is_zero() {
            true => f.write_str("ascending")?,
            false => write!(f, "{:?} late at most", self.max_lateness)?,
        }
        if let Some(span) = self.idle_after {
            write!(f, ", idle after {span:?}")?;
        }
        if self.per_subject {
            f.write_str(", per subject")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_that_hold_the_others_back_for_ever_are_refused_and_inputs_that_are_always_idle() {
        let setting = |watermarks: Watermarks| watermarks.problem().and_then(|problem| problem.setting);
        assert_eq!(setting(ascending().per_subject()).as_deref(), Some("per_subject"));
        assert_eq!(setting(ascending().idle_after(Duration::ZERO)).as_deref(), Some("idle_after"));
        assert_eq!(setting(ascending().per_subject().idle_after(Duration::from_secs(30))), None);
        assert_eq!(setting(ascending()), None);
    }
}
