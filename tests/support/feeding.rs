//! [`Feeder`]: messages that come while things are killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream::broker::{Connection, Outgoing, Subject};
use millstream::operators::Headers;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::order;

/// Subjects and payloads.
pub type Messages = Vec<(&'static str, String)>;

fn orders(from: u64, to: u64) -> Messages {
    (from..to).map(|id| ("in.order", order(id))).collect()
}

/// Publishes orders `from..to`, each confirmed. Returns when the stream has them all.
pub async fn feed(connection: &Connection, from: u64, to: u64) {
    feed_each(connection, from, &orders(from, to)).await;
}

/// Publishes messages numbered from `first` on, each confirmed: at most 1,000 are under way, and what has no answer is sent
/// again with the same message id.
async fn feed_each(connection: &Connection, first: u64, messages: &Messages) {
    let mut number = first;
    for chunk in messages.chunks(1_000) {
        while !is_stored(connection, number, chunk).await {
            sleep(Duration::from_millis(100)).await;
        }
        number += chunk.len() as u64;
    }
}

async fn is_stored(connection: &Connection, first: u64, chunk: &[(&'static str, String)]) -> bool {
    let inbox = connection.new_inbox();
    let mut acks = connection.subscribe(inbox.clone(), 4_096).await.unwrap();
    let reply = Subject::from(inbox);
    let mut messages = Vec::new();
    for (id, (subject, payload)) in (first..).zip(chunk) {
        let mut headers = Headers::NONE;
        headers.push("Nats-Msg-Id", &id.to_string()).unwrap();
        messages.push(Outgoing::new(*subject, payload.clone()).headers(headers).reply_to(reply.clone()));
    }
    let sent = timeout(Duration::from_secs(10), connection.publish_all(messages)).await;
    let mut confirmed = 0;
    while matches!(sent, Ok(Ok(()))) && confirmed < chunk.len() {
        match timeout(Duration::from_secs(2), acks.next()).await {
            Ok(Some(ack)) if ack.status.is_none() && !ack.payload.starts_with(b"{\"error") => confirmed += 1,
            _ => break,
        }
    }
    confirmed == chunk.len()
}

/// Feeds messages, some every few milliseconds, so that something flows whenever something is killed.
pub struct Feeder {
    enough: Arc<AtomicBool>,
    feeding: JoinHandle<u64>,
}

impl Feeder {
    /// Feeds at least so many orders, from 0 on.
    pub fn start(connection: &Connection, least: u64) -> Feeder {
        Feeder::start_with(connection, least, 250)
    }

    /// As [`start`](Feeder::start), so many at once.
    pub fn start_with(connection: &Connection, least: u64, at_once: u64) -> Feeder {
        Feeder::of(connection, least, at_once, orders)
    }

    /// As [`start_with`](Feeder::start_with), of what `next` gives for the numbers from one to another.
    pub fn of(
        connection: &Connection,
        least: u64,
        at_once: u64,
        mut next: impl FnMut(u64, u64) -> Messages + Send + 'static,
    ) -> Feeder {
        let (connection, enough) = (connection.clone(), Arc::new(AtomicBool::new(false)));
        let asked = Arc::clone(&enough);
        let feeding = tokio::spawn(async move {
            let mut fed = 0;
            while fed < least || !asked.load(Ordering::Relaxed) {
                feed_each(&connection, fed, &next(fed, fed + at_once)).await;
                fed += at_once;
                sleep(Duration::from_millis(20)).await;
            }
            fed
        });
        Feeder { enough, feeding }
    }

    /// Stops as soon as the least number is fed; how many it was in the end.
    pub async fn finish(self) -> u64 {
        self.enough.store(true, Ordering::Relaxed);
        self.feeding.await.unwrap()
    }
}
