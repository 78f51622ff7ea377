//! Random operations, the same on both brokers.

use millstream::broker::{Embedded, NatsServer};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::world::World;
use crate::{compare, runtime};

/// Sequences of operations tried, unless `MILLSTREAM_CONTRACT_CASES` says otherwise. The seed is fixed, so that every
/// run tries the same, unless `MILLSTREAM_CONTRACT_SEED` is another.
const CASES: u32 = 40;
const CONSUMERS: [&str; 4] = ["explicit", "all", "some", "one"];
/// The first of them have no filter. What the server tells of one with a filter comes from its store, where a reset arrives
/// at some later time or never: now and then it goes on telling of a delivery before the reset. The scripts with resets of
/// such consumers do not ask then.
const UNFILTERED: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    Publish { subject: u8, id: Option<u8>, last: Option<u64> },
    Pull { consumer: usize, batch: u64, bytes: Option<u64> },
    Answer { consumer: usize, delivery: prop::sample::Index, word: &'static str },
    Reset { consumer: usize, seq: Option<u64> },
    Purge { filter: Option<u8>, seq: Option<u64>, keep: Option<u64> },
    Delete { seq: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let consumer = 0..CONSUMERS.len();
    let word = prop::sample::select(vec!["", "", "", "+ACK", "-NAK", "+TERM", "+WPI"]);
    let step = prop_oneof![
        6 => (0..3_u8, prop::option::weighted(0.3, 0..4_u8), prop::option::weighted(0.1, 0..20_u64))
            .prop_map(|(subject, id, last)| Step::Publish { subject, id, last }),
        5 => (consumer.clone(), 1..5_u64, prop::option::weighted(0.2, 30..200_u64))
            .prop_map(|(consumer, batch, bytes)| Step::Pull { consumer, batch, bytes }),
        5 => (consumer.clone(), any::<prop::sample::Index>(), word)
            .prop_map(|(consumer, delivery, word)| Step::Answer { consumer, delivery, word }),
        1 => (0..UNFILTERED, prop::option::of(1..20_u64)).prop_map(|(consumer, seq)| Step::Reset { consumer, seq }),
        1 => (prop::option::of(0..3_u8), prop::option::of(1..20_u64), prop::option::of(1..4_u64))
            .prop_map(|(filter, seq, keep)| Step::Purge { filter, seq, keep }),
        1 => (1..20_u64).prop_map(|seq| Step::Delete { seq }),
    ];
    prop::collection::vec(step, 1..40)
}

/// What limits the stream has.
fn limits() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({}),
        json!({ "max_msgs": 6 }),
        json!({ "max_msgs_per_subject": 2 }),
        json!({ "max_msgs": 6, "discard": "new" }),
        json!({ "retention": "interest" }),
    ])
}

async fn run(world: &mut World, limits: &Value, steps: &[Step]) {
    let mut config = limits.clone();
    config["name"] = "S".into();
    config["subjects"] = json!(["a.*"]);
    world.call("STREAM.CREATE.S", config).await;
    for (name, config) in CONSUMERS.into_iter().zip([
        json!({ "ack_policy": "explicit" }),
        json!({ "ack_policy": "all" }),
        json!({ "ack_policy": "explicit", "filter_subjects": ["a.0", "a.1"], "max_ack_pending": 3 }),
        json!({ "ack_policy": "all", "filter_subject": "a.2" }),
    ]) {
        let mut config = config;
        config["durable_name"] = name.into();
        world.call(&format!("CONSUMER.CREATE.S.{name}"), json!({ "stream_name": "S", "config": config })).await;
    }
    for step in steps {
        apply(world, step).await;
    }
    all_done(world).await;
    world.stream("S").await;
    world.call("STREAM.DELETE.S", Value::Null).await;
}

/// What is told of every consumer once all is done.
async fn all_done(world: &mut World) {
    for name in CONSUMERS {
        world.consumer("S", name).await;
    }
}

async fn apply(world: &mut World, step: &Step) {
    match step {
        Step::Publish { subject, id, last } => {
            let (id, last) = (id.map(|id| id.to_string()), last.map(|last| last.to_string()));
            let mut headers = Vec::new();
            if let Some(id) = &id {
                headers.push(("Nats-Msg-Id", id.as_str()));
            }
            if let Some(last) = &last {
                headers.push(("Nats-Expected-Last-Subject-Sequence", last.as_str()));
            }
            world.publish(&format!("a.{subject}"), &headers, "x").await;
        }
        Step::Pull { consumer, batch, bytes } => {
            let mut body = json!({ "batch": batch, "no_wait": true });
            if let Some(bytes) = bytes {
                body["max_bytes"] = (*bytes).into();
                body["expires"] = 300_000_000.into();
            }
            world.consumer("S", CONSUMERS[*consumer]).await;
            world.pull("S", CONSUMERS[*consumer], body).await;
        }
        Step::Answer { consumer, delivery, word } => {
            let name = CONSUMERS[*consumer];
            if world.delivered(name) > 0 {
                world.answer(name, delivery.index(world.delivered(name)), word).await;
                world.consumer("S", name).await;
            }
        }
        Step::Reset { consumer, seq } => {
            let (name, body) = (CONSUMERS[*consumer], seq.map_or(Value::Null, |seq| json!({ "seq": seq })));
            world.consumer("S", name).await;
            world.call(&format!("CONSUMER.RESET.S.{name}"), body).await;
        }
        Step::Purge { filter, seq, keep } => {
            let mut body = json!({});
            if let Some(filter) = filter {
                body["filter"] = format!("a.{filter}").into();
            }
            match (seq, keep) {
                (Some(seq), _) => body["seq"] = (*seq).into(),
                (None, Some(keep)) => body["keep"] = (*keep).into(),
                (None, None) => {}
            }
            all_done(world).await;
            world.call("STREAM.PURGE.S", body).await;
        }
        Step::Delete { seq } => {
            all_done(world).await;
            world.delete("S", *seq).await;
        }
    }
}

#[test]
fn random_operations_give_the_same_answers() {
    let real = runtime(false);
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    let cases = number("MILLSTREAM_CONTRACT_CASES").unwrap_or(CASES);
    let seed = [u8::try_from(number("MILLSTREAM_CONTRACT_SEED").unwrap_or(0)).unwrap_or(0); 32];
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let result = runner.run(&(limits(), steps()), |(limits, steps)| {
        let ours = runtime(true).block_on(async {
            let mut world = World::first(Embedded::default().connect());
            run(&mut world, &limits, &steps).await;
            world.record
        });
        // When a purge takes exactly one message, two threads of the server race for the deliveries of it.
        if ours.iter().any(|line| line.contains("\"purged\":1,")) {
            return Err(TestCaseError::reject("what the server does is not determined"));
        }
        let theirs = real.block_on(async {
            // A server each: what is left of a deleted stream of the same name goes when the server gets to it.
            let server = NatsServer::start().await.expect("a nats-server: run tests/setup");
            let mut world = World::second(server.connect().await.unwrap(), ours.clone());
            run(&mut world, &limits, &steps).await;
            world.record
        });
        compare(&ours, &theirs).map_err(TestCaseError::fail)
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, (limits, steps))) => panic!("{limits} {steps:#?}\n{why}"),
        Err(other) => panic!("{other}"),
    }
}
