//! What is said to the server of messages in hand.

use std::time::Duration;

use millstream_operators::{FaultKind, Headers, Result};

use crate::broker::{BrokerError, Connection, Outgoing, Subject};
use crate::connectors::fault;

/// That a message is worked on.
pub(super) fn progress(reply: &Subject) -> Outgoing {
    Outgoing::new(reply.clone(), "+WPI")
}

/// Says all this to the server, and waits for the answer to the last, which follows the others on one link. False if
/// some of it may not have arrived.
pub(super) async fn say(connection: &Connection, words: &mut Vec<Outgoing>, within: Duration) -> Result<bool> {
    let Some(last) = words.pop() else { return Ok(true) };
    let generation = connection.generation();
    if let Err(error) = connection.publish_all(words.drain(..)).await {
        return unconfirmed(error);
    }
    match connection.request(last.subject, Headers::NONE, last.payload, within).await {
        // On another link than the first of them: those may be lost.
        Ok(_) => Ok(connection.generation() == generation),
        Err(error) => unconfirmed(error),
    }
}

fn unconfirmed(error: BrokerError) -> Result<bool> {
    let fault = fault(error);
    if fault.kind() != FaultKind::Connection {
        return Err(fault);
    }
    tracing::debug!("what was said of messages in hand is not confirmed: {}", fault.chain());
    Ok(false)
}
