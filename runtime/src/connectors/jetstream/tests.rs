//! Stories of a source with a position on the embedded broker, in virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream_operators::{FaultKind, Headers, Source, Timestamp};
use millstream_pipelines::graph::{Resources, Settings, Subtask};
use tokio::time::{Instant, timeout};

use super::*;
use crate::broker::{Embedded, EmbeddedOptions, Fate, Hook, Incoming, Js, Outgoing, Purge, Retention, StreamConfig};
use crate::connectors::Connections;
use crate::engine::Clock;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Loses what it is told to.
#[derive(Default)]
struct Losing {
    statuses: AtomicBool,
    consumer_info: AtomicBool,
}

impl Hook for Losing {
    fn on_publish(&self, message: &Outgoing) -> Fate {
        let asks = message.subject.starts_with("$JS.API.CONSUMER.INFO");
        if asks && self.consumer_info.load(Ordering::SeqCst) { Fate::Lose } else { Fate::Pass }
    }

    fn on_deliver(&self, message: &Incoming) -> Fate {
        let ends = message.status.is_some_and(|status| status == 409 || status == 503);
        if ends && self.statuses.load(Ordering::SeqCst) { Fate::Lose } else { Fate::Pass }
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
        js.create_stream(&StreamConfig::new("S", ["s.*"])).await.unwrap();
        World { broker, losing, js }
    }

    async fn publish(&self, subject: &'static str, count: usize) {
        for _ in 0..count {
            self.js.publish(subject, Headers::NONE, "x").await.unwrap();
        }
    }

    async fn source(&self, linger: Duration, read: JetStreamRead) -> JetStreamSource {
        let mut settings = Settings::default();
        settings.linger = linger;
        let connections = Connections::to_embedded(self.broker.clone());
        let clock = Clock::starting_at(Timestamp::default());
        let resources = Resources::default().with(connections).with(settings).with(clock);
        let subtask = Subtask { pipeline: "p".into(), node: "n".into(), index: 0, of: 1, resources };
        let mut source = JetStreamSource::new(&subtask, read).unwrap();
        source.open(None).await.unwrap();
        source
    }
}

async fn rows(source: &mut JetStreamSource, most: usize, within: Duration) -> usize {
    match timeout(within, source.next(most)).await {
        Ok(batch) => batch.unwrap().unwrap().len(),
        Err(_) => 0,
    }
}

#[tokio::test(start_paused = true)]
async fn without_linger_a_batch_is_what_is_there() {
    let world = World::new().await;
    let mut source = world.source(Duration::ZERO, JetStreamRead::of("S")).await;
    world.publish("s.a", 3).await;
    let asked = Instant::now();
    assert_eq!(rows(&mut source, 1_024, SECOND).await, 3);
    world.publish("s.a", 1).await;
    assert_eq!(rows(&mut source, 1_024, SECOND).await, 1);
    assert_eq!(asked.elapsed(), Duration::ZERO, "nothing waits");
}

