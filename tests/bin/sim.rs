//! Simulations from the command line: `sim run --seeds 20000`, `sim steps`, `sim replay 1234`.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a program for tests, and measures how long it takes"
)]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use millstream::operators::bugs::Bug;
use millstream_tests::sim::{Deed, Promise, Scenario, Step, hunt, run, shrink};

const USAGE: &str =
    "sim run [--seeds N] [--from SEED] [--threads N]: so many seeds, from this one on, on so many threads
sim steps [--threads N]: a small scenario that crashes at every message, and again at some later one, or whose server does
sim replay SEED: one seed, which is shrunk if it fails
sim replay-step (once | least | stateless) MESSAGE (crash [MESSAGE] | kill): one of the steps, likewise
sim bugs [NAME]: planted bugs, and the first seed that catches each
sim log SEED: one seed, with all that the pipeline logs";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let option = |name: &str, otherwise: u64| {
        let place = words.iter().position(|word| *word == name);
        place.and_then(|place| words.get(place + 1)?.parse().ok()).unwrap_or(otherwise)
    };
    match words.as_slice() {
        ["run", ..] => {
            let (from, seeds) = (option("--from", 0), option("--seeds", 1_000));
            all(&(from..from + seeds).map(Scenario::of).collect::<Vec<_>>(), option("--threads", threads))
        }
        ["steps", ..] => match steps() {
            Ok(scenarios) => all(&scenarios, option("--threads", threads)),
            Err((scenario, failure)) => failed(&scenario, failure),
        },
        ["replay-step", step @ ..] => match Step::of_words(step) {
            Some(step) => replay(&step.scenario()),
            None => usage(),
        },
        ["replay", seed] => match seed.parse() {
            Ok(seed) => replay(&Scenario::of(seed)),
            Err(_) => usage(),
        },
        ["bugs", ..] => bugs(words.get(1).copied()),
        ["log", seed] => match seed.parse() {
            Ok(seed) => log(&Scenario::of(seed)),
            Err(_) => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    println!("{USAGE}");
    ExitCode::from(2)
}

/// A crash at every message of the small scenario, alone and with a second one, and a kill of the server there; or how the
/// scenario fails where nothing happens.
fn steps() -> Result<Vec<Scenario>, (Scenario, String)> {
    let mut scenarios = Vec::new();
    for promise in Promise::ALL {
        let whole = Step::none(promise).scenario();
        let messages = run(&whole).map_err(|failure| (whole, failure))?.messages;
        for at in 1..=messages {
            let again = 1 + at * 7 % messages;
            let deeds = [Deed::Crash, Deed::CrashTwice(again), Deed::Kill];
            scenarios.extend(deeds.map(|deed| Step { promise, at, deed }.scenario()));
        }
    }
    Ok(scenarios)
}

fn bugs(only: Option<&str>) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for bug in Bug::ALL.into_iter().filter(|bug| only.is_none_or(|only| format!("{bug:?}") == only)) {
        match hunt(bug, 20_000) {
            Some(caught) => println!("{bug:?}: caught by seed {}: {}", caught.seed, caught.failure),
            None => {
                println!("{bug:?}: not caught");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn log(scenario: &Scenario) -> ExitCode {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
        .without_time()
        .with_ansi(false)
        .init();
    println!("{scenario:?}");
    println!("{:?}", run(scenario));
    ExitCode::SUCCESS
}

fn replay(scenario: &Scenario) -> ExitCode {
    let origin = scenario.origin;
    match (run(scenario), run(scenario)) {
        (Ok(first), Ok(second)) if first != second => {
            println!("{origin}: it is not the same twice: {first:?} and {second:?}");
            ExitCode::FAILURE
        }
        (Ok(passed), _) => {
            println!("{origin}: it passes: {passed:?}");
            ExitCode::SUCCESS
        }
        (Err(failure), _) => failed(scenario, failure),
    }
}

fn failed(scenario: &Scenario, failure: String) -> ExitCode {
    let origin = scenario.origin;
    println!("{origin}: {failure}");
    let (smallest, failure) = shrink(scenario, failure);
    println!("the smallest that was found: {smallest:#?}\nfails: {failure}");
    println!("again: target/debug/sim {origin}");
    ExitCode::FAILURE
}

/// Runs all, on several threads, until one fails.
fn all(scenarios: &[Scenario], threads: u64) -> ExitCode {
    let (next, messages, failure) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(None));
    let (struck, digest) = (AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let scenario = usize::try_from(place).ok().and_then(|place| scenarios.get(place));
                    let Some(scenario) = scenario.filter(|_| failure.lock().unwrap().is_none()) else { return };
                    match run(scenario) {
                        Ok(passed) => {
                            messages.fetch_add(passed.messages, Ordering::Relaxed);
                            struck.fetch_add(passed.struck, Ordering::Relaxed);
                            digest.fetch_xor(passed.trace, Ordering::Relaxed);
                        }
                        Err(words) => *failure.lock().unwrap() = Some((scenario.clone(), words)),
                    }
                }
            });
        }
    });
    let took = began.elapsed();
    match failure.into_inner().unwrap() {
        Some((scenario, words)) => failed(&scenario, words),
        None => {
            let (count, messages, struck) = (scenarios.len(), messages.into_inner(), struck.into_inner());
            println!(
                "{count} scenarios pass, {messages} messages, {struck} strikes, digest {:016x}, in {:.1} s on {threads} threads",
                digest.into_inner(),
                took.as_secs_f64()
            );
            ExitCode::SUCCESS
        }
    }
}
