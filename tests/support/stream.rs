//! Whole streams: filled with payloads, and read from beginning to end.

use std::time::Duration;

use millstream::broker::{AckPolicy, Connection, ConsumerConfig, DeliverPolicy, Js, Outgoing, Subject};
use millstream::operators::Headers;
use tokio::time::{Instant, sleep, timeout};

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
    read_from(connection, stream, 1).await.0
}

/// Every message that a stream holds now from this sequence on, in order, and the sequence behind them; again when servers that
/// have just come back do not answer yet.
async fn read_from(connection: &Connection, stream: &str, first: u64) -> (Vec<Stored>, u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match try_read_from(connection, stream, first).await {
            Ok(read) => return read,
            Err(error) => assert!(Instant::now() < deadline, "{stream} cannot be read: {error}"),
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn try_read_from(
    connection: &Connection,
    stream: &str,
    first: u64,
) -> Result<(Vec<Stored>, u64), Box<dyn std::error::Error>> {
    let js = Js::new(connection.clone());
    let _ = js.delete_consumer(stream, "reader").await;
    let config = ConsumerConfig {
        name: "reader".into(),
        ack_policy: AckPolicy::None,
        deliver_policy: DeliverPolicy::ByStartSequence,
        opt_start_seq: first.max(1),
        ..ConsumerConfig::default()
    };
    let total = js.create_consumer(stream, &config).await?.num_pending;
    let inbox = connection.new_inbox();
    let mut messages = connection.subscribe(inbox.clone(), 1 << 18).await?;
    let (mut all, mut next) = (Vec::new(), first);
    while (all.len() as u64) < total {
        let (batch, before) = ((total - all.len() as u64).min(10_000), all.len());
        let pull = format!(r#"{{"batch":{batch},"expires":300000000}}"#);
        let request = Outgoing::new(js.next_subject(stream, "reader"), pull).reply_to(Subject::from(inbox.clone()));
        connection.publish(request).await?;
        for _ in 0..batch {
            let message = timeout(Duration::from_secs(10), messages.next()).await?.ok_or("the connection is closed")?;
            if message.is_status() {
                break;
            }
            // `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>. ...`, from behind because there may be more before.
            let reply = message.reply.as_ref().map(|reply| reply.as_str().to_owned()).unwrap_or_default();
            next = reply.rsplit('.').nth(3).and_then(|sequence| sequence.parse::<u64>().ok()).unwrap() + 1;
            let (subject, payload) = (message.subject.as_str().to_owned(), message.payload.to_vec());
            all.push(Stored { subject, headers: message.headers, payload });
        }
        // Nothing came: a marker that was there has another in its place by now, or the server is slow.
        if all.len() == before {
            let told = js.consumer(stream, "reader").await?;
            match (told.num_pending, told.delivered.consumer_seq == all.len() as u64) {
                (0, true) => break,
                (0, false) => return Err(format!("{} messages came, not {:?}", all.len(), told.delivered).into()),
                _ => {}
            }
        }
    }
    let _ = js.delete_consumer(stream, "reader").await;
    Ok((all, next))
}

/// The data of a stream, read on from where it was read before: markers are left out.
pub struct Tail {
    stream: &'static str,
    next: u64,
    /// Subject and text of each message so far, in order.
    pub data: Vec<(String, String)>,
}

impl Tail {
    pub fn of(stream: &'static str) -> Tail {
        Tail { stream, next: 1, data: Vec::new() }
    }

    /// Reads what has come; gives how many messages there are.
    pub async fn read(&mut self, connection: &Connection) -> usize {
        // Its sink may not have made it yet.
        let found = Js::new(connection.clone()).find_stream(self.stream).await;
        if !matches!(found, Ok(None)) {
            let (more, next) = read_from(connection, self.stream, self.next).await;
            self.next = next;
            let text = |stored: Stored| (stored.subject, String::from_utf8(stored.payload).unwrap());
            self.data.extend(more.into_iter().map(text).filter(|(subject, _)| !subject.starts_with("mill.txn.")));
        }
        self.data.len()
    }

    /// Reads until there are so many messages.
    pub async fn until(
        &mut self,
        connection: &Connection,
        messages: usize,
        within: Duration,
        why: impl Fn() -> String,
    ) {
        let deadline = Instant::now() + within;
        while self.read(connection).await < messages {
            let (there, stream) = (self.data.len(), self.stream);
            assert!(Instant::now() < deadline, "{there} of {messages} messages are in {stream}: {}", why());
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The data of a stream, in order: markers are left out.
pub async fn data(connection: &Connection, stream: &'static str) -> Vec<(String, String)> {
    let mut tail = Tail::of(stream);
    tail.read(connection).await;
    tail.data
}
