//! [`Due`] and [`after`]: when something must be looked at again.

/// The earliest moment at which something must be looked at, in nanoseconds since the epoch. Nothing is ever
/// cancelled: who is looked at too early asks again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Due(pub(super) Option<i64>);

impl Due {
    /// Asks for a look at `when`, if none comes earlier.
    pub(super) fn at(&mut self, when: i64) {
        self.0 = Some(self.0.map_or(when, |due| due.min(when)));
    }

    /// Whether the moment has come; it is then over.
    pub(super) fn take(&mut self, now: i64) -> bool {
        let due = self.0.is_some_and(|due| due <= now);
        if due {
            self.0 = None;
        }
        due
    }
}

/// The moment that many nanoseconds later; the far future for what would overflow.
pub(super) fn after(now: i64, nanos: u64) -> i64 {
    now.saturating_add(i64::try_from(nanos).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_moment_counts_and_passes_once() {
        let mut due = Due::default();
        due.at(30);
        due.at(10);
        assert!(!due.take(9));
        assert!(due.take(10));
        assert!(!due.take(40));
        assert_eq!(after(1, u64::MAX), i64::MAX);
    }
}
