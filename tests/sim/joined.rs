//! [`judge_joined`]: what a join holds, against what an independent computation says that it must (P25).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::oracle::{Event, LATE, NEAR};

/// What is held for a key: the rows of either side by their times, in microseconds.
#[derive(Deserialize)]
pub(super) struct Held(BTreeMap<i64, Vec<Row>>, BTreeMap<i64, Vec<Row>>);

/// A row, and whether it has met another.
#[derive(Deserialize)]
struct Row((u64, u64, i64, u64, bool, String), bool);

/// Behind all these events.
///
/// # Errors
/// What is held and should not be, or the other way round.
pub(super) fn judge_joined(held: &BTreeMap<u64, Held>, events: &[Event]) -> Result<(), String> {
    let now = Event::now(events).saturating_sub(LATE);
    let joins = |event: &&Event| !event.is_dead() && !event.old;
    let is_near = |one: &Event, other: &Event| one.key == other.key && one.at.abs_diff(other.at) <= NEAR;
    let mut there = BTreeMap::new();
    for (key, Held(left, right)) in held {
        for (parity, rows) in [(0, left), (1, right)] {
            for (at, Row((id, ..), met)) in rows.iter().flat_map(|(at, rows)| rows.iter().map(move |row| (at, row))) {
                if there.insert(*id, (*key, *at, parity, *met)).is_some() {
                    return Err(format!("P25: a join holds row {id} twice"));
                }
            }
        }
    }
    for event in events.iter().filter(joins) {
        let Event { id, key, at, value, .. } = event;
        let held = there.remove(id);
        let met = events.iter().filter(joins).any(|other| other.value % 2 != value % 2 && is_near(event, other));
        let due = (*key, i64::try_from(at * 1_000).unwrap_or(i64::MAX), value % 2, met);
        // Just then it may go, or stay.
        match (at + NEAR).cmp(&now) {
            std::cmp::Ordering::Greater if held != Some(due) => {
                return Err(format!("P25: at {now} a join holds {held:?} of row {id} and should hold {due:?}"));
            }
            std::cmp::Ordering::Less if held.is_some() => {
                return Err(format!("P25: at {now} a join still holds {held:?} of row {id}"));
            }
            _ => {}
        }
    }
    match there.is_empty() {
        true => Ok(()),
        false => Err(format!("P25: a join holds what never came: {there:?}")),
    }
}
