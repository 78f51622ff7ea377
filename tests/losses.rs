//! The network loses deliveries, streams lose messages, consumers go, outputs fill up: nothing is lost in silence.
//!
//! `MILLSTREAM_STALL_ORDERS` and `MILLSTREAM_STALL_SECONDS` make the stalled sink's story longer (the form:
//! 2000000 and 60).

use std::time::Duration;

use millstream::broker::{Connection, Discard, Js, Purge, StreamConfig};
use millstream::pipelines::graph::Settings;
use millstream_tests::support::*;
use tokio::time::{Instant, sleep};

const PUMP: &str = env!("CARGO_BIN_EXE_pump");
const OWN: &str = env!("CARGO_BIN_EXE_own");

fn wanted(orders: u64) -> u64 {
    (0..orders).filter_map(expected).count() as u64
}

/// Waits until a consumer of the input has given all that there is, and a pull that came through the proxy waits for more.
async fn until_it_waits_for_more(connection: &Connection, consumer: &str, proxy: &LossyProxy) {
    let (js, deadline) = (Js::new(connection.clone()), Instant::now() + Duration::from_secs(30));
    loop {
        // The server counts pulls of connections that are gone for a while.
        let waits = js.consumer("IN", consumer).await.is_ok_and(|info| info.num_pending == 0 && info.num_waiting > 0);
        if waits && proxy.pulling() > 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{consumer} does not read on");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn deliveries_that_the_network_swallows_are_read_again() {
    let (server, connection) = server().await;
    let proxy = LossyProxy::before(server.port()).await;
    let mut pump = Pump::start(PUMP, &proxy.url(), "lossy");
    // Fed in parts, so that losses hit deliveries that are on their way. Where the source is about to read again, what
    // the network swallows is an answer, and such a part does not count.
    let (mut orders, mut parts) = (0, 0);
    while proxy.delivery_cuts() < 20 {
        parts += 1;
        assert!(parts <= 100, "of {parts} losses only {} hit deliveries", proxy.delivery_cuts());
        let before = proxy.pull_cuts();
        feed(&connection, orders, orders + 2_500).await;
        // It reads, so the next deliveries go over a connection that can be cut.
        until_it_waits_for_more(&connection, "mill-lossy-orders", &proxy).await;
        proxy.lose(20_000);
        feed(&connection, orders + 2_500, orders + 3_000).await;
        orders += 3_000;
        let deadline = Instant::now() + Duration::from_secs(20);
        while proxy.pull_cuts() == before {
            assert!(Instant::now() < deadline, "no connection was cut in part {parts}");
            sleep(Duration::from_millis(20)).await;
        }
    }
    let output = until_complete(&connection, 0..orders, Duration::from_secs(60)).await;
    assert!(pump.terminate().await.success());
    println!(
        "lossy network: {} connections cut in {parts} parts, {} of them with deliveries, {} bytes swallowed, {} orders in, {} distinct out, {} duplicates, {} missing",
        proxy.cuts(),
        proxy.delivery_cuts(),
        proxy.swallowed(),
        orders,
        output.times.len(),
        output.duplicates(),
        output.missing(orders)
    );
    assert_eq!((output.missing(orders), output.wrong), (0, 0));
}

#[tokio::test]
async fn deliveries_that_are_swallowed_on_a_link_that_stays_are_read_again() {
    let (server, connection) = server().await;
    let proxy = LossyProxy::before(server.port()).await;
    let (orders, rounds) = (20_000, 20);
    let mut pump = Pump::start(PUMP, &proxy.url(), "swallowed");
    for round in 0..rounds {
        let upto = orders * (round + 1) / rounds - 500;
        feed(&connection, orders * round / rounds, upto).await;
        until_it_waits_for_more(&connection, "mill-swallowed-orders", &proxy).await;
        proxy.lose_deliveries(20_000);
        feed(&connection, upto, upto + 500).await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while proxy.is_losing_deliveries() {
            assert!(Instant::now() < deadline, "not enough was delivered in round {round}");
            sleep(Duration::from_millis(20)).await;
        }
    }
    let output = until_complete(&connection, 0..orders, Duration::from_secs(60)).await;
    assert!(pump.terminate().await.success());
    println!(
        "swallowed deliveries: {rounds} times, {} bytes in all, {} connections cut, {orders} orders in, {} distinct out, {} duplicates, {} missing",
        proxy.swallowed(),
        proxy.cuts(),
        output.times.len(),
        output.duplicates(),
        output.missing(orders)
    );
    assert!(proxy.swallowed() >= rounds * 20_000);
    assert_eq!((proxy.cuts(), output.missing(orders), output.wrong), (0, 0, 0));
}

#[tokio::test]
async fn a_link_slower_than_the_checkpoints_is_read_all_the_same() {
    let (server, connection) = server().await;
    let proxy = LossyProxy::before(server.port()).await;
    // A round trip takes longer than the interval of 200 ms, and setting the consumer takes several.
    proxy.delay(Duration::from_millis(150));
    feed(&connection, 0, 2_000).await;
    let mut pump = Pump::start(PUMP, &proxy.url(), "slow");
    let output = until_complete(&connection, 0..2_000, Duration::from_secs(60)).await;
    assert!(pump.terminate().await.success());
    assert_eq!((output.wrong, output.duplicates()), (0, 0));
}

#[tokio::test]
async fn a_stream_that_went_back_in_time_stops_the_pipeline() {
    let (mut server, connection) = server().await;
    feed(&connection, 0, 1_000).await;
    let mut pump = Pump::start(PUMP, &server.url(), "regressed");
    until_out(&connection, wanted(1_000), Duration::from_secs(20)).await;
    assert!(pump.terminate().await.success());
    server.terminate().await;
    let backup = server.folder().join("backup");
    copy(&files_of(&server, "IN"), &backup);
    server.restart().await.unwrap();

    let mut pump = Pump::start(PUMP, &server.url(), "regressed");
    feed(&connection, 1_000, 2_000).await;
    until_out(&connection, wanted(2_000), Duration::from_secs(20)).await;
    // Somebody restores the backup under a pipeline that has read further.
    server.terminate().await;
    std::fs::remove_dir_all(files_of(&server, "IN")).unwrap();
    copy(&backup, &files_of(&server, "IN"));
    server.restart().await.unwrap();
    assert_eq!(pump.end().await.code(), Some(4), "source lost, while it ran");
    let (status, words) = Pump::words(PUMP, &[&server.url(), "regressed"]);
    assert_eq!(status.code(), Some(4), "source lost, at the next start");
    assert!(words.contains("ends at 1000, but 2000 was read already"), "{words}");
    // What was on its way when the server ended may be there twice.
    let output = read_output(&connection).await;
    let distinct = output.times.len() as u64;
    assert_eq!((distinct, output.missing(2_000), output.wrong), (wanted(2_000), 0, 0), "nothing new was written");
}

#[tokio::test]
async fn messages_that_are_purged_before_they_are_read_stop_the_pipeline() {
    let (server, connection) = server().await;
    feed(&connection, 0, 2_000).await;
    let mut pump = Pump::start(PUMP, &server.url(), "purged");
    until_out(&connection, wanted(2_000), Duration::from_secs(20)).await;
    assert!(pump.terminate().await.success());
    feed(&connection, 2_000, 4_000).await;
    Js::new(connection.clone()).purge("IN", &Purge { seq: 3_000, ..Purge::default() }).await.unwrap();
    let mut pump = Pump::start(PUMP, &server.url(), "purged");
    assert_eq!(pump.end().await.code(), Some(4), "source lost");
    assert_eq!(out_len(&connection).await, wanted(2_000), "nothing was read behind the gap");
}

#[tokio::test]
async fn a_stream_that_was_made_again_stops_the_pipeline() {
    let (server, connection) = server().await;
    feed(&connection, 0, 1_000).await;
    let mut pump = Pump::start(PUMP, &server.url(), "recreated");
    until_out(&connection, wanted(1_000), Duration::from_secs(20)).await;
    let js = Js::new(connection.clone());
    js.delete_stream("IN").await.unwrap();
    js.create_stream(&StreamConfig::new("IN", ["in.>"])).await.unwrap();
    assert_eq!(pump.end().await.code(), Some(4), "source lost, while it ran");
    feed(&connection, 0, 2_000).await;
    let mut pump = Pump::start(PUMP, &server.url(), "recreated");
    assert_eq!(pump.end().await.code(), Some(4), "source lost, at the next start");
}

#[tokio::test]
async fn a_consumer_that_is_deleted_is_made_again_and_nothing_is_missed() {
    let (server, connection) = server().await;
    let mut pump = Pump::start(PUMP, &server.url(), "consumer-gone");
    let js = Js::new(connection.clone());
    for round in 0..5 {
        feed(&connection, round * 2_000, (round + 1) * 2_000).await;
        until_out(&connection, wanted(round * 2_000 + 100), Duration::from_secs(20)).await;
        js.delete_consumer("IN", "mill-consumer-gone-orders").await.unwrap();
    }
    let output = until_complete(&connection, 0..10_000, Duration::from_secs(40)).await;
    assert!(pump.terminate().await.success());
    assert_eq!(output.wrong, 0);
}

#[tokio::test]
async fn a_full_or_missing_output_stream_stalls_says_so_and_goes_on_by_itself() {
    let (server, connection) = server().await;
    let js = Js::new(connection.clone());
    let mut full = js.stream("OUT").await.unwrap().config;
    full.discard = Discard::New;
    full.max_msgs = 1_000;
    js.update_stream(&full).await.unwrap();
    let mut running = Running::start(OWN, &["run", "orders", "--nats", &server.url()], &[("OWN_PIPELINE", "full")]);
    feed(&connection, 0, 5_000).await;
    until_out(&connection, 1_000, Duration::from_secs(20)).await;
    running.says("the output waits").await;
    running.says("maximum messages exceeded").await;
    assert_eq!(out_len(&connection).await, 1_000);
    full.max_msgs = -1;
    js.update_stream(&full).await.unwrap();
    let output = until_complete(&connection, 0..5_000, Duration::from_secs(40)).await;
    assert_eq!(output.wrong, 0);

    js.delete_stream("OUT").await.unwrap();
    let said = running.err().matches("the output waits").count();
    feed(&connection, 5_000, 8_000).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while running.err().matches("the output waits").count() == said {
        assert!(Instant::now() < deadline, "it does not say that it waits: {}", running.err());
        sleep(Duration::from_millis(20)).await;
    }
    js.create_stream(&StreamConfig::new("OUT", ["out.>"])).await.unwrap();
    let output = until_complete(&connection, 5_000..8_000, Duration::from_secs(40)).await;
    running.signal("TERM");
    let said = running.ended().await;
    assert_eq!((said.code, output.wrong), (Some(0), 0), "{}", said.err);
}

/// The most inputs that the pump may have taken from the stream while its sinks stand still, by its settings: what was
/// asked for and has come, and what the channels, the sinks' windows and the tasks between them hold.
fn most_in_flight(settings: &Settings) -> u64 {
    // The source asks for 5,000 when half of as many are still to come.
    let asked = 5_000 * 3 / 2;
    // To the stage that decodes and computes; behind it, to the sink of the rest, to the encoder of the others, and from
    // there to their sink.
    let (before, behind) = (settings.channel_rows, 3 * settings.channel_rows);
    // A batch in the hands of each task.
    let (held_before, held_behind) = (2 * settings.batch_rows, 4 * settings.batch_rows);
    let windows = 2 * 4_096;
    // Of ten orders one goes nowhere.
    (asked + before + held_before + (behind + held_behind + windows) * 10 / 9) as u64
}

/// The most memory that the pump may take then.
fn most_resident(settings: &Settings) -> u64 {
    const OF_A_PULL: usize = 8 << 20;
    const OF_A_WINDOW: usize = 8 << 20;
    const PROGRAM: usize = 48 << 20;
    (4 * settings.channel_bytes + OF_A_PULL * 3 / 2 + 2 * OF_A_WINDOW + PROGRAM) as u64
}

#[tokio::test]
async fn a_stalled_sink_keeps_memory_and_deliveries_bounded() {
    let setting = |name: &str, default| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (orders, seconds): (u64, u64) =
        (setting("MILLSTREAM_STALL_ORDERS", 150_000), setting("MILLSTREAM_STALL_SECONDS", 8));
    let (server, connection) = server().await;
    let js = Js::new(connection.clone());
    let mut full = js.stream("OUT").await.unwrap().config;
    full.discard = Discard::New;
    full.max_msgs = 1;
    js.update_stream(&full).await.unwrap();
    feed(&connection, 0, orders).await;
    let mut pump = Pump::start(PUMP, &server.url(), "stalled");
    until_out(&connection, 1, Duration::from_secs(20)).await;
    // The pump has the default settings, but for the time between checkpoints.
    let (bound, most_pending) = (most_resident(&Settings::default()), most_in_flight(&Settings::default()));
    assert!(most_pending < 100_000, "the server would hold it to less");
    let (mut most, mut pending) = (0, 0);
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        sleep(Duration::from_millis(200)).await;
        most = most.max(pump.resident());
        pending = pending.max(js.consumer("IN", "mill-stalled-orders").await.unwrap().num_ack_pending);
    }
    full.max_msgs = -1;
    js.update_stream(&full).await.unwrap();
    // To count is cheap; to read all that is there again and again would take the machine from those who write it.
    until_out(&connection, wanted(orders), Duration::from_secs(120 + orders / 5_000)).await;
    let output = until_complete(&connection, 0..orders, Duration::from_secs(120)).await;
    assert!(pump.terminate().await.success());
    println!(
        "stalled sink: {orders} orders waiting for {seconds} s, {} MiB resident at most ({} allowed), {pending} messages pending at most ({most_pending} allowed), {} missing in the end",
        most >> 20,
        bound >> 20,
        output.missing(orders)
    );
    assert!(most < bound, "{most} bytes resident, {bound} at most");
    assert!(pending <= most_pending, "{pending} pending, {most_pending} at most");
    assert_eq!((output.missing(orders), output.wrong), (0, 0));
}
