//! [`Bound`]: which rows of a key belong together. [`JoinKind`]: what is given of them.

use std::fmt;
use std::time::Duration;

use super::keys::Both;
use crate::Problem;
use crate::join::unbounded;
use crate::window::{TimeWindows, no_gap};

/// Which rows of the two sides belong together if their keys are the same, and so how long rows are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    pub(super) how: How,
    pub(super) allowed_lateness: Duration,
    // The gaps of sessions were said to have no length.
    no_gap: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Times are near each other.
    Within { earlier: i64, latest: Latest },
    /// As near as rows are kept at all.
    Unbounded { ttl: i64 },
    /// In the same window.
    Windows(TimeWindows),
    /// In the same session.
    Sessions { gap: i64 },
    /// The newest of the right that is not later, nor older than that.
    AsOf { ttl: Option<i64> },
}

/// The latest time of the right, included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Latest {
    /// So long after the left row.
    After(i64),
    /// What stands in this column of the left row.
    Column(String),
}

/// What a join gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JoinKind {
    /// Rows that have partners, with each of them.
    #[default]
    Inner,
    /// All rows of the left, with their partners or none.
    Left,
    /// All rows of the right, with their partners or none.
    Right,
    /// All rows of both sides, with their partners or none.
    Full,
    /// The rows of the left that have a partner, each once.
    Semi,
    /// The rows of the left that have no partner.
    Anti,
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

impl Bound {
    fn new(how: How) -> Self {
        Bound { how, allowed_lateness: Duration::ZERO, no_gap: false }
    }

    /// Rows of the right that are at most `earlier` earlier than a row of the left, or at most `later` later.
    pub fn within(earlier: Duration, later: Duration) -> Self {
        Bound::new(How::Within { earlier: micros(earlier), latest: Latest::After(micros(later)) })
    }

    /// Rows of the right that are at most `earlier` earlier than a row of the left, and not later than what stands in a
    /// column of timestamps of that row. Where it is null, none belongs to it.
    pub fn until(earlier: Duration, column: impl Into<String>) -> Self {
        Bound::new(How::Within { earlier: micros(earlier), latest: Latest::Column(column.into()) })
    }

    /// Rows that are in the same window, tumbling or sliding.
    pub fn windows(windows: TimeWindows) -> Self {
        Bound::new(How::Windows(windows))
    }

    /// Rows that are in the same session: those of a key, from either side, that follow each other within less than `gap`.
    pub fn sessions(gap: Duration) -> Self {
        Bound { no_gap: gap.is_zero(), ..Bound::new(How::Sessions { gap: micros(gap).max(1) }) }
    }

    /// All rows of a key, where a row is forgotten when event time is `ttl` past it. So that what comes of it does not
    /// depend on how event time goes on, rows whose times are further apart than `ttl` do not belong together. The time of
    /// a pair is the later of both, but not behind the watermark.
    pub fn unbounded(ttl: Duration) -> Self {
        Bound::new(How::Unbounded { ttl: micros(ttl) })
    }

    /// The newest row of the right that is not later than the row of the left: those of the right are versions of a table.
    /// Of two of the same time the one that came last is valid. A version behind the watermark counts for the rows to come,
    /// if it is newer than the one that was valid so far; what was given stays as it is.
    pub fn as_of() -> Self {
        Bound::new(How::AsOf { ttl: None })
    }

    /// As [`as_of`](Self::as_of), where a version is valid for `ttl` and no longer, also if no newer one comes: then a row of the
    /// left that is later has none. So keys whose versions stay away do not stay for ever.
    pub fn as_of_within(ttl: Duration) -> Self {
        Bound::new(How::AsOf { ttl: Some(micros(ttl)) })
    }

    /// Rows may be so much older than the watermark; what has no partner is known so much later, and the watermark that
    /// goes on stays behind as much. For [`within`](Self::within) and [`until`](Self::until).
    #[must_use]
    pub fn allowed_lateness(mut self, span: Duration) -> Self {
        self.allowed_lateness = span;
        self
    }

