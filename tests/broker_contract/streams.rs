//! Streams: their configuration, their limits, and what is taken out of them.

use serde_json::{Value, json};

use crate::same;
use crate::world::World;

#[test]
fn streams_are_created_changed_and_deleted() {
    same(|world| Box::pin(configurations(world)));
}

async fn configurations(world: &mut World) {
    let create = |name: &str| format!("STREAM.CREATE.{name}");
    world.call("INFO.NO", Value::Null).await;
    for config in [
        json!({ "name": "S", "subjects": ["a.>", "b"], "allow_atomic": true, "allow_batched": true }),
        json!({ "name": "S", "subjects": ["a.>", "b"], "allow_atomic": true, "allow_batched": true }),
        json!({ "name": "S", "subjects": ["a.>", "b"] }),
    ] {
        world.call(&create("S"), config).await;
    }
    for config in [
        json!({ "name": "T", "subjects": ["a.*"] }),
        json!({ "name": "X" }),
        json!({ "name": "T", "subjects": ["a..b"] }),
        json!({ "name": "T", "subjects": ["t", "t"] }),
        json!({ "name": "T", "subjects": ["t.*", "t.a"] }),
        json!({ "name": "T", "subjects": [">"] }),
        json!({ "name": "T", "subjects": ["$JS.API.>"] }),
        json!({ "name": "T", "max_age": 1000 }),
        json!({ "name": "T", "max_age": 1_000_000_000, "duplicate_window": 2_000_000_000_u64 }),
        json!({ "name": "T", "duplicate_window": 1000 }),
        json!({ "name": "T", "discard_new_per_subject": true }),
        json!({ "name": "T", "discard_new_per_subject": true, "discard": "new" }),
        json!({ "name": "T", "deny_purge": true, "allow_rollup_hdrs": true }),
        json!({ "name": "T", "num_replicas": 3 }),
        json!({ "name": "T", "bogus": 1 }),
        json!("{"),
        Value::Null,
        json!({ "name": "T", "max_age": 1_000_000_000, "max_msgs": 5, "storage": "memory", "description": "d" }),
    ] {
        world.call(&create("T"), config).await;
    }
    for call in ["STREAM.INFO.S", "STREAM.INFO.NO", "STREAM.NAMES", "STREAM.DELETE.NO", "STREAM.FOO.S"] {
        world.call(call, Value::Null).await;
    }
    world.call("STREAM.NAMES", json!({ "subject": "a.b" })).await;
    for config in [
        json!({ "name": "S", "subjects": ["a.>"], "storage": "memory" }),
        json!({ "name": "S", "subjects": ["a.>"], "retention": "workqueue" }),
        json!({ "name": "S", "subjects": ["T"] }),
        json!({ "name": "S", "subjects": ["a.>", "c"], "max_msgs": 3, "deny_delete": true }),
        json!({ "name": "S", "subjects": ["a.>", "c"] }),
    ] {
        world.call("STREAM.UPDATE.S", config).await;
    }
    world.call("STREAM.UPDATE.NO", json!({ "name": "NO", "subjects": ["n"] })).await;
    world.publish("b", &[], "nobody").await;
    world.publish("c", &[], "one").await;
    world.call("STREAM.DELETE.S", json!({})).await;
    world.call("STREAM.DELETE.S", Value::Null).await;
    world.publish("c", &[], "nobody").await;
}

#[test]
fn a_full_stream_gives_up_old_messages_or_refuses_new_ones() {
    same(|world| Box::pin(limits(world)));
}

async fn limits(world: &mut World) {
    let long = "x".repeat(100);
    for (number, config) in [
        json!({ "max_msgs": 3 }),
        json!({ "max_msgs": 3, "discard": "new" }),
        json!({ "max_bytes": 300 }),
        json!({ "max_bytes": 300, "discard": "new" }),
        json!({ "max_bytes": 300, "storage": "memory" }),
        json!({ "max_msgs_per_subject": 2 }),
        json!({ "max_msgs_per_subject": 2, "discard": "new", "discard_new_per_subject": true }),
        json!({ "max_msgs_per_subject": 1, "discard": "new", "max_msgs": 2 }),
        json!({ "max_msgs_per_subject": 1, "discard": "new", "max_bytes": 300 }),
        json!({ "max_msg_size": 50 }),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("L{number}");
        let mut config = config;
        config["name"] = name.clone().into();
        config["subjects"] = json!([format!("l{number}.>")]);
        world.call(&format!("STREAM.CREATE.{name}"), config).await;
        for (place, subject) in ["a", "b", "a", "a", "c", "a"].into_iter().enumerate() {
            let payload = if place % 2 == 0 { "short" } else { long.as_str() };
            world.publish(&format!("l{number}.{subject}"), &[("A", "1")], payload).await;
        }
        world.call(&format!("STREAM.INFO.{name}"), json!({ "subjects_filter": ">", "deleted_details": true })).await;
    }
    world.call("STREAM.UPDATE.L5", json!({ "name": "L5", "subjects": ["l5.>"], "max_msgs_per_subject": 1 })).await;
    world.call("STREAM.UPDATE.L5", json!({ "name": "L5", "subjects": ["l5.>"], "max_msgs": 1 })).await;
    world.stream("L5").await;
}

