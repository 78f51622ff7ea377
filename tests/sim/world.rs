//! [`run`]: a scenario from its beginning to its judgement.

use std::sync::Arc;
use std::time::Duration;

use millstream::broker::{Embedded, EmbeddedOptions, Hook, Js, Outgoing, StreamConfig};
use millstream::checkpoint::{KvStore, Store};
use millstream::connectors::{Connections, Settlements};
use millstream::engine::{Clock, Ended, RunMode};
use millstream::operators::{FaultKind, Timestamp};
use millstream::testkit::Flow;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::faults::Faults;
use super::monitor::violation;
use super::oracle::{Event, Outputs};
use super::pipeline::{graph, stateless};
use super::scenario::{Ending, Scenario};

/// A scenario that ended as it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// How many messages there were between the pipeline and the broker.
    pub messages: u64,
    /// A digest of them, in their order.
    pub trace: u64,
}

// Of virtual time: whoever needs longer is stuck. A strike may delay 32 messages by eight seconds each.
const LONGEST: Duration = Duration::from_secs(600);

/// Runs a scenario on a thread of its own time.
///
/// # Errors
/// What is wrong with the outputs, or how a run ended that should not have.
pub fn run(scenario: &Scenario) -> Result<Passed, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let passed = runtime.block_on(async { World::new().await.play(scenario).await });
    // What is left of twins goes with it.
    runtime.shutdown_background();
    passed
}

struct World {
    broker: Embedded,
    faults: Arc<Faults>,
    js: Js,
    clock: Clock,
}

impl World {
    async fn new() -> Self {
        let faults = Arc::<Faults>::default();
        let broker = Embedded::with_hook(EmbeddedOptions::default(), Arc::clone(&faults) as Arc<dyn Hook>);
        let js = Js::new(broker.connect());
        js.create_stream(&StreamConfig::new("IN", ["in.>"])).await.unwrap();
        let (cutter, cutting) = (broker.clone(), Arc::clone(&faults));
        tokio::spawn(async move {
            loop {
                cutting.cut.notified().await;
                cutter.cut_links();
            }
        });
        World { broker, faults, js, clock: Clock::starting_at(Timestamp::from_millis(1_767_225_600_000)) }
    }

    async fn play(&self, scenario: &Scenario) -> Result<Passed, String> {
        let (before, after) = scenario.events.split_at(scenario.fed_before.min(scenario.events.len()));
        self.feed(before).await;
        self.faults.arm(&scenario.strikes);
        let feeding = self.feed_slowly(after.to_vec());
        let mut twins = Vec::new();
        for (number, (subtasks, ending)) in scenario.runs.iter().enumerate() {
            let crash = match ending {
                Ending::Crash(at) => Some(*at),
                _ => None,
            };
            self.faults.crash_after(crash);
            let flow = self.start(scenario, *subtasks, number % 2 == 1, false);
            let place = |what: String| format!("run {number} ({ending:?}): {what}");
            match ending {
                Ending::Crash(_) => {
                    // It may have nothing more to do before it comes so far.
                    let _ = timeout(Duration::from_secs(2), self.faults.crashed.notified()).await;
                    flow.crash().await;
                    self.faults.crash_after(None);
                }
                Ending::Drain(after) => {
                    sleep(Duration::from_millis(*after)).await;
                    let drained = timeout(LONGEST, flow.drain()).await;
                    match drained.map_err(|_| place("it does not drain".into()))? {
                        Err(fault) if fault.kind() == FaultKind::Fenced && scenario.is_contested() => {}
                        Err(fault) => return Err(place(fault.chain())),
                        Ok(_) => {}
                    }
                }
                Ending::Twin(after) => {
                    sleep(Duration::from_millis(*after)).await;
                    twins.push(flow);
                }
            }
        }
        feeding.await.map_err(|error| error.to_string())?;
        self.faults.end();
        self.last_run(scenario).await?;
        for twin in twins {
            // One that had to start again after a fault may have taken over in its turn.
            if scenario.is_troubled() {
                twin.crash().await;
                continue;
            }
            let ended = timeout(LONGEST, twin.finish()).await;
            let ended = ended.map_err(|_| "an instance that was taken over goes on".to_owned())?;
            match ended {
                Err(fault) if fault.kind() == FaultKind::Fenced => {}
                other => return Err(format!("an instance that was taken over ended as {other:?}")),
            }
        }
        violation()?;
        let events = &scenario.events;
        let mut there = self.outputs().await;
        let wanted = if scenario.stateless { Outputs::rows_of(events) } else { Outputs::of(events, &there.late) };
        if !scenario.stateless {
            there.judge_late(events)?;
            there.judge_old(events)?;
        }
        let once = scenario.stores_once();
        let wanted = if once {
            wanted
        } else {
            there = there.without_old(events);
            wanted.without_old(events)
        };
        wanted.judge(&there, once)?;
        if scenario.is_ordered() {
            wanted.judge_order(&there)?;
        }
        let (messages, trace) = self.faults.trace();
        Ok(Passed { messages, trace })
    }

