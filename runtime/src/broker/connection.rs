//! [`Connection`]: publish, subscribe and request, on whatever broker there is.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use millstream_operators::Headers;
use tokio::sync::watch;

use super::embedded::EmbeddedLink;
use super::message::headers_len;
#[cfg(feature = "jetstream")]
use super::nats::NatsLink;
use super::{BrokerError, Incoming, Outgoing, Subject, Subscription, is_publishable};

/// Whether there is a link to the broker, and which one it is.
///
/// What was published on an earlier link and is not confirmed may or may not have arrived: a sink sends it again,
/// a source attaches again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Whether the link is up.
    pub connected: bool,
    /// Goes up by one at every connect; the first link is 1.
    pub generation: u64,
}

/// A connection to a broker. Clones share one link.
///
/// Publishes of one task keep their order; nothing else is promised: a message can be lost with its link, which
/// is why everything that matters is confirmed by a stream. While the link is down, publishing waits as soon as
/// the client's own short queue is full.
#[derive(Clone)]
pub struct Connection(Inner);

#[derive(Clone)]
enum Inner {
    #[cfg(feature = "jetstream")]
    Nats(NatsLink),
    Embedded(EmbeddedLink),
}

impl Connection {
    #[cfg(feature = "jetstream")]
    pub(super) fn nats(link: NatsLink) -> Self {
        Connection(Inner::Nats(link))
    }

    pub(super) fn embedded(link: EmbeddedLink) -> Self {
        Connection(Inner::Embedded(link))
    }

    /// Hands a message to the link; that it arrived is known only from a reply.
    ///
    /// # Errors
    /// The subject is invalid, the message over `max_payload`, or the connection closed for good.
    pub async fn publish(&self, message: Outgoing) -> Result<(), BrokerError> {
        self.check(&message.subject, &message.headers, &message.payload)?;
        match &self.0 {
            #[cfg(feature = "jetstream")]
            Inner::Nats(link) => link.publish(message).await,
            Inner::Embedded(link) => link.publish(message),
        }
    }

    /// Hands messages to the link in order; the cheapest way to send many.
    ///
    /// # Errors
    /// As [`publish`](Connection::publish), at the first message that fails; those before it were handed over.
    pub async fn publish_all(&self, messages: impl IntoIterator<Item = Outgoing>) -> Result<(), BrokerError> {
        match &self.0 {
            #[cfg(feature = "jetstream")]
            Inner::Nats(link) => {
                for message in messages {
                    self.check(&message.subject, &message.headers, &message.payload)?;
                    link.publish(message).await?;
                }
                Ok(())
            }
            Inner::Embedded(link) => {
                let mut sent = 0_u32;
                for message in messages {
                    self.check(&message.subject, &message.headers, &message.payload)?;
                    link.publish(message)?;
                    sent += 1;
                    // The embedded broker answers at once; whoever reads the answers must get a turn.
                    if sent.is_multiple_of(256) {
                        tokio::task::yield_now().await;
                    }
                }
                Ok(())
            }
        }
    }

    /// Waits until everything handed over so far was written to the link. No proof that it arrived.
    ///
    /// # Errors
    /// The connection is closed for good.
    pub async fn flush(&self) -> Result<(), BrokerError> {
        match &self.0 {
            #[cfg(feature = "jetstream")]
            Inner::Nats(link) => link.flush().await,
            Inner::Embedded(_) => Ok(()),
        }
    }

    /// Listens on a subject or pattern. At most `capacity` messages wait to be read; more are dropped and counted
    /// in [`Connection::dropped`]. A real connection uses the capacity of its
    /// [`ConnectOptions`](super::ConnectOptions) for every subscription.
    ///
    /// # Errors
    /// The subject is invalid, or the connection closed for good.
    pub async fn subscribe(&self, subject: impl Into<Subject>, capacity: usize) -> Result<Subscription, BrokerError> {
        self.listen(subject.into(), None, capacity).await
    }

    /// Listens as a member of `group`: each message goes to one member.
    ///
    /// # Errors
    /// As [`subscribe`](Connection::subscribe).
    pub async fn queue_subscribe(
        &self,
        subject: impl Into<Subject>,
        group: &str,
        capacity: usize,
    ) -> Result<Subscription, BrokerError> {
        self.listen(subject.into(), Some(group), capacity).await
    }

