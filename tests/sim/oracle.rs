//! What must come out, computed in one go and without anything of the engine.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::Dice;

/// Something that is fed: an event, or a payload that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number, unlike any other's; 0 for a payload that is no event.
    pub id: u64,
    /// What it belongs to.
    pub key: u64,
    /// When it happened, in milliseconds.
    pub at: u64,
    /// A number.
    pub value: u64,
    /// Whether its payload is no event at all.
    pub bad: bool,
}

/// How far events may be out of order, in milliseconds.
pub(super) const LATE: u64 = 3_000;
/// How long windows are, in milliseconds.
pub(super) const WINDOW: u64 = 10_000;

impl Event {
    /// Up to some hundred events, out of order within [`LATE`], with some payloads that are none.
    pub(super) fn some(dice: &mut Dice) -> Vec<Event> {
        let (count, keys, step) = (1 + dice.below(120), 1 + dice.below(12), 1 + dice.below(900));
        let mut now = 100_000;
        let event = |id| {
            now += dice.below(step);
            let at = now - dice.below(LATE);
            Event { id, key: dice.below(keys), at, value: dice.below(1_000), bad: dice.below(20) == 0 }
        };
        (1..=count).map(event).collect()
    }

    /// What is published.
    pub(super) fn payload(&self) -> String {
        let Event { id, key, at, value, bad } = self;
        match bad {
            true => format!("no event {id}"),
            false => json!({"id": id, "key": key, "at": at, "value": value}).to_string(),
        }
    }
}

/// What stands in the output streams, or must.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outputs {
    /// One for each event.
    pub(super) plain: Vec<Value>,
    /// The running totals of each key, in order.
    pub(super) totals: BTreeMap<u64, Vec<Value>>,
    /// The sums of each key and window.
    pub(super) windows: Vec<Value>,
    /// Payloads that are no events.
    pub(super) dead: Vec<String>,
    /// What comes of events without state: of each none, some or very many.
    pub(super) rows: Vec<String>,
}

impl Outputs {
    /// What must come of events in this order.
    pub(super) fn of(events: &[Event]) -> Self {
        let mut outputs = Outputs::default();
        let (mut totals, mut windows) = (BTreeMap::<u64, (u64, u64)>::new(), BTreeMap::<(u64, u64), (u64, u64)>::new());
        for event in events {
            let Event { id, key, at, value, bad } = event;
            if *bad {
                outputs.dead.push(event.payload());
                continue;
            }
            outputs.plain.push(json!({"id": id, "twice": value * 2}));
            let (count, sum) = totals.entry(*key).or_default();
            (*count, *sum) = (*count + 1, *sum + value);
            outputs.totals.entry(*key).or_default().push(json!({"key": key, "count": *count, "sum": *sum}));
            let (count, sum) = windows.entry((*key, at - at % WINDOW)).or_default();
            (*count, *sum) = (*count + 1, *sum + value);
        }
        for ((key, start), (count, sum)) in windows {
            outputs.windows.push(json!({"key": key, "start": start, "count": count, "sum": sum}));
        }
        outputs
    }

    /// What must come of events in this order where no state is kept.
    pub(super) fn rows_of(events: &[Event]) -> Self {
        let rows = events.iter().flat_map(|event| rows_of(&event.payload())).collect();
        Outputs { rows, ..Outputs::default() }
    }

    /// What is wrong with the order of rows.
    pub(super) fn judge_order(&self, there: &Outputs) -> Result<(), String> {
        let differs = self.rows.iter().zip(&there.rows).position(|(wanted, there)| wanted != there);
        match differs {
            None => Ok(()),
            Some(place) => {
                let (wanted, there) = (self.rows.get(place), there.rows.get(place));
                Err(format!("row {place} is {there:?} and should be {wanted:?}"))
            }
        }
    }

    /// What is wrong with what is there: `once` each must be there exactly once, and else at least.
    pub(super) fn judge(&self, there: &Outputs, once: bool) -> Result<(), String> {
        same("plain", texts(&self.plain), texts(&there.plain), once)?;
        same("windows", texts(&self.windows), texts(&there.windows), once)?;
        same("dead letters", self.dead.clone(), there.dead.clone(), once)?;
        same("rows", self.rows.clone(), there.rows.clone(), once)?;
        if once && self.totals != there.totals {
            return Err(format!("the totals of a key are {:?} and should be {:?}", there.totals, self.totals));
        }
        let flat = |outputs: &Outputs| outputs.totals.values().flat_map(|all| texts(all)).collect();
        same("totals", flat(self), flat(there), once)
    }
}

/// The rows of a payload.
pub(super) fn rows_of(payload: &str) -> Vec<String> {
    let value = serde_json::from_str::<Value>(payload).ok();
    let number = |name: &str| value.as_ref().and_then(|value| value.get(name)?.as_u64());
    let (Some(id), Some(value)) = (number("id"), number("value")) else { return vec![payload.to_owned()] };
    // More than one batch takes, now and then.
    let copies = if value.is_multiple_of(500) { 1_300 } else { value % 4 };
    (0..copies).map(|copy| format!("{id}/{copy}")).collect()
}

fn texts(values: &[Value]) -> Vec<String> {
    values.iter().map(Value::to_string).collect()
}

fn same(what: &str, wanted: Vec<String>, there: Vec<String>, once: bool) -> Result<(), String> {
    let mut left: BTreeMap<String, i64> = BTreeMap::new();
    wanted.into_iter().for_each(|text| *left.entry(text).or_default() += 1);
    let known = left.clone();
    for text in there {
        *left.entry(text).or_default() -= 1;
    }
    for (text, count) in left {
        match count {
            1.. => return Err(format!("{what}: {text} is missing")),
            0 => {}
            _ if !known.contains_key(&text) => return Err(format!("{what}: {text} is wrong")),
            _ if once => return Err(format!("{what}: {text} is there {} times too often", -count)),
            _ => {}
        }
    }
    Ok(())
}
