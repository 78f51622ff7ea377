//! Consumers: their configuration, pulls, acknowledgements, redeliveries, resets.

use serde_json::{Value, json};

use crate::same;
use crate::world::World;

/// A stream `S` of `count` messages on three subjects.
async fn filled(world: &mut World, count: u32) {
    world.call("STREAM.CREATE.S", json!({ "name": "S", "subjects": ["a.*"] })).await;
    for number in 0..count {
        world.publish(&format!("a.{}", number % 3), &[], &number.to_string()).await;
    }
}

async fn create(world: &mut World, name: &str, config: Value) {
    let mut config = config;
    config["name"] = name.into();
    if config.get("inactive_threshold").is_none() {
        config["durable_name"] = name.into();
    }
    world.call(&format!("CONSUMER.CREATE.S.{name}"), json!({ "stream_name": "S", "config": config })).await;
}

#[test]
fn consumers_are_created_changed_and_deleted() {
    same(|world| Box::pin(configurations(world)));
}

async fn configurations(world: &mut World) {
    filled(world, 7).await;
    for config in [
        json!({ "ack_policy": "explicit" }),
        json!({ "ack_policy": "explicit" }),
        json!({ "ack_policy": "all" }),
        json!({ "ack_policy": "explicit", "deliver_policy": "new" }),
        json!({ "ack_policy": "explicit", "max_waiting": 3 }),
        json!({ "ack_policy": "explicit", "filter_subjects": ["a.0", "a.1"], "max_ack_pending": 5 }),
        json!({ "ack_policy": "explicit", "ack_wait": 5_000_000_000_u64, "metadata": { "k": "v" } }),
    ] {
        create(world, "c", config).await;
    }
    for config in [
        json!({ "opt_start_seq": 3 }),
        json!({ "deliver_policy": "by_start_sequence" }),
        json!({ "deliver_policy": "last_per_subject" }),
        json!({ "filter_subjects": ["a.*", "a.1"] }),
        json!({ "filter_subjects": [""] }),
        json!({ "filter_subject": "a.1", "filter_subjects": ["a.2"] }),
        json!({ "filter_subject": "a..1" }),
        json!({ "backoff": [1_000_000_000, 2_000_000_000], "max_deliver": 1 }),
        json!({ "num_replicas": 3 }),
        json!({ "bogus": 1 }),
        json!({ "ack_policy": "none", "deliver_policy": "last" }),
    ] {
        create(world, "d", config).await;
    }
    let create = "CONSUMER.CREATE";
    for (call, body) in [
        (format!("{create}.S.w"), json!({ "stream_name": "S", "config": { "durable_name": "v" } })),
        (format!("{create}.S.w.a.1"), json!({ "stream_name": "S", "config": { "name": "w" } })),
        (format!("{create}.S.w.a.1"), json!({ "stream_name": "S", "config": { "filter_subject": "a.1" } })),
        (format!("{create}.S.w"), json!({ "stream_name": "T", "config": { "name": "w" } })),
        (format!("{create}.T.w"), json!({ "stream_name": "T", "config": { "name": "w" } })),
        (format!("{create}.S.x"), json!({ "stream_name": "S", "config": {}, "action": "update" })),
        (format!("{create}.S.c"), json!({ "stream_name": "S", "config": {}, "action": "create" })),
    ] {
        world.call(&call, body).await;
    }
    world.call("CONSUMER.NAMES.S", Value::Null).await;
    for call in ["CONSUMER.INFO.S.c", "CONSUMER.INFO.S.none", "CONSUMER.INFO.T.none", "CONSUMER.DELETE.S.none"] {
        world.call(call, Value::Null).await;
    }
    world.call("CONSUMER.DELETE.S.c", json!({})).await;
    world.open("open", "S", "c", json!({ "batch": 100, "expires": MINUTE })).await;
    world.consumer("S", "c").await;
    world.call("CONSUMER.DELETE.S.c", Value::Null).await;
    world.read("open", "c").await;
    world.call("CONSUMER.DELETE.S.c", Value::Null).await;
    world.call("CONSUMER.RESET.S.c", Value::Null).await;
    world.publish("$JS.API.CONSUMER.MSG.NEXT.S.c", &[], "").await;
    world.publish("$JS.ACK.S.c.1.1.1.1.1", &[], "").await;
}

#[test]
fn a_consumer_begins_where_it_is_told_to() {
    same(|world| Box::pin(starts(world)));
}