    /// Runs until everything that was fed is done; again if a twin takes over.
    async fn last_run(&self, scenario: &Scenario) -> Result<(), String> {
        for _ in 0..scenario.runs.len() + 1 {
            let last = timeout(LONGEST, self.start(scenario, scenario.last, false, true).finish()).await;
            match last.map_err(|_| "the last run does not end".to_owned())? {
                Ok(Ended::Finished) => return Ok(()),
                Err(fault) if fault.kind() == FaultKind::Fenced && scenario.is_contested() => {}
                Ok(other) => return Err(format!("the last run ended as {other:?}")),
                Err(fault) => return Err(format!("the last run: {}", fault.chain())),
            }
        }
        Err("the last run is taken over again and again".to_owned())
    }

    /// The pipeline in a process of its own.
    fn start(&self, scenario: &Scenario, subtasks: u32, is_odd: bool, until_end: bool) -> Flow {
        let connections = Arc::new(Connections::to_embedded(self.broker.clone()));
        let store: Arc<dyn Store> = Arc::new(KvStore::new(Arc::clone(&connections), 1));
        let mode = if until_end { RunMode::until_end() } else { RunMode::default() };
        let (clock, name) = (self.clock, self.js.connection().new_inbox());
        let adapt = |mut environment: millstream::engine::Environment| {
            environment.run = Some(name.into());
            environment.on_clock(clock).with_shared(connections).with(mode).with(Settlements::default())
        };
        let graph = match scenario.stateless {
            true => stateless(scenario.interval, subtasks, scenario.mixed && is_odd),
            false => graph(scenario.once, scenario.interval, subtasks),
        };
        Flow::start_with(graph, store, adapt).unwrap()
    }

    async fn feed(&self, events: &[Event]) {
        for event in events {
            let message = Outgoing::new("in.event", event.payload());
            self.js.connection().publish(message).await.unwrap();
        }
    }

    fn feed_slowly(&self, events: Vec<Event>) -> JoinHandle<()> {
        let connection = self.js.connection().clone();
        tokio::spawn(async move {
            for event in events {
                sleep(Duration::from_millis(1 + event.value % 9)).await;
                connection.publish(Outgoing::new("in.event", event.payload())).await.unwrap();
            }
        })
    }

    /// What stands in the output streams, but for markers.
    async fn outputs(&self) -> Outputs {
        let mut outputs = Outputs::default();
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        outputs.plain = self.texts("OUT", "out.>").await.iter().map(|text| value(text)).collect();
        outputs.windows = self.texts("WINDOWS", "windows.>").await.iter().map(|text| value(text)).collect();
        outputs.met = self.texts("MET", "met.>").await.iter().map(|text| value(text)).collect();
        let id = |text: &String| value(text).get("id").and_then(Value::as_u64).unwrap_or(u64::MAX);
        outputs.late = self.texts("LATE", "late.>").await.iter().map(id).collect();
        outputs.rows = self.texts("ROWS", "rows.>").await;
        outputs.dead = self.texts("DEAD", "mill.dlq.>").await;
        for text in self.texts("TOTALS", "totals.>").await {
            let total = value(&text);
            let key = total.get("key").and_then(Value::as_u64).unwrap_or(u64::MAX);
            outputs.totals.entry(key).or_default().push(total);
        }
        outputs
    }

    async fn texts(&self, stream: &str, subjects: &str) -> Vec<String> {
        let (mut all, mut next) = (Vec::new(), 1);
        if self.js.find_stream(stream).await.unwrap().is_none() {
            return all;
        }
        while let Some(message) = self.js.next_message(stream, next, subjects).await.unwrap() {
            all.push(String::from_utf8_lossy(&message.payload).into_owned());
            next = message.seq + 1;
        }
        all
    }
}
