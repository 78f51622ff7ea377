//! Processes are killed while orders flow: every input is in the output, and repeats are bounded and identical.
//!
//! `MILLSTREAM_KILLS_ORDERS` and `MILLSTREAM_KILLS` make the stories longer (the form: 200000 and 30). On three
//! servers, and where only the server or both are killed, there are half as many kills, and fewer orders at least.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "it is test code, and counts are printed"
)]

use std::time::Duration;

use millstream::broker::{Connection, ConsumerInfo, Discard, Js, NatsServer, Retention, StreamConfig};
use millstream_tests::support::*;
use tokio::time::{Instant, sleep};

const PUMP: &str = env!("CARGO_BIN_EXE_pump");

/// How many inputs the pipeline may have taken and not made part of a checkpoint. The server holds it to that: it delivers
/// no more until the ones before are acknowledged, and an acknowledgement follows its checkpoint.
const IN_FLIGHT: u64 = 2_000;

fn orders() -> u64 {
    setting("MILLSTREAM_KILLS_ORDERS", 60_000)
}

fn kills() -> u64 {
    setting("MILLSTREAM_KILLS", 10)
}

fn pump(urls: &str, pipeline: &str, replicas: usize) -> Pump {
    Pump::start_with(PUMP, &[urls, pipeline, &IN_FLIGHT.to_string(), &replicas.to_string()])
}

/// What was killed, and how many messages the output had then: what repeats behind that is due to the kill.
///
/// An input makes one output at most, so that outputs which are stored and not part of a checkpoint are `IN_FLIGHT` at
/// most, in the windows of both sinks and before them together.
/// - A runtime that is killed begins again at the last checkpoint: it repeats those.
/// - A server that is killed takes confirmations with it: a sink sends again what was not confirmed when its link is made
///   anew; of three servers, once more when the stream has another leader than its link has a server.
#[derive(Debug, Default)]
struct Kills {
    runtime: u64,
    servers: u64,
    marks: Vec<u64>,
    // The most repeats behind each mark.
    most: Vec<u64>,
}

impl Kills {
    /// The runtime is dead. What it had written may still be on its way into the stream.
    async fn of_runtime(&mut self, connection: &Connection) {
        let mut len = out_len(connection).await;
        loop {
            sleep(Duration::from_millis(30)).await;
            let later = out_len(connection).await;
            if later == len {
                break;
            }
            len = later;
        }
        self.runtime += 1;
        self.mark(len, IN_FLIGHT);
    }

    /// A server is about to be killed, one of so many.
    async fn of_server(&mut self, connection: &Connection, servers: u64) {
        self.servers += 1;
        self.mark(out_len(connection).await, IN_FLIGHT * servers.min(2));
    }

    fn mark(&mut self, len: u64, most: u64) {
        // Servers that have just come back may not tell; then this kill shares the part of the last.
        match self.marks.last() {
            Some(last) if *last >= len => *self.most.last_mut().unwrap() += most,
            _ => {
                self.marks.push(len);
                self.most.push(most);
            }
        }
    }
}

/// Waits for all outputs of the orders, stops the pipeline, and compares.
async fn settle(story: &str, connection: &Connection, kills: Kills, orders: u64, mut pump: Pump) {
    until_complete(connection, 0..orders, Duration::from_secs(120)).await;
    assert!(pump.terminate().await.success());
    let output = read_output(connection).await;
    let repeats = output.repeats_behind(&kills.marks);
    let worst = repeats.iter().max().unwrap();
    println!(
        "{story}: {} kills of the runtime, {} of servers, {orders} orders in, {} messages out, {} distinct, {} duplicates ({worst} after one kill at most), {} missing, {} wrong",
        kills.runtime,
        kills.servers,
        output.messages,
        output.times.len(),
        output.duplicates(),
        output.missing(orders),
        output.wrong
    );
    assert_eq!((output.missing(orders), output.wrong), (0, 0), "{story}");
    assert_eq!(repeats[0], 0, "{story}: repeats before anything was killed");
    for (repeats, most) in repeats.iter().skip(1).zip(&kills.most) {
        assert!(repeats <= most, "{story}: {repeats} repeats after a kill, {most} at most");
    }
}