#[tokio::test(start_paused = true)]
async fn with_linger_a_row_waits_for_others_but_not_longer_and_a_full_batch_does_not() {
    let world = World::new().await;
    let mut source = world.source(MILLI * 50, JetStreamRead::of("S")).await;
    assert_eq!(rows(&mut source, 4, SECOND).await, 0);
    let feeding = async {
        for _ in 0..3 {
            world.publish("s.a", 1).await;
            tokio::time::sleep(MILLI * 20).await;
        }
    };
    let asked = Instant::now();
    let ((), got) = tokio::join!(feeding, rows(&mut source, 4, SECOND));
    assert_eq!(got, 3);
    assert!(asked.elapsed() >= MILLI * 50 && asked.elapsed() <= MILLI * 62, "{:?}", asked.elapsed());

    world.publish("s.a", 4).await;
    let asked = Instant::now();
    assert_eq!((rows(&mut source, 4, SECOND).await, asked.elapsed()), (4, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn what_was_heard_stays_when_nobody_waits_any_more() {
    let world = World::new().await;
    let mut source = world.source(MILLI * 50, JetStreamRead::of("S")).await;
    world.publish("s.a", 2).await;
    // As barriers do: each drops the future that gathers.
    for _ in 0..4 {
        assert_eq!(rows(&mut source, 1_024, MILLI * 12).await, 0);
        assert_eq!(source.position().sequence, 0, "the position covers what was given");
    }
    assert_eq!((rows(&mut source, 1_024, MILLI * 12).await, source.position().sequence), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_goes_unnoticed_is_found_missing_by_looking() {
    let world = World::new().await;
    let mut source = world.source(Duration::ZERO, JetStreamRead::of("S")).await;
    assert_eq!(rows(&mut source, 1, SECOND).await, 0, "it waits");
    world.losing.statuses.store(true, Ordering::SeqCst);
    world.js.delete_consumer("S", "mill-p-n").await.unwrap();
    world.publish("s.a", 1).await;
    let gone = Instant::now();
    assert_eq!(rows(&mut source, 1, SECOND * 60).await, 1);
    assert!(gone.elapsed() <= SECOND * 11, "{:?}: by looking, and not by the silence", gone.elapsed());
}

#[tokio::test(start_paused = true)]
async fn reading_goes_on_while_a_look_gets_no_answer() {
    let world = World::new().await;
    let mut source = world.source(Duration::ZERO, JetStreamRead::of("S")).await;
    world.losing.consumer_info.store(true, Ordering::SeqCst);
    assert_eq!(rows(&mut source, 1, SECOND * 11).await, 0, "it looks since a second");
    world.publish("s.a", 1).await;
    let published = Instant::now();
    assert_eq!((rows(&mut source, 1, SECOND).await, published.elapsed()), (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn an_idle_source_follows_the_stream_past_subjects_that_it_does_not_read() {
    let world = World::new().await;
    let read = JetStreamRead { subjects: vec!["s.a".into()], ..JetStreamRead::of("S") };
    let mut source = world.source(Duration::ZERO, read).await;
    world.publish("s.a", 1).await;
    assert_eq!(rows(&mut source, 1, SECOND).await, 1);
    world.publish("s.b", 5).await;
    assert_eq!((rows(&mut source, 1, SECOND).await, source.position().sequence), (0, 1));
    // However often it is interrupted.
    for _ in 0..120 {
        assert_eq!(rows(&mut source, 1, MILLI * 100).await, 0);
    }
    assert_eq!(source.position().sequence, 6);
    // So what expires of them is no loss.
    world.js.purge("S", &Purge::default()).await.unwrap();
    assert_eq!(rows(&mut source, 1, SECOND * 30).await, 0);
    world.publish("s.a", 1).await;
    assert_eq!((rows(&mut source, 1, SECOND).await, source.position().sequence), (1, 7));
}

#[tokio::test(start_paused = true)]
async fn a_work_queue_is_refused_before_anything_is_read_with_both_ways_out() {
    let world = World::new().await;
    let queue = StreamConfig { retention: Retention::WorkQueue, ..StreamConfig::new("Q", ["q"]) };
    world.js.create_stream(&queue).await.unwrap();
    let connections = Connections::to_embedded(world.broker.clone());
    let resources = Resources::default().with(connections);
    let subtask = Subtask { pipeline: "p".into(), node: "n".into(), index: 0, of: 1, resources };
    let fault = JetStreamSource::new(&subtask, JetStreamRead::of("Q")).unwrap().open(None).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Setup);
    let words = fault.to_string();
    assert!(words.contains("share = true") && words.contains("limits retention that sources Q"), "{words}");
}

/// A source that has taken four messages of many and may have no more in flight.
async fn ahead_of(world: &World, read: JetStreamRead) -> JetStreamSource {
    let read = JetStreamRead { max_ack_pending: 4, ..read };
    let mut source = world.source(Duration::ZERO, read).await;
    assert_eq!(rows(&mut source, 1_024, SECOND).await, 4);
    source
}

async fn go_on(source: &mut JetStreamSource) -> millstream_operators::Result<Vec<u64>> {
    source.commit(source.position()).await?;
    let mut sequences = Vec::new();
    while let Ok(batch) = timeout(SECOND, source.next(1_024)).await {
        let batch = batch?.unwrap();
        sequences.extend(batch.origins().unwrap().messages().iter().map(|origin| origin.sequence));
    }
    Ok(sequences)
}

/// Purges, and publishes one more: the broker looks for what it can deliver then.
async fn purge_before(world: &World, seq: u64) {
    world.js.purge("S", &Purge { seq, ..Purge::default() }).await.unwrap();
    world.publish("s.a", 1).await;
}

async fn purge_all(world: &World) {
    world.js.purge("S", &Purge::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn messages_deleted_one_by_one_are_no_loss_and_a_purge_ahead_is() {
    let world = World::new().await;
    world.publish("s.a", 30).await;
    let mut source = ahead_of(&world, JetStreamRead::of("S")).await;
    for sequence in [5, 7, 8] {
        world.js.delete_message("S", sequence).await.unwrap();
    }
    assert_eq!(go_on(&mut source).await.unwrap(), [6, 9, 10, 11]);
    purge_before(&world, 21).await;
    let fault = go_on(&mut source).await.unwrap_err();
    assert_eq!((fault.kind(), source.position().sequence), (FaultKind::SourceLost, 11));
    assert!(fault.to_string().contains("the messages 12 to 20"), "{fault}");
}

#[tokio::test(start_paused = true)]
async fn where_a_gap_may_be_skipped_reading_goes_on_behind_it_and_nothing_is_left_to_wait() {
    let world = World::new().await;
    world.publish("s.a", 30).await;
    let mut source = ahead_of(&world, JetStreamRead { on_gap: OnGap::Skip, ..JetStreamRead::of("S") }).await;
    purge_before(&world, 21).await;
    assert_eq!(go_on(&mut source).await.unwrap(), [21, 22, 23, 24]);
    purge_all(&world).await;
    assert_eq!((rows(&mut source, 1, SECOND * 11).await, source.lag()), (0, Some(0)));
    assert_eq!(source.position().sequence, 31);
}

/// What a source gives, in order: sequences, and where messages are gone, which.
async fn sequences_and_gaps(source: &mut JetStreamSource, within: Duration) -> Vec<String> {
    source.commit(source.position()).await.unwrap();
    let mut given = Vec::new();
    while let Ok(batch) = timeout(within, source.next(1_024)).await {
        let batch = batch.unwrap().unwrap();
        let origins = batch.origins().unwrap();
        for (row, message) in batch.rows().iter().enumerate() {
            let sequence = origins.get(row).unwrap().sequence;
            given.push(origins.gap().map_or(sequence.to_string(), |_| String::from_utf8_lossy(message).into_owned()));
            assert!(source.position().sequence >= sequence);
        }
    }
    given
}

fn gap(first: u64, last: u64) -> String {
    format!("{{\"first\":{first},\"last\":{last},\"stream\":\"S\"}}")
}

#[tokio::test(start_paused = true)]
async fn where_gaps_are_recorded_each_has_its_place_before_what_follows() {
    for (deny_delete, subjects) in [(false, vec![]), (true, vec![]), (false, vec!["s.a".into()])] {
        let world = World::new().await;
        world.js.update_stream(&StreamConfig { deny_delete, ..StreamConfig::new("S", ["s.*"]) }).await.unwrap();
        world.publish("s.a", 30).await;
        let read = JetStreamRead { on_gap: OnGap::Record, subjects, ..JetStreamRead::of("S") };
        let mut source = ahead_of(&world, read.clone()).await;
        let before = source.position();
        // Found by a delivery behind it.
        purge_before(&world, 21).await;
        let given = sequences_and_gaps(&mut source, SECOND).await;
        let mut wanted: Vec<_> = (5..=8).map(|sequence| sequence.to_string()).collect();
        wanted.truncate(given.iter().position(|given| given.starts_with('{')).unwrap());
        let last = 4 + wanted.len() as u64;
        wanted.push(gap(last + 1, 20));
        wanted.extend((21..25).map(|sequence| sequence.to_string()).take(given.len() - wanted.len()));
        assert_eq!(given, wanted);
        // Found by a look, with nothing behind it.
        let _ = sequences_and_gaps(&mut source, SECOND).await;
        let _ = sequences_and_gaps(&mut source, SECOND).await;
        let read_up_to = source.position().sequence;
        purge_all(&world).await;
        if read_up_to < 31 {
            assert_eq!(sequences_and_gaps(&mut source, SECOND * 11).await, [gap(read_up_to + 1, 31)]);
        }
        assert_eq!(source.position().sequence, 31);
        // Found when it begins where a checkpoint stood.
        world.publish("s.a", 1).await;
        source.open(Some(before)).await.unwrap();
        assert_eq!(sequences_and_gaps(&mut source, SECOND).await, [gap(5, 31), "32".to_owned()]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_gap_that_was_found_and_not_recorded_yet_is_not_part_of_a_position() {
    let world = World::new().await;
    world.publish("s.a", 30).await;
    let mut source = ahead_of(&world, JetStreamRead { on_gap: OnGap::Record, ..JetStreamRead::of("S") }).await;
    purge_all(&world).await;
    // Nobody asks for rows: it looks, and looks again.
    assert!(timeout(SECOND * 25, source.drive()).await.is_err());
    assert_eq!(source.position().sequence, 4);
    assert_eq!(sequences_and_gaps(&mut source, SECOND).await, [gap(5, 30)]);
    assert_eq!(source.position().sequence, 30);
}

#[tokio::test(start_paused = true)]
async fn subjects_that_are_left_out_are_recorded_too() {
    let world = World::new().await;
    world.publish("s.a", 3).await;
    world.publish("s.b", 3).await;
    let read = |subjects: &[&str]| JetStreamRead {
        subjects: subjects.iter().map(|&subject| subject.into()).collect(),
        on_gap: OnGap::Record,
        ..JetStreamRead::of("S")
    };
    let mut source = world.source(Duration::ZERO, read(&["s.b"])).await;
    assert_eq!(sequences_and_gaps(&mut source, SECOND).await, ["4", "5", "6"]);
    let position = source.position();
    drop(source);
    let mut source = world.source(Duration::ZERO, read(&["s.a", "s.b"])).await;
    source.open(Some(position)).await.unwrap();
    world.publish("s.a", 1).await;
    assert_eq!(sequences_and_gaps(&mut source, SECOND).await, [gap(1, 6), "7".to_owned()]);
}

#[tokio::test(start_paused = true)]
async fn a_purge_of_everything_is_a_loss_to_a_source_that_waits_and_to_one_that_is_not_asked() {
    for asked in [true, false] {
        let world = World::new().await;
        world.publish("s.a", 30).await;
        let mut source = ahead_of(&world, JetStreamRead::of("S")).await;
        purge_all(&world).await;
        let fault = match asked {
            true => timeout(SECOND * 11, source.next(1)).await.unwrap().unwrap_err(),
            false => timeout(SECOND * 11, source.drive()).await.unwrap().unwrap_err(),
        };
        assert!(fault.kind() == FaultKind::SourceLost && fault.to_string().contains("5 to 30"), "{fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_of_some_subjects_misses_its_own_messages_and_no_others() {
    let read = || JetStreamRead { subjects: vec!["s.a".into()], ..JetStreamRead::of("S") };
    let world = World::new().await;
    for _ in 0..15 {
        world.publish("s.b", 1).await;
        world.publish("s.a", 1).await;
    }
    let mut source = ahead_of(&world, read()).await;
    // Others go, up to the next that it reads.
    purge_before(&world, 10).await;
    assert_eq!(go_on(&mut source).await.unwrap(), [10, 12, 14, 16]);
    // Four of its own; one has come since.
    purge_before(&world, 25).await;
    let fault = go_on(&mut source).await.unwrap_err();
    assert!(fault.kind() == FaultKind::SourceLost && fault.to_string().contains("at least 3 of them"), "{fault}");

    let world = World::new().await;
    world.publish("s.a", 10).await;
    let mut source = ahead_of(&world, read()).await;
    purge_all(&world).await;
    let fault = timeout(SECOND * 11, source.next(1)).await.unwrap().unwrap_err();
    assert!(fault.kind() == FaultKind::SourceLost && fault.to_string().contains("at least 6 of them"), "{fault}");
}
