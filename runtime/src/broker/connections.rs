//! [`Connections`]: the broker connections of a pipeline, one a purpose and worker.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use millstream_operators::{Fault, FaultKind};
use millstream_pipelines::graph::Subtask;

#[cfg(feature = "jetstream")]
use super::ConnectOptions;
use super::{BrokerError, Connection, Embedded, Js, codes};

/// What a connection is for. They are kept apart so that acks and checkpoints never queue behind bulk data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Reading sources.
    Read,
    /// Writing outputs.
    Write,
    /// Checkpoints, acks, questions.
    Control,
}

/// The broker that a pipeline works with; connects when first asked, on the worker that asks, so that a subtask and its
/// connection share a thread.
pub struct Connections {
    to: Broker,
    open: Mutex<Open>,
}

type Key = (ThreadId, Purpose);
type Open = HashMap<Key, Connection>;

enum Broker {
    #[cfg(feature = "jetstream")]
    Nats(Box<ConnectOptions>),
    Embedded(Embedded),
}

fn opened(open: &Open, key: Key) -> Option<Connection> {
    open.get(&key).filter(|connection| !connection.is_closed()).cloned()
}

impl Connections {
    /// Connections to a NATS server.
    ///
    /// # Errors
    /// A setup fault when the options contradict each other or name a context that cannot be read.
    #[cfg(feature = "jetstream")]
    pub fn to_nats(options: ConnectOptions) -> Result<Self, Fault> {
        let options = options.resolve().map_err(fault)?;
        Ok(Connections { to: Broker::Nats(Box::new(options)), open: Mutex::default() })
    }

    /// Connections to an embedded broker.
    pub fn to_embedded(broker: Embedded) -> Self {
        Connections { to: Broker::Embedded(broker), open: Mutex::default() }
    }

    /// The connections of the pipeline that a subtask belongs to.
    ///
    /// # Errors
    /// A setup fault when it has none.
    pub fn of(subtask: &Subtask) -> Result<Arc<Self>, Fault> {
        subtask.resources.get().ok_or_else(|| {
            Fault::new(
                FaultKind::Setup,
                "there is no NATS connection here: run it with `millstream::run` or a `Launch`",
            )
        })
    }

    /// The connection for a purpose on this thread.
    ///
    /// # Errors
    /// A fault that names the server and what to try.
    pub async fn get(&self, purpose: Purpose) -> Result<Connection, Fault> {
        let key = (std::thread::current().id(), purpose);
        if let Some(connection) = opened(&self.open(), key) {
            return Ok(connection);
        }
        let connection = match &self.to {
            #[cfg(feature = "jetstream")]
            Broker::Nats(options) => {
                let name = options.name.clone().unwrap_or_else(|| "millstream".into());
                let word = format!("{purpose:?}").to_lowercase();
                (**options).clone().named(format!("{name} {word}")).connect().await.map_err(fault)?
            }
            Broker::Embedded(broker) => broker.connect(),
        };
        // Nobody waited for that who wants another; whoever wanted the same may have been quicker.
        let mut open = self.open();
        if let Some(connection) = opened(&open, key) {
            return Ok(connection);
        }
        open.insert(key, connection.clone());
        Ok(connection)
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.open().len()
    }

    /// Nothing that is done under this lock can stop half-way.
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The JetStream API over the connection for a purpose.
    ///
    /// # Errors
    /// As [`get`](Connections::get).
    pub async fn js(&self, purpose: Purpose) -> Result<Js, Fault> {
        let connection = self.get(purpose).await?;
        Ok(match &self.to {
            #[cfg(feature = "jetstream")]
            Broker::Nats(options) => Js::with_prefix(connection, options.js_prefix()),
            Broker::Embedded(_) => Js::new(connection),
        })
    }

    /// Where the servers are, for people.
    pub fn describe(&self) -> String {
        match &self.to {
            #[cfg(feature = "jetstream")]
            Broker::Nats(options) => options.shown(),
            Broker::Embedded(_) => "the embedded broker".into(),
        }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connections({})", self.describe())
    }
}

/// A broker's error as a fault of the run, with the kind that says what to do about it.
#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` calls")]
pub fn fault(error: BrokerError) -> Fault {
    let kind = match &error {
        BrokerError::Permission { .. } => FaultKind::Permission,
        BrokerError::Options { .. } | BrokerError::BadSubject { .. } | BrokerError::MaxPayload { .. } => {
            FaultKind::Setup
        }
        _ => FaultKind::Connection,
    };
    Fault::new(kind, error.to_string())
}

/// As [`fault`], of a stream that the server would not make or change: what it said no to, it says no to again.
pub(crate) fn stream_fault(error: BrokerError, stream: &str, subjects: &[String]) -> Fault {
    let may_pass = error.may_pass();
    match &error {
        BrokerError::Api { error: refused, .. } if (400..500).contains(&refused.code) && !may_pass => {
            let all = subjects.join(", ");
            let way_out = match refused.err_code {
                codes::SUBJECTS_OVERLAP => format!(
                    "another stream takes some of {all} already: name that stream here in place of {stream}, or take these subjects from it (`nats stream ls --subject '{all}'` finds it)"
                ),
                codes::ACCOUNT_LIMIT | codes::STREAMS_LIMIT => {
                    "raise the account's limits, or delete a stream that nobody needs".to_owned()
                }
                _ => format!("make the stream {stream} yourself, for {all}, or change the one that there is"),
            };
            Fault::new(FaultKind::Setup, format!("the stream {stream} cannot be had: {error}; {way_out}"))
        }
        _ => fault(error),
    }
}

#[cfg(test)]
mod tests {
    use millstream_operators::Retry;

    use super::*;
    use crate::broker::ApiError;

    #[test]
    fn what_a_server_refuses_for_good_is_not_tried_again() {
        let fault = |code, err_code| {
            let error = ApiError { code, err_code, description: "no".to_owned() };
            let error = BrokerError::Api { subject: "$JS.API.STREAM.CREATE.S".into(), error };
            stream_fault(error, "S", &["s.>".to_owned()])
        };
        for (code, err_code, words) in [
            (400, codes::SUBJECTS_OVERLAP, "another stream takes some of s.> already: name that stream"),
            (400, codes::STREAMS_LIMIT, "raise the account's limits"),
            (400, 10052, "make the stream S yourself, for s.>"),
        ] {
            let fault = fault(code, err_code);
            assert_eq!((fault.kind(), fault.retry()), (FaultKind::Setup, Retry::Never));
            assert!(
                fault.to_string().contains(words) && fault.to_string().contains("$JS.API.STREAM.CREATE.S"),
                "{fault}"
            );
        }
        for (code, err_code) in [(503, codes::INSUFFICIENT_RESOURCES), (429, 10167), (408, 0), (500, 10047)] {
            assert_eq!(fault(code, err_code).kind(), FaultKind::Connection);
        }
    }
}