    async fn listen(
        &self,
        subject: Subject,
        group: Option<&str>,
        capacity: usize,
    ) -> Result<Subscription, BrokerError> {
        if subject.is_empty() || subject.split('.').any(|t| t.is_empty() || t.bytes().any(|b| b <= b' ')) {
            return Err(BrokerError::BadSubject { subject });
        }
        match &self.0 {
            #[cfg(feature = "jetstream")]
            Inner::Nats(link) => link.subscribe(subject, group).await,
            Inner::Embedded(link) => link.subscribe(subject, group, capacity),
        }
    }

    /// Publishes and waits for one answer.
    ///
    /// # Errors
    /// [`NoResponders`](BrokerError::NoResponders), [`Timeout`](BrokerError::Timeout),
    /// [`Permission`](BrokerError::Permission), and those of [`publish`](Connection::publish).
    pub async fn request(
        &self,
        subject: impl Into<Subject>,
        headers: Headers,
        payload: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<Incoming, BrokerError> {
        let (subject, payload) = (subject.into(), payload.into());
        self.check(&subject, &headers, &payload)?;
        match &self.0 {
            #[cfg(feature = "jetstream")]
            Inner::Nats(link) => link.request(subject, headers, payload, timeout).await,
            Inner::Embedded(link) => link.request(subject, headers, payload, timeout).await,
        }
    }

    /// A subject that nobody else listens on.
    pub fn new_inbox(&self) -> String {
        match &self.0 {
            #[cfg(feature = "jetstream")]
            Inner::Nats(link) => link.new_inbox(),
            Inner::Embedded(link) => link.new_inbox(),
        }
    }

    /// The largest message the broker takes, headers included.
    pub fn max_payload(&self) -> usize {
        match &self.0 {
            #[cfg(feature = "jetstream")]
            Inner::Nats(link) => link.max_payload(),
            Inner::Embedded(link) => link.max_payload(),
        }
    }

    /// The version the broker gives, such as `2.15.1`.
    pub fn server_version(&self) -> String {
        match &self.0 {
            #[cfg(feature = "jetstream")]
            Inner::Nats(link) => link.server_version(),
            Inner::Embedded(link) => link.server_version(),
        }
    }

    /// Follows the state of the link.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        match &self.0 {
            #[cfg(feature = "jetstream")]
            Inner::Nats(link) => link.state(),
            Inner::Embedded(link) => link.state(),
        }
    }

    /// Which link this is, exactly; [`link`](Connection::link) may tell a little later.
    pub fn generation(&self) -> u64 {
        match &self.0 {
            #[cfg(feature = "jetstream")]
            Inner::Nats(link) => link.generation(),
            Inner::Embedded(link) => link.generation(),
        }
    }

    /// Whether the connection is closed for good: the client lost its own task, and its link will not come back.
    pub fn is_closed(&self) -> bool {
        match &self.0 {
            #[cfg(feature = "jetstream")]
            Inner::Nats(link) => link.is_closed(),
            Inner::Embedded(_) => false,
        }
    }

    /// How often a message was dropped because a subscription was not read quickly enough. Over all subscriptions,
    /// and a lower bound: it is for people; loss is detected by sequences.
    pub fn dropped(&self) -> u64 {
        match &self.0 {
            #[cfg(feature = "jetstream")]
            Inner::Nats(link) => link.dropped(),
            Inner::Embedded(link) => link.dropped(),
        }
    }

    /// The refusal of publishing to `subject`, if the server ever sent one: what stands behind a confirmation
    /// that does not come.
    pub fn denied(&self, subject: &str) -> Option<BrokerError> {
        match &self.0 {
            #[cfg(feature = "jetstream")]
            Inner::Nats(link) => link.denied(subject, 0),
            Inner::Embedded(_) => {
                let _ = subject;
                None
            }
        }
    }

    /// Changes whenever the server refuses something; what it was, [`denied`](Connection::denied) tells.
    pub fn denials(&self) -> watch::Receiver<u64> {
        match &self.0 {
            #[cfg(feature = "jetstream")]
            Inner::Nats(link) => link.denials(),
            Inner::Embedded(_) => watch::channel(0).1,
        }
    }

    /// Whether this is the embedded broker.
    pub fn is_embedded(&self) -> bool {
        matches!(self.0, Inner::Embedded(_))
    }

    fn check(&self, subject: &Subject, headers: &Headers, payload: &Bytes) -> Result<(), BrokerError> {
        if !is_publishable(subject) {
            return Err(BrokerError::BadSubject { subject: subject.clone() });
        }
        let (size, max) = (headers_len(headers) + payload.len(), self.max_payload());
        if size > max {
            return Err(BrokerError::MaxPayload { subject: subject.clone(), size, max });
        }
        Ok(())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("embedded", &self.is_embedded()).finish_non_exhaustive()
    }
}
