//! [`MarkerLedger`]: micro-batches, each one atomic batch behind a marker that has the positions of the sources.

use std::sync::Arc;
use std::time::Duration;

use millstream_operators::{Epoch, Fault, FaultKind, Ledger, Outcome, Record, Result, Written};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::publisher::{At, MOST_BYTES, Publisher};

#[cfg(test)]
mod tests;

/// The marker of a sink that was taken over, as a ledger.
pub(super) struct MarkerLedger {
    publisher: Publisher,
    at: At,
    // Where the sink works: its connection is there.
    worker: Handle,
}

impl MarkerLedger {
    /// The ledger of the sink that has `publisher`; made on the sink's worker.
    pub(super) fn new(publisher: Publisher, at: At) -> Self {
        MarkerLedger { publisher, at, worker: Handle::current() }
    }

    /// Does something on the sink's worker, and ends it if nobody waits for it any more.
    fn written(self, work: impl Future<Output = Result<(Publisher, At, Outcome)>> + Send + 'static) -> Written {
        let worker = self.worker;
        let working = Working(worker.spawn(work));
        Box::pin(async move {
            let (publisher, at, outcome) = working.done().await?;
            Ok((Box::new(MarkerLedger { publisher, at, worker }) as Box<dyn Ledger>, outcome))
        })
    }
}

impl Ledger for MarkerLedger {
    fn store(self: Box<Self>, epoch: Epoch, positions: Value, outputs: Vec<Arc<[Record]>>) -> Written {
        let (publisher, at) = (self.publisher.clone(), self.at.clone());
        self.written(async move {
            match publisher.store_ahead(&at, epoch, positions, &outputs).await? {
                Some(at) => Ok((publisher, at, Outcome::Done)),
                None => Ok((publisher, at, Outcome::TooLarge)),
            }
        })
    }

    fn publish(self: Box<Self>, epoch: Epoch, outputs: Arc<[Record]>) -> Written {
        let (publisher, at) = (self.publisher.clone(), self.at.clone());
        self.written(async move {
            let at = publisher.publish(at, epoch, &outputs).await?;
            Ok((publisher, at, Outcome::Done))
        })
    }

    fn look(self: Box<Self>) -> Written {
        let (publisher, at) = (self.publisher.clone(), self.at.clone());
        self.written(async move {
            let at = if publisher.is_due(&at) {
                publisher.renew(at).await?
            } else {
                publisher.look(&at).await?;
                at
            };
            Ok((publisher, at, Outcome::Done))
        })
    }

    fn look_within(&self) -> Option<Duration> {
        self.publisher.due(&self.at).map(|due| due.saturating_duration_since(Instant::now()))
    }

    fn most(&self) -> (usize, usize) {
        (self.publisher.most.get(), MOST_BYTES)
    }
}

/// A task that ends with whoever waits for it.
struct Working(JoinHandle<Result<(Publisher, At, Outcome)>>);

impl Working {
    async fn done(mut self) -> Result<(Publisher, At, Outcome)> {
        (&mut self.0).await.unwrap_or_else(|error| {
            Err(Fault::new(FaultKind::Panic, "the task that stores outputs is gone").because(error))
        })
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.abort();
    }
}
