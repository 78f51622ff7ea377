//! [`Step`]: a small scenario in which something happens at one message, of which all are tried; and [`Origin`], how any
//! scenario is had again.

use std::fmt;

use super::oracle::Event;
use super::scenario::{Ending, Scenario, Strike, What};
use crate::support::Dice;

/// Where a scenario comes from. As text it is the command of `sim` that plays it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was drawn from a seed.
    Seed(u64),
    /// It is the small one.
    Step(Step),
}

/// What happens in the small scenario, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What its pipeline promises.
    pub promise: Promise,
    /// At which message.
    pub at: u64,
    /// What happens there.
    pub deed: Deed,
}

/// What the pipeline of the small scenario promises of outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Each is there once.
    Once,
    /// Each is there.
    Least,
    /// Each is there once, and no state is kept.
    Stateless,
}

/// What happens at a message of the small scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// The first run crashes.
    Crash,
    /// The first run crashes, and the second at this message of its own.
    CrashTwice(u64),
    /// The server is killed.
    Kill,
}

impl Promise {
    /// All of them.
    pub const ALL: [Promise; 3] = [Promise::Once, Promise::Least, Promise::Stateless];
}

impl Step {
    /// The small scenario to its end, in which this does not happen.
    pub fn without(deed: Deed, promise: Promise) -> Self {
        Step { promise, at: u64::MAX, deed }
    }

    /// Whether it has a server killed, which a scenario that passes has to have seen.
    pub(super) fn kills(self) -> bool {
        self.deed == Deed::Kill && self.at < u64::MAX
    }

    /// The step of these words, which are those of its text.
    pub fn of_words(words: &[&str]) -> Option<Self> {
        let (promise, at, deed) = match words {
            [promise, at, "crash"] => (promise, at, Deed::Crash),
            [promise, at, "crash", again] => (promise, at, Deed::CrashTwice(again.parse().ok()?)),
            [promise, at, "kill"] => (promise, at, Deed::Kill),
            _ => return None,
        };
        let promise = Promise::ALL.into_iter().find(|known| known.to_string() == *promise)?;
        Some(Step { promise, at: at.parse().ok()?, deed })
    }

    /// The scenario.
    pub fn scenario(self) -> Scenario {
        let Step { promise, at, deed } = self;
        let mut dice = Dice::new(7);
        let mut events = Event::some(&mut dice);
        events.truncate(40);
        let (once, stateless) = (promise != Promise::Least, promise == Promise::Stateless);
        let (mut runs, mut strikes) = (Vec::new(), Vec::new());
        match deed {
            Deed::Crash => runs.push((2, Ending::Crash(at))),
            Deed::CrashTwice(again) => runs.extend([(2, Ending::Crash(at)), (1, Ending::Crash(again))]),
            Deed::Kill => {
                let (keeps, forgets_acks) = (at.is_multiple_of(2), at.is_multiple_of(3));
                strikes.push(Strike { at, what: What::Kill { millis: 200, keeps, forgets_acks } });
                // What is to be struck has to be there, and long enough to go on behind it.
                runs.push((2, Ending::Drain(3_000)));
            }
        }
        Scenario {
            origin: Origin::Step(self),
            once,
            stateless,
            mixed: stateless && deed != Deed::Kill && at.is_multiple_of(3),
            interval: 20,
            bounds: (1_024, 8_192, 8 << 20),
            order: 7,
            fed_before: events.len() / 2,
            events,
            probes: 0,
            runs,
            keyed: true,
            allowed: 0,
            beside: None,
            loss: None,
            last: 2,
            strikes,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Seed(seed) => write!(f, "replay {seed}"),
            Origin::Step(step) => write!(f, "replay-step {step}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.promise, self.at)?;
        match self.deed {
            Deed::Crash => f.write_str("crash"),
            Deed::CrashTwice(again) => write!(f, "crash {again}"),
            Deed::Kill => f.write_str("kill"),
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Promise::Once => "once",
            Promise::Least => "least",
            Promise::Stateless => "stateless",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_step_is_what_it_is_had_again_by() {
        for promise in Promise::ALL {
            for deed in [Deed::Crash, Deed::CrashTwice(3), Deed::Kill] {
                let step = Step { promise, at: 17, deed };
                let text = step.to_string();
                let words: Vec<&str> = text.split(' ').collect();
                assert_eq!(Step::of_words(&words), Some(step), "{text}");
                assert_eq!(step.scenario().origin.to_string(), format!("replay-step {text}"));
            }
        }
        assert_eq!(Step::of_words(&["once", "17", "fall"]), None);
    }
}
