//! Tables on the embedded broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use millstream_operators::{Headers, Table};
use millstream_pipelines::graph::{Resources, Subtask};

use super::Tables;
use crate::broker::{Connections, Embedded, EmbeddedOptions, Fate, Hook, Incoming, Js, Purge};
use crate::engine::Latch;

/// Loses the next so many deliveries, and the next so many heartbeats.
#[derive(Default)]
struct Losing {
    deliveries: AtomicU32,
    heartbeats: AtomicU32,
}

impl Hook for Losing {
    fn on_deliver(&self, message: &Incoming) -> Fate {
        let is_delivery = message.reply.as_ref().is_some_and(|reply| reply.as_str().starts_with("$JS.ACK."));
        let left = match message.status {
            Some(100) => &self.heartbeats,
            _ if is_delivery => &self.deliveries,
            _ => return Fate::Pass,
        };
        let loses = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if loses { Fate::Lose } else { Fate::Pass }
    }
}

struct World {
    broker: Embedded,
    losing: Arc<Losing>,
    latch: Arc<Latch>,
    tables: Tables,
}

impl World {
    fn new() -> World {
        let losing = Arc::<Losing>::default();
        let broker = Embedded::with_hook(EmbeddedOptions::default(), Arc::clone(&losing) as Arc<dyn Hook>);
        let tables = Tables::of_server(Arc::new(Connections::to_embedded(broker.clone())));
        World { broker, losing, latch: Arc::default(), tables }
    }

    async fn bucket(&self) -> Js {
        let js = Js::new(self.broker.connect());
        js.create_bucket("B", 1, 5).await.unwrap();
        js
    }

    fn table(&self) -> Table {
        let resources = Resources::default().with_shared(Arc::clone(&self.latch));
        let subtask = Subtask { pipeline: "p".into(), node: "n".into(), index: 0, of: 1, resources };
        self.tables.table("B", &subtask)
    }
}

async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn look(table: &Table, key: &str) -> Option<String> {
    table.look_up([Some(key)]).remove(0).map(|value| String::from_utf8(value.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_before_the_whole_bucket_is_there_and_changes_follow() {
    let world = World::new();
    let js = world.bucket().await;
    for n in 0..2_500 {
        js.kv_put("B", &format!("k.{}", n % 1_200), format!("{n}")).await.unwrap();
    }
    js.kv_purge("B", "k.7").await.unwrap();
    let table = world.table();
    world.latch.opened().await.unwrap();
    assert_eq!((table.len(), look(&table, "k.8"), look(&table, "k.7")), (1_199, Some("2408".into()), None));
    js.kv_put("B", "k.7", "back").await.unwrap();
    js.kv_purge("B", "k.8").await.unwrap();
    until(|| look(&table, "k.8").is_none()).await;
    assert_eq!(look(&table, "k.7").as_deref(), Some("back"));
    assert_eq!(world.table().len(), 1_199, "a second subtask has the same table");
}

#[tokio::test(start_paused = true)]
async fn an_empty_bucket_holds_nobody_up() {
    let world = World::new();
    world.bucket().await;
    let table = world.table();
    world.latch.opened().await.unwrap();
    assert!(table.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_not_there_is_told() {
    let world = World::new();
    world.table();
    let error = world.latch.opened().await.unwrap_err().to_string();
    assert!(error.contains("no bucket B") && error.contains("nats kv add B"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn after_its_consumer_was_lost_the_table_is_what_the_bucket_is() {
    let world = World::new();
    let js = world.bucket().await;
    js.kv_put("B", "old", "1").await.unwrap();
    js.kv_put("B", "stays", "1").await.unwrap();
    let table = world.table();
    world.latch.opened().await.unwrap();
    let names = js.connection().request("$JS.API.CONSUMER.NAMES.KV_B", Headers::NONE, "", Duration::from_secs(1)).await;
    let names: serde_json::Value = serde_json::from_slice(&names.unwrap().payload).unwrap();
    assert_eq!(names["consumers"].as_array().unwrap().len(), 1);
    js.delete_consumer("KV_B", names["consumers"][0].as_str().unwrap()).await.unwrap();
    // Purged without a mark: only who reads all of it again can know.
    js.purge("KV_B", &Purge { filter: Some("$KV.B.old".into()), ..Purge::default() }).await.unwrap();
    js.kv_put("B", "new", "1").await.unwrap();
    until(|| look(&table, "new").is_some()).await;
    assert_eq!((table.len(), look(&table, "old")), (2, None));
}

#[tokio::test(start_paused = true)]
async fn a_last_change_that_is_lost_on_a_link_that_stays_is_found_all_the_same() {
    let world = World::new();
    let js = world.bucket().await;
    js.kv_put("B", "k", "old").await.unwrap();
    let table = world.table();
    world.latch.opened().await.unwrap();
    for (value, heartbeats) in [("1", 0), ("2", 1), ("3", u32::MAX)] {
        world.losing.heartbeats.store(heartbeats, Ordering::SeqCst);
        world.losing.deliveries.store(1, Ordering::SeqCst);
        js.kv_put("B", "k", value).await.unwrap();
        let came = until(|| look(&table, "k").as_deref() == Some(value));
        tokio::time::timeout(Duration::from_secs(60), came).await.expect(value);
    }
}

#[tokio::test(start_paused = true)]
async fn a_table_whose_last_key_is_lost_while_it_is_read_gets_whole() {
    let world = World::new();
    let js = world.bucket().await;
    js.kv_put("B", "k", "1").await.unwrap();
    world.losing.deliveries.store(1, Ordering::SeqCst);
    let table = world.table();
    tokio::time::timeout(Duration::from_secs(60), world.latch.opened()).await.unwrap().unwrap();
    assert_eq!(look(&table, "k").as_deref(), Some("1"));
}
