//! [`Beside`]: a second stream beside that of events, which falls silent for a while; where both meet, time goes on without it.

use std::sync::Arc;
use std::time::Duration;

use millstream::testkit::Flow;
use tokio::time::{Instant, sleep};

use super::meeting::Meet;
use super::oracle::{Event, LATE, LOST};
use super::reached::Cell;
use super::scenario::Scenario;
use super::world::World;
use crate::support::Dice;

// From this number on are its events, and below [`LOST`].
const FIRST: u64 = 500_000;
// What is idle holds nobody back for longer, however many messages are still delayed.
const SOON: Duration = Duration::from_secs(20);
// So often it is looked how far time has come.
const LOOK: Duration = Duration::from_millis(40);

/// What is fed to the second stream, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// What is fed, in order.
    pub events: Vec<Event>,
    /// Behind how many of them it is silent for a while.
    pub silent_behind: usize,
    /// How many of them, the last ones, come when nothing goes wrong any more.
    pub probes: usize,
    /// The silence after which it is idle, in milliseconds.
    pub idle_after: u64,
}

impl Beside {
    /// One for these events: it goes over the same time.
    pub(super) fn of(dice: &mut Dice, events: &[Event]) -> Self {
        let near = || events.iter().filter(|event| !event.bad && !event.far).map(|event| event.at);
        let (first, last) = (near().min().unwrap_or(0), near().max().unwrap_or(0));
        let (count, idle_after) = (1 + dice.below(30), 40 + dice.below(80));
        let event = |place: u64| {
            let at = (first + (last - first) * place / count).saturating_sub(dice.below(LATE));
            let (key, value) = (dice.below(12), dice.below(1_000));
            Event { id: FIRST + place, key, at, value, ..Event::default() }
        };
        let mut all: Vec<Event> = (0..count).map(event).collect();
        let probe = |key| Event { id: FIRST + count + key, key, at: last, value: 3, ..Event::default() };
        all.extend((0..3).map(probe));
        Beside { silent_behind: dice.below(count) as usize, events: all, probes: 3, idle_after }
    }

    /// Which of two streams an event of this number is from.
    pub(super) fn stream_of(id: u64) -> usize {
        usize::from((FIRST..LOST).contains(&id))
    }

    /// Those that come while things may go wrong, and those that come later.
    pub(super) fn parts(&self) -> (&[Event], &[Event]) {
        self.events.split_at(self.events.len().saturating_sub(self.probes))
    }
}

impl World {
    /// Feeds the second stream; it is silent for so long that it is idle, and comes again.
    pub(super) async fn feed_beside(js: millstream::broker::Js, beside: Beside) {
        let (events, _) = beside.parts();
        for (place, event) in events.iter().enumerate() {
            let silent = if place == beside.silent_behind { 3 * beside.idle_after } else { 0 };
            sleep(Duration::from_millis(1 + event.value % 9 + silent)).await;
            js.connection().publish(event.message_to("side.event")).await.unwrap();
        }
    }

    /// A run in which nothing goes wrong: while the second stream is silent time goes on without it, and again when it has
    /// come and is silent once more (P5: no input that is idle holds others back).
    pub(super) async fn calm(&self, scenario: &Scenario, beside: &Beside) -> Result<(), String> {
        let (events, probes) = scenario.parts();
        let (run, meet) = self.start(scenario, scenario.runs.len() + 20, false);
        let meet = meet.ok_or("there is one stream only")?;
        self.comes_to(&run, &meet, events).await?;
        let before = meet.idled.lock().unwrap()[1];
        self.feed(probes).await;
        self.feed_side(beside.parts().1).await;
        self.comes_to(&run, &meet, &scenario.events).await?;
        let again = meet.idled.lock().unwrap()[1] > before;
        self.faults.note(again, Cell::Back);
        run.drain().await.map(|_| ()).map_err(|fault| format!("the calm run: {}", fault.chain()))
    }

    /// Waits until time where both streams meet has come as far as in that of these events, which alone gives any.
    async fn comes_to(&self, run: &Flow, meet: &Arc<Meet>, events: &[Event]) -> Result<(), String> {
        let due = i64::try_from(Event::now(events).saturating_sub(LATE)).unwrap_or(i64::MAX);
        let began = Instant::now();
        while due > 0 && meet.now().as_micros() < due * 1_000 {
            if run.is_over() || began.elapsed() > SOON {
                let now = meet.now();
                return Err(format!(
                    "P5: time stands at {now} where streams meet, and should come to {due} as one is idle"
                ));
            }
            sleep(LOOK).await;
        }
        self.faults.note(meet.idled.lock().unwrap()[0] > 0, Cell::Idle);
        Ok(())
    }
}
