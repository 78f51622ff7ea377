//! Stories of shared sources on the embedded broker, in virtual time.

use std::time::Duration;

use millstream_operators::{FaultKind, Headers, Source};
use millstream_pipelines::graph::{Resources, Subtask};
use tokio::time::{Instant, timeout};

use super::*;
use crate::broker::{ConsumerInfo, Embedded, Js, StreamConfig};
use crate::connectors::{Connections, JetStreamRead, JetStreamSource, Share, Start};

const SECOND: Duration = Duration::from_secs(1);

/// A broker with a stream, and processes that share it.
struct World {
    broker: Embedded,
    js: Js,
}

impl World {
    async fn new() -> World {
        let broker = Embedded::default();
        let js = Js::new(broker.connect());
        js.create_stream(&StreamConfig::new("S", ["s"])).await.unwrap();
        World { broker, js }
    }

    async fn publish(&self, count: u64) {
        for _ in 0..count {
            self.js.publish("s", Headers::NONE, "x").await.unwrap();
        }
    }

    fn subtask(&self, settlements: &Settlements) -> Subtask {
        let connections = Connections::to_embedded(self.broker.clone());
        let resources = Resources::default().with(connections).with(settlements.clone());
        Subtask { pipeline: "p".into(), node: "n".into(), index: 0, of: 1, resources }
    }

    /// A process, or the next run of one.
    async fn open(&self, settlements: &Settlements, share: Share) -> SharedSource {
        let read = JetStreamRead { share: Some(share), ..JetStreamRead::of("S") };
        let mut source = SharedSource::new(&self.subtask(settlements), read).unwrap();
        source.open(None).await.unwrap();
        source
    }

    async fn consumer(&self) -> ConsumerInfo {
        self.js.consumer("S", "mill-p-n").await.unwrap()
    }
}

/// The sequences of what a source gives within a time, a batch a call.
async fn next(source: &mut SharedSource, within: Duration) -> Vec<u64> {
    match timeout(within, source.next(1_024)).await {
        Ok(batch) => {
            let batch = batch.unwrap().unwrap();
            batch.origins().unwrap().messages().iter().map(|origin| origin.sequence).collect()
        }
        Err(_) => Vec::new(),
    }
}

