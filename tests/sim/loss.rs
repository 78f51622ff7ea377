//! Input that is lost before it is read, before a run or under one that goes on: the run must stop and say so, and work on
//! nothing that came behind (P13, P14).

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::broker::{Purge, StreamConfig};
use millstream::engine::Ended;
use millstream::operators::{FaultKind, Result as Done};
use millstream::testkit::Flow;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::oracle::{Event, LOST, Outputs};
use super::reached::Cell;
use super::scenario::{Loss, Scenario};
use super::world::{LONGEST, World};

// More than a reader has asked for before it has had any.
const MANY: u64 = 90;
// Of those so many are left.
const LEFT: u64 = 3;
const MOMENT: Duration = Duration::from_millis(20);

impl World {
    /// Takes input away, and judges the run that finds out; false if that leaves nothing to find, as nothing was read.
    pub(super) async fn lose(&self, scenario: &Scenario, loss: Loss, fed: u64) -> Result<bool, String> {
        // Whatever is late has come by then.
        sleep(LONGEST).await;
        let kept = self.faults.kept();
        let end = match (loss, kept) {
            (Loss::Purged | Loss::Recreated, None) => return Ok(false),
            (Loss::Purged, _) => {
                self.feed(&more(3)).await;
                self.purge_to(fed + 3).await?;
                self.run_of(scenario, true).finish_within().await?
            }
            (Loss::Recreated, Some(kept)) => {
                self.recreate().await?;
                self.feed(&more(kept + 3)).await;
                self.run_of(scenario, true).finish_within().await?
            }
            (Loss::PurgedUnder | Loss::RecreatedUnder, _) => {
                let run = self.run_of(scenario, false);
                self.until_it_has_read(&run, fed).await?;
                // It hears nothing while it happens: what it has asked for by then comes all the same.
                let client = scenario.runs.len() as u64 + 1;
                self.faults.freeze(client, MOMENT * 4);
                sleep(MOMENT).await;
                match loss {
                    Loss::PurgedUnder => {
                        self.feed(&more(MANY)).await;
                        self.purge_to(fed + MANY - LEFT + 1).await?;
                    }
                    _ => {
                        self.recreate().await?;
                        self.feed(&more(fed + MANY)).await;
                    }
                }
                run.finish_within().await?
            }
        };
        let words = match (loss, kept) {
            (Loss::Purged, Some(kept)) => format!("no longer has the messages {} to {}", kept + 1, fed + 2),
            (Loss::Purged | Loss::PurgedUnder, _) => "no longer has the messages ".to_owned(),
            _ => "was deleted and created again".to_owned(),
        };
        match end {
            Err(fault) if fault.kind() == FaultKind::SourceLost && fault.chain().contains(&words) => {
                self.faults.note(true, cell(loss));
            }
            other => return Err(format!("P13: with input lost ({loss:?}) the run ended as {other:?}")),
        }
        let last = if loss == Loss::PurgedUnder { LOST + MANY - LEFT } else { LOST };
        let outputs = self.outputs();
        let plain = outputs.plain.iter().filter_map(|row| row.get("id").and_then(Value::as_u64));
        let rows = outputs.rows.iter().filter_map(|row| row.split('/').next()?.parse().ok());
        match plain.chain(rows).find(|id| *id > last) {
            Some(id) => Err(format!("P13: what comes of {id} is behind the loss ({loss:?})")),
            None => Ok(()),
        }?;
        if !scenario.stateless {
            let read = self.faults.kept().unwrap_or(0).min(fed);
            let events = scenario.events.get(..usize::try_from(read).unwrap_or_default()).unwrap_or_default();
            before_the_gap(&outputs, events, (scenario.stores_once(), scenario.last == 1))?;
        }
        Ok(true)
    }

    fn run_of(&self, scenario: &Scenario, until_end: bool) -> Flow {
        self.start(scenario, scenario.runs.len(), until_end).0
    }

    /// All that was fed is in a checkpoint: the run reads, and waits for more.
    async fn until_it_has_read(&self, run: &Flow, fed: u64) -> Result<(), String> {
        let began = Instant::now();
        while self.faults.kept().unwrap_or(0) < fed {
            if run.is_over() || began.elapsed() > LONGEST {
                return Err(format!("P13: a run that is to lose its input does not read the {fed} before"));
            }
            sleep(MOMENT).await;
        }
        // The first look at something that is there from before is none at this run.
        sleep(MOMENT * 5).await;
        Ok(())
    }

    async fn purge_to(&self, seq: u64) -> Result<(), String> {
        let purge = Purge { filter: None, seq, keep: 0 };
        self.js.purge("IN", &purge).await.map(|_| ()).map_err(|error| error.to_string())
    }

    async fn recreate(&self) -> Result<(), String> {
        self.js.delete_stream("IN").await.map_err(|error| error.to_string())?;
        let config = StreamConfig::new("IN", ["in.>"]);
        self.js.create_stream(&config).await.map(|_| ()).map_err(|error| error.to_string())
    }
}

/// What is wrong with what comes of what was read before the gap: of each of these events something does, and `alone`, where one
/// subtask reads, of what came between them and the gap as far as it was read. Where each is promised `once`, it may still stand
/// in the checkpoint: a run that cannot go on from it does not publish it.
fn before_the_gap(outputs: &Outputs, events: &[Event], (once, alone): (bool, bool)) -> Result<(), String> {
    let mut times = BTreeMap::<u64, u64>::new();
    for id in outputs.plain.iter().filter_map(|row| row.get("id")?.as_u64()) {
        *times.entry(id).or_default() += 1;
    }
    let mut alive = events.iter().filter(|event| !event.is_dead());
    if let Some(Event { id, .. }) = alive.find(|event| !times.contains_key(&event.id))
        && !once
    {
        return Err(format!("P13: {id} was read before the loss, and nothing comes of it"));
    }
    if let Some((id, times)) = times.iter().find(|(_, times)| once && **times > 1) {
        return Err(format!("P3: {id} comes {times} times before the loss"));
    }
    if once || !alone {
        return Ok(());
    }
    let between: Vec<u64> = times.keys().copied().filter(|id| *id > LOST).collect();
    match between.iter().zip(LOST + 1..).find(|(id, due)| *id != due) {
        Some((id, due)) => Err(format!("P13: {id} comes before the loss, and {due} does not")),
        None => Ok(()),
    }
}

trait Within {
    async fn finish_within(self) -> Result<Done<Ended>, String>;
}

impl Within for Flow {
    async fn finish_within(self) -> Result<Done<Ended>, String> {
        timeout(LONGEST, self.finish()).await.map_err(|_| "P13: with input lost a run goes on without end".to_owned())
    }
}

fn more(count: u64) -> Vec<Event> {
    (1..=count).map(|id| Event { id: LOST + id, value: 1, ..Event::default() }).collect()
}

fn cell(loss: Loss) -> Cell {
    match loss {
        Loss::Purged => Cell::Purged,
        Loss::Recreated => Cell::Recreated,
        Loss::PurgedUnder => Cell::PurgedUnder,
        Loss::RecreatedUnder => Cell::RecreatedUnder,
    }
}
