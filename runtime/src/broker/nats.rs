//! [`NatsLink`]: the seam on a real NATS connection.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::client::traits::Publisher as _;
use async_nats::client::{PublishErrorKind, RequestErrorKind};
use async_nats::message::OutboundMessage;
use async_nats::{Event, HeaderMap};
use bytes::Bytes;
use millstream_operators::Headers;
use tokio::sync::watch;

use super::{BrokerError, DeniedAction, Incoming, LinkState, Outgoing, Subject, Subscription};

/// Refusals kept; more than this many different ones help nobody.
const DENIALS: usize = 64;

/// A connection of the NATS client, and what its events told.
#[derive(Clone)]
pub(super) struct NatsLink {
    client: async_nats::Client,
    told: Arc<Told>,
}

/// What the client's events told; written by its event callback.
pub(super) struct Told {
    state: watch::Sender<LinkState>,
    dropped: AtomicU64,
    closed: AtomicBool,
    denials: Mutex<VecDeque<Denial>>,
    /// Counts denials, so that a waiting request looks when one comes.
    denied: watch::Sender<u64>,
}

struct Denial {
    number: u64,
    subject: String,
    action: DeniedAction,
}

/// Where the client tells its events. It goes with the client's own task, also when that panics, which it does at a
/// message with a CR in a header: nothing else shows that the link will not come back.
pub(super) struct Ear(pub(super) Arc<Told>);

impl Drop for Ear {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Relaxed);
        self.0.state.send_modify(|state| state.connected = false);
    }
}

impl Default for Told {
    fn default() -> Self {
        Told {
            state: watch::Sender::new(LinkState::default()),
            dropped: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            denials: Mutex::default(),
            denied: watch::Sender::new(0),
        }
    }
}

impl Told {
    /// Notes an event of the client.
    pub(super) fn note(&self, event: &Event) {
        match event {
            Event::Connected => self.state.send_modify(|s| {
                s.connected = true;
                s.generation += 1;
            }),
            Event::Disconnected | Event::Closed => self.state.send_modify(|s| s.connected = false),
            Event::SlowConsumer(_) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            Event::ServerError(error) => {
                let text = error.to_string();
                if let Some((action, subject)) = parse_violation(&text) {
                    self.deny(action, subject);
                } else {
                    tracing::warn!(error = %text, "the NATS server reports an error");
                }
            }
            Event::ClientError(error) => tracing::warn!(%error, "the NATS client reports an error"),
            Event::LameDuckMode | Event::Draining => {}
        }
    }

    fn deny(&self, action: DeniedAction, subject: &str) {
        // What nobody waits for an answer to (a pull, an output) is told here first, or only here.
        let error = BrokerError::Permission { subject: subject.to_owned().into(), action };
        tracing::warn!(subject, ?action, "{error}");
        let mut denials = self.denials.lock().unwrap_or_else(PoisonError::into_inner);
        let number = denials.back().map_or(0, |last| last.number) + 1;
        if denials.len() == DENIALS {
            denials.pop_front();
        }
        denials.push_back(Denial { number, subject: subject.to_owned(), action });
        drop(denials);
        self.denied.send_modify(|n| *n = number);
    }

    /// The newest denial after number `after` that `concerns`.
    fn find(&self, after: u64, concerns: impl Fn(&Denial) -> bool) -> Option<BrokerError> {
        let denials = self.denials.lock().unwrap_or_else(PoisonError::into_inner);
        denials
            .iter()
            .rev()
            .take_while(|d| d.number > after)
            .find(|d| concerns(d))
            .map(|d| BrokerError::Permission { subject: d.subject.clone().into(), action: d.action })
    }
}

impl NatsLink {
    pub(super) fn new(client: async_nats::Client, told: Arc<Told>) -> Self {
        NatsLink { client, told }
    }

