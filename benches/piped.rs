//! [`piped`]: the same work as a pipeline.

use millstream::pipelines::graph::Guarantee;
use millstream::prelude::*;
use tokio::time::sleep;

use crate::{Failed, OUT_SUBJECT};

/// Runs a pipeline from IN to OUT until it has written so many messages and has drained.
///
/// # Errors
/// It ends otherwise.
pub async fn piped(url: &str, messages: u64, run: usize, guarantee: Guarantee) -> Result<(), Failed> {
    let pipeline = Pipeline::new(format!("piped-{run}")).settings(|settings| settings.guarantee = guarantee);
    let to = jetstream_to("OUT").raw().subject(OUT_SUBJECT).stop_on_rejected();
    pipeline.source("in", jetstream("IN").raw().stop_on_rejected()).sink("out", to);
    let launch = Launch::default().nats(ConnectOptions::to(url));
    let (stopper, metrics) = (launch.stopper(), launch.metrics());
    let enough = async {
        let out = || metrics.nodes().into_iter().find(|node| node.node == "out").map_or(0, |node| node.rows_out);
        while out() < messages {
            sleep(Duration::from_millis(2)).await;
        }
        stopper.drain();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = launch.run(&pipeline) => Ok(ended.map(drop)?),
        () = enough => Ok(()),
    }
}
