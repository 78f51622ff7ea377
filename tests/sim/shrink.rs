//! [`shrink`]: a scenario that fails, made small.

use super::scenario::Scenario;
use super::world::run;

/// Leaves out what is not needed for the failure, as long as something can be; gives what is left and how it fails.
pub fn shrink(scenario: &Scenario, failure: String) -> (Scenario, String) {
    let (mut smallest, mut failure) = (scenario.clone(), failure);
    while let Some((smaller, fails)) =
        smaller(&smallest).into_iter().find_map(|other| run(&other).err().map(|fails| (other, fails)))
    {
        (smallest, failure) = (smaller, fails);
    }
    (smallest, failure)
}

/// Scenarios that are a step smaller, the largest steps first.
fn smaller(scenario: &Scenario) -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut change = |change: &dyn Fn(&mut Scenario)| {
        let mut other = scenario.clone();
        change(&mut other);
        all.push(other);
    };
    if scenario.beside.is_some() {
        change(&|other| other.beside = None);
    }
    for run in 0..scenario.runs.len() {
        change(&|other| _ = other.runs.remove(run));
    }
    for strike in 0..scenario.strikes.len() {
        change(&|other| _ = other.strikes.remove(strike));
    }
    for parts in [2, 4, 16] {
        let size = scenario.events.len() / parts;
        for part in 0..if size > 0 { parts } else { 0 } {
            change(&|other| {
                other.events.drain(part * size..(part + 1) * size);
                // Of all that is far ahead, the first row alone is believed.
                let near = other.events.iter().position(|event| !event.bad && !event.far);
                let mut place = 0;
                other.events.retain(|event| {
                    place += 1;
                    !event.far || near.is_some_and(|near| place > near + 1)
                });
                other.probes = other.probes.min(other.events.len());
                other.fed_before = other.fed_before.min(other.events.len() - other.probes);
            });
        }
    }
    if scenario.last > 1 {
        change(&|other| other.last = 1);
    }
    for run in 0..scenario.runs.len() {
        if scenario.runs.get(run).is_some_and(|run| run.0 > 1) {
            change(&|other| other.runs.iter_mut().skip(run).take(1).for_each(|run| run.0 = 1));
        }
    }
    all
}
