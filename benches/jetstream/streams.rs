//! [`Streams`]: the stream that all read, and the one that each writes to.

use std::time::Duration;

use millstream::broker::{AckPolicy, Connection, ConsumerConfig, Js, NatsServer, Outgoing, StreamConfig, Subject};
use tokio::time::timeout;

use crate::{Failed, Size};

pub(crate) const OUT_SUBJECT: &str = "out.message";
/// A payload begins with the number of its message, in so many digits.
pub(crate) const LEAST_BYTES: usize = 12;
const PATIENCE: Duration = Duration::from_secs(30);

/// The streams on the server.
pub(crate) struct Streams {
    connection: Connection,
    js: Js,
    size: Size,
}

impl Streams {
    /// Puts numbered messages into the stream IN.
    pub(crate) async fn fill(server: &NatsServer, size: Size) -> Result<Streams, Failed> {
        let connection = server.connect().await?;
        let js = Js::new(connection.clone());
        js.create_stream(&StreamConfig::new("IN", ["in.>"])).await?;
        let streams = Streams { connection, js, size };
        let connection = &streams.connection;
        let inbox = connection.new_inbox();
        let mut acks = connection.subscribe(inbox.clone(), 1 << 14).await?;
        let reply = Subject::from(inbox);
        let (mut sent, mut stored) = (0, 0);
        while stored < size.messages {
            while sent < size.messages && sent - stored < 4_096 {
                let message = Outgoing::new("in.message", streams.payload(sent)).reply_to(reply.clone());
                connection.publish(message).await?;
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

    fn payload(&self, number: u64) -> String {
        let mut text = format!("{number:0LEAST_BYTES$}");
        text.extend(std::iter::repeat_n('x', self.size.bytes - LEAST_BYTES));
        text
    }

    /// Makes the stream OUT anew.
    pub(crate) async fn fresh_output(&self, allow_batched: bool) -> Result<(), Failed> {
        if self.js.find_stream("OUT").await?.is_some() {
            self.js.delete_stream("OUT").await?;
        }
        let config = StreamConfig { allow_batched, ..StreamConfig::new("OUT", ["out.>"]) };
        match self.js.create_stream(&config).await?.config.allow_batched == allow_batched {
            true => Ok(()),
            false => Err("this server does not know fast ingest: use 2.14 or newer".into()),
        }
    }

    /// Reads all of OUT: every message of the input must be there, once, in order and unchanged.
    pub(crate) async fn check_output(&self) -> Result<(), Failed> {
        let held = self.js.stream("OUT").await?.state.messages;
        if held != self.size.messages {
            return Err(format!("the output has {held} messages in place of {}", self.size.messages).into());
        }
        let config = ConsumerConfig { name: "check".into(), ack_policy: AckPolicy::None, ..ConsumerConfig::default() };
        self.js.create_consumer("OUT", &config).await?;
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
