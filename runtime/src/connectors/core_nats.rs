//! [`CoreNatsSource`] and [`CoreNatsSink`]: core NATS subjects, at most once: nobody keeps what nobody hears.

use std::sync::Arc;

use bytes::Bytes;
use millstream_operators::{Batch, Epoch, Fault, Origin, Origins, Place, Record, Result, Sink, SizeLimit, Source};

use crate::broker::{Connection, Incoming, Outgoing, Subject, Subscription};
use crate::broker::{Connections, Purpose, fault};
use crate::engine::Clock;

/// A source that listens on a subject. What is published while it does not listen is lost; a pipeline that promises
/// more refuses it.
#[derive(Debug)]
pub struct CoreNatsSource {
    connections: Arc<Connections>,
    subject: String,
    group: Option<String>,
    clock: Clock,
    place: Arc<Place>,
    subscription: Option<Subscription>,
}

impl CoreNatsSource {
    /// A source that listens on `subject` as node `node`, sharing it with the other members of `group` if there is one.
    pub fn new(node: &str, connections: Arc<Connections>, subject: &str, group: Option<String>, clock: Clock) -> Self {
        let place = Arc::new(Place { node: node.into(), stream: subject.into() });
        CoreNatsSource { connections, subject: subject.into(), group, clock, place, subscription: None }
    }
}

impl Source for CoreNatsSource {
    type Out = Vec<Bytes>;
    type Position = ();

    async fn open(&mut self, _: Option<()>) -> Result {
        let connection = self.connections.get(Purpose::Read).await?;
        let subject = Subject::from(self.subject.clone());
        let heard = match &self.group {
            Some(group) => connection.queue_subscribe(subject, group, 1 << 16).await,
            None => connection.subscribe(subject, 1 << 16).await,
        };
        self.subscription = Some(heard.map_err(fault)?);
        Ok(())
    }

    async fn next(&mut self, max_rows: usize) -> Result<Option<Batch<Vec<Bytes>>>> {
        let Some(subscription) = self.subscription.as_mut() else { return Ok(None) };
        let mut heard = Vec::new();
        if subscription.next_many(&mut heard, max_rows).await == 0 {
            return Ok(None);
        }
        let now = self.clock.now();
        let weight = heard.iter().map(|message| message.wire_len).sum();
        let rows = heard.iter().map(|message| message.payload.clone()).collect();
        let messages: Vec<Origin> = heard
            .into_iter()
            .map(|Incoming { subject, headers, payload, .. }| {
                let subject_bytes = Bytes::copy_from_slice(subject.as_bytes());
                // Nothing that was published has a number by which it would be known again.
                Origin { sequence: 0, stored_at: now, headers, payload, subject_bytes }
            })
            .collect();
        let batch = Batch::at(now, rows).weighing(weight);
        batch.with_origins(Origins::one_each(Arc::clone(&self.place), messages)).map(Some)
    }

    fn is_endless(&self) -> bool {
        true
    }

    fn position(&self) {}
}

/// A sink that publishes each record on its subject and hopes.
#[derive(Debug)]
pub struct CoreNatsSink {
    connections: Arc<Connections>,
    connection: Option<Connection>,
    limit: SizeLimit,
}

impl CoreNatsSink {
    /// A sink over these connections.
    pub fn new(connections: Arc<Connections>) -> Self {
        CoreNatsSink { connections, connection: None, limit: SizeLimit::default() }
    }
}

impl CoreNatsSink {
    /// The same sink, which says there what the server takes.
    #[must_use]
    pub fn telling(mut self, limit: SizeLimit) -> Self {
        self.limit = limit;
        self
    }
}

impl Sink for CoreNatsSink {
    type In = Vec<Record>;

    async fn open(&mut self) -> Result {
        let connection = self.connections.get(Purpose::Write).await?;
        self.limit.set(connection.max_payload());
        self.connection = Some(connection);
        Ok(())
    }

    async fn write(&mut self, batch: Batch<Vec<Record>>) -> Result {
        let Some(connection) = &self.connection else { return Err(Fault::bug("a NATS sink was not opened")) };
        let outgoing = batch.into_parts().rows.into_iter().map(|record| {
            let subject = record.subject().to_owned();
            Outgoing::new(subject, record.payload).headers(record.headers)
        });
        connection.publish_all(outgoing).await.map_err(fault)
    }

    async fn flush(&mut self, _: Epoch) -> Result {
        match &self.connection {
            Some(connection) => connection.flush().await.map_err(fault),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_operators::Timestamp;

    use super::*;
    use crate::broker::Embedded;

    #[tokio::test]
    async fn what_one_end_publishes_the_other_hears() {
        let connections = Arc::new(Connections::to_embedded(Embedded::new(crate::broker::EmbeddedOptions::default())));
        let clock = Clock::starting_at(Timestamp::from_millis(5));
        let mut source = CoreNatsSource::new("in", Arc::clone(&connections), "orders.*", None, clock);
        source.open(None).await.unwrap();
        let mut sink = CoreNatsSink::new(connections);
        sink.open().await.unwrap();
        let record = Record { subject: "orders.eu".into(), ..Record::of("1") };
        sink.write(Batch::at(Timestamp::MIN, vec![record])).await.unwrap();
        let batch = source.next(10).await.unwrap().unwrap();
        assert_eq!(
            (batch.rows()[0].as_ref(), batch.origins().unwrap().get(0).unwrap().subject()),
            (&b"1"[..], "orders.eu")
        );
    }
}
