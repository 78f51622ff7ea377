//! [`EmbeddedLink`]: one client's side of the embedded broker.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millstream_operators::Headers;
use tokio::sync::{mpsc, oneshot, watch};

use super::core::Core;
use crate::broker::{BrokerError, Incoming, LinkState, Outgoing, Subject, Subscription};

/// A connection to the embedded broker.
#[derive(Clone)]
pub(in crate::broker) struct EmbeddedLink {
    core: Arc<Core>,
    client: u64,
    dropped: Arc<AtomicU64>,
}

impl EmbeddedLink {
    pub(super) fn new(core: &Arc<Core>, client: u64) -> Self {
        core.drive();
        EmbeddedLink { core: Arc::clone(core), client, dropped: Arc::default() }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the same shape as the real link's")]
    pub(in crate::broker) fn publish(&self, message: Outgoing) -> Result<(), BrokerError> {
        self.core.publish(self.client, message);
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "the same shape as the real link's")]
    pub(in crate::broker) fn subscribe(
        &self,
        subject: Subject,
        group: Option<&str>,
        capacity: usize,
    ) -> Result<Subscription, BrokerError> {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        self.core.lock().router.subscribe(self.client, subject, group, sender, Arc::clone(&self.dropped));
        Ok(Subscription::embedded(receiver))
    }

    pub(in crate::broker) async fn request(
        &self,
        subject: Subject,
        headers: Headers,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Incoming, BrokerError> {
        let (sender, receiver) = oneshot::channel();
        let reply = Subject::from(self.new_inbox());
        self.core.lock().router.expect(self.client, reply.clone(), sender);
        let request = Outgoing { subject: subject.clone(), reply: Some(reply), headers, payload };
        self.core.publish(self.client, request);
        let answer = async {
            match receiver.await {
                Ok(answer) => answer,
                // The link was cut: the answer is lost, which only time tells.
                Err(_) => std::future::pending().await,
            }
        };
        match tokio::time::timeout(timeout, answer).await {
            Ok(answer) if answer.status == Some(503) => Err(BrokerError::NoResponders { subject }),
            Ok(answer) => Ok(answer),
            Err(_) => Err(BrokerError::Timeout { subject, after: timeout }),
        }
    }

    pub(in crate::broker) fn new_inbox(&self) -> String {
        format!("_INBOX.embedded.{}", self.core.lock().next_inbox())
    }

    pub(in crate::broker) fn max_payload(&self) -> usize {
        self.core.options.max_payload
    }

    pub(in crate::broker) fn server_version(&self) -> String {
        // The version whose behaviour it follows; that it is no nats-server is told by `Connection::is_embedded`.
        "2.15.1".to_owned()
    }

    pub(in crate::broker) fn state(&self) -> watch::Receiver<LinkState> {
        self.core.link.watch()
    }

    pub(in crate::broker) fn generation(&self) -> u64 {
        self.core.link.get().generation
    }

    pub(in crate::broker) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for EmbeddedLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedLink").finish_non_exhaustive()
    }
}
