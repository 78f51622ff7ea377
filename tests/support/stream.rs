//! Whole streams: filled with payloads, and read from beginning to end.

use std::time::Duration;

use millstream::broker::{AckPolicy, Connection, ConsumerConfig, Js, Outgoing, Subject};
use millstream::operators::Headers;
use tokio::time::timeout;

/// A message of a stream, as a reader gets it.
#[derive(Debug)]
pub struct Stored {
    pub subject: String,
    pub headers: Headers,
    pub payload: Vec<u8>,
}

/// Publishes payloads on a subject in order, at most 1,000 under way, and waits until all are stored.
pub async fn publish_each(connection: &Connection, subject: &str, payloads: &[Vec<u8>]) {
    for chunk in payloads.chunks(1_000) {
        let inbox = connection.new_inbox();
        let mut acks = connection.subscribe(inbox.clone(), 4_096).await.unwrap();
        let reply = Subject::from(inbox);
        let message = |payload: &Vec<u8>| Outgoing::new(subject.to_owned(), payload.clone()).reply_to(reply.clone());
        connection.publish_all(chunk.iter().map(message)).await.unwrap();
        for _ in chunk {
            let ack = timeout(Duration::from_secs(20), acks.next()).await.unwrap().unwrap();
            assert!(ack.payload.starts_with(b"{\"stream\""), "{ack:?}");
        }
    }
}

/// Every message that a stream holds now, in order.
pub async fn read_all(connection: &Connection, stream: &str) -> Vec<Stored> {
    let js = Js::new(connection.clone());
    let total = js.stream(stream).await.unwrap().state.messages;
    let config = ConsumerConfig { name: "reader".into(), ack_policy: AckPolicy::None, ..ConsumerConfig::default() };
    js.create_consumer(stream, &config).await.unwrap();
    let inbox = connection.new_inbox();
    let mut messages = connection.subscribe(inbox.clone(), 1 << 18).await.unwrap();
    let mut all = Vec::new();
    while (all.len() as u64) < total {
        let batch = (total - all.len() as u64).min(10_000);
        let pull = format!(r#"{{"batch":{batch},"expires":5000000000}}"#);
        let request = Outgoing::new(js.next_subject(stream, "reader"), pull).reply_to(Subject::from(inbox.clone()));
        connection.publish(request).await.unwrap();
        for _ in 0..batch {
            let message = timeout(Duration::from_secs(10), messages.next()).await.unwrap().unwrap();
            assert!(!message.is_status(), "{message:?}");
            let (subject, payload) = (message.subject.as_str().to_owned(), message.payload.to_vec());
            all.push(Stored { subject, headers: message.headers, payload });
        }
    }
    let _ = js.delete_consumer(stream, "reader").await;
    all
}
