//! [`Emit`]: when windows give results besides the one when they close.

use std::fmt;
use std::time::Duration;

use crate::Timestamp;

/// When windows give results besides the one when they close.
///
/// ```text
/// rows (tumbling, 10)      3   7 |     | 8   12 |     |
/// watermark                      | 5   |        | 8   | 10
/// OnClose                                             | 18
/// Every(4), event time           | 10           | 18  | 18
/// OnChange, two batches    10            18           | 18
/// ```
///
/// Whatever comes early is followed by the result when the window closes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Emit {
    /// Never.
    #[default]
    OnClose,
    /// When the watermark passes a multiple of this span, for the keys that have changed since.
    Every(Duration),
    /// Behind each batch, for the keys that it has changed: the last result of a key is its result, and how many come before
    /// depends on how rows come in batches.
    OnChange,
}

impl Emit {
    /// The last moment at which results are due that the watermark passes on its way from `before` to `now`. At the end of
    /// time there is none: everything closes.
    pub(crate) fn due(self, before: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let Emit::Every(span) = self else { return None };
        let step = i64::try_from(span.as_micros()).unwrap_or(i64::MAX).max(1);
        let due = Timestamp::from_micros(now.as_micros().div_euclid(step).saturating_mul(step));
        (before < due && now != Timestamp::MAX).then_some(due)
    }
}

impl fmt::Display for Emit {
    /// What it adds to the words about windows: nothing where they give results when they close.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Emit::OnClose => Ok(()),
            Emit::Every(span) => write!(f, ", early every {span:?}"),
            Emit::OnChange => f.write_str(", on change"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_due_once_however_many_multiples_are_passed() {
        let at = Timestamp::from_micros;
        let every = Emit::Every(Duration::from_micros(4));
        assert_eq!(every.due(Timestamp::MIN, at(3)), Some(at(0)));
        assert_eq!(every.due(at(3), at(4)), Some(at(4)));
        assert_eq!(every.due(at(4), at(7)), None);
        assert_eq!(every.due(at(7), at(21)), Some(at(20)));
        assert_eq!(every.due(at(7), Timestamp::MAX), None);
        assert_eq!(Emit::OnChange.due(at(3), at(8)), None);
    }
}