async fn starts(world: &mut World) {
    filled(world, 8).await;
    for (name, config) in [
        ("all", json!({})),
        ("new", json!({ "deliver_policy": "new" })),
        ("last", json!({ "deliver_policy": "last" })),
        ("last1", json!({ "deliver_policy": "last", "filter_subject": "a.0" })),
        ("seq", json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": 5 })),
        ("beyond", json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": 12 })),
        ("time", json!({ "deliver_policy": "by_start_time", "opt_start_time": "2001-01-01T00:00:00Z" })),
        ("future", json!({ "deliver_policy": "by_start_time", "opt_start_time": "2101-01-01T00:00:00Z" })),
        ("each", json!({ "deliver_policy": "last_per_subject", "filter_subject": "a.*" })),
        ("each2", json!({ "deliver_policy": "last_per_subject", "filter_subjects": ["a.0", "a.2"] })),
        ("two", json!({ "filter_subjects": ["a.0", "a.2"] })),
        ("none", json!({ "filter_subject": "a.9" })),
    ] {
        let mut config = config;
        config["ack_policy"] = "explicit".into();
        create(world, name, config).await;
        world.pull("S", name, json!({ "batch": 2, "no_wait": true })).await;
        world.consumer("S", name).await;
        world.pull("S", name, json!({ "batch": 20, "no_wait": true })).await;
        world.consumer("S", name).await;
    }
    world.publish("a.0", &[], "later").await;
    for name in ["all", "new", "beyond", "each", "each2", "two", "future"] {
        // A pull that does not wait gets what its consumer has heard of.
        world.consumer("S", name).await;
        world.pull("S", name, json!({ "batch": 20, "no_wait": true })).await;
        world.consumer("S", name).await;
    }
}

#[test]
fn pulls_end_as_they_say() {
    same(|world| Box::pin(pulls(world)));
}

async fn pulls(world: &mut World) {
    filled(world, 6).await;
    create(world, "c", json!({ "ack_policy": "none", "max_batch": 50, "max_expires": 60_000_000_000_u64 })).await;
    for body in [
        json!({ "batch": 2, "no_wait": true }),
        json!({ "batch": 60 }),
        json!({ "batch": 2, "expires": 90_000_000_000_u64 }),
        json!({ "batch": 1, "expires": 1_000_000_000, "idle_heartbeat": 200_000_000 }),
        json!({ "batch": 3, "max_bytes": 40, "expires": 400_000_000 }),
        json!({ "batch": 3, "max_bytes": 80, "expires": 400_000_000 }),
        json!({ "batch": 1, "max_bytes": 400, "expires": 400_000_000 }),
        json!({ "batch": 9, "no_wait": true }),
        json!({ "batch": 9, "no_wait": true }),
        json!({ "batch": 9, "expires": 300_000_000 }),
        json!({ "batch": 9, "expires": 1_000_000_000, "idle_heartbeat": 200_000_000, "max_bytes": 1000 }),
        json!({ "batch": 9, "expires": 300_000_000, "no_wait": true }),
    ] {
        world.pull("S", "c", body).await;
        world.consumer("S", "c").await;
    }
    // Two that wait take turns, and one that does not wait long gets the rest.
    world.open("one", "S", "c", json!({ "batch": 2, "expires": MINUTE })).await;
    world.consumer("S", "c").await;
    world.open("two", "S", "c", json!({ "batch": 3, "expires": MINUTE })).await;
    world.consumer("S", "c").await;
    for number in 0..4 {
        world.publish("a.1", &[], &number.to_string()).await;
        world.consumer("S", "c").await;
    }
    world.read("one", "c").await;
    world.read("two", "c").await;
    world.consumer("S", "c").await;
    world.open("three", "S", "c", json!({ "batch": 3, "no_wait": true, "expires": MINUTE })).await;
    world.consumer("S", "c").await;
    world.close("two").await;
    world.publish("a.1", &[], "who?").await;
    world.read("three", "c").await;
    world.consumer("S", "c").await;
    create(world, "few", json!({ "ack_policy": "none", "max_waiting": 1, "deliver_policy": "new" })).await;
    world.open("four", "S", "few", json!({ "batch": 3, "expires": MINUTE })).await;
    world.consumer("S", "few").await;
    world.pull("S", "few", json!({ "batch": 3, "expires": MINUTE })).await;
    world.read("four", "few").await;
}

#[test]
fn acknowledgements_move_the_floor() {
    same(|world| Box::pin(acks(world)));
}

async fn acks(world: &mut World) {
    filled(world, 10).await;
    for (name, config) in [
        ("explicit", json!({ "ack_policy": "explicit" })),
        ("all", json!({ "ack_policy": "all" })),
        ("none", json!({ "ack_policy": "none" })),
        ("some", json!({ "ack_policy": "explicit", "filter_subjects": ["a.0", "a.1"] })),
        ("someall", json!({ "ack_policy": "all", "filter_subject": "a.1" })),
    ] {
        create(world, name, config).await;
        world.pull("S", name, json!({ "batch": 3 })).await;
        for (delivery, word) in [(1, ""), (0, "+ACK"), (0, ""), (2, "+WPI")] {
            world.answer(name, delivery, word).await;
            world.consumer("S", name).await;
        }
        world.pull("S", name, json!({ "batch": 20, "no_wait": true })).await;
        let last = world.delivered(name) - 1;
        for (delivery, word) in [(last - 1, ""), (last, "+TERM for a reason"), (2, "")] {
            world.answer(name, delivery, word).await;
            world.consumer("S", name).await;
        }
        let floor = world.call(&format!("CONSUMER.RESET.S.{name}"), Value::Null).await;
        assert!(floor.get("reset_seq").is_some());
        world.answer(name, last, "").await;
        // What is told of a consumer with a filter lags behind a reset until it delivers.
        let has_filter = name.starts_with("some");
        if !has_filter {
            world.consumer("S", name).await;
        }
        world.pull("S", name, json!({ "batch": 20, "no_wait": true })).await;
        world.call(&format!("CONSUMER.RESET.S.{name}"), json!({ "seq": 4 })).await;
        world.pull("S", name, json!({ "batch": 2, "no_wait": true })).await;
        world.consumer("S", name).await;
        world.call(&format!("CONSUMER.RESET.S.{name}"), json!({ "seq": 100 })).await;
        if !has_filter {
            world.consumer("S", name).await;
        }
        world.pull("S", name, json!({ "batch": 2, "no_wait": true })).await;
        world.call(&format!("CONSUMER.RESET.S.{name}"), json!("{")).await;
    }
}

#[test]
fn a_reset_respects_where_the_consumer_began() {
    same(|world| Box::pin(resets(world)));
}

async fn resets(world: &mut World) {
    filled(world, 9).await;
    for (name, config) in [
        ("seq", json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": 4 })),
        ("new", json!({ "deliver_policy": "new" })),
        ("time", json!({ "deliver_policy": "by_start_time", "opt_start_time": "2001-01-01T00:00:00Z" })),
    ] {
        let mut config = config;
        config["ack_policy"] = "all".into();
        create(world, name, config).await;
        for seq in [3, 4, 7] {
            world.call(&format!("CONSUMER.RESET.S.{name}"), json!({ "seq": seq })).await;
            world.pull("S", name, json!({ "batch": 2, "no_wait": true })).await;
        }
        world.call(&format!("CONSUMER.RESET.S.{name}"), json!({})).await;
        world.consumer("S", name).await;
    }
}

#[test]
fn what_is_not_acknowledged_comes_again() {
    same(|world| Box::pin(redeliveries(world)));
}

// Each part has one time that comes soon; all others never come while it runs.
const SOON: u64 = 500_000_000;
const MINUTE: u64 = 60_000_000_000;
const NEVER: u64 = 3_600_000_000_000;

async fn redeliveries(world: &mut World) {
    filled(world, 4).await;
    world.listen("terminated", "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>").await;
    for (name, config) in [
        ("plain", json!({ "ack_wait": NEVER })),
        ("twice", json!({ "ack_wait": NEVER, "max_deliver": 2 })),
        ("once", json!({ "ack_wait": NEVER, "max_deliver": 1 })),
        ("back", json!({ "backoff": [NEVER, NEVER, NEVER * 3], "max_deliver": 3 })),
        ("slow", json!({ "ack_wait": NEVER, "max_ack_pending": 2 })),
        ("all", json!({ "ack_wait": NEVER, "ack_policy": "all" })),
    ] {
        create(world, name, explicit(config)).await;
        world.pull("S", name, json!({ "batch": 3, "no_wait": true })).await;
        world.consumer("S", name).await;
        world.answer(name, 0, "-NAK").await;
        world.consumer("S", name).await;
        world.pull("S", name, json!({ "batch": 1, "no_wait": true })).await;
        world.consumer("S", name).await;
        world.answer(name, 1, &format!("-NAK {{\"delay\": {NEVER}}}")).await;
        world.consumer("S", name).await;
        world.pull("S", name, json!({ "batch": 1, "no_wait": true })).await;
        world.consumer("S", name).await;
        world.answer(name, 0, "").await;
        world.consumer("S", name).await;
        world.answer(name, 1, "+TERM").await;
        world.consumer("S", name).await;
        world.pull("S", name, json!({ "batch": 9, "no_wait": true })).await;
        world.consumer("S", name).await;
    }
    world.read("terminated", "").await;
}

fn explicit(config: Value) -> Value {
    let mut config = config;
    if config.get("ack_policy").is_none() {
        config["ack_policy"] = "explicit".into();
    }
    config
}

#[test]
fn what_is_refused_for_a_while_comes_again_after_it() {
    same(|world| Box::pin(delays(world)));
}

async fn delays(world: &mut World) {
    filled(world, 4).await;
    for (name, config) in [
        ("plain", json!({ "ack_wait": NEVER })),
        ("slow", json!({ "ack_wait": NEVER, "max_ack_pending": 2 })),
        ("all", json!({ "ack_wait": NEVER, "ack_policy": "all" })),
    ] {
        create(world, name, explicit(config)).await;
        world.pull("S", name, json!({ "batch": 2, "no_wait": true })).await;
        world.answer(name, 1, &format!("-NAK {{\"delay\": {SOON}}}")).await;
        world.pull("S", name, json!({ "batch": 1, "no_wait": true, "max_bytes": 1 })).await;
        let pull = json!({ "batch": if name == "slow" { 1 } else { 3 }, "expires": MINUTE });
        world.pull("S", name, pull).await;
        world.consumer("S", name).await;
    }
}

#[test]
fn what_nobody_acknowledges_comes_again_when_its_time_is_over() {
    same(|world| Box::pin(time_outs(world)));
}

async fn time_outs(world: &mut World) {
    filled(world, 3).await;
    for (name, config) in [
        ("plain", json!({ "ack_wait": SOON })),
        ("back", json!({ "backoff": [SOON, NEVER], "max_deliver": 3 })),
        ("all", json!({ "ack_wait": SOON, "ack_policy": "all" })),
    ] {
        create(world, name, explicit(config)).await;
        world.pull("S", name, json!({ "batch": 3, "no_wait": true })).await;
        world.pull("S", name, json!({ "batch": 3, "expires": MINUTE })).await;
        world.answer(name, 3, "").await;
        world.answer(name, 5, "").await;
        world.answer(name, 4, "+TERM").await;
        world.consumer("S", name).await;
        world.pull("S", name, json!({ "batch": 3, "no_wait": true })).await;
    }
}

#[test]
fn what_was_delivered_often_enough_is_given_up() {
    same(|world| Box::pin(given_up(world)));
}

async fn given_up(world: &mut World) {
    // One message: of several whose time is over at once, the server picks the first at random.
    filled(world, 1).await;
    for (name, times) in [("once", 1), ("twice", 2)] {
        world.listen(name, &format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.{name}")).await;
        create(world, name, json!({ "ack_policy": "explicit", "ack_wait": SOON, "max_deliver": times })).await;
        for time in 0..times {
            let wait = if time == 0 { json!({ "no_wait": true }) } else { json!({ "expires": MINUTE }) };
            let mut pull = wait;
            pull["batch"] = 1.into();
            world.pull("S", name, pull).await;
        }
        // A pull that waits when their time is over gets nothing, and the server says so to whoever listens.
        world.pull("S", name, json!({ "batch": 1, "expires": SOON * 4 })).await;
        world.read(name, "").await;
        world.pull("S", name, json!({ "batch": 1, "no_wait": true })).await;
        world.consumer("S", name).await;
    }
}

#[test]
fn what_is_purged_or_deleted_is_delivered_no_more() {
    same(|world| Box::pin(purges(world)));
}

async fn purges(world: &mut World) {
    filled(world, 24).await;
    for (name, config) in [
        ("explicit", json!({ "ack_policy": "explicit" })),
        ("all", json!({ "ack_policy": "all" })),
        ("some", json!({ "ack_policy": "explicit", "filter_subjects": ["a.0", "a.1"] })),
        ("one", json!({ "ack_policy": "all", "filter_subject": "a.1" })),
        ("none", json!({ "ack_policy": "none" })),
    ] {
        create(world, name, config).await;
        world.pull("S", name, json!({ "batch": 3 })).await;
    }
    let names = ["explicit", "all", "some", "one", "none"];
    for (call, body) in [
        ("STREAM.MSG.DELETE.S", json!({ "seq": 2 })),
        ("STREAM.MSG.DELETE.S", json!({ "seq": 8 })),
        ("STREAM.PURGE.S", json!({ "filter": "a.1", "seq": 12 })),
        ("STREAM.PURGE.S", json!({ "seq": 3 })),
        ("STREAM.PURGE.S", json!({ "filter": "a.1", "keep": 1 })),
        ("STREAM.PURGE.S", json!({ "seq": 9 })),
        ("STREAM.PURGE.S", json!({ "filter": "a.0" })),
        ("STREAM.PURGE.S", Value::Null),
    ] {
        world.call(call, body).await;
        for name in names {
            world.consumer("S", name).await;
        }
    }
    for number in 0..3 {
        world.publish(&format!("a.{number}"), &[], "new").await;
    }
    for name in names {
        world.consumer("S", name).await;
        world.pull("S", name, json!({ "batch": 9, "no_wait": true })).await;
        world.consumer("S", name).await;
    }
}

#[test]
fn a_consumer_that_nobody_uses_goes() {
    same(|world| Box::pin(unused(world)));
}

async fn unused(world: &mut World) {
    filled(world, 2).await;
    let second = 1_000_000_000_u64;
    create(world, "goes", json!({ "inactive_threshold": second })).await;
    create(world, "stays", json!({ "inactive_threshold": second * 3600 })).await;
    create(world, "used", json!({ "inactive_threshold": second * 2, "ack_policy": "none" })).await;
    world.open("pull", "S", "used", json!({ "batch": 5, "expires": MINUTE })).await;
    world.consumer("S", "used").await;
    world.elapse(3000).await;
    world.consumer("S", "used").await;
    world.consumer("S", "stays").await;
    world.pass(3000).await;
    world.consumer("S", "goes").await;
}

#[test]
fn streams_that_keep_messages_for_consumers_let_them_go() {
    same(|world| Box::pin(retentions(world)));
}

async fn retentions(world: &mut World) {
    for retention in ["interest", "workqueue"] {
        world.call("STREAM.CREATE.S", json!({ "name": "S", "subjects": ["a.*"], "retention": retention })).await;
        world.publish("a.0", &[], "before").await;
        world.stream("S").await;
        create(world, "bad", json!({ "ack_policy": "none" })).await;
        world.call("CONSUMER.DELETE.S.bad", Value::Null).await;
        create(world, "bad", json!({ "ack_policy": "all" })).await;
        world.call("CONSUMER.DELETE.S.bad", Value::Null).await;
        create(world, "bad", json!({ "ack_policy": "explicit", "deliver_policy": "new" })).await;
        world.call("CONSUMER.DELETE.S.bad", Value::Null).await;
        create(world, "c", json!({ "ack_policy": "explicit", "filter_subject": "a.0" })).await;
        create(world, "d", json!({ "ack_policy": "explicit", "filter_subjects": ["a.0", "a.1"] })).await;
        create(world, "e", json!({ "ack_policy": "explicit" })).await;
        create(world, "f", json!({ "ack_policy": "explicit", "filter_subject": "a.1" })).await;
        for number in 0..9 {
            world.publish(&format!("a.{}", number % 3), &[], "x").await;
        }
        world.stream("S").await;
        for name in ["c", "d", "e", "f"] {
            world.consumer("S", name).await;
            world.pull("S", name, json!({ "batch": 2, "no_wait": true })).await;
            for delivery in 0..world.delivered(name).min(2) {
                world.answer(name, delivery, if delivery == 0 { "" } else { "+TERM" }).await;
                world.stream("S").await;
            }
        }
        for name in ["c", "e", "f", "d"] {
            world.call(&format!("CONSUMER.DELETE.S.{name}"), Value::Null).await;
            world.stream("S").await;
        }
        world.call("STREAM.DELETE.S", Value::Null).await;
    }
}
