//! [`run`]: a scenario from its beginning to its judgement.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::broker::{Embedded, EmbeddedOptions, Hook, Js, StreamConfig};
use millstream::checkpoint::{KvStore, Manifest, Store};
use millstream::connectors::{Connections, Settlements};
use millstream::engine::{Clock, Ended, RunMode, Workers};
use millstream::operators::{FaultKind, Timestamp};
use millstream::testkit::Flow;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::census::census;
use super::faults::{Faults, HELD_BACK};
use super::letters::judge_letters;
use super::meeting::Meet;
use super::monitor::{blame, blame_panics, violation};
use super::nemesis::nemesis;
use super::oracle::{Event, Outputs, START};
use super::owners::{Given, judge_owners};
use super::pipeline::{graph, stateless};
use super::reached::{Cell, Reached};
use super::scenario::{Ending, Scenario};
use super::steps::Origin;
use super::witness::Witness;
use crate::support::Dice;

/// A scenario that ended as it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// How many messages there were between the pipeline and the broker.
    pub messages: u64,
    /// A digest of them, in their order.
    pub trace: u64,
    /// How often something struck.
    pub struck: u64,
    /// At how many messages something could.
    pub troubled: u64,
    /// What happened.
    pub reached: Reached,
}

// Of virtual time: whoever needs longer is stuck. A strike may delay 32 messages by eight seconds each.
pub(super) const LONGEST: Duration = Duration::from_secs(600);
// So often it is looked whether an instance has ended.
const LOOK: Duration = Duration::from_millis(100);

/// Runs a scenario on a thread of its own time.
///
/// # Errors
/// What is wrong with the outputs, or how a run ended that should not have.
pub fn run(scenario: &Scenario) -> Result<Passed, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    blame_panics();
    // What is left of another scenario is none of this one's.
    _ = violation();
    let passed = runtime.block_on(async {
        let world = World::new(scenario).await;
        let passed = world.play(scenario).await;
        // What was wrong first tells more than what came of it.
        let witness = world.faults.dismiss();
        violation().and(witness.map_or(Ok(()), |witness| witness.verdict())).and(passed)
    });
    // What is left of twins goes with it.
    runtime.shutdown_background();
    passed
}

pub(super) struct World {
    broker: Embedded,
    pub(super) faults: Arc<Faults>,
    pub(super) js: Js,
    clock: Clock,
    /// What the runs are called.
    names: Mutex<BTreeMap<usize, String>>,
}

impl World {
    async fn new(scenario: &Scenario) -> Self {
        let faults = Arc::<Faults>::default();
        let broker = Embedded::with_hook(EmbeddedOptions::default(), Arc::clone(&faults) as Arc<dyn Hook>);
        let js = Js::new(broker.connect());
        js.create_stream(&StreamConfig::new("IN", ["in.>"])).await.unwrap();
        if scenario.beside.is_some() {
            js.create_stream(&StreamConfig::new("SIDE", ["side.>"])).await.unwrap();
        }
        tokio::spawn(nemesis(broker.clone(), Arc::clone(&faults)));
        faults.watch(&broker, |broker| Witness::of(scenario, broker));
        faults.hold_back(Dice::new(scenario.order));
        let clock = Clock::starting_at(Timestamp::from_millis(START.cast_signed()));
        World { broker, faults, js, clock, names: Mutex::default() }
    }

