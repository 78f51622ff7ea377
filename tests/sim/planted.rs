//! [`hunt`]: planted bugs must be caught.

use millstream::operators::bugs::{Bug, plant};

use super::scenario::Scenario;
use super::world::run;

/// How a planted bug was caught.
#[derive(Clone, Debug)]
pub struct Caught {
    /// The seed of the scenario that failed.
    pub seed: u64,
    /// How it failed.
    pub failure: String,
}

/// How a seed catches a bug, if it does: without the bug it passes.
pub fn catches(bug: Bug, seed: u64) -> Option<Caught> {
    plant(Some(bug));
    let failure = run(&Scenario::of(seed)).err();
    plant(None);
    let failure = failure.filter(|_| run(&Scenario::of(seed)).is_ok())?;
    Some(Caught { seed, failure })
}

/// Runs seeds from 0 on with a bug until one fails; nothing if none of so many does.
pub fn hunt(bug: Bug, seeds: u64) -> Option<Caught> {
    (0..seeds).find_map(|seed| catches(bug, seed))
}