#[tokio::test]
async fn a_runtime_that_is_killed_loses_nothing() {
    let (server, connection) = server().await;
    let feeder = Feeder::start(&connection, orders());
    let mut total = Kills::default();
    let mut running = pump(&server.url(), "killed", 1);
    for _ in 0..kills() {
        a_while().await;
        running.kill_9();
        total.of_runtime(&connection).await;
        running = pump(&server.url(), "killed", 1);
    }
    let orders = feeder.finish().await;
    settle("runtime killed", &connection, total, orders, running).await;
}

#[tokio::test]
async fn a_server_that_is_killed_loses_nothing_and_the_runtime_goes_on() {
    let (mut server, connection) = server().await;
    let feeder = Feeder::start(&connection, orders());
    let mut total = Kills::default();
    let running = pump(&server.url(), "server-killed", 1);
    for _ in 0..kills().div_ceil(2) {
        a_while().await;
        total.of_server(&connection, 1).await;
        server.kill_9();
        server.restart().await.unwrap();
    }
    let orders = feeder.finish().await;
    settle("server killed", &connection, total, orders, running).await;
}

/// The runtime alone, the server alone, and both, in turn; `running` is the pump of the story's name.
async fn both_in_turn(story: &str, server: &mut NatsServer, connection: &Connection, rounds: u64, mut running: Pump) {
    let feeder = Feeder::start(connection, orders());
    let (mut total, url) = (Kills::default(), server.url());
    for round in 0..rounds {
        a_while().await;
        let (kills_runtime, kills_server) = (round % 3 != 1, round % 3 != 0);
        if kills_runtime {
            running.kill_9();
            total.of_runtime(connection).await;
        }
        if kills_server {
            total.of_server(connection, 1).await;
            server.kill_9();
            server.restart().await.unwrap();
        }
        if kills_runtime {
            running = pump(&url, story, 1);
        }
    }
    let orders = feeder.finish().await;
    settle(story, connection, total, orders, running).await;
}

#[tokio::test]
async fn runtime_and_server_that_are_killed_in_turn_and_together_lose_nothing() {
    let (mut server, connection) = server().await;
    let running = pump(&server.url(), "both-in-turn", 1);
    both_in_turn("both-in-turn", &mut server, &connection, kills().div_ceil(2), running).await;
}

/// A server whose input stream is one of interest, and a pipeline that has shown it: the stream keeps nothing for one
/// that it does not know.
async fn interested() -> (NatsServer, Connection, Js, Pump) {
    let (server, connection) = server().await;
    let js = Js::new(connection.clone());
    js.delete_stream("IN").await.unwrap();
    let input = StreamConfig { retention: Retention::Interest, ..StreamConfig::new("IN", ["in.>"]) };
    js.create_stream(&input).await.unwrap();
    let running = pump(&server.url(), "interest", 1);
    until_consumer(&js, "shows no interest", |_| true).await;
    (server, connection, js, running)
}

