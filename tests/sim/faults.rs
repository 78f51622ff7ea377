//! [`Faults`]: what becomes of messages between the pipeline and the broker.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::time::Duration;

use millstream::broker::{Fate, Hook, Incoming, Outgoing};
use tokio::sync::Notify;

use super::scenario::{Strike, What};

/// Counts all messages, and strikes where the scenario says so.
#[derive(Default)]
pub(super) struct Faults {
    state: Mutex<State>,
    pub(super) crashed: Notify,
    pub(super) cut: Notify,
}

#[derive(Default)]
struct State {
    passed: u64,
    strikes: Vec<Strike>,
    losing_publishes: u64,
    losing_deliveries: u64,
    delaying: (u64, u64),
    crash_at: Option<u64>,
    dead: bool,
    trace: DefaultHasher,
}

impl Faults {
    /// From now on it strikes.
    pub(super) fn arm(&self, strikes: &[Strike]) {
        let mut state = self.state.lock().unwrap();
        let passed = state.passed;
        state.strikes = strikes.iter().map(|strike| Strike { at: strike.at + passed, ..*strike }).collect();
        // The next is the last.
        state.strikes.sort_by_key(|strike| std::cmp::Reverse(strike.at));
    }

    /// The process that begins now crashes when so many messages have passed.
    pub(super) fn crash_after(&self, messages: Option<u64>) {
        let mut state = self.state.lock().unwrap();
        state.dead = false;
        state.crash_at = messages.map(|messages| state.passed.saturating_add(messages));
    }

    /// Nothing goes wrong any more.
    pub(super) fn end(&self) {
        let mut state = self.state.lock().unwrap();
        state.strikes.clear();
        (state.dead, state.crash_at, state.losing_publishes, state.losing_deliveries) = (false, None, 0, 0);
        state.delaying = (0, 0);
    }

    /// How many messages there were, and a digest of them all in their order.
    pub(super) fn trace(&self) -> (u64, u64) {
        let state = self.state.lock().unwrap();
        (state.passed, state.trace.finish())
    }

    fn fate(&self, comes_from_client: bool, subject: &str, payload: &[u8]) -> Fate {
        let mut state = self.state.lock().unwrap();
        state.passed += 1;
        (comes_from_client, subject, payload).hash(&mut state.trace);
        if state.dead {
            return Fate::Lose;
        }
        if state.crash_at.is_some_and(|at| state.passed >= at) {
            state.dead = true;
            self.crashed.notify_one();
            return Fate::Lose;
        }
        let passed = state.passed;
        while let Some(strike) = state.strikes.pop_if(|strike| strike.at <= passed) {
            match strike.what {
                What::LosePublishes(count) => state.losing_publishes += count,
                What::LoseDeliveries(count) => state.losing_deliveries += count,
                What::Delay(count, millis) => state.delaying = (count, millis),
                What::Cut => self.cut.notify_one(),
            }
        }
        let losing = if comes_from_client { &mut state.losing_publishes } else { &mut state.losing_deliveries };
        match losing.checked_sub(1) {
            Some(left) => {
                *losing = left;
                Fate::Lose
            }
            None if comes_from_client && state.delaying.0 > 0 => {
                state.delaying.0 -= 1;
                Fate::Delay(Duration::from_millis(state.delaying.1))
            }
            None => Fate::Pass,
        }
    }
}

impl Hook for Faults {
    fn on_publish(&self, message: &Outgoing) -> Fate {
        // What is fed is there.
        if message.subject.starts_with("in.") {
            return Fate::Pass;
        }
        self.fate(true, message.subject.as_str(), &message.payload)
    }

    fn on_deliver(&self, message: &Incoming) -> Fate {
        self.fate(false, message.subject.as_str(), &message.payload)
    }
}