    async fn play(&self, scenario: &Scenario) -> Result<Passed, String> {
        let (events, probes) = scenario.parts();
        let (before, after) = events.split_at(scenario.fed_before.min(events.len()));
        self.feed(before).await;
        self.faults.arm(&scenario.strikes);
        let feeding = self.feed_slowly(after.to_vec());
        let beside = scenario.beside.clone().map(|beside| tokio::spawn(World::feed_beside(self.js.clone(), beside)));
        let mut twins = Vec::new();
        for (number, ending) in scenario.runs.iter().map(|(_, ending)| *ending).enumerate() {
            if let Some(twin) = self.run_until(scenario, number, ending).await? {
                twins.push((number, twin));
            }
            // A twin would go on writing while it is read.
            if twins.is_empty() && !scenario.stateless {
                let judged = census(&self.broker, scenario, None).await;
                judged.map_err(|wrong| format!("behind run {number} ({ending:?}): {wrong}"))?;
            }
        }
        feeding.await.map_err(|error| error.to_string())?;
        if let Some(beside) = beside {
            beside.await.map_err(|error| error.to_string())?;
        }
        self.faults.end();
        match &scenario.beside {
            Some(beside) if !scenario.is_contested() => self.calm(scenario, beside).await?,
            Some(beside) => {
                self.feed(probes).await;
                self.feed_side(beside.parts().1).await;
            }
            None => self.feed(probes).await,
        }
        if let Some(loss) = scenario.loss
            && self.lose(scenario, loss, events.len() as u64).await?
        {
            // There is nothing more to do.
        } else {
            self.last_run(scenario).await?;
            self.end_twins(scenario, twins).await?;
            self.judge(scenario)?;
            if !scenario.stateless {
                let late = self.outputs().late;
                census(&self.broker, scenario, Some(&late)).await?;
            }
        }
        let (messages, trace, struck) = self.faults.trace();
        let reached = self.faults.reached().and(scenario.reached()).and(self.outputs().reached());
        if struck == 0 && matches!(scenario.origin, Origin::Step(step) if step.kills()) {
            return Err("no server was killed".to_owned());
        }
        Ok(Passed { messages, trace, struck, troubled: self.faults.troubled(), reached })
    }

    /// A run and its end; what goes on beside the next.
    async fn run_until(&self, scenario: &Scenario, number: usize, ending: Ending) -> Result<Option<Flow>, String> {
        let client = number as u64 + 1;
        match ending {
            Ending::Crash(messages) => self.faults.crash_after(client, messages),
            Ending::CrashBehind(aim, messages) => self.faults.crash_behind(client, aim, messages),
            Ending::Drain(_) | Ending::Twin(_) | Ending::Frozen(..) => {}
        }
        let (flow, _) = self.start(scenario, number, false);
        let place = |what: String| format!("run {number} ({ending:?}): {what}");
        match ending {
            Ending::Crash(_) | Ending::CrashBehind(..) => {
                // It may have nothing more to do before it comes so far.
                let crashed = timeout(Duration::from_secs(2), self.faults.crashed.notified()).await;
                self.faults.is_gone(client);
                self.note_restarts(&flow, scenario);
                match crashed.is_err() && flow.is_over() {
                    true => match flow.finish().await {
                        Err(fault) if fault.kind() == FaultKind::Fenced && scenario.is_contested() => {}
                        other => return Err(place(format!("it ended by itself: {other:?}"))),
                    },
                    false => drop(flow.crash().await),
                }
                // What was on its way arrives before another begins.
                if self.faults.let_pass(client) {
                    self.broker.release(HELD_BACK + client);
                }
            }
            Ending::Drain(after) => {
                sleep(Duration::from_millis(after)).await;
                self.note_restarts(&flow, scenario);
                let drained = timeout(LONGEST, flow.drain()).await;
                match drained.map_err(|_| place("it does not drain".into()))? {
                    Err(fault) if fault.kind() == FaultKind::Fenced && scenario.is_contested() => {}
                    Err(fault) => return Err(place(fault.chain())),
                    Ok(ended) => self.faults.note(ended == Ended::Drained, Cell::Drained),
                }
            }
            Ending::Twin(after) => {
                sleep(Duration::from_millis(after)).await;
                return Ok(Some(flow));
            }
            Ending::Frozen(after, during) => {
                sleep(Duration::from_millis(after)).await;
                self.faults.freeze(client, Duration::from_millis(during));
                return Ok(Some(flow));
            }
        }
        self.faults.look();
        Ok(None)
    }