/// Lets a source live, with nobody asking for rows.
async fn live(source: &mut SharedSource, time: Duration) {
    if let Ok(ended) = timeout(time, source.drive()).await {
        panic!("{ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_settled_by_the_checkpoint_behind_it() {
    let world = World::new().await;
    let mut source = world.open(&Settlements::default(), Share::default()).await;
    world.publish(3).await;
    assert_eq!(next(&mut source, SECOND).await, [1, 2, 3]);
    let barrier = source.position();
    world.publish(2).await;
    assert_eq!(next(&mut source, SECOND).await, [4, 5]);
    source.commit(barrier).await.unwrap();
    let info = world.consumer().await;
    assert_eq!((info.ack_floor.stream_seq, info.num_ack_pending), (3, 2));
    source.commit(source.position()).await.unwrap();
    assert_eq!(world.consumer().await.num_ack_pending, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_worked_on_is_not_given_to_another_however_long_it_takes() {
    let world = World::new().await;
    let mut slow = world.open(&Settlements::default(), Share::default()).await;
    world.publish(3).await;
    assert_eq!(next(&mut slow, SECOND).await, [1, 2, 3]);
    // More comes, which nobody asks the source for.
    live(&mut slow, SECOND).await;
    world.publish(2).await;
    let mut other = world.open(&Settlements::default(), Share::default()).await;
    let (given, ()) = tokio::join!(next(&mut other, SECOND * 600), live(&mut slow, SECOND * 600));
    assert_eq!(given, [0; 0]);
    drop(slow);
    assert_eq!(next(&mut other, SECOND * 35).await.len(), 5, "once nobody says so");
}

#[tokio::test(start_paused = true)]
async fn a_message_comes_again_or_never_where_whoever_worked_on_it_says_so() {
    let world = World::new().await;
    let settlements = Settlements::default();
    let mut source = world.open(&settlements, Share::default()).await;
    world.publish(4).await;
    assert_eq!(next(&mut source, SECOND).await, [1, 2, 3, 4]);
    assert!(settlements.retry("n", 2, SECOND * 5) && settlements.give_up("n", 3, "no such customer"));
    let mut terminated =
        world.js.connection().subscribe("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.S.mill-p-n", 8).await.unwrap();
    source.commit(source.position()).await.unwrap();
    let settled = Instant::now();
    let advisory = terminated.next().await.unwrap();
    assert!(String::from_utf8_lossy(&advisory.payload).contains("no such customer"));
    assert_eq!(next(&mut source, SECOND * 20).await, [2]);
    assert!(settled.elapsed() >= SECOND * 5 && settled.elapsed() < SECOND * 7, "{:?}", settled.elapsed());
    source.commit(source.position()).await.unwrap();
    assert_eq!(next(&mut source, SECOND * 600).await, [0; 0]);
    assert_eq!(world.consumer().await.num_ack_pending, 0);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_do_is_given_up_in_the_end_and_stays_in_the_stream() {
    let world = World::new().await;
    world.publish(1).await;
    let share = Share { max_deliver: Some(3), ..Share::default() };
    let mut deliveries = 0;
    for _ in 0..6 {
        // Each process dies of it.
        let mut source = world.open(&Settlements::default(), share.clone()).await;
        deliveries += next(&mut source, SECOND * 60).await.len();
    }
    assert_eq!(deliveries, 3);
    assert_eq!(world.js.stream("S").await.unwrap().state.messages, 1);
}

#[tokio::test(start_paused = true)]
async fn what_came_before_a_fault_and_was_not_given_goes_back_too() {
    let world = World::new().await;
    let settlements = Settlements::default();
    let mut source = world.open(&settlements, Share::default()).await;
    world.publish(1).await;
    assert_eq!(next(&mut source, SECOND).await, [1]);
    // The source has asked for more than this.
    world.publish(4).await;
    assert_eq!(world.consumer().await.num_ack_pending, 5);
    drop(source);
    let mut source = world.open(&settlements, Share::default()).await;
    let mut given = next(&mut source, SECOND).await;
    given.sort_unstable();
    assert_eq!(given, [1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn the_next_run_after_a_fault_gives_back_what_the_last_had_and_does_not_wait() {
    let world = World::new().await;
    let settlements = Settlements::default();
    let mut source = world.open(&settlements, Share::default()).await;
    world.publish(5).await;
    assert_eq!(next(&mut source, SECOND).await.len(), 5);
    drop(source);
    let mut source = world.open(&settlements, Share::default()).await;
    assert_eq!((source.position(), next(&mut source, SECOND).await.len()), (0, 5));
    source.commit(source.position()).await.unwrap();
    assert_eq!(world.consumer().await.num_ack_pending, 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_begun_is_given_back_when_the_process_stops() {
    let world = World::new().await;
    let mut stops = world.open(&Settlements::default(), Share::default()).await;
    world.publish(10).await;
    let first = stops.next(2).await.unwrap().unwrap();
    assert_eq!(first.len(), 2);
    let mut other = world.open(&Settlements::default(), Share::default()).await;
    assert_eq!(next(&mut other, SECOND).await, [0; 0], "the first has all");
    stops.release().await.unwrap();
    let mut given = next(&mut other, SECOND).await;
    given.sort_unstable();
    assert_eq!(given, (3..=10).collect::<Vec<_>>());
    stops.commit(stops.position()).await.unwrap();
    stops.close().await.unwrap();
    other.commit(other.position()).await.unwrap();
    let info = world.consumer().await;
    assert_eq!((info.num_ack_pending, info.ack_floor.stream_seq), (0, 10));
}

#[tokio::test(start_paused = true)]
async fn what_came_while_nobody_asked_is_given_in_batches_as_large_as_asked_for() {
    let world = World::new().await;
    let mut source = world.open(&Settlements::default(), Share::default()).await;
    world.publish(1).await;
    assert_eq!(next(&mut source, SECOND).await, [1]);
    world.publish(7).await;
    live(&mut source, SECOND).await;
    let mut lens = Vec::new();
    for _ in 0..3 {
        lens.push(source.next(3).await.unwrap().unwrap().len());
    }
    assert_eq!((lens, source.position()), (vec![3, 3, 1], 8));
}

#[tokio::test(start_paused = true)]
async fn a_process_has_no_more_in_hand_than_it_may() {
    let world = World::new().await;
    let share = Share { prefetch: 7, ..Share::default() };
    let mut source = world.open(&Settlements::default(), share).await;
    world.publish(20).await;
    let mut in_hand = 0;
    while let given @ 1.. = next(&mut source, SECOND).await.len() {
        in_hand += given;
    }
    assert_eq!((in_hand, world.consumer().await.num_ack_pending), (7, 7));
    source.commit(source.position()).await.unwrap();
    assert!(!next(&mut source, SECOND).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_cut_costs_what_was_on_it_one_ack_wait() {
    let world = World::new().await;
    let mut source = world.open(&Settlements::default(), Share::default()).await;
    assert_eq!(next(&mut source, SECOND).await, [0; 0], "it waits");
    world.publish(3).await;
    world.broker.cut_links();
    world.publish(1).await;
    let mut given = next(&mut source, SECOND).await;
    given.extend(next(&mut source, SECOND * 35).await);
    given.sort_unstable();
    assert_eq!(given, [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_goes_is_made_again_behind_what_all_have_done() {
    let world = World::new().await;
    let mut source = world.open(&Settlements::default(), Share::default()).await;
    world.publish(6).await;
    assert_eq!(next(&mut source, SECOND).await.len(), 6);
    source.commit(4).await.unwrap();
    assert_eq!(next(&mut source, SECOND * 15).await, [0; 0], "it looks how far all have come");
    world.js.delete_consumer("S", "mill-p-n").await.unwrap();
    world.publish(1).await;
    assert_eq!(next(&mut source, SECOND).await, [5, 6, 7]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_made_again_is_not_taken_for_the_same() {
    let world = World::new().await;
    let mut source = world.open(&Settlements::default(), Share::default()).await;
    world.publish(1).await;
    assert_eq!(next(&mut source, SECOND).await, [1]);
    world.js.delete_stream("S").await.unwrap();
    tokio::time::advance(SECOND).await;
    world.js.create_stream(&StreamConfig::new("S", ["s"])).await.unwrap();
    let fault = source.next(1).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::SourceLost, "{fault}");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_belongs_to_one_process_or_to_all() {
    let world = World::new().await;
    let settlements = Settlements::default();
    let shared = JetStreamRead { share: Some(Share::default()), ..JetStreamRead::of("S") };
    let mut alone = JetStreamSource::new(&world.subtask(&settlements), JetStreamRead::of("S")).unwrap();
    alone.open(None).await.unwrap();
    let _ = timeout(SECOND, alone.next(1)).await;
    let fault = SharedSource::new(&world.subtask(&settlements), shared).unwrap().open(None).await.unwrap_err();
    assert!(fault.kind() == FaultKind::Setup && fault.to_string().contains("belongs to one process"), "{fault}");

    world.js.delete_consumer("S", "mill-p-n").await.unwrap();
    let _shared = world.open(&settlements, Share::default()).await;
    let mut alone = JetStreamSource::new(&world.subtask(&settlements), JetStreamRead::of("S")).unwrap();
    alone.open(None).await.unwrap();
    let fault = alone.next(1).await.unwrap_err();
    assert!(fault.kind() == FaultKind::Setup && fault.to_string().contains("is shared by"), "{fault}");
}

#[tokio::test(start_paused = true)]
async fn from_now_on_is_said_once_by_whichever_process_comes_first() {
    let world = World::new().await;
    world.publish(3).await;
    let latest = JetStreamRead { share: Some(Share::default()), start: Start::Latest, ..JetStreamRead::of("S") };
    let open = async |read: &JetStreamRead| {
        let mut source = SharedSource::new(&world.subtask(&Settlements::default()), read.clone()).unwrap();
        source.open(None).await.unwrap();
        source
    };
    let first = open(&latest).await;
    drop(first);
    world.publish(2).await;
    // Even where a later one would begin elsewhere.
    let mut second = open(&JetStreamRead { start: Start::Earliest, ..latest.clone() }).await;
    assert_eq!(next(&mut second, SECOND).await, [4, 5]);
}

#[tokio::test]
async fn subtasks_do_not_share_what_one_process_has_in_hand() {
    let world = World::new().await;
    let subtask = Subtask { of: 2, ..world.subtask(&Settlements::default()) };
    let fault = SharedSource::new(&subtask, JetStreamRead::of("S")).unwrap_err();
    assert!(fault.to_string().contains("set its parallelism to 1"), "{fault}");
}
