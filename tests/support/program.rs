//! What the programs have in common that stories run: orders, what becomes of them, and how a program begins and ends.

use std::process::ExitCode;

use millstream::RunError;
use millstream::engine::Ended;
use millstream::prelude::*;

#[derive(Clone, Serialize, Deserialize)]
pub struct Order {
    pub id: u64,
    pub region: String,
    pub cents: u64,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Priced {
    pub id: u64,
    pub region: String,
    pub cents: u64,
    pub tax: u64,
}

impl Order {
    pub fn is_paid(&self) -> bool {
        self.cents > 0
    }

    pub fn priced(self) -> Priced {
        let Order { id, region, cents } = self;
        Priced { id, region, cents, tax: cents * 19 / 100 }
    }
}

/// Ends a pipeline: orders of the EU go to one subject of the stream OUT, all others to another.
pub fn by_region(priced: Stream<Priced>) {
    let ([eu], rest) = priced.route("by_region", [("eu", when(|order: &Priced| order.region == "eu"))]);
    eu.sink("to_eu", jetstream_to("OUT").json().subject("out.eu").stop_on_rejected());
    rest.sink("to_rest", jetstream_to("OUT").json().subject("out.rest").stop_on_rejected());
}

/// Runs what `declare` makes of the pipeline's name and a number: the arguments are `<nats urls, with commas> <pipeline name>
/// [<number> [<replicas of its checkpoints>]]`; the servers' KV keeps its checkpoints.
pub async fn run(declare: impl Fn(&str, Option<u32>) -> Pipeline) -> ExitCode {
    let arguments = arguments();
    let [urls, name, numbers @ ..] = arguments.as_slice() else { return ExitCode::from(2) };
    let number = |place: usize| numbers.get(place).and_then(|text| text.parse::<u32>().ok());
    let mut options = ConnectOptions::default();
    options.urls = urls.split(',').map(str::to_owned).collect();
    let mut launch = Launch::default().nats(options);
    if let Some(replicas) = number(1) {
        launch = launch.replicas(replicas as usize);
    }
    last_word(launch.run(&declare(name, number(0))).await)
}

/// The arguments of a program that logs from now on.
pub fn arguments() -> Vec<String> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    std::env::args().skip(1).collect()
}

/// How a program ends whose pipeline has ended so.
pub fn last_word(ended: Result<Ended, RunError>) -> ExitCode {
    match ended {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