    pub(super) async fn publish(&self, message: Outgoing) -> Result<(), BrokerError> {
        let subject = message.subject.clone();
        let outbound = OutboundMessage {
            subject: message.subject.into_nats(),
            reply: message.reply.map(Subject::into_nats),
            payload: message.payload,
            headers: (!message.headers.is_empty()).then(|| header_map(&message.headers)),
        };
        self.client.publish_message(outbound).await.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => {
                BrokerError::MaxPayload { subject, size: 0, max: self.max_payload() }
            }
            PublishErrorKind::InvalidSubject => BrokerError::BadSubject { subject },
            PublishErrorKind::Send => closed(),
        })
    }

    pub(super) async fn flush(&self) -> Result<(), BrokerError> {
        self.client.flush().await.map_err(|_| closed())
    }

    pub(super) async fn subscribe(&self, subject: Subject, group: Option<&str>) -> Result<Subscription, BrokerError> {
        let name = subject.clone();
        let subscriber = match group {
            None => self.client.subscribe(subject.into_nats()).await,
            Some(group) => self.client.queue_subscribe(subject.into_nats(), group.to_owned()).await,
        };
        subscriber.map(Subscription::nats).map_err(|error| {
            if error.kind() == async_nats::SubscribeErrorKind::InvalidSubject {
                BrokerError::BadSubject { subject: name }
            } else {
                closed()
            }
        })
    }

    pub(super) async fn request(
        &self,
        subject: Subject,
        headers: Headers,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Incoming, BrokerError> {
        let mut request = async_nats::Request::new().payload(payload).timeout(Some(timeout));
        if !headers.is_empty() {
            request = request.headers(header_map(&headers));
        }
        let mut denied = self.told.denied.subscribe();
        let before = *denied.borrow_and_update();
        let reply = self.client.send_request(subject.clone().into_nats(), request);
        tokio::pin!(reply);
        loop {
            tokio::select! {
                biased;
                answer = &mut reply => {
                    return answer.map(incoming).map_err(|error| match error.kind() {
                        RequestErrorKind::NoResponders => BrokerError::NoResponders { subject: subject.clone() },
                        // A denial of an earlier request stands, and the server may not repeat it.
                        RequestErrorKind::TimedOut => self
                            .denied(&subject, 0)
                            .unwrap_or(BrokerError::Timeout { subject: subject.clone(), after: timeout }),
                        RequestErrorKind::InvalidSubject => BrokerError::BadSubject { subject: subject.clone() },
                        RequestErrorKind::MaxPayloadExceeded => BrokerError::MaxPayload {
                            subject: subject.clone(),
                            size: 0,
                            max: self.max_payload(),
                        },
                        RequestErrorKind::Other => closed(),
                    });
                }
                Ok(()) = denied.changed() => {
                    if let Some(error) = self.denied(&subject, before) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// The refusal of this subject, or of the inboxes that answers come to, after denial number `after`.
    pub(super) fn denied(&self, subject: &str, after: u64) -> Option<BrokerError> {
        self.told.find(after, |denial| match denial.action {
            DeniedAction::Publish => denial.subject == subject,
            // The client listens for all its answers on one pattern below its inbox prefix.
            DeniedAction::Subscribe => denial.subject.contains("_INBOX") || denial.subject.ends_with(".*"),
        })
    }

    pub(super) fn denials(&self) -> watch::Receiver<u64> {
        self.told.denied.subscribe()
    }

    pub(super) fn new_inbox(&self) -> String {
        self.client.new_inbox()
    }

    pub(super) fn max_payload(&self) -> usize {
        // 0 before the first connect.
        match self.client.max_payload() {
            0 => usize::MAX,
            max => max,
        }
    }

    pub(super) fn server_version(&self) -> String {
        self.client.server_info().version
    }

    pub(super) fn state(&self) -> watch::Receiver<LinkState> {
        self.told.state.subscribe()
    }

    pub(super) fn generation(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.told.closed.load(Ordering::Relaxed)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.told.dropped.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for NatsLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsLink").finish_non_exhaustive()
    }
}

fn closed() -> BrokerError {
    BrokerError::Disconnected { why: "the NATS connection is closed for good: connect again".to_owned() }
}

fn header_map(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter() {
        map.append(name, value);
    }
    map
}

/// Takes a message of the client over, without copying subject or payload.
pub(super) fn incoming(message: async_nats::Message) -> Incoming {
    let mut headers = Headers::NONE;
    if let Some(map) = &message.headers {
        for (name, values) in map.iter() {
            for value in values {
                // The wire may hold what our headers refuse (an odd name, a stray CR): such a header is no loss.
                let _ = headers.push(name.as_ref(), value.as_str());
            }
        }
    }
    let reply = message.reply.map(Subject::from_nats);
    // What a consumer delivers is a stored message, whatever status its publisher put on it.
    let is_stored = reply.as_ref().is_some_and(|reply| reply.starts_with("$JS.ACK."));
    Incoming {
        subject: Subject::from_nats(message.subject),
        reply,
        headers,
        status: message.status.filter(|_| !is_stored).map(|status| status.as_u16()),
        description: message.description.map(Into::into),
        payload: message.payload,
        wire_len: message.length,
    }
}

/// The server says `Permissions Violation for Publish to "subject"`, with more behind for a reply or a queue group.
fn parse_violation(text: &str) -> Option<(DeniedAction, &str)> {
    let at = text.to_ascii_lowercase().find("permissions violation for ")?;
    let rest = text.get(at + "permissions violation for ".len()..)?;
    let action = if rest.starts_with("Subscription") || rest.starts_with("subscription") {
        DeniedAction::Subscribe
    } else {
        DeniedAction::Publish
    };
    let mut quoted = rest.split('"');
    quoted.next()?;
    Some((action, quoted.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_names_its_subject() {
        let parsed = parse_violation("nats: Permissions Violation for Publish to \"a.b\"");
        assert_eq!(parsed, Some((DeniedAction::Publish, "a.b")));
        let parsed = parse_violation("nats: Permissions Violation for Subscription to \"x.>\" using queue \"q\"");
        assert_eq!(parsed, Some((DeniedAction::Subscribe, "x.>")));
        assert_eq!(parse_violation("nats: Stale Connection"), None);
    }

    #[test]
    fn a_denial_reaches_who_asks_for_its_subject() {
        let told = Told::default();
        told.deny(DeniedAction::Publish, "a.b");
        assert!(told.find(0, |d| d.subject == "a.b").is_some());
        assert!(told.find(1, |d| d.subject == "a.b").is_none());
    }
}
