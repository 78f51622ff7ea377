//! Stories of a source with a position on the embedded broker, in virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream_operators::{FaultKind, Headers, Source, Timestamp};
use millstream_pipelines::graph::{Resources, Settings, Subtask};
use tokio::time::{Instant, timeout};

use super::*;
use crate::broker::{Embedded, EmbeddedOptions, Fate, Hook, Incoming, Js, Outgoing, Retention, StreamConfig};
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
    world.js.purge("S", &crate::broker::Purge::default()).await.unwrap();
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