    /// Runs until everything that was fed is done; again if a twin takes over. One that is starting itself, held up by what went
    /// wrong, may do so twice: it claims the checkpoint of one, and begins from that of the next.
    async fn last_run(&self, scenario: &Scenario) -> Result<(), String> {
        for again in 0..2 * scenario.runs.len() + 1 {
            let last = timeout(LONGEST, self.start(scenario, scenario.runs.len() + again, true).0.finish()).await;
            match last.map_err(|_| "the last run does not end".to_owned())? {
                Ok(Ended::Finished) => return Ok(()),
                Err(fault) if fault.kind() == FaultKind::Fenced && scenario.is_contested() => {
                    self.faults.note(true, Cell::FencedLast);
                }
                Ok(other) => return Err(format!("the last run ended as {other:?}")),
                Err(fault) => return Err(format!("the last run: {}", fault.chain())),
            }
        }
        Err("the last run is taken over again and again".to_owned())
    }

    /// An instance that was taken over ends, and says that it was fenced; or it had to start again after a fault, and has taken
    /// over in its turn (P17).
    async fn end_twins(&self, scenario: &Scenario, twins: Vec<(usize, Flow)>) -> Result<(), String> {
        let frozen = |number| matches!(scenario.runs.get(number), Some((_, Ending::Frozen(..))));
        for (number, twin) in twins {
            let began = Instant::now();
            while !(twin.is_over() || scenario.is_troubled() && self.owns(number)) {
                if began.elapsed() > LONGEST {
                    return Err(format!("P17: instance {number}, which was taken over, goes on"));
                }
                sleep(LOOK).await;
            }
            self.note_restarts(&twin, scenario);
            if !twin.is_over() {
                self.faults.note(true, Cell::TwinAtEnd);
                twin.crash().await;
                continue;
            }
            match twin.finish().await {
                Err(fault) if fault.kind() == FaultKind::Fenced => {
                    self.faults.note(true, if frozen(number) { Cell::FencedSleeper } else { Cell::FencedTwin });
                }
                other => return Err(format!("P17: instance {number}, which was taken over, ended as {other:?}")),
            }
        }
        Ok(())
    }

    /// Whether the newest checkpoint is that of this instance.
    fn owns(&self, number: usize) -> bool {
        let newest = self.broker.last_message("KV_mill_sim", "$KV.mill_sim.ckpt");
        let name = self.names.lock().unwrap().get(&number).cloned();
        newest.is_some_and(|(_, bytes)| {
            let manifest = Manifest::decode(&bytes, "sim", "the store").ok();
            manifest.is_some_and(|manifest| Some(manifest.run) == name)
        })
    }

    fn note_restarts(&self, flow: &Flow, scenario: &Scenario) {
        let restarts = flow.metrics().restarts();
        self.faults.note(restarts > 0, Cell::StartedAgain);
        if restarts > 0 && !scenario.is_troubled() && !scenario.is_contested() {
            blame(format!("P22: nothing was wrong, and a run began {restarts} times again"));
        }
    }

    fn judge(&self, scenario: &Scenario) -> Result<(), String> {
        let (events, side) = (&scenario.events, scenario.side());
        let mut there = self.outputs();
        let wanted = if scenario.stateless { Outputs::rows_of(events) } else { Outputs::of(events, side, &there.late) };
        if !scenario.stateless {
            there.judge_late(events, side, scenario.allowed)?;
            there.judge_old(events, side)?;
        }
        let once = scenario.stores_once();
        if !scenario.stateless {
            // As they were given: of what is settled, only the last results are left, in an order of their own.
            there.judge_keys(events, side, scenario.keyed)?;
        }
        if once && !scenario.stateless {
            there.settle(events, scenario.allowed)?;
        }
        let wanted = if once {
            wanted
        } else {
            there = there.without_old(events, side);
            wanted.without_old(events, side)
        };
        wanted.judge(&there, once)?;
        judge_letters(&self.broker, events)?;
        if !scenario.stateless {
            judge_owners(&there.given, scenario.once)?;
        }
        if scenario.is_ordered() {
            wanted.judge_order(&there)?;
        }
        Ok(())
    }

