//! Batches: atomic ones, and fast ingest.

use serde_json::json;

use crate::same;
use crate::world::World;

type Pairs<'a> = &'a [(&'a str, &'a str)];

async fn step(world: &mut World, subject: &str, id: &str, number: u64, commit: &str, more: Pairs<'_>) {
    let number = number.to_string();
    let mut headers = vec![("Nats-Batch-Id", id), ("Nats-Batch-Sequence", &number)];
    if !commit.is_empty() {
        headers.push(("Nats-Batch-Commit", commit));
    }
    headers.extend_from_slice(more);
    world.publish(subject, &headers, "x").await;
}

#[test]
fn an_atomic_batch_is_stored_whole_or_not_at_all() {
    same(|world| Box::pin(atomic(world)));
}

async fn atomic(world: &mut World) {
    let config = json!({ "name": "S", "subjects": ["a.>"], "allow_atomic": true, "allow_rollup_hdrs": true });
    world.call("STREAM.CREATE.S", config).await;
    world.call("STREAM.CREATE.P", json!({ "name": "P", "subjects": ["p"] })).await;
    world.listen("advisories", "$JS.EVENT.ADVISORY.STREAM.BATCH_ABANDONED.>").await;
    step(world, "p", "i", 1, "", &[]).await;
    step(world, "a.1", "i", 2, "", &[]).await;
    world.publish("a.1", &[("Nats-Batch-Id", "i")], "x").await;
    step(world, "a.1", &"i".repeat(65), 1, "", &[]).await;
    for (number, commit) in [(1, ""), (2, ""), (3, "1"), (1, ""), (2, "eob"), (1, ""), (3, ""), (1, "eob"), (1, "no")] {
        step(world, "a.1", "j", number, commit, &[]).await;
    }
    step(world, "a.1", "j", 1, "1", &[]).await;
    step(world, "a.1", "j", 1001, "", &[]).await;
    step(world, "a.1", "j", 1001, "eob", &[]).await;
    step(world, "a.1", "j", 1002, "eob", &[]).await;
    world.stream("S").await;
    let pairs: [(Pairs<'_>, Pairs<'_>); 12] = [
        (&[("Nats-Msg-Id", "m")], &[("Nats-Msg-Id", "m")]),
        (&[("Nats-Msg-Id", "m")], &[]),
        (&[], &[("Nats-Msg-Id", "m")]),
        (&[("Nats-Expected-Last-Msg-Id", "m")], &[]),
        (&[("Nats-Expected-Last-Subject-Sequence", "0")], &[]),
        (&[], &[("Nats-Expected-Last-Subject-Sequence", "0")]),
        (&[("Nats-Rollup", "sub")], &[]),
        (&[], &[("Nats-Rollup", "sub")]),
        (&[], &[("Nats-Rollup", "all")]),
        (&[("Nats-Rollup", "all")], &[]),
        (&[], &[("Nats-Expected-Last-Sequence", "3")]),
        (&[("Nats-Expected-Stream", "P")], &[]),
    ];
    for (number, (first, second)) in pairs.into_iter().enumerate() {
        let id = format!("k{number}");
        step(world, "a.1", &id, 1, "", first).await;
        step(world, "a.1", &id, 2, "1", second).await;
        world.stream("S").await;
    }
    let markers = &[("Nats-Expected-Last-Subject-Sequence", "0"), ("Nats-Rollup", "sub")];
    step(world, "a.marker", "m", 1, "", markers).await;
    step(world, "a.data", "m", 2, "1", &[]).await;
    step(world, "a.marker", "n", 1, "", markers).await;
    step(world, "a.data", "n", 2, "1", &[]).await;
    world.stream("S").await;
    world.read("advisories", "").await;
}

#[test]
fn a_full_stream_refuses_an_atomic_batch() {
    same(|world| Box::pin(full(world)));
}

