//! Processes are killed while orders flow: every input is in the output, and repeats are bounded and identical.
//!
//! `MILLSTREAM_KILLS_ORDERS` and `MILLSTREAM_KILLS` make the stories longer (the form: 200000 and 30). On three
//! servers there are half as many kills, and a third of the orders at least.

use std::time::Duration;

use millstream::broker::Connection;
use millstream_tests::support::*;
use tokio::time::sleep;

const PUMP: &str = env!("CARGO_BIN_EXE_pump");

/// How many inputs the pipeline may have taken and not made part of a checkpoint. The server holds it to that: it delivers
/// no more until the ones before are acknowledged, and an acknowledgement follows its checkpoint.
const IN_FLIGHT: u64 = 2_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn orders() -> u64 {
    setting("MILLSTREAM_KILLS_ORDERS", 60_000)
}

fn kills() -> u64 {
    setting("MILLSTREAM_KILLS", 10)
}

/// A random part of a second, so that kills come at moments that nobody chose.
async fn a_while() {
    sleep(Duration::from_millis(150 + chance() % 500)).await;
}

fn pump(urls: &str, pipeline: &str, replicas: usize) -> Pump {
    Pump::start_with(PUMP, &[urls, pipeline, &IN_FLIGHT.to_string(), &replicas.to_string()])
}

/// How often what was killed.
#[derive(Clone, Copy, Debug, Default)]
struct Kills {
    runtime: u64,
    servers: u64,
}

impl Kills {
    /// The most repeats that the design allows. An input makes one output at most, so that outputs which are stored and
    /// not part of a checkpoint are `IN_FLIGHT` at most, in the windows of both sinks and before them together.
    /// - A runtime that is killed begins again at the last checkpoint: it repeats those.
    /// - A server that is killed takes confirmations with it: a sink sends again what was not confirmed, once when its
    ///   link is made anew, and once more when the stream has another leader than its link has a server.
    fn most_repeats(self) -> u64 {
        (self.runtime + 2 * self.servers) * IN_FLIGHT
    }
}

/// Waits for all outputs of the orders, stops the pipeline, and compares.
async fn settle(story: &str, connection: &Connection, kills: Kills, orders: u64, mut pump: Pump) {
    until_complete(connection, 0..orders, Duration::from_secs(120)).await;
    assert!(pump.terminate().await.success());
    let output = read_output(connection).await;
    let most = kills.most_repeats();
    #[expect(clippy::print_stdout, reason = "the counts are what this test is for")]
    {
        println!(
            "{story}: {} kills of the runtime, {} of servers, {orders} orders in, {} messages out, {} distinct, {} duplicates (at most {most}), {} missing, {} wrong",
            kills.runtime,
            kills.servers,
            output.messages,
            output.times.len(),
            output.duplicates(),
            output.missing(orders),
            output.wrong
        );
    }
    assert_eq!((output.missing(orders), output.wrong), (0, 0), "{story}");
    assert!(output.duplicates() <= most, "{story}: {} duplicates, {most} at most", output.duplicates());
}

#[tokio::test]
async fn a_runtime_that_is_killed_loses_nothing() {
    let (server, connection) = server().await;
    let feeder = Feeder::start(&connection, orders());
    let kills = Kills { runtime: kills(), servers: 0 };
    let mut running = pump(&server.url(), "killed", 1);
    for _ in 0..kills.runtime {
        a_while().await;
        running.kill_9();
        running = pump(&server.url(), "killed", 1);
    }
    let orders = feeder.finish().await;
    settle("runtime killed", &connection, kills, orders, running).await;
}

#[tokio::test]
async fn a_server_that_is_killed_loses_nothing_and_the_runtime_goes_on() {
    let (mut server, connection) = server().await;
    let feeder = Feeder::start(&connection, orders());
    let mut kills = Kills { runtime: 0, servers: kills() / 2 };
    let mut running = pump(&server.url(), "server-killed", 1);
    for round in 0..kills.servers {
        a_while().await;
        // Every other time both are killed.
        if round % 2 == 1 {
            running.kill_9();
            kills.runtime += 1;
        }
        server.kill_9();
        server.restart().await.unwrap();
        if round % 2 == 1 {
            running = pump(&server.url(), "server-killed", 1);
        }
    }
    let orders = feeder.finish().await;
    settle("server killed, and both in turn", &connection, kills, orders, running).await;
}

#[tokio::test]
async fn on_three_servers_a_runtime_that_is_killed_loses_nothing() {
    let (_servers, urls, connection) = cluster().await;
    let feeder = Feeder::start(&connection, orders() / 3);
    let kills = Kills { runtime: kills() / 2, servers: 0 };
    let mut running = pump(&urls, "killed", 3);
    for _ in 0..kills.runtime {
        a_while().await;
        running.kill_9();
        running = pump(&urls, "killed", 3);
    }
    let orders = feeder.finish().await;
    settle("three servers, runtime killed", &connection, kills, orders, running).await;
}

#[tokio::test]
async fn servers_of_three_that_are_killed_one_at_a_time_lose_nothing() {
    let (mut servers, urls, connection) = cluster().await;
    let feeder = Feeder::start(&connection, orders() / 3);
    let kills = Kills { runtime: 0, servers: kills() / 2 };
    let running = pump(&urls, "servers-killed", 3);
    for _ in 0..kills.servers {
        a_while().await;
        let chosen = chance() as usize % servers.len();
        servers[chosen].kill_9();
        a_while().await;
        servers[chosen].restart().await.unwrap();
    }
    let orders = feeder.finish().await;
    settle("three servers, one killed at a time", &connection, kills, orders, running).await;
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
            servers[chosen].kill_9();
            total.servers += 1;
        }
        // While a server is away, too.
        running.kill_9();
        total.runtime += 1;
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
