//! The contract of the embedded broker: the same operations on it and on a real nats-server give the same answers.
//!
//! A script is a function of a [`World`], which writes down all that the broker says. It runs once in virtual time
//! on the embedded broker and once on a server of its own; the two records must be equal. Times, inbox names and
//! generated names are left out of the record.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail anywhere, also in what its cases share"
)]

mod batches;
mod consumers;
mod keys;
mod publishing;
mod random;
mod restarts;
mod streams;
mod world;

use std::future::Future;
use std::pin::Pin;

use millstream::broker::{Embedded, NatsServer};
use world::World;

/// A script borrows the world as long as it runs.
type Running<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Runs a script on both brokers and compares the records.
fn same(script: impl for<'a> Fn(&'a mut World) -> Running<'a>) {
    let embedded = runtime(true).block_on(async {
        let mut world = World::first(Embedded::default().connect());
        script(&mut world).await;
        world.record
    });
    let real = runtime(false).block_on(async {
        let server = NatsServer::start().await.expect("a nats-server: run tests/setup");
        let mut world = World::second(server.connect().await.unwrap(), embedded.clone());
        script(&mut world).await;
        world.record
    });
    if let Err(difference) = compare(&embedded, &real) {
        panic!("{difference}");
    }
}

/// As [`same`], with a `kill -9` of the broker and its restart between two scripts; by then it has written everything down.
fn same_over_a_kill(
    before: impl for<'a> Fn(&'a mut World) -> Running<'a>,
    after: impl for<'a> Fn(&'a mut World) -> Running<'a>,
) {
    let (first, second) = runtime(true).block_on(async {
        let broker = Embedded::default();
        let mut world = World::first(broker.connect());
        before(&mut world).await;
        broker.drop_links();
        broker.restart(false);
        let mut again = World::first(broker.connect());
        after(&mut again).await;
        (world.record, again.record)
    });
    let (killed, restarted) = runtime(false).block_on(async {
        let mut server = NatsServer::start().await.expect("a nats-server: run tests/setup");
        let mut world = World::second(server.connect().await.unwrap(), first.clone());
        before(&mut world).await;
        world.elapse(1_500).await;
        server.kill_9();
        server.restart().await.unwrap();
        let mut again = World::second(server.connect().await.unwrap(), second.clone());
        after(&mut again).await;
        (world.record, again.record)
    });
    if let Err(difference) = compare(&first, &killed).and_then(|()| compare(&second, &restarted)) {
        panic!("{difference}");
    }
}

fn runtime(paused: bool) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(paused).build().unwrap()
}

/// Whether the real server gives the embedded broker's record; else the first difference, with what came before it.
fn compare(embedded: &[String], real: &[String]) -> Result<(), String> {
    if embedded == real {
        return Ok(());
    }
    let at = embedded.iter().zip(real).take_while(|(ours, theirs)| ours == theirs).count();
    let before = real[at.saturating_sub(12)..at].join("\n");
    let line = |record: &[String]| record.get(at).cloned().unwrap_or_else(|| "(nothing more)".to_owned());
    Err(format!("{before}\n-- nats-server: {}\n-- embedded:    {}", line(real), line(embedded)))
}
