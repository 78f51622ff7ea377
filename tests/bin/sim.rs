//! Simulations from the command line: `sim run --seeds 20000`, `sim steps`, `sim replay 1234`.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a program for tests, and measures how long it takes"
)]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use millstream::operators::bugs::Bug;
use millstream_tests::sim::{Deed, Origin, Passed, Promise, Scenario, Step, Table, hunt, run, shrink};

const USAGE: &str =
    "sim run [--seeds N] [--from SEED] [--threads N] [--within SECONDS]: so many seeds, from this one on, on so many threads;
    it fails if it takes longer, or if many seeds together leave out something that can happen
sim steps [--threads N]: a small scenario that crashes at every message, and again at some later one, or whose server does
sim replay SEED: one seed, which is shrunk if it fails
sim replay-step (once | least | stateless) MESSAGE (crash [MESSAGE] | kill): one of the steps, likewise
sim bugs [NAME]: planted bugs, and the first seed that catches each
sim log SEED: one seed, with all that the pipeline logs";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    match words.as_slice() {
        ["run", options @ ..] => match numbers(options, ["--seeds", "--from", "--threads", "--within"]) {
            Some([seeds, from, own_threads, within]) => {
                let (from, seeds) = (from.unwrap_or(0), seeds.unwrap_or(1_000));
                let scenarios: Vec<_> = (from..from + seeds).map(Scenario::of).collect();
                all(&scenarios, own_threads.unwrap_or(threads), within.map(Duration::from_secs))
            }
            None => usage(),
        },
        ["steps", options @ ..] => match (numbers(options, ["--threads"]), steps()) {
            (Some([own_threads]), Ok(scenarios)) => all(&scenarios, own_threads.unwrap_or(threads), None),
            (Some(_), Err(wrong)) => failed(&wrong.0, wrong.1.clone()),
            (None, _) => usage(),
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

/// The numbers behind these options; nothing if something else is there.
fn numbers<const N: usize>(words: &[&str], names: [&str; N]) -> Option<[Option<u64>; N]> {
    let mut numbers = [None; N];
    for option in words.chunks(2) {
        let [name, number] = option else { return None };
        let place = names.iter().position(|known| known == name)?;
        *numbers.get_mut(place)? = Some(number.parse().ok()?);
    }
    Some(numbers)
}

fn usage() -> ExitCode {
    println!("{USAGE}");
    ExitCode::from(2)
}

/// A crash at every message of the small scenario, alone and with a second one, and a kill of the server there; or how the
/// scenario fails where nothing happens.
fn steps() -> Result<Vec<Scenario>, Box<(Scenario, String)>> {
    let mut scenarios = Vec::new();
    for promise in Promise::ALL {
        let whole = Step::without(Deed::Crash, promise).scenario();
        let messages = run(&whole).map_err(|failure| Box::new((whole, failure)))?.messages;
        for at in 1..=messages {
            let again = 1 + at * 7 % messages;
            let deeds = [Deed::Crash, Deed::CrashTwice(again)];
            scenarios.extend(deeds.map(|deed| Step { promise, at, deed }.scenario()));
        }
        let whole = Step::without(Deed::Kill, promise).scenario();
        let messages = run(&whole).map_err(|failure| Box::new((whole, failure)))?.troubled;
        scenarios.extend((1..=messages).map(|at| Step { promise, at, deed: Deed::Kill }.scenario()));
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

/// Runs all, on several threads, until one fails or the time is over; one of a hundred twice, which must be alike.
fn all(scenarios: &[Scenario], threads: u64, within: Option<Duration>) -> ExitCode {
    let (next, done, failure) = (AtomicUsize::new(0), Mutex::new(Done::default()), Mutex::new(None));
    let began = Instant::now();
    let is_late = || within.is_some_and(|within| began.elapsed() > within);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let ends = is_late() || failure.lock().unwrap().is_some();
                    let Some(scenario) = scenarios.get(place).filter(|_| !ends) else { return };
                    match run(scenario) {
                        Ok(passed) if place.is_multiple_of(100) && run(scenario).as_ref() != Ok(&passed) => {
                            *failure.lock().unwrap() = Some((scenario, "P24: it is not the same twice".to_owned()));
                        }
                        Ok(passed) => done.lock().unwrap().count(passed),
                        Err(words) => *failure.lock().unwrap() = Some((scenario, words)),
                    }
                }
            });
        }
    });
    let (took, late) = (began.elapsed().as_secs_f64(), is_late());
    if let Some((scenario, words)) = failure.into_inner().unwrap() {
        return failed(scenario, words);
    }
    let Done { passed, messages, struck, digest, table } = done.into_inner().unwrap();
    let count = scenarios.len();
    print!("{table}");
    println!(
        "{passed} scenarios pass, {messages} messages, {struck} strikes, digest {digest:016x}, in {took:.1} s on {threads} threads"
    );
    if passed < count || late {
        let within = within.unwrap_or_default().as_secs();
        println!("it takes too long: {passed} of {count} scenarios in {took:.1} s, which should be {within} s at most");
        return ExitCode::FAILURE;
    }
    let seeds = scenarios.iter().filter(|scenario| matches!(scenario.origin, Origin::Seed(_))).count();
    let missing = if seeds < MANY { Vec::new() } else { table.missing() };
    for cell in &missing {
        println!("of {count} scenarios it happens in none that {cell}");
    }
    if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What came of all together.
#[derive(Default)]
struct Done {
    passed: usize,
    messages: u64,
    struck: u64,
    digest: u64,
    table: Table,
}

impl Done {
    fn count(&mut self, passed: Passed) {
        self.passed += 1;
        self.messages += passed.messages;
        self.struck += passed.struck;
        self.digest ^= passed.trace;
        self.table.count(passed.reached);
    }
}

// Of so many seeds everything happens in some.
const MANY: usize = 2_000;
