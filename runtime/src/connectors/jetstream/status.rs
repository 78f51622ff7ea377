//! [`Status`]: what a server says of a pull in place of a message.

use crate::broker::Incoming;

/// What a status message means to the reader.
pub(super) enum Status {
    /// The server is there.
    Heartbeat,
    /// The pull ended with so many messages not given.
    PullOver(u64),
    /// Nothing more will come of it, for this reason.
    Ended(String),
    /// The consumer will never serve such pulls.
    Wrong(String),
}

/// What `status` means; `asked` is what a pull asked for, where the server does not say what is left of it.
pub(super) fn status_of(status: u16, message: &Incoming, asked: u64) -> Status {
    let words = message.description.as_deref().unwrap_or_default();
    let left = || message.headers.get("Nats-Pending-Messages").and_then(|n| n.parse().ok()).unwrap_or(asked);
    let lower = words.to_ascii_lowercase();
    match status {
        100 => Status::Heartbeat,
        404 | 408 => Status::PullOver(left()),
        409 if lower.contains("batch completed") || lower.contains("maxbytes") || lower.contains("max bytes") => {
            Status::PullOver(left())
        }
        409 if lower.contains("maxrequest") => {
            Status::Wrong(format!("the consumer refuses such pulls ({words}): raise its limits, or delete it"))
        }
        _ => Status::Ended(if words.is_empty() { format!("status {status}") } else { words.to_owned() }),
    }
}

/// The number of the consumer's last delivery, where the message is a heartbeat that tells it. Heartbeats come behind all
/// that was sent before them: what they tell of and has not come is lost.
pub(super) fn last_delivery(status: u16, message: &Incoming) -> Option<u64> {
    let told = (status == 100).then(|| message.headers.get("Nats-Last-Consumer"));
    told.flatten()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use millstream_operators::Headers;

    use super::*;

    fn message(status: u16, words: &str, header: Option<(&str, &str)>) -> Incoming {
        let mut headers = Headers::NONE;
        if let Some((name, value)) = header {
            headers.push(name, value).unwrap();
        }
        Incoming {
            subject: "inbox".into(),
            reply: None,
            headers,
            status: Some(status),
            description: Some(words.into()),
            payload: bytes::Bytes::new(),
            wire_len: 0,
        }
    }

    fn told(status: u16, words: &str, left: Option<&str>) -> Status {
        status_of(status, &message(status, words, left.map(|left| ("Nats-Pending-Messages", left))), 500)
    }

    #[test]
    fn a_pull_that_is_over_says_what_it_did_not_give() {
        assert!(matches!(told(408, "Request Timeout", Some("7")), Status::PullOver(7)));
        assert!(matches!(told(404, "No Messages", None), Status::PullOver(500)));
        assert!(matches!(told(409, "Message Size Exceeds MaxBytes", Some("3")), Status::PullOver(3)));
        assert!(matches!(told(100, "Idle Heartbeat", None), Status::Heartbeat));
        assert!(matches!(told(409, "Consumer Deleted", None), Status::Ended(why) if why == "Consumer Deleted"));
        assert!(matches!(told(409, "Exceeded MaxRequestBatch of 10", None), Status::Wrong(_)));
    }

    #[test]
    fn a_heartbeat_tells_what_the_last_delivery_was_and_nothing_else_does() {
        let told = |status, name, value| last_delivery(status, &message(status, "", Some((name, value))));
        assert_eq!(told(100, "Nats-Last-Consumer", "7"), Some(7));
        assert_eq!(told(100, "Nats-Last-Consumer", "seven"), None);
        assert_eq!(told(100, "Nats-Last-Stream", "7"), None);
        assert_eq!(told(408, "Nats-Last-Consumer", "7"), None);
    }
}
