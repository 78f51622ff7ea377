//! [`BrokerError`]: what can go wrong between Millstream and its broker, each naming the way out.

use std::fmt;
use std::time::Duration;

use super::Subject;

/// Why an operation on a [`Connection`](super::Connection) failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BrokerError {
    /// Nobody listens on the subject: no stream captures it, or JetStream is off or starting.
    NoResponders {
        /// Where the request went.
        subject: Subject,
    },
    /// No answer in time; whether the request had an effect is unknown.
    Timeout {
        /// Where the request went.
        subject: Subject,
        /// How long an answer was waited for.
        after: Duration,
    },
    /// The server denies this user the subject.
    Permission {
        /// The denied subject.
        subject: Subject,
        /// What was denied.
        action: DeniedAction,
    },
    /// The message is larger than the server takes; it was not sent.
    MaxPayload {
        /// Where it was to go.
        subject: Subject,
        /// Its size, headers included.
        size: usize,
        /// What the server takes.
        max: usize,
    },
    /// The subject cannot be published or subscribed to; nothing was sent.
    BadSubject {
        /// The subject.
        subject: Subject,
    },
    /// No connection could be made, or it is closed for good.
    Disconnected {
        /// Where to, why, and what to try.
        why: String,
    },
    /// JetStream refused.
    Api {
        /// The subject of the request, or of the message that was refused.
        subject: Subject,
        /// What it answered.
        error: ApiError,
    },
    /// An answer that does not parse or does not fit.
    Protocol {
        /// Where the request went.
        subject: Subject,
        /// What is wrong with the answer.
        what: String,
    },
    /// The connection options contradict each other or name a file that cannot be read.
    Options {
        /// What is wrong, and the way out.
        what: String,
    },
}

/// What a server may deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedAction {
    /// To publish (or request).
    Publish,
    /// To subscribe.
    Subscribe,
}

/// An error as JetStream reports it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ApiError {
    /// The class, after HTTP: 400, 404, 429, 503 ...
    pub code: u16,
    /// Which error exactly; see [`codes`](super::codes).
    #[serde(default)]
    pub err_code: u16,
    /// The server's words.
    #[serde(default)]
    pub description: String,
}

impl BrokerError {
    /// The `err_code` of JetStream's refusal, if it is one.
    pub fn api_code(&self) -> Option<u16> {
        match self {
            BrokerError::Api { error, .. } => Some(error.err_code),
            _ => None,
        }
    }

    /// Whether the same operation may succeed later without anybody changing anything here: the broker is away,
    /// slow, or overloaded. After a time-out the operation may have had its effect.
    pub fn may_pass(&self) -> bool {
        match self {
            BrokerError::NoResponders { .. } | BrokerError::Timeout { .. } | BrokerError::Disconnected { .. } => true,
            BrokerError::Api { error, .. } => error.code == 503 || error.code == 429 || error.code == 408,
            _ => false,
        }
    }
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokerError::NoResponders { subject } => {
                write!(f, "nobody answers on {subject:?}")?;
                if subject.starts_with("$JS.") {
                    f.write_str(": JetStream is off, still starting, or in another domain; start the server with -js")
                } else {
                    f.write_str(": no stream captures this subject; create one, or add the subject to one")
                }
            }
            BrokerError::Timeout { subject, after } => {
                write!(f, "no answer on {subject:?} within {after:?}: the server is away, slow, or denies the subject")
            }
            BrokerError::Permission { subject, action } => {
                let (verb, list) = match action {
                    DeniedAction::Publish => ("publish to", "publish"),
                    DeniedAction::Subscribe => ("subscribe to", "subscribe"),
                };
                write!(f, "this user may not {verb} {subject:?}: add it to permissions.{list}.allow of the user")
            }
            BrokerError::MaxPayload { subject, size, max } => write!(
                f,
                "a message of {size} bytes for {subject:?} is over the server's max_payload of {max}: \
                 make it smaller or raise max_payload"
            ),
            BrokerError::BadSubject { subject } => write!(
                f,
                "{subject:?} is no valid subject: tokens must not be empty or hold spaces or control characters"
            ),
            BrokerError::Disconnected { why } => f.write_str(why),
            BrokerError::Api { subject, error } => {
                write!(f, "JetStream refused {subject:?}: {} ({}/{})", error.description, error.code, error.err_code)
            }
            BrokerError::Protocol { subject, what } => write!(f, "the answer on {subject:?} makes no sense: {what}"),
            BrokerError::Options { what } => f.write_str(what),
        }
    }
}

impl std::error::Error for BrokerError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_subject_and_the_way_out() {
        let denied = BrokerError::Permission { subject: "a.b".into(), action: DeniedAction::Publish };
        assert_eq!(
            denied.to_string(),
            "this user may not publish to \"a.b\": add it to permissions.publish.allow of the user"
        );
        let nobody = BrokerError::NoResponders { subject: "orders.eu".into() };
        assert!(nobody.to_string().contains("no stream captures"));
        assert!(nobody.may_pass());
    }
}
