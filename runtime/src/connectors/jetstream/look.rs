//! [`Look`]: how stream and consumer are now and then, beside the reading.

use std::sync::Arc;
use std::time::Duration;

use millstream_operators::Result;

use super::attach::Reader;
use crate::broker::{BrokerError, ConsumerInfo, StreamInfo, codes};
use crate::connectors::{Purpose, fault};

/// How long from one look to the next.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What a source sees when it looks.
#[derive(Debug)]
pub(super) enum Look {
    /// No answer that tells anything; whether the server is there, the pull will show.
    Away,
    /// The stream is there, and its consumer is not told of now.
    Stream(Box<StreamInfo>),
    /// The stream is there, and its consumer is gone.
    NoConsumer(Box<StreamInfo>),
    /// Both are there. The stream was looked at first.
    Both(Box<(StreamInfo, ConsumerInfo)>),
}

impl Reader {
    /// Looks at stream and consumer.
    ///
    /// # Errors
    /// The stream is gone, or the server refuses to tell.
    pub(super) async fn look(self: Arc<Self>) -> Result<Look> {
        let js = self.connections.js(Purpose::Read).await?;
        let stream = match js.find_stream(&self.read.stream).await {
            Ok(Some(stream)) => stream,
            Ok(None) => return Err(self.no_stream(true)),
            Err(error) => return self.unless_it_may_pass(error, Look::Away),
        };
        match js.consumer(&self.read.stream, &self.consumer).await {
            Ok(consumer) => Ok(Look::Both(Box::new((stream, consumer)))),
            Err(error) if error.api_code() == Some(codes::CONSUMER_NOT_FOUND) => Ok(Look::NoConsumer(Box::new(stream))),
            Err(error) => self.unless_it_may_pass(error, Look::Stream(Box::new(stream))),
        }
    }

    /// How the stream is; nothing if that cannot be known now.
    ///
    /// # Errors
    /// As those of [`look`](Self::look).
    pub(super) async fn stream_now(self: Arc<Self>) -> Result<Option<Box<StreamInfo>>> {
        let js = self.connections.js(Purpose::Read).await?;
        match js.find_stream(&self.read.stream).await {
            Ok(Some(stream)) => Ok(Some(Box::new(stream))),
            Ok(None) => Err(self.no_stream(true)),
            Err(error) => self.unless_it_may_pass(error, Look::Away).map(|_| None),
        }
    }

    fn unless_it_may_pass(&self, error: BrokerError, look: Look) -> Result<Look> {
        if error.may_pass() {
            tracing::debug!(stream = self.read.stream, "how the stream and its consumer are is not known: {error}");
            return Ok(look);
        }
        Err(fault(error))
    }
}