    /// The pipeline in a process of its own.
    pub(super) fn start(&self, scenario: &Scenario, number: usize, until_end: bool) -> (Flow, Option<Arc<Meet>>) {
        let subtasks = scenario.runs.get(number).map_or(scenario.last, |(subtasks, _)| *subtasks);
        let is_odd = number % 2 == 1 && number < scenario.runs.len();
        let broker = self.broker.as_client(number as u64 + 1);
        let connections = Arc::new(Connections::to_embedded(broker));
        let store: Arc<dyn Store> = Arc::new(KvStore::new(Arc::clone(&connections), 1));
        let mode = if until_end { RunMode::until_end() } else { RunMode::default() };
        let (clock, name) = (self.clock, self.js.connection().new_inbox());
        self.names.lock().unwrap().insert(number, name.clone());
        let adapt = |mut environment: millstream::engine::Environment| {
            environment.run = Some(name.into());
            environment.workers = Workers::simulated(scenario.order.wrapping_add(number as u64)).unwrap();
            environment.on_clock(clock).with_shared(connections).with(mode).with(Settlements::default())
        };
        let (graph, meet) = match scenario.stateless {
            true => (stateless(scenario, subtasks, scenario.mixed && is_odd), None),
            false => graph(scenario, number, subtasks),
        };
        if self.faults.kept().is_some() && number > 0 {
            let before = scenario.runs.get(number - 1).map_or(scenario.last, |(subtasks, _)| *subtasks);
            self.faults.note(true, Cell::WentOn);
            self.faults.note(subtasks > before, Cell::ScaledUp);
            self.faults.note(subtasks < before, Cell::ScaledDown);
        }
        (Flow::start_with(graph, store, adapt).unwrap(), meet)
    }

    pub(super) async fn feed_side(&self, events: &[Event]) {
        for event in events {
            self.js.connection().publish(event.message_to("side.event")).await.unwrap();
        }
    }

    pub(super) async fn feed(&self, events: &[Event]) {
        for event in events {
            self.js.connection().publish(event.message()).await.unwrap();
        }
    }

    fn feed_slowly(&self, events: Vec<Event>) -> JoinHandle<()> {
        let connection = self.js.connection().clone();
        tokio::spawn(async move {
            for event in events {
                sleep(Duration::from_millis(1 + event.value % 9)).await;
                connection.publish(event.message()).await.unwrap();
            }
        })
    }

    /// What stands in the output streams, but for markers.
    pub(super) fn outputs(&self) -> Outputs {
        let mut outputs = Outputs::default();
        let value = |text: &String| serde_json::from_str::<Value>(text).unwrap();
        outputs.plain = self.texts("OUT").iter().map(value).collect();
        outputs.windows = self.texts("WINDOWS").iter().map(value).collect();
        outputs.met = self.texts("MET").iter().map(value).collect();
        let id = |text: &String| value(text).get("id").and_then(Value::as_u64).unwrap_or(u64::MAX);
        outputs.late = self.texts("LATE").iter().map(id).collect();
        outputs.rows = self.texts("ROWS");
        outputs.dead = self.texts("DEAD");
        for text in self.texts("TOTALS") {
            let mut total = value(&text);
            outputs.given.extend(Given::take_from(&mut total));
            let key = total.get("key").and_then(Value::as_u64).unwrap_or(u64::MAX);
            outputs.totals.entry(key).or_default().push(total);
        }
        outputs
    }

    fn texts(&self, stream: &str) -> Vec<String> {
        let data =
            self.broker.messages(stream, 1).into_iter().filter(|(_, subject, _)| !subject.starts_with("mill.txn."));
        data.map(|(_, _, payload)| String::from_utf8_lossy(&payload).into_owned()).collect()
    }
}
