//! A short form of the simulations of `sim run` and `sim steps`: see `sim/`.
//!
//! `MILLSTREAM_SEEDS` makes it longer.

#![allow(clippy::panic, reason = "it is test code, though not all inside a test")]

use millstream::operators::bugs::Bug;
use millstream_tests::sim::{Deed, Promise, Scenario, Step, catches, corpus, hunt, run};

fn seeds() -> u64 {
    std::env::var("MILLSTREAM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(600)
}

fn pass(scenarios: impl Iterator<Item = Scenario>) {
    for scenario in scenarios {
        if let Err(failure) = run(&scenario) {
            let origin = scenario.origin;
            panic!("{origin}: {failure}\n{scenario:?}\n`target/debug/sim {origin}` makes it smaller");
        }
    }
}

#[test]
fn whatever_goes_wrong_outputs_are_what_an_independent_computation_gives() {
    pass((0..seeds()).map(Scenario::of));
}

#[test]
fn the_same_seed_gives_the_same_messages_in_the_same_order() {
    for seed in (0..40).chain(corpus().iter().map(|known| known.seed)) {
        let scenario = Scenario::of(seed);
        assert_eq!(run(&scenario), run(&scenario), "seed {seed}");
    }
}

#[test]
fn a_crash_of_process_or_server_at_any_message_of_a_small_scenario_changes_nothing() {
    for promise in Promise::ALL {
        for deed in [Deed::Crash, Deed::Kill] {
            let Ok(whole) = run(&Step::without(deed, promise).scenario()) else {
                panic!("{deed:?} where nothing happens")
            };
            let messages = if deed == Deed::Kill { whole.troubled } else { whole.messages };
            assert!(messages > 100, "{messages}");
            pass((1..=messages).step_by(7).map(|at| Step { promise, at, deed }.scenario()));
        }
    }
}

#[test]
fn seeds_that_have_caught_something_pass() {
    pass(corpus().iter().map(|known| Scenario::of(known.seed)));
}

#[test]
fn every_planted_bug_is_caught() {
    let known = corpus();
    let is_caught = |bug: &Bug| {
        let mut own = known.iter().filter(|known| known.bug == Some(*bug));
        // A seed may mean something else than when it was found.
        own.any(|known| catches(*bug, known.seed).is_some()) || hunt(*bug, 1_500).is_some()
    };
    let missed: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| !is_caught(bug)).collect();
    assert!(missed.is_empty(), "{missed:?}");
}
