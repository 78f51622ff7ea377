//! [`Hook`]: what may happen to messages on their way, for tests that inject faults.

use std::time::Duration;

use crate::broker::{Incoming, Outgoing};

/// What becomes of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It arrives.
    #[default]
    Pass,
    /// It is lost, and nobody is told.
    Lose,
    /// It arrives so much later, perhaps behind what is sent after it; to a client, a message comes at once all the same.
    Delay(Duration),
    /// It arrives twice.
    Repeat,
    /// It waits, in order with what else does under this number, until [`Embedded::release`](super::Embedded::release).
    Hold(u64),
}

/// Decides what becomes of messages between clients and an embedded broker. It is called under the broker's lock:
/// it must be quick and must not call the broker, but where a method says otherwise.
pub trait Hook: Send + Sync {
    /// A client's message before the broker sees it: data, acks (`$JS.ACK.>`), requests.
    fn on_publish(&self, message: &Outgoing) -> Fate {
        let _ = message;
        Fate::Pass
    }

    /// A message before a client sees it: deliveries, publish acknowledgements, answers, statuses.
    fn on_deliver(&self, message: &Incoming) -> Fate {
        let _ = message;
        Fate::Pass
    }

    /// As [`on_publish`](Hook::on_publish), for who tells clients apart by their numbers. Of all these it alone is called
    /// outside of the lock, and may look at what the broker holds.
    fn on_publish_by(&self, client: u64, message: &Outgoing) -> Fate {
        let _ = client;
        self.on_publish(message)
    }

    /// As [`on_deliver`](Hook::on_deliver), for who tells clients apart by their numbers; 0 where nobody listens.
    fn on_deliver_to(&self, client: u64, message: &Incoming) -> Fate {
        let _ = client;
        self.on_deliver(message)
    }
}
