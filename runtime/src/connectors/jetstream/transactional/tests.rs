//! Stories of the sink on the embedded broker, in virtual time: every crash, fence and unknown outcome, judged by what the
//! stream holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use millstream_operators::{Batch, Epoch, FaultKind, Headers, Outputs, Record, Sink, Timestamp};
use millstream_pipelines::graph::{Resources, Subtask};
use tokio::time::{sleep, timeout};

use super::*;
use crate::broker::{Embedded, EmbeddedOptions, Fate, Hook, Incoming, Js, Outgoing, Purge, StreamConfig};
use crate::connectors::Connections;
use crate::connectors::jetstream::JetStreamWrite;
use crate::engine::Rewind;

/// Loses the next so many commits on their way there, or their answers on their way back, and all commits behind so many.
pub(super) struct Losing {
    pub(super) allowed: AtomicU32,
    pub(super) commits: AtomicU32,
    pub(super) answers: AtomicU32,
}

impl Default for Losing {
    fn default() -> Self {
        Losing { allowed: AtomicU32::new(u32::MAX), commits: AtomicU32::new(0), answers: AtomicU32::new(0) }
    }
}

fn takes_one(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Hook for Losing {
    fn on_publish(&self, message: &Outgoing) -> Fate {
        let commits = message.headers.get("Nats-Batch-Commit").is_some();
        if commits && (takes_one(&self.commits) || !takes_one(&self.allowed)) { Fate::Lose } else { Fate::Pass }
    }

    fn on_deliver(&self, message: &Incoming) -> Fate {
        let confirms = message.payload.starts_with(b"{\"stream\"") && message.payload.ends_with(b"}");
        let of_batch = confirms && String::from_utf8_lossy(&message.payload).contains("\"batch\"");
        if of_batch && takes_one(&self.answers) { Fate::Lose } else { Fate::Pass }
    }
}

struct World {
    broker: Embedded,
    losing: Arc<Losing>,
    js: Js,
}

impl World {
    async fn new() -> World {
        let losing = Arc::<Losing>::default();
        let broker = Embedded::with_hook(EmbeddedOptions::default(), Arc::clone(&losing) as Arc<dyn Hook>);
        let js = Js::new(broker.connect());
        let config = StreamConfig::new("S", ["s.>", "mill.txn.p.>"]);
        js.create_stream(&StreamConfig { allow_atomic: true, allow_rollup_hdrs: true, ..config }).await.unwrap();
        World { broker, losing, js }
    }

    /// One whose messages go when they are so old.
    async fn aging(max_age: Duration) -> World {
        let world = World::new().await;
        let config = world.js.stream("S").await.unwrap().config;
        let max_age = u64::try_from(max_age.as_nanos()).unwrap();
        world.js.update_stream(&StreamConfig { max_age, duplicate_window: 0, ..config }).await.unwrap();
        world
    }

    fn subtask(&self, index: u32, of: u32, rewind: bool) -> Subtask {
        let resources = Resources::default().with(Connections::to_embedded(self.broker.clone())).with(Rewind(rewind));
        Subtask { pipeline: "p".into(), node: "out".into(), index, of, resources }
    }

    /// A sink that has taken over from what a checkpoint has.
    async fn sink(&self, from: &[Outputs]) -> TransactionalSink {
        let mut sink = TransactionalSink::new(&self.subtask(0, 1, false), JetStreamWrite::to("S")).unwrap();
        sink.open().await.unwrap();
        sink.resume(from.to_vec()).await.unwrap();
        sink
    }

    async fn refused(&self, from: &[Outputs]) -> String {
        let mut sink = TransactionalSink::new(&self.subtask(0, 1, false), JetStreamWrite::to("S")).unwrap();
        sink.open().await.unwrap();
        sink.resume(from.to_vec()).await.unwrap_err().to_string()
    }

    /// The data of the stream, in order: markers are left out.
    async fn stored(&self) -> Vec<u32> {
        let mut all = Vec::new();
        let mut next = 1;
        while let Some(message) = self.js.next_message("S", next, "s.>").await.unwrap() {
            all.push(String::from_utf8_lossy(&message.payload).parse().unwrap());
            next = message.seq + 1;
        }
        all
    }
}

fn rows(numbers: std::ops::Range<u32>) -> Batch<Vec<Record>> {
    let mut headers = Headers::NONE;
    headers.push("kind", "number").unwrap();
    let record = |n: u32| Record { subject: "s.n".into(), headers: headers.clone(), payload: n.to_string().into() };
    numbers.map(|n| (Timestamp::from_micros(0), record(n))).collect()
}

/// What a checkpoint has of a sink, as the engine keeps it.
fn kept(before: Option<&Outputs>, epoch: u64, records: Arc<[Record]>) -> Outputs {
    let before = before.map(|before| (before.epoch, before.total));
    Outputs { epoch: Epoch(epoch), total: records.len() as u64, records, before, ..Outputs::default() }
}

/// Takes rows over up to a barrier, and gives what the checkpoint has then.
async fn barrier(
    sink: &mut TransactionalSink,
    before: Option<&Outputs>,
    epoch: u64,
    all: std::ops::Range<u32>,
) -> Outputs {
    sink.write(rows(all)).await.unwrap();
    sink.flush(Epoch(epoch)).await.unwrap();
    kept(before, epoch, sink.outputs().unwrap())
}

async fn published(sink: &mut TransactionalSink, epoch: u64) {
    sink.commit(Epoch(epoch)).await.unwrap();
    sink.flush(Epoch(epoch)).await.unwrap();
}

fn all(to: u32) -> Vec<u32> {
    (0..to).collect()
}

#[tokio::test(start_paused = true)]
async fn rows_are_seen_when_their_checkpoint_is_durable_and_not_before() {
    let world = World::new().await;
    let mut sink = world.sink(&[]).await;
    let first = barrier(&mut sink, None, 2, 0..1_200).await;
    assert_eq!(world.stored().await, all(0));
    published(&mut sink, 2).await;
    assert_eq!(world.stored().await, all(1_200));
    barrier(&mut sink, Some(&first), 3, 1_200..1_201).await;
    published(&mut sink, 3).await;
    assert_eq!(world.stored().await, all(1_201));
    let info = world.js.stream("S").await.unwrap();
    assert_eq!(info.state.messages, 1_202, "one marker is left");
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_or_after_any_batch_is_made_good_from_the_checkpoint() {
    for batches in 0..=3_u32 {
        let world = World::new().await;
        let mut sink = world.sink(&[]).await;
        let first = barrier(&mut sink, None, 2, 0..10).await;
        published(&mut sink, 2).await;
        let second = barrier(&mut sink, Some(&first), 3, 10..1_210).await;
        // The checkpoint is durable, and of its three batches so many are stored.
        world.losing.allowed.store(batches, Ordering::SeqCst);
        let ended = tokio::time::timeout(Duration::from_secs(60), published(&mut sink, 3)).await;
        assert_eq!(ended.is_ok(), batches == 3);
        drop(sink);
        world.losing.allowed.store(u32::MAX, Ordering::SeqCst);
        assert_eq!(world.stored().await, all(10 + (batches * 500).min(1_200)), "{batches}");
        let mut sink = world.sink(std::slice::from_ref(&second)).await;
        assert_eq!(world.stored().await, all(1_210), "{batches}");
        barrier(&mut sink, Some(&second), 5, 1_210..1_220).await;
        published(&mut sink, 5).await;
        assert_eq!(world.stored().await, all(1_220), "{batches}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_is_not_known_is_looked_up() {
    let world = World::new().await;
    let mut sink = world.sink(&[]).await;
    let mut before = None;
    for (epoch, (commits, answers)) in (2..).zip([(1, 0), (0, 1), (2, 0), (0, 2), (1, 1)]) {
        world.losing.commits.store(commits, Ordering::SeqCst);
        world.losing.answers.store(answers, Ordering::SeqCst);
        let first = (u32::try_from(epoch).unwrap() - 2) * 700;
        let outputs = barrier(&mut sink, before.as_ref(), epoch, first..first + 700).await;
        published(&mut sink, epoch).await;
        assert_eq!(world.stored().await, all(first + 700), "{commits} {answers}");
        before = Some(outputs);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_was_taken_over_stores_nothing_more() {
    let world = World::new().await;
    let mut old = world.sink(&[]).await;
    let first = barrier(&mut old, None, 2, 0..10).await;
    // Its checkpoint is durable; before it publishes, another takes over and publishes it.
    let mut new = world.sink(std::slice::from_ref(&first)).await;
    assert_eq!(world.stored().await, all(10));
    old.commit(Epoch(2)).await.unwrap();
    let fault = old.flush(Epoch(2)).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Fenced, "{fault}");
    barrier(&mut new, Some(&first), 4, 10..20).await;
    published(&mut new, 4).await;
    assert_eq!(world.stored().await, all(20));
}

#[tokio::test(start_paused = true)]
async fn outputs_of_a_checkpoint_that_failed_are_part_of_the_next() {
    let world = World::new().await;
    let mut sink = world.sink(&[]).await;
    barrier(&mut sink, None, 2, 0..10).await;
    let next = barrier(&mut sink, None, 3, 10..20).await;
    assert_eq!(next.total, 20);
    published(&mut sink, 3).await;
    assert_eq!(world.stored().await, all(20));
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_is_older_than_the_outputs_is_refused_unless_they_may_come_twice() {
    let world = World::new().await;
    let mut sink = world.sink(&[]).await;
    let first = barrier(&mut sink, None, 2, 0..10).await;
    published(&mut sink, 2).await;
    barrier(&mut sink, Some(&first), 3, 10..20).await;
    published(&mut sink, 3).await;
    for old in [&[][..], std::slice::from_ref(&first)] {
        let words = world.refused(old).await;
        assert!(words.contains("the outputs of checkpoint 3 are published (mill.txn.p.out.0 of stream S)"), "{words}");
    }
    let mut sink = TransactionalSink::new(&world.subtask(0, 1, true), JetStreamWrite::to("S")).unwrap();
    sink.open().await.unwrap();
    sink.resume(vec![first.clone()]).await.unwrap();
    let again = barrier(&mut sink, Some(&first), 5, 10..15).await;
    published(&mut sink, 5).await;
    assert_eq!(world.stored().await, [all(20), (10..15).collect()].concat());
    world.sink(&[again]).await;
}

#[tokio::test(start_paused = true)]
async fn a_marker_that_is_gone_is_a_fault_unless_all_was_published() {
    let world = World::new().await;
    let mut sink = world.sink(&[]).await;
    let first = barrier(&mut sink, None, 2, 0..10).await;
    published(&mut sink, 2).await;
    world.js.purge("S", &Purge { filter: Some("mill.txn.>".into()), ..Purge::default() }).await.unwrap();
    assert!(world.refused(std::slice::from_ref(&first)).await.contains("is not there"));
    // While it runs, it is a reason to start again and compare.
    let second = barrier(&mut sink, Some(&first), 3, 10..20).await;
    sink.commit(Epoch(3)).await.unwrap();
    let fault = sink.flush(Epoch(3)).await.unwrap_err();
    assert!(fault.kind() == FaultKind::Connection && fault.to_string().contains("is gone"), "{fault}");
    assert!(world.refused(&[second]).await.contains("is not there"));
    let known = Outputs { published: true, records: Arc::from([]), ..first.clone() };
    let mut sink = world.sink(&[known]).await;
    barrier(&mut sink, Some(&first), 5, 10..12).await;
    published(&mut sink, 5).await;
    assert_eq!(world.stored().await, all(12));
}

#[tokio::test(start_paused = true)]
async fn outputs_of_subtasks_that_are_no_more_are_published_by_those_that_are() {
    let world = World::new().await;
    let mut logs = Vec::new();
    for index in 0..3_u32 {
        let mut sink = TransactionalSink::new(&world.subtask(index, 3, false), JetStreamWrite::to("S")).unwrap();
        sink.open().await.unwrap();
        sink.resume(Vec::new()).await.unwrap();
        let first = index * 10;
        logs.push(Outputs { subtask: index, ..barrier(&mut sink, None, 2, first..first + 10).await });
    }
    let mut sink = world.sink(&logs).await;
    let mut stored = world.stored().await;
    stored.sort_unstable();
    assert_eq!(stored, all(30));
    // Whoever did their work before does no more.
    barrier(&mut sink, Some(&logs[0]), 4, 30..31).await;
    published(&mut sink, 4).await;
    assert_eq!(world.stored().await.len(), 31);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_know_atomic_batches_is_refused_and_its_streams_are_left_alone() {
    let broker = Embedded::new(EmbeddedOptions { api_level: 1, ..EmbeddedOptions::default() });
    let world = World { js: Js::new(broker.connect()), broker, losing: Arc::default() };
    let before = world.js.create_stream(&StreamConfig::new("S", ["s.>"])).await.unwrap().config;
    let write = JetStreamWrite { create: Some(vec!["s.>".to_owned()]), ..JetStreamWrite::to("S") };
    let mut sink = TransactionalSink::new(&world.subtask(0, 1, false), write).unwrap();
    let fault = sink.open().await.unwrap_err();
    let words = "the server does not know atomic batches: use nats-server 2.12 or newer";
    assert!(fault.kind() == FaultKind::Setup && fault.to_string().contains(words), "{fault}");
    assert_eq!(world.js.stream("S").await.unwrap().config, before);
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_given_what_it_lacks_if_the_sink_may_and_else_refused() {
    let world = World::new().await;
    world.js.delete_stream("S").await.unwrap();
    world.js.create_stream(&StreamConfig::new("T", ["t.*"])).await.unwrap();
    let open = async |write| {
        let mut sink = TransactionalSink::new(&world.subtask(0, 1, false), write).unwrap();
        sink.open().await.map_err(|fault| fault.to_string())
    };
    let told = open(JetStreamWrite::to("T")).await.unwrap_err();
    assert!(told.contains("it needs allow_atomic, allow_rollup_hdrs, the subject mill.txn.p.out.*"), "{told}");
    let create = |stream: &str, subject: &str| JetStreamWrite {
        create: Some(vec![subject.to_owned()]),
        ..JetStreamWrite::to(stream)
    };
    for (stream, subject) in [("T", "t.*"), ("NEW", "new.*")] {
        open(create(stream, subject)).await.unwrap();
        let config = world.js.stream(stream).await.unwrap().config;
        assert!(config.allow_atomic && config.allow_rollup_hdrs && config.subjects.len() == 2, "{config:?}");
        world.js.delete_stream(stream).await.unwrap();
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_marker_does_not_age_away_under_a_run_that_has_nothing_to_publish() {
    let world = World::aging(MINUTE).await;
    let mut sink = world.sink(&[]).await;
    let first = barrier(&mut sink, None, 2, 0..10).await;
    published(&mut sink, 2).await;
    // Whether nothing comes at all, or rows from which no outputs follow.
    assert!(timeout(MINUTE * 10, sink.drive()).await.is_err());
    assert_eq!(world.stored().await, all(0), "what was stored with the marker has gone");
    let second = barrier(&mut sink, Some(&first), 3, 10..20).await;
    published(&mut sink, 3).await;
    assert_eq!(world.stored().await, (10..20).collect::<Vec<_>>());
    for epoch in 4..600 {
        sleep(Duration::from_secs(1)).await;
        published(&mut sink, epoch).await;
    }
    barrier(&mut sink, Some(&second), 600, 20..30).await;
    published(&mut sink, 600).await;
    assert_eq!(world.stored().await, (20..30).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_marker_is_rewritten_four_times_within_max_age_and_never_where_nothing_lets_go_of_it() {
    for (world, wanted) in [(World::aging(MINUTE).await, 4 * 10..=4 * 10 + 1), (World::new().await, 1..=1)] {
        let mut sink = world.sink(&[]).await;
        assert!(timeout(MINUTE * 10, sink.drive()).await.is_err());
        let written = world.js.stream("S").await.unwrap().state.last_seq;
        assert!(wanted.contains(&written), "{written} times");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rewrite_whose_outcome_is_not_known_is_looked_up_and_outputs_follow_it() {
    let mut before = None;
    let world = World::aging(MINUTE).await;
    let mut sink = world.sink(&[]).await;
    for (epoch, (commits, answers)) in (2..).zip([(1, 0), (0, 1), (1, 1), (2, 0), (0, 2)]) {
        world.losing.commits.store(commits, Ordering::SeqCst);
        world.losing.answers.store(answers, Ordering::SeqCst);
        assert!(timeout(MINUTE * 2, sink.drive()).await.is_err());
        let first = u32::try_from(epoch).unwrap() * 10;
        let outputs = barrier(&mut sink, before.as_ref(), epoch, first..first + 10).await;
        published(&mut sink, epoch).await;
        assert_eq!(world.stored().await, (first..first + 10).collect::<Vec<_>>(), "{commits} {answers}");
        before = Some(outputs);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_was_taken_over_finds_out_when_it_rewrites_its_marker() {
    let world = World::aging(MINUTE).await;
    let mut old = world.sink(&[]).await;
    let mut new = world.sink(&[]).await;
    let fault = timeout(MINUTE, old.drive()).await.unwrap().unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Fenced, "{fault}");
    assert!(timeout(MINUTE * 5, new.drive()).await.is_err());
    barrier(&mut new, None, 2, 0..10).await;
    published(&mut new, 2).await;
    assert_eq!(world.stored().await, all(10));
}

#[tokio::test(start_paused = true)]
async fn a_marker_does_not_age_away_while_outputs_wait_for_the_stream_to_take_them() {
    let world = World::aging(MINUTE).await;
    let mut sink = world.sink(&[]).await;
    let config = world.js.stream("S").await.unwrap().config;
    let closed = StreamConfig { subjects: vec!["mill.txn.p.>".to_owned()], ..config.clone() };
    world.js.update_stream(&closed).await.unwrap();
    barrier(&mut sink, None, 2, 0..10).await;
    assert!(timeout(MINUTE * 10, published(&mut sink, 2)).await.is_err());
    world.js.update_stream(&config).await.unwrap();
    sink.flush(Epoch(2)).await.unwrap();
    assert_eq!(world.stored().await, all(10));
}

#[tokio::test(start_paused = true)]
async fn a_rewind_publishes_the_outputs_of_the_checkpoint_of_which_it_is_not_known_that_they_are() {
    for (batches, purged) in [(0, false), (1, false), (0, true), (1, true)] {
        let world = World::new().await;
        let mut sink = world.sink(&[]).await;
        let first = barrier(&mut sink, None, 2, 0..10).await;
        published(&mut sink, 2).await;
        let second = barrier(&mut sink, Some(&first), 3, 10..1_000).await;
        world.losing.allowed.store(batches, Ordering::SeqCst);
        assert!(timeout(MINUTE, published(&mut sink, 3)).await.is_err());
        drop(sink);
        world.losing.allowed.store(u32::MAX, Ordering::SeqCst);
        if purged {
            world.js.purge("S", &Purge { filter: Some("mill.txn.>".into()), ..Purge::default() }).await.unwrap();
            let words = world.refused(std::slice::from_ref(&second)).await;
            assert!(words.contains("to publish the 990 outputs of checkpoint 3"), "{words}");
        }
        let mut sink = TransactionalSink::new(&world.subtask(0, 1, true), JetStreamWrite::to("S")).unwrap();
        sink.open().await.unwrap();
        sink.resume(vec![second]).await.unwrap();
        // Where the marker tells how far they are, none comes twice.
        let twice = if purged { batches * 500 } else { 0 };
        let wanted = [all(10 + twice), (10..1_000).collect()].concat();
        let wanted = if purged { wanted } else { all(1_000) };
        assert_eq!(world.stored().await, wanted, "{batches} {purged}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_lets_go_of_the_marker_too_soon_is_refused() {
    let world = World::aging(Duration::from_millis(900)).await;
    let mut sink = TransactionalSink::new(&world.subtask(0, 1, false), JetStreamWrite::to("S")).unwrap();
    let fault = sink.open().await.unwrap_err();
    assert!(fault.kind() == FaultKind::Setup && fault.to_string().contains("max_age of a second at least"), "{fault}");
}
