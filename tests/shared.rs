//! Processes share a stream: every message is handled, by one of them while all live; what one has when it dies or stops
//! goes to the others.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::broker::{Connection, Js, Retention, StreamConfig};
use millstream_tests::support::*;
use tokio::time::{Instant, sleep};

const SHARE: &str = env!("CARGO_BIN_EXE_share");
const CONSUMER: &str = "mill-shared-orders";

fn start(url: &str, process: &str, settings: &[&str]) -> Pump {
    Pump::start_with(SHARE, &[&[url, "shared", process], settings].concat())
}

/// How often each process has handled each order.
type Handled = BTreeMap<String, BTreeMap<u64, u64>>;

async fn handled(connection: &Connection) -> Handled {
    let mut handled = Handled::new();
    read_stream(connection, "OUT", |subject, id, _| {
        let process = subject.trim_start_matches("out.").to_owned();
        *handled.entry(process).or_default().entry(id).or_default() += 1;
    })
    .await;
    handled
}

fn share_of(handled: &Handled, process: &str) -> usize {
    handled.get(process).map_or(0, BTreeMap::len)
}

/// How many of the orders `0..orders` nobody has handled, and how many outputs are repeats.
fn missing_and_repeated(handled: &Handled, orders: u64) -> (usize, u64) {
    let mut times = BTreeMap::<u64, u64>::new();
    for (id, count) in handled.values().flatten() {
        *times.entry(*id).or_default() += count;
    }
    let missing = (0..orders).filter(|id| !times.contains_key(id)).count();
    (missing, times.values().map(|count| count - 1).sum())
}

