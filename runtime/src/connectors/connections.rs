//! [`Connections`]: the broker connections of a pipeline, one a purpose and worker.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::thread::ThreadId;

use millstream_operators::{Fault, FaultKind};
use millstream_pipelines::graph::Subtask;
use tokio::sync::Mutex;

#[cfg(feature = "jetstream")]
use crate::broker::ConnectOptions;
use crate::broker::{BrokerError, Connection, Embedded, Js};

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
    open: Mutex<HashMap<(ThreadId, Purpose), Connection>>,
}

enum Broker {
    #[cfg(feature = "jetstream")]
    Nats(Box<ConnectOptions>),
    Embedded(Embedded),
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
        let mut open = self.open.lock().await;
        if let Some(connection) = open.get(&key).filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
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
        open.insert(key, connection.clone());
        Ok(connection)
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
