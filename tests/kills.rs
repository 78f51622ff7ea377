//! Processes are killed while orders flow: every input is in the output, and repeats are bounded and identical.
//!
//! `MILLSTREAM_KILLS_ORDERS` and `MILLSTREAM_KILLS` make the stories longer (the form: 200000 and 30).

use std::time::Duration;

use millstream_tests::support::*;
use tokio::time::sleep;

const PUMP: &str = env!("CARGO_BIN_EXE_pump");

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

fn report(story: &str, kills: u64, orders: u64, output: &Output) {
    #[expect(clippy::print_stdout, reason = "the counts are what this test is for")]
    {
        println!(
            "{story}: {kills} kills, {orders} orders in, {} messages out, {} distinct, {} duplicates, {} missing, {} wrong",
            output.messages,
            output.times.len(),
            output.duplicates(),
            output.missing(orders),
            output.wrong
        );
    }
    assert_eq!((output.missing(orders), output.wrong), (0, 0), "{story}");
    // In flight when killed: the window of two sinks, and what was read since the last of five checkpoints a second.
    let bound = kills * 100_000;
    assert!(output.duplicates() <= bound, "{story}: {} duplicates, {bound} at most", output.duplicates());
}

#[tokio::test]
async fn a_runtime_that_is_killed_loses_nothing() {
    let (server, connection) = server().await;
    let (orders, kills) = (orders(), kills());
    let feeding = tokio::spawn({
        let connection = connection.clone();
        async move { feed(&connection, 0, orders).await }
    });
    let mut pump = Pump::start(PUMP, &server.url(), "killed");
    for _ in 0..kills {
        a_while().await;
        pump.kill_9();
        pump = Pump::start(PUMP, &server.url(), "killed");
    }
    feeding.await.unwrap();
    until_complete(&connection, 0..orders, Duration::from_secs(120)).await;
    assert!(pump.terminate().await.success());
    report("runtime killed", kills, orders, &read_output(&connection).await);
}

#[tokio::test]
async fn a_server_that_is_killed_loses_nothing_and_the_runtime_goes_on() {
    let (mut server, connection) = server().await;
    let (orders, kills) = (orders(), kills() / 2);
    let feeding = tokio::spawn({
        let connection = connection.clone();
        async move { feed(&connection, 0, orders).await }
    });
    let mut pump = Pump::start(PUMP, &server.url(), "server-killed");
    for round in 0..kills {
        a_while().await;
        // Every other time both are killed.
        if round % 2 == 1 {
            pump.kill_9();
        }
        server.kill_9();
        server.restart().await.unwrap();
        if round % 2 == 1 {
            pump = Pump::start(PUMP, &server.url(), "server-killed");
        }
    }
    feeding.await.unwrap();
    until_complete(&connection, 0..orders, Duration::from_secs(120)).await;
    assert!(pump.terminate().await.success());
    report("server killed, and both in turn", kills, orders, &read_output(&connection).await);
}

#[tokio::test]
async fn sigterm_drains_and_the_next_start_repeats_nothing() {
    let (server, connection) = server().await;
    let orders = orders();
    let feeding = tokio::spawn({
        let connection = connection.clone();
        async move { feed(&connection, 0, orders).await }
    });
    let stops = kills() * 2;
    for _ in 0..stops {
        let mut pump = Pump::start(PUMP, &server.url(), "drained");
        a_while().await;
        let status = pump.terminate().await;
        assert_eq!(status.code(), Some(0));
    }
    feeding.await.unwrap();
    let mut pump = Pump::start(PUMP, &server.url(), "drained");
    until_complete(&connection, 0..orders, Duration::from_secs(60)).await;
    assert!(pump.terminate().await.success());
    let output = read_output(&connection).await;
    report("drained", stops, orders, &output);
    assert_eq!(output.duplicates(), 0);
}