/// Waits until all orders are acknowledged.
async fn until_done(connection: &Connection, orders: u64, within: Duration) {
    let (js, deadline) = (Js::new(connection.clone()), Instant::now() + within);
    loop {
        let info = js.consumer("IN", CONSUMER).await.ok();
        let left = info.as_ref().map_or(u64::MAX, |info| info.num_pending + info.num_ack_pending);
        if left == 0 && out_len(connection).await >= orders {
            return;
        }
        assert!(Instant::now() < deadline, "not done within {within:?}: {info:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn until_pulled_by(connection: &Connection, pulls: u64) {
    let (js, deadline) = (Js::new(connection.clone()), Instant::now() + Duration::from_secs(20));
    while js.consumer("IN", CONSUMER).await.map_or(0, |info| info.num_waiting) < pulls {
        assert!(Instant::now() < deadline, "{pulls} processes do not read");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn two_processes_handle_every_order_once_between_them() {
    let (server, connection) = server().await;
    let orders = 40_000;
    let mut processes = [start(&server.url(), "a", &[]), start(&server.url(), "b", &[])];
    until_pulled_by(&connection, 2).await;
    feed(&connection, 0, orders).await;
    until_done(&connection, orders, Duration::from_secs(60)).await;
    for process in &mut processes {
        assert_eq!(process.terminate().await.code(), Some(0));
    }
    let handled = handled(&connection).await;
    let (a, b) = (share_of(&handled, "a"), share_of(&handled, "b"));
    let (missing, repeated) = missing_and_repeated(&handled, orders);
    println!("two processes: {orders} orders, {a} by one and {b} by the other, {missing} missing, {repeated} repeated");
    assert_eq!((missing, repeated, a + b), (0, 0, 40_000));
    assert!(a.min(b) > 4_000, "each has its share");
}

#[tokio::test]
async fn what_a_killed_process_had_goes_to_the_other_after_the_ack_wait() {
    let (server, connection) = server().await;
    let (orders, ack_wait) = (4_000, Duration::from_secs(3));
    let settings = ["ack_wait=3000", "work=100", "at_once=100", "prefetch=400"];
    let mut dies = start(&server.url(), "dies", &settings);
    until_pulled_by(&connection, 1).await;
    let mut lives = start(&server.url(), "lives", &settings);
    until_pulled_by(&connection, 2).await;
    feed(&connection, 0, orders).await;
    until_out(&connection, 1_000, Duration::from_secs(30)).await;
    dies.kill_9();
    let killed = Instant::now();
    let had = Js::new(connection.clone()).consumer("IN", CONSUMER).await.unwrap().num_ack_pending;
    until_done(&connection, orders, Duration::from_secs(60)).await;
    let took = killed.elapsed();
    assert_eq!(lives.terminate().await.code(), Some(0));
    let handled = handled(&connection).await;
    let (missing, repeated) = missing_and_repeated(&handled, orders);
    println!(
        "one of two killed: {orders} orders, {} by the killed, {} by the other, {had} in hand of both at the kill, {missing} missing, {repeated} repeated, done {took:?} after it",
        share_of(&handled, "dies"),
        share_of(&handled, "lives"),
    );
    assert_eq!(missing, 0);
    // Only what the killed one had handled and not acknowledged can come twice.
    assert!(repeated <= 400, "{repeated} repeated");
    assert!(share_of(&handled, "dies") > 0 && took > ack_wait / 2, "it had something in hand");
}

#[tokio::test]
async fn what_a_stopped_process_has_not_begun_goes_to_the_other_at_once() {
    let (server, connection) = server().await;
    let orders = 600;
    // The one that stops has taken most of what there is before the other comes; the ack wait is half a minute.
    let settings = ["work=50", "at_once=1", "room=8", "prefetch=600"];
    let mut stops = start(&server.url(), "stops", &settings);
    until_pulled_by(&connection, 1).await;
    feed(&connection, 0, orders).await;
    until_out(&connection, 5, Duration::from_secs(20)).await;
    let mut goes_on = start(&server.url(), "goes_on", &["at_once=64"]);
    until_out(&connection, 100, Duration::from_secs(20)).await;
    let stopped = Instant::now();
    assert_eq!(stops.terminate().await.code(), Some(0));
    until_done(&connection, orders, Duration::from_secs(60)).await;
    let took = stopped.elapsed();
    assert_eq!(goes_on.terminate().await.code(), Some(0));
    let handled = handled(&connection).await;
    let (missing, repeated) = missing_and_repeated(&handled, orders);
    println!(
        "one of two stopped: {orders} orders, {} by it and {} by the other, {missing} missing, {repeated} repeated, all done in {took:?}",
        share_of(&handled, "stops"),
        share_of(&handled, "goes_on"),
    );
    assert_eq!((missing, repeated), (0, 0));
    assert!(took < Duration::from_secs(15), "{took:?}, and the ack wait is 30 s");
}

#[tokio::test]
async fn an_order_that_takes_longer_than_the_ack_wait_is_not_given_to_another() {
    let (server, connection) = server().await;
    let orders = 40;
    let settings = ["ack_wait=1000", "work=3500", "at_once=64"];
    let mut processes = [start(&server.url(), "a", &settings), start(&server.url(), "b", &settings)];
    until_pulled_by(&connection, 2).await;
    feed(&connection, 0, orders).await;
    until_done(&connection, orders, Duration::from_secs(60)).await;
    for process in &mut processes {
        assert_eq!(process.terminate().await.code(), Some(0));
    }
    let handled = handled(&connection).await;
    assert_eq!(missing_and_repeated(&handled, orders), (0, 0), "{handled:?}");
}

#[tokio::test]
async fn a_work_queue_is_read_by_sharing_and_only_so() {
    let (server, connection) = server().await;
    let js = Js::new(connection.clone());
    js.delete_stream("IN").await.unwrap();
    let queue = StreamConfig { retention: Retention::WorkQueue, ..StreamConfig::new("IN", ["in.>"]) };
    js.create_stream(&queue).await.unwrap();
    let (status, words) = Pump::words(SHARE, &[&server.url(), "shared", "alone", "alone=1"]);
    assert_eq!(status.code(), Some(2), "{words}");
    assert!(
        words.contains("is a work queue") && words.contains("share = true") && words.contains("sources"),
        "{words}"
    );

    feed(&connection, 0, 2_000).await;
    let mut process = start(&server.url(), "a", &[]);
    until_done(&connection, 2_000, Duration::from_secs(30)).await;
    assert_eq!(process.terminate().await.code(), Some(0));
    assert_eq!(js.stream("IN").await.unwrap().state.messages, 0, "what is done is gone");
    assert_eq!(missing_and_repeated(&handled(&connection).await, 2_000), (0, 0));
}

#[tokio::test]
async fn a_pipeline_that_began_alone_does_not_share_in_silence_nor_the_other_way_round() {
    let (server, connection) = server().await;
    feed(&connection, 0, 100).await;
    let mut alone = start(&server.url(), "alone", &["alone=1"]);
    until_out(&connection, 100, Duration::from_secs(20)).await;
    assert_eq!(alone.terminate().await.code(), Some(0));
    let (status, words) = Pump::words(SHARE, &[&server.url(), "shared", "a"]);
    assert!(status.code() == Some(2) && words.contains("has run without shared sources"), "{words}");

    let other = |process| [server.url(), "other".into(), process, "alone=0".into()];
    let mut shares = Pump::start_with(SHARE, &other("a".into()).each_ref().map(String::as_str));
    until_out(&connection, 200, Duration::from_secs(20)).await;
    let (status, words) = Pump::words(SHARE, &[&server.url(), "other", "b", "alone=1"]);
    assert!(status.code() == Some(2) && words.contains("is shared by the processes"), "{words}");
    assert_eq!(shares.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_shared_consumer_that_is_deleted_is_made_again_behind_what_was_done() {
    let (server, connection) = server().await;
    let js = Js::new(connection.clone());
    feed(&connection, 0, 3_000).await;
    let mut process = start(&server.url(), "a", &[]);
    until_done(&connection, 3_000, Duration::from_secs(30)).await;
    // The process looks every ten seconds how far all have come; a second start knows it at once.
    assert_eq!(process.terminate().await.code(), Some(0));
    let mut process = start(&server.url(), "b", &[]);
    until_pulled_by(&connection, 1).await;
    js.delete_consumer("IN", CONSUMER).await.unwrap();
    until_pulled_by(&connection, 1).await;
    feed(&connection, 3_000, 4_000).await;
    until_done(&connection, 4_000, Duration::from_secs(30)).await;
    assert_eq!(process.terminate().await.code(), Some(0));
    assert_eq!(missing_and_repeated(&handled(&connection).await, 4_000), (0, 0));
}

#[tokio::test]
async fn no_acknowledgement_waits_for_a_connection_that_is_not_made_yet() {
    for settings in [["alone=0"], ["alone=1"]] {
        let (server, connection) = server().await;
        let proxy = LossyProxy::before(server.port()).await;
        let mut process = start(&proxy.url(), "a", &settings);
        until_pulled_by(&connection, 1).await;
        proxy.refuse();
        feed(&connection, 0, 3_000).await;
        until_done(&connection, 3_000, Duration::from_secs(30)).await;
        assert_eq!(process.terminate().await.code(), Some(0));
        assert_eq!(missing_and_repeated(&handled(&connection).await, 3_000), (0, 0), "{settings:?}");
    }
}

#[tokio::test]
async fn an_order_comes_again_or_never_where_an_operator_says_so() {
    let (server, connection) = server().await;
    let given_up = format!("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.IN.{CONSUMER}");
    let mut advisories = connection.subscribe(given_up, 64).await.unwrap();
    let orders = 1_000;
    feed(&connection, 0, orders).await;
    // A hundred come again after 200 ms, and ten never.
    let mut process = start(&server.url(), "a", &["retry_every=10", "give_up_every=100"]);
    until_done(&connection, orders - 10, Duration::from_secs(30)).await;
    assert_eq!(process.terminate().await.code(), Some(0));
    let info = Js::new(connection.clone()).consumer("IN", CONSUMER).await.unwrap();
    // The server delivered a hundred of them twice.
    assert_eq!(info.delivered.consumer_seq, orders + 100);
    let handled = handled(&connection).await;
    assert_eq!(missing_and_repeated(&handled, orders), (10, 0));
    for _ in 0..10 {
        let advisory = tokio::time::timeout(Duration::from_secs(5), advisories.next()).await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&advisory.payload).contains("no such customer"));
    }
}
