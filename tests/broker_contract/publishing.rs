//! Publishing: acknowledgements, message ids, expectations, rollups.

use serde_json::json;

use crate::same;
use crate::world::World;

#[test]
fn a_publish_is_taken_once_and_only_as_expected() {
    same(|world| Box::pin(expectations(world)));
}

async fn expectations(world: &mut World) {
    let config = json!({ "name": "S", "subjects": ["a.>"], "allow_rollup_hdrs": true });
    world.call("STREAM.CREATE.S", config).await;
    world.publish("nobody", &[], "x").await;
    for headers in [
        &[("Nats-Msg-Id", "1")][..],
        &[("Nats-Msg-Id", "2")],
        &[("Nats-Msg-Id", "1")],
        &[("Nats-Expected-Last-Sequence", "1")],
        &[("Nats-Expected-Last-Sequence", "2")],
        &[("Nats-Expected-Last-Sequence", "nonsense")],
        &[("Nats-Expected-Last-Subject-Sequence", "nonsense")],
        &[("Nats-Expected-Last-Subject-Sequence", "0")],
        &[("Nats-Expected-Last-Subject-Sequence", "3")],
        &[("Nats-Expected-Last-Subject-Sequence", "3"), ("Nats-Expected-Last-Subject-Sequence-Subject", "a.*")],
        &[("Nats-Expected-Last-Subject-Sequence", "4"), ("Nats-Expected-Last-Subject-Sequence-Subject", "a.*")],
        &[("Nats-Expected-Last-Subject-Sequence", "0"), ("Nats-Expected-Last-Subject-Sequence-Subject", "a.none")],
        &[("Nats-Expected-Last-Subject-Sequence-Subject", "a.1")],
        &[("Nats-Expected-Last-Msg-Id", "2")],
        &[("Nats-Msg-Id", "3"), ("Nats-Expected-Last-Msg-Id", "2")],
        &[("Nats-Msg-Id", "3")],
        &[("Nats-Msg-Id", "3"), ("Nats-Expected-Last-Msg-Id", "3")],
        &[("Nats-Expected-Stream", "T")],
        &[("Nats-Expected-Stream", "S")],
        &[("Nats-Msg-Id", "1"), ("Nats-Expected-Last-Sequence", "1")],
        &[("Nats-Rollup", "nonsense")],
        &[("Nats-Rollup", "sub")],
        &[("Nats-TTL", "1s")],
    ] {
        world.publish("a.1", headers, "x").await;
    }
    world.publish("a.2", &[], "y").await;
    world.stream("S").await;
    world.publish("a.2", &[("Nats-Rollup", "all")], "z").await;
    world.stream("S").await;
    world.call("STREAM.MSG.GET.S", json!({ "last_by_subj": "a.2" })).await;
    let short = json!({ "name": "D", "subjects": ["d"], "duplicate_window": 600_000_000 });
    world.call("STREAM.CREATE.D", short).await;
    world.publish("d", &[("Nats-Msg-Id", "1")], "x").await;
    world.publish_until_forgotten("d", &[("Nats-Msg-Id", "1")]).await;
    world.call("STREAM.MSG.GET.D", json!({ "last_by_subj": "d" })).await;
    world.call("STREAM.CREATE.T", json!({ "name": "T", "subjects": ["t"] })).await;
    world.publish("t", &[("Nats-Rollup", "sub")], "x").await;
}