#[test]
fn messages_are_found_deleted_and_purged() {
    same(|world| Box::pin(messages(world)));
}

async fn messages(world: &mut World) {
    world.call("STREAM.CREATE.S", json!({ "name": "S", "subjects": ["a.>", "b"] })).await;
    world.stream("S").await;
    world.call("STREAM.PURGE.S", Value::Null).await;
    world.stream("S").await;
    for number in 0..20 {
        world.publish(&format!("a.{}", number % 3), &[("N", "v")], &number.to_string()).await;
    }
    for get in [
        json!({ "seq": 2 }),
        json!({ "seq": 2, "no_hdr": true }),
        json!({ "seq": 0 }),
        json!({ "seq": 99 }),
        json!({ "last_by_subj": "a.1" }),
        json!({ "last_by_subj": "a.*" }),
        json!({ "last_by_subj": "b" }),
        json!({ "next_by_subj": "a.1", "seq": 6 }),
        json!({ "next_by_subj": "a.*", "seq": 6 }),
        json!({ "next_by_subj": "a.1" }),
        json!({ "next_by_subj": "a.1", "seq": 99 }),
        json!({ "last_by_subj": "a.1", "seq": 3 }),
        json!({ "last_by_subj": "a.1", "next_by_subj": "a.1" }),
        json!({}),
        Value::Null,
        json!("{"),
    ] {
        world.call("STREAM.MSG.GET.S", get).await;
    }
    world.call("STREAM.MSG.GET.NO", json!({ "seq": 1 })).await;
    for delete in [json!({ "seq": 2 }), json!({ "seq": 2 }), json!({ "seq": 1, "no_erase": true }), Value::Null] {
        world.call("STREAM.MSG.DELETE.S", delete).await;
        world.stream("S").await;
    }
    for purge in [
        json!({ "filter": "a.0", "keep": 4 }),
        json!({ "filter": "a.0", "seq": 10 }),
        json!({ "seq": 1 }),
        json!({ "seq": 6 }),
        json!({ "keep": 8 }),
        json!({ "filter": "a.1", "keep": 2, "seq": 5 }),
        json!({ "filter": "a.1" }),
        json!({ "filter": ">", "keep": 3 }),
        json!({ "filter": "nothing" }),
        json!({ "bogus": 3 }),
        json!({ "seq": 30 }),
        Value::Null,
        json!({ "seq": 20 }),
    ] {
        world.call("STREAM.PURGE.S", purge).await;
        world.stream("S").await;
    }
    world.publish("b", &[], "after").await;
    world.call("STREAM.PURGE.NO", Value::Null).await;
    let denied = json!({ "name": "D", "subjects": ["d"], "deny_delete": true, "deny_purge": true });
    world.call("STREAM.CREATE.D", denied).await;
    world.publish("d", &[], "kept").await;
    world.call("STREAM.MSG.DELETE.D", json!({ "seq": 1 })).await;
    world.call("STREAM.PURGE.D", Value::Null).await;
}

#[test]
fn messages_go_when_they_are_too_old() {
    same(|world| Box::pin(ages(world)));
}

async fn ages(world: &mut World) {
    let second = 1_000_000_000_u64;
    world.call("STREAM.CREATE.S", json!({ "name": "S", "subjects": ["s"], "max_age": second })).await;
    world.call("STREAM.CREATE.L", json!({ "name": "L", "subjects": ["l"], "max_age": second * 3600 })).await;
    world.call("STREAM.CREATE.T", json!({ "name": "T", "subjects": ["t"], "allow_msg_ttl": true })).await;
    world.publish("s", &[], "old").await;
    world.publish("l", &[], "stays").await;
    world.publish("t", &[("Nats-TTL", "1s")], "short").await;
    world.publish("t", &[("Nats-TTL", "1h")], "long").await;
    world.publish("t", &[("Nats-TTL", "never")], "for ever").await;
    world.publish("t", &[("Nats-TTL", "500ms")], "refused").await;
    world.publish("t", &[("Nats-TTL", "soon")], "refused").await;
    world.publish("s", &[("Nats-TTL", "1s")], "refused").await;
    world.pass(2500).await;
    world.stream("S").await;
    world.stream("T").await;
    world.stream("L").await;
    world.publish("s", &[], "new").await;
    world.pass(2500).await;
    world.stream("S").await;
}
