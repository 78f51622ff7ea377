//! An atomic batch: a marker and outputs that are stored together, or not at all (NATS ADR-50).

use std::time::Duration;

use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{Headers, Record};

use crate::broker::{BrokerError, Connection, Outgoing, PubAck, Subject};

/// A marker as it is to be stored.
pub(super) struct Fence<'a> {
    /// Its subject.
    pub(super) subject: &'a Subject,
    /// The sequence of the marker that it takes the place of; 0 for none.
    pub(super) expected: u64,
    /// Its content.
    pub(super) payload: Vec<u8>,
}

impl Fence<'_> {
    /// The headers of the comparison.
    pub(super) fn headers(&self) -> Headers {
        if planted(Bug::NoFence) {
            return with(Headers::NONE, &[("Nats-Rollup", "sub")]);
        }
        with(
            Headers::NONE,
            &[("Nats-Expected-Last-Subject-Sequence", &self.expected.to_string()), ("Nats-Rollup", "sub")],
        )
    }
}

/// The headers of a batch's message come on top of its own: so many bytes at most.
pub(super) const HEADERS: usize = 256;

/// So long an answer is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Publishes a marker and records, and gives the sequence of the marker. On an error it may be known or unknown whether
/// they are stored: the marker tells.
///
/// # Errors
/// The stream refuses, or no answer comes.
pub(super) async fn publish(
    connection: &Connection,
    fence: Fence<'_>,
    records: &[&[Record]],
    patience: Duration,
) -> Result<u64, BrokerError> {
    let inbox = connection.new_inbox();
    let id = inbox.rsplit('.').next().unwrap_or(&inbox).to_owned();
    let mut answers = connection.subscribe(inbox.clone(), 4).await?;
    let reply = Subject::from(inbox);
    let count = records.iter().map(|records| records.len() as u64).sum::<u64>() + 1;
    let numbered = |headers: Headers, number: u64| {
        let headers = with(headers, &[("Nats-Batch-Id", &id), ("Nats-Batch-Sequence", &number.to_string())]);
        if number == count { with(headers, &[("Nats-Batch-Commit", "1")]) } else { headers }
    };
    // The first is answered too: where the stream refuses it, nobody would say why the last one fails.
    let headers = numbered(fence.headers(), 1);
    let first =
        Outgoing { subject: fence.subject.clone(), reply: Some(reply.clone()), headers, payload: fence.payload.into() };
    let mut messages = Vec::with_capacity(usize::try_from(count).unwrap_or(1));
    messages.push(first);
    for (record, number) in records.iter().copied().flatten().zip(2..) {
        let named = Subject::try_from(record.subject.clone());
        let subject = named.map_err(|_| BrokerError::BadSubject { subject: record.subject().to_owned().into() })?;
        let reply = (number == count).then(|| reply.clone());
        let headers = numbered(record.headers.clone(), number);
        messages.push(Outgoing { subject, reply, headers, payload: record.payload.clone() });
    }
    let (mut link, generation) = (connection.link(), connection.generation());
    connection.publish_all(messages).await?;
    let (subject, after) = (fence.subject.clone(), patience);
    let timeout = || BrokerError::Timeout { subject: subject.clone(), after };
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        let answer = tokio::select! {
            biased;
            answer = answers.next() => answer,
            // What was not answered by then will not be.
            _ = link.wait_for(|link| link.generation > generation) => {
                return Err(BrokerError::Disconnected { why: "the connection was made anew".to_owned() });
            }
            () = tokio::time::sleep_until(deadline) => None,
        };
        let Some(answer) = answer else { return Err(timeout()) };
        if answer.status == Some(503) {
            return Err(BrokerError::NoResponders { subject: fence.subject.clone() });
        }
        // The first is kept for later.
        if answer.payload.is_empty() {
            continue;
        }
        return match PubAck::parse(&answer.payload) {
            Ok(ack) if ack.batch.as_deref() == Some(&*id) && ack.count == count => {
                Ok((ack.seq + 1).saturating_sub(count))
            }
            Ok(_) => Err(BrokerError::Protocol {
                subject: fence.subject.clone(),
                what: "the server stored a message of an atomic batch alone: it does not know batches".to_owned(),
            }),
            Err(Some(error)) => Err(BrokerError::Api { subject: fence.subject.clone(), error }),
            Err(None) => Err(BrokerError::Protocol {
                subject: fence.subject.clone(),
                what: "it is no publish acknowledgement".to_owned(),
            }),
        };
    }
}

/// The headers, and these, whose values are ours and legal.
fn with(mut headers: Headers, more: &[(&str, &str)]) -> Headers {
    for (name, value) in more {
        let _ = headers.push(name, value);
    }
    headers
}
