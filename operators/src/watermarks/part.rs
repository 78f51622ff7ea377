//! [`Part`]: how far event time has come in one part of a stream, and what of it is not believed yet.

use std::collections::VecDeque;
use std::time::Duration;

use crate::Timestamp;

/// What is seen of a subject, or of all rows.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) highest: Timestamp,
    // Looks at the clock since the last row.
    pub(super) quiet: u8,
    // Which of the last rows that were not too far ahead are stored about when they happened, the last one in the lowest bit.
    pub(super) witnessed: u8,
    // The times of rows that are too far ahead, and what each counts for.
    pub(super) ahead: VecDeque<(Timestamp, u8)>,
    // Rows are so far apart.
    pub(super) apart: Duration,
}

// So many rows that are far ahead are a gap in time and no mistake; one that was stored about when it happened counts for more.
pub(super) const BELIEVED: u32 = 32;
const WITNESS: u8 = 8;

// The clock is looked at twice in a span of silence; after three looks without a row at least a whole one has passed.
pub(super) const LOOKS: u32 = 2;
pub(super) const QUIET: u8 = 3;

impl Part {
    pub(super) fn at(highest: Timestamp) -> Self {
        Part { highest, quiet: 0, witnessed: 0, ahead: VecDeque::new(), apart: Duration::ZERO }
    }

    /// Whether it is idle: it holds nobody back.
    pub(super) fn is_idle(&self) -> bool {
        self.quiet >= QUIET
    }

    pub(super) fn is_far(&self, time: Timestamp, most: Duration) -> bool {
        // Three times what they are apart: some days have no rows.
        time > self.highest.saturating_add(most.max(self.apart.saturating_mul(3)))
    }

    /// Takes note of a row, which may be far ahead.
    pub(super) fn saw(&mut self, time: Timestamp, most: Duration, is_witnessed: bool) {
        if !self.is_far(time, most) || is_witnessed && self.witnessed != 0 {
            self.highest = self.highest.max(time);
            self.witnessed = self.witnessed << 1 | u8::from(is_witnessed);
            if let Some((_, counts)) = self.ahead.front_mut() {
                *counts = counts.saturating_sub(1);
            }
            self.ahead.pop_front_if(|(_, counts)| *counts == 0);
            return;
        }
        self.ahead.push_back((time, if is_witnessed { WITNESS } else { 1 }));
        if self.ahead.iter().map(|(_, counts)| u32::from(*counts)).sum::<u32>() >= BELIEVED {
            self.believe(most, is_witnessed);
        }
    }

    /// Goes on to where most of those that were far ahead are, and leaves out what is far ahead of them.
    fn believe(&mut self, most: Duration, is_witnessed: bool) {
        self.witnessed = u8::from(is_witnessed);
        let mut ahead: Vec<(Timestamp, u8)> = std::mem::take(&mut self.ahead).into();
        ahead.sort_unstable();
        let times: Vec<Timestamp> = ahead.iter().map(|(time, _)| *time).collect();
        let mut apart: Vec<i64> =
            times.iter().zip(times.iter().skip(1)).map(|(a, b)| b.as_micros().saturating_sub(a.as_micros())).collect();
        apart.sort_unstable();
        self.apart = Duration::from_micros(apart.get(apart.len() / 2).map_or(0, |apart| apart.unsigned_abs()));
        // The first at which half of what they all count for is reached.
        let all: u32 = ahead.iter().map(|(_, counts)| u32::from(*counts)).sum();
        let mut so_far = 0;
        let mut later = ahead.iter().map(|(time, counts)| (time, u32::from(*counts))).skip_while(|(_, counts)| {
            so_far += counts;
            2 * so_far <= all
        });
        self.highest = later.next().map_or(self.highest, |(median, _)| self.highest.max(*median));
        for (time, _) in later {
            if self.is_far(*time, most) {
                return;
            }
            self.highest = self.highest.max(*time);
        }
    }
}
