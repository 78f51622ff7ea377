//! [`Reader`]: how the loops read that one would write by hand with the NATS client.

use async_nats::{Client, ConnectOptions, Message, Subject, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use millstream::broker::{AckPolicy, ConsumerConfig};
use serde_json::{Value, json};

use crate::Failed;

const PULL: u64 = 5_000;

/// A connection with room for what is pulled.
///
/// # Errors
/// There is no server.
pub async fn connect(url: &str) -> Result<Client, Failed> {
    // Above one and a half pulls, or the client drops messages.
    Ok(ConnectOptions::new().subscription_capacity(1 << 16).connect(url).await?)
}

/// A message that has come already.
pub fn waiting(subscriber: &mut Subscriber) -> Option<Message> {
    tokio::task::unconstrained(subscriber.next()).now_or_never().flatten()
}

/// Reads IN by a durable consumer whose acknowledgements cover all before them.
#[derive(Debug)]
pub struct Reader {
    client: Client,
    /// What comes.
    pub deliveries: Subscriber,
    inbox: String,
    next: String,
    // Messages that were asked for and have not come.
    asked: u64,
}

impl Reader {
    /// Makes the consumer.
    ///
    /// # Errors
    /// The server does not.
    pub async fn open(client: &Client, name: String) -> Result<Reader, Failed> {
        let config =
            ConsumerConfig { ack_policy: AckPolicy::All, max_ack_pending: 100_000, ..ConsumerConfig::durable(&name) };
        let body = json!({ "stream_name": "IN", "config": config }).to_string();
        let answer = client.request(format!("$JS.API.CONSUMER.CREATE.IN.{name}"), body.into()).await?;
        if let Some(error) = serde_json::from_slice::<Value>(&answer.payload)?.get("error") {
            return Err(format!("no consumer: {error}").into());
        }
        let inbox = client.new_inbox();
        let deliveries = client.subscribe(inbox.clone()).await?;
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.IN.{name}");
        Ok(Reader { client: client.clone(), deliveries, inbox, next, asked: 0 })
    }

    /// Asks for more when half of what was asked for has come.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn pull(&mut self) -> Result<(), Failed> {
        if self.asked <= PULL / 2 {
            let body = format!(r#"{{"batch":{PULL},"expires":30000000000}}"#);
            self.client.publish_with_reply(self.next.clone(), self.inbox.clone(), body.into()).await?;
            self.asked += PULL;
        }
        Ok(())
    }

    /// A delivery's payload and where it is acknowledged.
    ///
    /// # Errors
    /// It is none.
    pub fn take(&mut self, message: Message) -> Result<(Bytes, Subject), Failed> {
        self.asked -= 1;
        match (message.status, message.reply) {
            (None, Some(reply)) => Ok((message.payload, reply)),
            (status, _) => Err(format!("the server ended a pull: {status:?}").into()),
        }
    }

    /// Acknowledges a delivery and all before it.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn ack(&self, delivery: Subject) -> Result<(), Failed> {
        Ok(self.client.publish(delivery, Bytes::from_static(b"+ACK")).await?)
    }
}