async fn full(world: &mut World) {
    for (name, limit) in [("A", json!({ "max_msgs": 2 })), ("B", json!({ "max_bytes": 200 }))] {
        let mut config = limit;
        config["name"] = name.into();
        config["discard"] = "new".into();
        config["allow_atomic"] = true.into();
        config["allow_batched"] = true.into();
        world.call(&format!("STREAM.CREATE.{name}"), config).await;
        for number in 1..=3 {
            step(world, name, "i", number, if number == 3 { "1" } else { "" }, &[]).await;
        }
        world.stream(name).await;
        for number in 1..=4 {
            let place = format!("9.ok.{number}.{}", if number == 1 { 0 } else { 1 });
            world.fast("f", &place, name, &[]).await;
        }
        world.fast("f", "9.ok.5.3", name, &[]).await;
        world.stream(name).await;
    }
}

#[test]
fn fast_ingest_acknowledges_as_it_flows() {
    same(|world| Box::pin(fast(world)));
}

async fn fast(world: &mut World) {
    world.call("STREAM.CREATE.S", json!({ "name": "S", "subjects": ["a.>"], "allow_batched": true })).await;
    world.call("STREAM.CREATE.P", json!({ "name": "P", "subjects": ["p"] })).await;
    world.fast("p", "3.fail.1.0", "p", &[]).await;
    world.fast("u0", "3.fail.2.1", "a.1", &[]).await;
    for place in ["3.bad.1.0", "3.fail.1.1", "3.fail.1.3", "3.fail.2.0", "3.fail.0.1", "3.fail.1.7"] {
        world.fast("u0", place, "a.1", &[]).await;
    }
    // The places of one batch each, in order.
    for (id, places) in [
        ("u1", &["3.fail.1.0", "3.fail.2.1", "3.fail.3.1", "3.fail.4.1", "3.fail.4.4", "3.fail.5.2"][..]),
        ("u2", &["2.fail.1.0", "2.fail.2.1", "2.fail.3.1", "2.fail.4.3", "2.fail.5.1"]),
        ("u3", &["2.fail.1.0", "2.fail.2.1", "2.fail.4.1", "2.fail.5.1"]),
        ("u4", &["2.ok.1.0", "2.ok.2.1", "2.ok.4.1", "2.ok.5.1", "2.ok.9.4", "2.ok.10.1", "2.ok.12.3"]),
        ("u5", &["2.ok.1.2", "2.ok.1.2"]),
        ("u6", &["2.ok.1.0", "2.ok.2.1", "2.ok.2.1"]),
        ("u7", &["9.fail.1.0", "9.fail.1.4", "9.fail.7.4"]),
        ("u8", &["-4.fail.1.0", "0.fail.2.1", "0.fail.3.3"]),
    ] {
        for place in places {
            world.fast(id, place, "a.1", &[]).await;
        }
        world.stream("S").await;
    }
    let wrong = &[("Nats-Expected-Last-Sequence", "1")][..];
    let known = &[("Nats-Msg-Id", "d")][..];
    for (id, steps) in [
        ("v1", &[("2.fail.1.0", wrong)][..]),
        ("v2", &[("2.fail.1.0", &[][..]), ("2.fail.2.1", wrong), ("2.fail.3.1", &[])]),
        ("v3", &[("2.ok.1.0", &[][..]), ("2.ok.2.1", wrong), ("2.ok.3.1", &[]), ("2.ok.4.2", wrong)]),
        ("v4", &[("2.ok.1.0", known), ("2.ok.2.1", known), ("2.ok.3.1", known), ("2.ok.4.2", known)]),
        ("v5", &[("2.fail.1.2", known)]),
        ("v6", &[("2.fail.1.0", known), ("2.fail.2.1", &[][..]), ("2.fail.3.3", &[])]),
        ("v7", &[("2.fail.1.2", wrong)]),
    ] {
        for (place, headers) in steps {
            world.fast(id, place, "a.1", headers).await;
        }
        world.stream("S").await;
    }
    // Two at a time share the flow.
    for number in 1..=6 {
        let place = format!("8.fail.{number}.{}", u8::from(number > 1));
        world.fast("w1", &place, "a.1", &[]).await;
        world.fast("w2", &place, "a.2", &[]).await;
    }
    world.fast("w1", "8.fail.7.3", "a.1", &[]).await;
    world.fast("w2", "8.fail.7.3", "a.2", &[]).await;
    world.stream("S").await;
}