    /// What is wrong with it: each with the setting that is to blame, as pipeline files call it.
    pub fn problems(&self) -> Vec<Problem> {
        let of_windows = match &self.how {
            How::Windows(windows) => windows.problems(),
            How::Sessions { .. } => self.no_gap.then(no_gap).into_iter().collect(),
            How::Unbounded { ttl } | How::AsOf { ttl: Some(ttl) } => {
                let ttl = Duration::from_micros(ttl.unsigned_abs());
                return unbounded(ttl).problem().into_iter().collect();
            }
            How::Within { .. } | How::AsOf { ttl: None } => Vec::new(),
        };
        let mut all: Vec<Problem> = of_windows;
        for problem in &mut all {
            problem.setting = problem.setting.take().map(|setting| format!("window.{setting}"));
        }
        all
    }

    /// The setting of a pipeline file that says it.
    pub(super) fn word(&self) -> &'static str {
        match &self.how {
            How::Within { .. } => "within",
            How::Unbounded { .. } => "ttl",
            How::Windows(_) => "window",
            How::Sessions { .. } => "session",
            How::AsOf { .. } => "as_of",
        }
    }

    /// Why a kind of join does not go with it, and the way out.
    pub(super) fn refuses(&self, kind: JoinKind) -> Option<(&'static str, &'static str)> {
        use JoinKind::{Inner, Left, Semi};
        match (&self.how, kind) {
            (How::Unbounded { .. }, Inner | Semi) | (How::AsOf { .. }, Inner | Left) => None,
            (How::Unbounded { .. }, _) => Some((
                "without a bound it is never known that a row has no partner",
                "with `ttl` joins are `inner` or `semi`; bound it by `within` or `window`",
            )),
            (How::AsOf { .. }, _) => Some((
                "each row of the left is given with the version of its time, and nothing else",
                "with `as_of` joins are `inner` or `left`",
            )),
            _ => None,
        }
    }
}

impl JoinKind {
    /// Whether rows of the left, and of the right, are given when they have no partner.
    pub(super) fn alone(self) -> Both<bool> {
        let left = matches!(self, JoinKind::Left | JoinKind::Anti | JoinKind::Full);
        Both { left, right: matches!(self, JoinKind::Right | JoinKind::Full) }
    }

    /// Whether what it gives has columns of the right.
    pub(super) fn gives_right(self) -> bool {
        !matches!(self, JoinKind::Semi | JoinKind::Anti)
    }
}

impl fmt::Display for JoinKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JoinKind::Inner => "inner",
            JoinKind::Left => "left",
            JoinKind::Right => "right",
            JoinKind::Full => "full",
            JoinKind::Semi => "semi",
            JoinKind::Anti => "anti",
        })
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |micros: &i64| Duration::from_micros(micros.unsigned_abs());
        match &self.how {
            How::Within { earlier, latest: Latest::After(later) } => {
                write!(f, "from {:?} before to {:?} after", span(earlier), span(later))?;
            }
            How::Within { earlier, latest: Latest::Column(column) } => {
                write!(f, "from {:?} before until `{column}`", span(earlier))?;
            }
            How::Unbounded { ttl } => write!(f, "kept for {:?}", span(ttl))?,
            How::Windows(windows) => write!(f, "{windows}")?,
            How::Sessions { gap } => write!(f, "session with gaps of {:?}", span(gap))?,
            How::AsOf { ttl: None } => f.write_str("as of the time of the left")?,
            How::AsOf { ttl: Some(ttl) } => {
                write!(f, "as of the time of the left, versions valid for {:?}", span(ttl))?;
            }
        }
        match self.allowed_lateness.is_zero() {
            true => Ok(()),
            false => write!(f, ", {:?} late allowed", self.allowed_lateness),
        }
    }
}
