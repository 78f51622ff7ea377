//! [`Streams`]: the stream that all read, and the one that each writes to.

use std::time::Duration;

use millstream::broker::{
    AckPolicy, Connection, ConsumerConfig, Js, NatsServer, Outgoing, StreamConfig, Subject, Subscription,
};
use tokio::time::timeout;

use crate::size::LEAST_BYTES;
use crate::{Failed, Size};

/// Where outputs go.
pub const OUT_SUBJECT: &str = "out.message";
/// An answer that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the stream OUT takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// One by one.
    Singly,
    /// By fast ingest, too.
    Fast,
    /// In atomic batches, with markers of pipelines and loops beside the data.
    Atomic,
}

/// The streams on the server.
#[expect(missing_debug_implementations, reason = "nobody prints a connection")]
pub struct Streams {
    connection: Connection,
    js: Js,
    size: Size,
}

impl Streams {
    /// Puts numbered messages into the stream IN.
    ///
    /// # Errors
    /// They are not all stored.
    pub async fn fill(server: &NatsServer, size: Size) -> Result<Streams, Failed> {
        let streams = Streams::empty(server, size).await?;
        let connection = &streams.connection;
        let inbox = connection.new_inbox();
        let mut acks = connection.subscribe(inbox.clone(), 1 << 14).await?;
        let reply = Subject::from(inbox);
        let (mut sent, mut stored) = (0, 0);
        while stored < size.messages {
            while sent < size.messages && sent - stored < 4_096 {
                connection.publish(streams.message(sent).reply_to(reply.clone())).await?;
                sent += 1;
            }
            let ack = timeout(PATIENCE, acks.next()).await?.ok_or("the connection is closed")?;
            if ack.is_status() || !ack.payload.starts_with(b"{\"stream\":") {
                return Err(format!("the input cannot be stored: {:?}", ack.payload).into());
            }
            stored += 1;
        }
        let held = streams.js.stream("IN").await?.state.messages;
        match held == size.messages {
            true => Ok(streams),
            false => Err(format!("the input has {held} messages in place of {}", size.messages).into()),
        }
    }

    /// Makes the stream IN anew, with nothing in it.
    ///
    /// # Errors
    /// The server does not.
    pub async fn empty(server: &NatsServer, size: Size) -> Result<Streams, Failed> {
        let connection = server.connect().await?;
        let js = Js::new(connection.clone());
        if js.find_stream("IN").await?.is_some() {
            js.delete_stream("IN").await?;
        }
        js.create_stream(&StreamConfig::new("IN", ["in.>"])).await?;
        Ok(Streams { connection, js, size })
    }

    /// The connection that fills and checks.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// This input.
    pub fn message(&self, number: u64) -> Outgoing {
        Outgoing::new("in.message", self.payload(number))
    }

    fn payload(&self, number: u64) -> String {
        let mut text = format!("{number:0LEAST_BYTES$}");
        text.extend(std::iter::repeat_n('x', self.size.bytes - LEAST_BYTES));
        text
    }

    /// Makes the stream OUT anew.
    ///
    /// # Errors
    /// The server does not.
    pub async fn fresh_output(&self, takes: Takes) -> Result<(), Failed> {
        if self.js.find_stream("OUT").await?.is_some() {
            self.js.delete_stream("OUT").await?;
        }
        let mut config = StreamConfig::new("OUT", ["out.>"]);
        match takes {
            Takes::Singly => {}
            Takes::Fast => config.allow_batched = true,
            Takes::Atomic => {
                (config.allow_atomic, config.allow_rollup_hdrs) = (true, true);
                config.subjects.push("mill.txn.>".into());
            }
        }
        let made = self.js.create_stream(&config).await?.config;
        match (made.allow_batched, made.allow_atomic) == (config.allow_batched, config.allow_atomic) {
            true => Ok(()),
            false => Err("this server knows no batches: use 2.14 or newer".into()),
        }
    }

    /// Follows the outputs as they are stored: messages of OUT, all that there will be.
    ///
    /// # Errors
    /// The server does not let it.
    pub async fn follow_output(&self, consumer: &str) -> Result<Subscription, Failed> {
        let config = ConsumerConfig {
            name: consumer.into(),
            ack_policy: AckPolicy::None,
            filter_subjects: vec![OUT_SUBJECT.into()],
            ..ConsumerConfig::default()
        };
        self.js.create_consumer("OUT", &config).await?;
        let inbox = self.connection.new_inbox();
        let messages = self.connection.subscribe(inbox.clone(), 1 << 18).await?;
        let pull = format!(r#"{{"batch":{},"expires":300000000000}}"#, self.size.messages);
        let request = Outgoing::new(self.js.next_subject("OUT", consumer), pull);
        self.connection.publish(request.reply_to(Subject::from(inbox))).await?;
        Ok(messages)
    }

    /// Reads all outputs: every message of the input must be there, once, in order and unchanged.
    ///
    /// # Errors
    /// One is not.
    pub async fn check_output(&self) -> Result<(), Failed> {
        let config = ConsumerConfig {
            name: "check".into(),
            ack_policy: AckPolicy::None,
            filter_subjects: vec![OUT_SUBJECT.into()],
            ..ConsumerConfig::default()
        };
        let held = self.js.create_consumer("OUT", &config).await?.num_pending;
        if held != self.size.messages {
            return Err(format!("the output has {held} messages in place of {}", self.size.messages).into());
        }
        let inbox = self.connection.new_inbox();
        let mut messages = self.connection.subscribe(inbox.clone(), 1 << 16).await?;
        let (reply, next) = (Subject::from(inbox), self.js.next_subject("OUT", "check"));
        let (mut asked, mut read) = (0, 0);
        while read < held {
            if asked - read <= 5_000 && asked < held {
                let pull = Outgoing::new(next.clone(), r#"{"batch":10000,"expires":20000000000}"#);
                self.connection.publish(pull.reply_to(reply.clone())).await?;
                asked += 10_000;
            }
            let message = timeout(PATIENCE, messages.next()).await?.ok_or("the connection is closed")?;
            if message.is_status() || *message.payload != *self.payload(read).as_bytes() {
                return Err(format!("message {read} of the output is {message:?}").into());
            }
            read += 1;
        }
        Ok(())
    }
}
