//! What joins give by their definitions: nested loops over all rows, which know nothing of batches, watermarks or state.

use std::time::Duration;

use super::{Bound, JoinKind};
use crate::window::sliding;

/// A row of the left, which has a time until which it waits, or of the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) is_left: bool,
    pub(super) key: Option<i64>,
    pub(super) time: i64,
    pub(super) number: i64,
    pub(super) until: Option<i64>,
}

/// A row that was given: its time, its key, the numbers of the left and the right row, 0 for none, and its window.
pub(super) type Given = (i64, Option<i64>, i64, i64, Option<(i64, i64)>);

/// A generator of numbers: Marsaglia's xorshift64 (Journal of Statistical Software 8/14, 2003).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, end: i64) -> i64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11).cast_signed() % end
    }
}

pub(super) fn span(micros: i64) -> Duration {
    Duration::from_micros(micros.unsigned_abs())
}

/// A join of any kind.
#[derive(Clone, Debug)]
pub(super) enum Definition {
    Near { earlier: i64, later: Option<i64> },
    Windows { size: i64, every: i64 },
    Sessions { gap: i64 },
    AsOf { ttl: i64 },
}

pub(super) fn definition(dice: &mut Dice) -> (JoinKind, Bound, Definition) {
    use JoinKind::{Anti, Full, Inner, Left, Right, Semi};
    let mut kind = |of: &[JoinKind]| of[dice.below(of.len() as i64) as usize];
    let (any, ttl, as_of) = (kind(&[Inner, Left, Right, Full, Semi, Anti]), kind(&[Inner, Semi]), kind(&[Inner, Left]));
    let (a, b) = (dice.below(20), dice.below(20));
    match dice.below(6) {
        0 => (any, Bound::within(span(a), span(b)), Definition::Near { earlier: a, later: Some(b) }),
        1 => (any, Bound::until(span(a), "until"), Definition::Near { earlier: a, later: None }),
        2 => (ttl, Bound::unbounded(span(a + 1)), Definition::Near { earlier: a + 1, later: Some(a + 1) }),
        3 => {
            let (size, every) = (a + 1, if dice.below(2) == 0 { a + 1 } else { b + 1 });
            (any, Bound::windows(sliding(span(size), span(every))), Definition::Windows { size, every })
        }
        4 => (any, Bound::sessions(span(a + 1)), Definition::Sessions { gap: a + 1 }),
        _ if dice.below(2) == 0 => (as_of, Bound::as_of(), Definition::AsOf { ttl: i64::MAX }),
        _ => (as_of, Bound::as_of_within(span(a + 1)), Definition::AsOf { ttl: a + 1 }),
    }
}

/// What comes of rows that are in one window or session of a key.
fn of_window(kind: JoinKind, rows: &[Row], window: (i64, i64)) -> Vec<Given> {
    let side = |is_left| rows.iter().filter(move |row| row.is_left == is_left);
    let given = |key, left, right| (window.1 - 1, key, left, right, Some(window));
    let paired =
        side(true).next().is_some() && side(false).next().is_some() && rows.iter().all(|row| row.key.is_some());
    let lefts = side(true).map(|row| given(row.key, row.number, 0));
    let rights = side(false).map(|row| given(row.key, 0, row.number));
    let pairs = side(true).flat_map(|l| side(false).map(move |r| given(l.key, l.number, r.number)));
    match (kind, paired) {
        (JoinKind::Inner | JoinKind::Left | JoinKind::Right | JoinKind::Full, true) => pairs.collect(),
        (JoinKind::Semi, true) | (JoinKind::Left | JoinKind::Anti, false) => lefts.collect(),
        (JoinKind::Right, false) => rights.collect(),
        (JoinKind::Full, false) => lefts.chain(rights).collect(),
        (JoinKind::Anti, true) | (JoinKind::Inner | JoinKind::Semi, false) => Vec::new(),
    }
}

/// What the definition gives, of all rows in the order in which they came.
pub(super) fn expected(kind: JoinKind, definition: &Definition, rows: &[Row]) -> Vec<Given> {
    let mut all = Vec::new();
    let mut keys: Vec<Option<i64>> = rows.iter().map(|row| row.key).collect();
    keys.sort_unstable();
    keys.dedup();
    let arrival = |row: &Row| rows.iter().position(|other| other == row).unwrap();
    let same = |l: &Row, r: &Row| l.is_left && !r.is_left && l.key.is_some() && l.key == r.key;
    match definition {
        Definition::Near { earlier, later } => {
            let latest = |l: &Row| later.map_or(l.until, |later| Some(l.time + later));
            let near = |l: &Row, r: &Row| {
                same(l, r) && l.time - earlier <= r.time && latest(l).is_some_and(|latest| r.time <= latest)
            };
            for l in rows.iter().filter(|row| row.is_left) {
                let partners: Vec<&Row> = rows.iter().filter(|r| near(l, r)).collect();
                let last = latest(l).map_or(l.time, |latest| latest.max(l.time));
                match kind {
                    JoinKind::Semi => {
                        let before = partners.iter().filter(|r| arrival(r) < arrival(l)).min_by_key(|r| r.time);
                        let first = before.or_else(|| partners.iter().min_by_key(|r| arrival(r)));
                        all.extend(first.map(|r| (l.time.max(r.time), l.key, l.number, 0, None)));
                    }
                    JoinKind::Anti if partners.is_empty() => all.push((last, l.key, l.number, 0, None)),
                    JoinKind::Anti => {}
                    _ if partners.is_empty() && matches!(kind, JoinKind::Left | JoinKind::Full) => {
                        all.push((last, l.key, l.number, 0, None));
                    }
                    _ => all.extend(partners.iter().map(|r| (l.time.max(r.time), l.key, l.number, r.number, None))),
                }
            }
            let alone = rows.iter().filter(|r| !r.is_left && !rows.iter().any(|l| near(l, r)));
            if matches!(kind, JoinKind::Right | JoinKind::Full) {
                all.extend(alone.map(|r| (r.time + earlier, r.key, 0, r.number, None)));
            }
        }
        Definition::Windows { size, every } => {
            for (start, key) in (-30..250).map(|k| k * every).flat_map(|start| keys.iter().map(move |key| (start, key)))
            {
                let inside = |row: &&Row| row.key == *key && start <= row.time && row.time < start + size;
                let rows: Vec<Row> = rows.iter().filter(inside).copied().collect();
                all.extend(of_window(kind, &rows, (start, start + size)));
            }
        }
        Definition::Sessions { gap } => {
            for key in keys {
                let mut rows: Vec<Row> = rows.iter().filter(|row| row.key == key).copied().collect();
                rows.sort_by_key(|row| row.time);
                for session in rows.chunk_by(|a, b| b.time - a.time < *gap && key.is_some()) {
                    let end = session.last().unwrap().time + gap;
                    all.extend(of_window(kind, session, (session[0].time, end)));
                }
            }
        }
        Definition::AsOf { ttl } => {
            for l in rows.iter().filter(|row| row.is_left) {
                let versions = rows.iter().filter(|r| same(l, r) && r.time <= l.time && l.time - r.time <= *ttl);
                // Of versions of the same time the one that came last.
                match versions.max_by_key(|r| (r.time, arrival(r))) {
                    Some(version) => all.push((l.time, l.key, l.number, version.number, None)),
                    None if kind == JoinKind::Left => all.push((l.time, l.key, l.number, 0, None)),
                    None => {}
                }
            }
        }
    }
    all
}
