//! A `kill -9` of the server, and what is there when it begins anew.

use serde_json::json;

use crate::same_over_a_kill;
use crate::world::World;

#[test]
fn messages_acks_and_consumers_outlive_a_kill_and_open_batches_and_what_is_in_memory_do_not() {
    same_over_a_kill(|world| Box::pin(before(world)), |world| Box::pin(after(world)));
}

async fn before(world: &mut World) {
    let config = json!({ "name": "S", "subjects": ["a.>"], "allow_atomic": true, "allow_batched": true });
    world.call("STREAM.CREATE.S", config).await;
    world.call("STREAM.CREATE.M", json!({ "name": "M", "subjects": ["m"], "storage": "memory" })).await;
    world.publish("m", &[], "x").await;
    for number in 1..=6 {
        world.publish("a.1", &[("Nats-Msg-Id", &format!("m{number}"))], "x").await;
    }
    let durable = json!({ "stream_name": "S", "config": { "durable_name": "c", "ack_policy": "all" } });
    world.call("CONSUMER.CREATE.S.c", durable).await;
    let mortal = json!({ "stream_name": "S", "config": { "name": "e", "ack_policy": "none", "inactive_threshold": 60_000_000_000_u64 } });
    world.call("CONSUMER.CREATE.S.e", mortal).await;
    world.pull("S", "c", json!({ "batch": 4 })).await;
    world.answer("c", 1, "+ACK").await;
    world.consumer("S", "c").await;
    world.publish("a.1", &[("Nats-Batch-Id", "b"), ("Nats-Batch-Sequence", "1")], "x").await;
    world.fast("f", "10.fail.1.0", "a.2", &[]).await;
    world.fast("f", "10.fail.2.1", "a.2", &[]).await;
    world.stream("S").await;
}

async fn after(world: &mut World) {
    world.stream("S").await;
    world.stream("M").await;
    world.consumer("S", "c").await;
    world.call("CONSUMER.INFO.S.e", json!(null)).await;
    world.publish("a.1", &[("Nats-Msg-Id", "m3")], "x").await;
    let commit = [("Nats-Batch-Id", "b"), ("Nats-Batch-Sequence", "2"), ("Nats-Batch-Commit", "1")];
    world.publish("a.1", &commit, "x").await;
    world.fast("f", "10.fail.3.1", "a.2", &[]).await;
    world.pull("S", "c", json!({ "batch": 2 })).await;
    world.call("CONSUMER.RESET.S.c", json!(null)).await;
    world.pull("S", "c", json!({ "batch": 2 })).await;
}
