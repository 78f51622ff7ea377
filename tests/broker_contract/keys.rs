//! Key-value buckets, as streams with one message a key.

use serde_json::json;

use crate::same;
use crate::world::World;

#[test]
fn keys_are_set_compared_and_purged() {
    same(|world| Box::pin(keys(world)));
}

async fn keys(world: &mut World) {
    let bucket = json!({
        "name": "KV_b", "subjects": ["$KV.b.>"], "max_msgs_per_subject": 1, "discard": "new",
        "allow_rollup_hdrs": true, "allow_direct": true, "deny_delete": true, "num_replicas": 1,
    });
    world.call("STREAM.CREATE.KV_b", bucket).await;
    for (revision, value) in [("0", "1"), ("0", "2"), ("1", "3"), ("1", "4"), ("2", "5")] {
        world.publish("$KV.b.k", &[("Nats-Expected-Last-Subject-Sequence", revision)], value).await;
    }
    world.call("STREAM.MSG.GET.KV_b", json!({ "last_by_subj": "$KV.b.k" })).await;
    world.publish("$KV.b.k", &[("KV-Operation", "PURGE"), ("Nats-Rollup", "sub")], "").await;
    world.publish("$KV.b.k", &[("Nats-Expected-Last-Subject-Sequence", "4")], "6").await;
    world.publish("$KV.b.other", &[], "7").await;
    world.call("STREAM.INFO.KV_b", json!({ "subjects_filter": "$KV.b.>" })).await;
    world.call("STREAM.MSG.DELETE.KV_b", json!({ "seq": 6 })).await;
}
