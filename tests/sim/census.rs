//! [`census`]: what state a checkpoint holds when an incarnation ends, against what an independent computation says that it must: totals of all
//! keys, windows that are open and no others, and rows that may still meet another (P6, P25).

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream::broker::Embedded;
use millstream::checkpoint::{KvStore, Manifest, Segment, Store, StoreError};
use millstream::connectors::Connections;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::joined::{Held, judge_joined};
use super::oracle::{Event, LATE, WINDOW};
use super::scenario::Scenario;
use super::witness::reaches;

/// A count and a sum of each key.
type Sums = BTreeMap<u64, (u64, u64)>;

/// A run of keyed state as it is written.
#[derive(Deserialize)]
struct Run {
    whole: bool,
    groups: BTreeMap<u32, Entries>,
}

/// First some are taken out, then others put in.
#[derive(Deserialize)]
struct Entries {
    gone: Bytes,
    put: Bytes,
}

/// Reads the newest checkpoint, and judges it by the events that it says were read. Behind `all` of them there must be one; some
/// came too late for their windows.
///
/// # Errors
/// What it holds and should not, or should and does not.
pub(super) async fn census(broker: &Embedded, scenario: &Scenario, all: Option<&[u64]>) -> Result<(), String> {
    let store = KvStore::new(Connections::to_embedded(broker.clone()).into(), 1);
    let fault = |error: StoreError| format!("the last checkpoint cannot be read: {error:?}");
    let bytes = match (store.read("sim").await.map_err(fault)?, all) {
        (Some((_, bytes)), _) => bytes,
        (None, Some(_)) => return Err("there is no checkpoint".into()),
        (None, None) => return Ok(()),
    };
    let read = |source: &str, events: &[Event]| {
        let read = reaches(&bytes, source).and_then(|read| usize::try_from(read).ok()).unwrap_or(0);
        if all.is_some() { events.len() } else { read.min(events.len()) }
    };
    let events = scenario.events.get(..read("events", &scenario.events)).unwrap_or_default();
    let side = scenario.side().get(..read("beside", scenario.side())).unwrap_or_default();
    let late = all.unwrap_or_default();
    let manifest = Manifest::decode(&bytes, "sim", "the store").map_err(|fault| fault.chain())?;
    let (mut sums, mut joined) = (Sums::new(), BTreeMap::new());
    let mut panes = BTreeMap::<u64, Sums>::new();
    for (node, name, runs) in keyed(&manifest) {
        let pane = name.strip_prefix("panes/").and_then(|start| start.parse::<u64>().ok()).map(|micros| micros / 1_000);
        match (node, pane, name) {
            ("sums", ..) => add(&mut sums, played(runs, &store).await?)?,
            ("windowed", Some(start), _) => add(panes.entry(start).or_default(), played(runs, &store).await?)?,
            ("met", _, "sides") => add(&mut joined, played::<Held>(runs, &store).await?)?,
            _ => {}
        }
    }
    let due = totals(events);
    if sums != due {
        return Err(format!("P25: the state of sums is {sums:?} and should be {due:?}"));
    }
    judge_joined(&joined, events)?;
    judge_panes(&panes, (events, side), late, (WINDOW + scenario.allowed, scenario.beside.is_some()))
}

/// Adds what a subtask holds: a key is held by one of them.
fn add<V>(all: &mut BTreeMap<u64, V>, held: BTreeMap<u64, V>) -> Result<(), String> {
    for (key, value) in held {
        if all.insert(key, value).is_some() {
            return Err(format!("P25: two subtasks hold key {key}"));
        }
    }
    Ok(())
}

/// What a piece of state holds of each key.
async fn played<V: DeserializeOwned>(runs: &[Segment], store: &KvStore) -> Result<BTreeMap<u64, V>, String> {
    let mut held = BTreeMap::new();
    for segment in runs {
        let bytes = match &segment.inline {
            Some(bytes) => Some(bytes.clone()),
            None => store.get("sim", segment.sha256).await.map_err(|error| format!("{error:?}"))?,
        };
        let bytes = bytes.ok_or_else(|| format!("segment {} is not stored", segment.sha256))?;
        play(segment.unpack(&bytes, "the store").map_err(|fault| fault.chain())?, &mut held)?;
    }
    Ok(held)
}

fn keyed(manifest: &Manifest) -> impl Iterator<Item = (&str, &str, &Vec<Segment>)> {
    let states = manifest.operators.iter().flat_map(|(node, all)| all.iter().map(move |state| (node.as_str(), state)));
    states.flat_map(|(node, state)| state.keyed.iter().map(move |(name, runs)| (node, name.as_str(), runs)))
}

fn play<V: DeserializeOwned>(run: Run, into: &mut BTreeMap<u64, V>) -> Result<(), String> {
    if run.whole {
        into.clear();
    }
    for Entries { gone, put } in run.groups.into_values() {
        for key in all::<u64>(&gone)? {
            into.remove(&key);
        }
        into.extend(all::<(u64, V)>(&put)?);
    }
    Ok(())
}

/// One value behind the other.
fn all<T: DeserializeOwned>(mut bytes: &[u8]) -> Result<Vec<T>, String> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        values.push(rmp_serde::from_read(&mut bytes).map_err(|error| format!("state does not decode: {error}"))?);
    }
    Ok(values)
}

fn totals(events: &[Event]) -> Sums {
    let mut totals = Sums::new();
    for event in events.iter().filter(|event| !event.is_dead()) {
        let (count, sum) = totals.entry(event.key).or_default();
        (*count, *sum) = (*count + 1, *sum + event.value);
    }
    totals
}

/// A window is kept for so long from its beginning.
fn judge_panes(
    panes: &BTreeMap<u64, Sums>,
    (events, side): (&[Event], &[Event]),
    late: &[u64],
    (kept, beside): (u64, bool),
) -> Result<(), String> {
    let rows = || events.iter().chain(side).filter(|event| !event.is_dead());
    let now = Event::now(events).saturating_sub(LATE);
    // With a second stream it has come at least as far as there, and at most as far as here: that one may be idle.
    let least = if !beside { now } else { now.min(Event::now(side).saturating_sub(LATE)) };
    if let Some(start) = panes.keys().find(|start| **start + kept <= least) {
        return Err(format!("P6: at {least} the window from {start} on is still in the state"));
    }
    // Whether an old one was in time may differ from run to run, and its windows are over by now.
    let in_time = rows().filter(|event| !late.contains(&event.id));
    let mut due = BTreeMap::<u64, Vec<Event>>::new();
    for event in in_time.filter(|event| event.at - event.at % WINDOW + kept > now) {
        due.entry(event.at - event.at % WINDOW).or_default().push(event.clone());
    }
    for (start, rows) in due {
        let (held, due) = (panes.get(&start), totals(&rows));
        if held != Some(&due) {
            return Err(format!("P25: the state of the window from {start} on is {held:?} and should be {due:?}"));
        }
    }
    Ok(())
}