/// Waits until the consumer of the interest stream is as it should be.
async fn until_consumer(js: &Js, otherwise: &str, is_so: impl Fn(&ConsumerInfo) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !js.consumer("IN", "mill-interest-orders").await.is_ok_and(|info| is_so(&info)) {
        assert!(Instant::now() < deadline, "the pipeline {otherwise}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_interest_stream_keeps_what_was_read_and_not_written_when_the_link_is_made_anew() {
    let (mut server, connection, js, mut running) = interested().await;
    let mut full = js.stream("OUT").await.unwrap().config;
    full.discard = Discard::New;
    full.max_msgs = 1;
    js.update_stream(&full).await.unwrap();
    let orders = 3 * IN_FLIGHT;
    feed(&connection, 0, orders).await;
    // All that it may read without a checkpoint, and it asks for more.
    let reads = |info: &ConsumerInfo| info.num_ack_pending == IN_FLIGHT && info.num_waiting > 0;
    until_consumer(&js, "does not read", reads).await;
    let before = js.stream("IN").await.unwrap().state.first_seq;
    let mut total = Kills::default();
    total.of_server(&connection, 1).await;
    server.kill_9();
    server.restart().await.unwrap();
    until_consumer(&js, "does not read again", reads).await;
    assert_eq!(js.stream("IN").await.unwrap().state.first_seq, before, "nothing was let go");
    running.kill_9();
    total.of_runtime(&connection).await;
    full.max_msgs = -1;
    js.update_stream(&full).await.unwrap();
    let running = pump(&server.url(), "interest", 1);
    settle("interest, output full", &connection, total, orders, running).await;
}

#[tokio::test]
async fn an_interest_stream_keeps_what_no_checkpoint_covers_whatever_is_killed() {
    let (mut server, connection, js, running) = interested().await;
    both_in_turn("interest", &mut server, &connection, kills().div_ceil(3), running).await;
    assert_eq!(js.stream("IN").await.unwrap().state.messages, 0, "what a checkpoint covers is let go");
}

#[tokio::test]
async fn on_three_servers_a_runtime_that_is_killed_loses_nothing() {
    let (_servers, urls, connection) = cluster().await;
    let feeder = Feeder::start(&connection, orders() / 3);
    let mut total = Kills::default();
    let mut running = pump(&urls, "killed", 3);
    for _ in 0..kills() / 2 {
        a_while().await;
        running.kill_9();
        total.of_runtime(&connection).await;
        running = pump(&urls, "killed", 3);
    }
    let orders = feeder.finish().await;
    settle("three servers, runtime killed", &connection, total, orders, running).await;
}

#[tokio::test]
async fn servers_of_three_that_are_killed_one_at_a_time_lose_nothing() {
    let (mut servers, urls, connection) = cluster().await;
    let feeder = Feeder::start(&connection, orders() / 3);
    let mut total = Kills::default();
    let running = pump(&urls, "servers-killed", 3);
    for _ in 0..kills() / 2 {
        a_while().await;
        let chosen = chance() as usize % servers.len();
        total.of_server(&connection, 3).await;
        servers[chosen].kill_9();
        a_while().await;
        servers[chosen].restart().await.unwrap();
    }
    let orders = feeder.finish().await;
    settle("three servers, one killed at a time", &connection, total, orders, running).await;
}

#[tokio::test]
async fn on_three_servers_runtime_and_servers_are_killed_in_turn_and_nothing_is_lost() {
    let (mut servers, urls, connection) = cluster().await;
    let feeder = Feeder::start(&connection, orders() / 3);
    let mut total = Kills::default();
    let mut running = pump(&urls, "both-killed", 3);
    for round in 0..kills() / 2 {
        a_while().await;
        let chosen = chance() as usize % servers.len();
        if round % 2 == 0 {
            total.of_server(&connection, 3).await;
            servers[chosen].kill_9();
        }
        // While a server is away, too.
        running.kill_9();
        total.of_runtime(&connection).await;
        running = pump(&urls, "both-killed", 3);
        a_while().await;
        if round % 2 == 0 {
            servers[chosen].restart().await.unwrap();
        }
    }
    let orders = feeder.finish().await;
    settle("three servers, both killed", &connection, total, orders, running).await;
}

#[tokio::test]
async fn sigterm_drains_and_the_next_start_repeats_nothing() {
    let (server, connection) = server().await;
    let feeder = Feeder::start(&connection, orders());
    for _ in 0..kills() * 2 {
        let mut running = pump(&server.url(), "drained", 1);
        a_while().await;
        assert_eq!(running.terminate().await.code(), Some(0));
    }
    let orders = feeder.finish().await;
    // Nothing was killed, so nothing may come twice.
    settle("drained", &connection, Kills::default(), orders, pump(&server.url(), "drained", 1)).await;
}
