//! The run is wrong: [`Fault`]. (A wrong row is a [`Rejected`](crate::Rejected); a wrong pipeline is a
//! [`BuildError`](crate::BuildError).)

use std::error::Error;
use std::fmt;

/// `Ok`, or the [`Fault`] that stops the run.
pub type Result<T = (), E = Fault> = std::result::Result<T, E>;

/// Something that stops the run: the supervisor sees it, and restarts from the last checkpoint if that may help.
///
/// Its text answers what was being done, to which node, with what. `Display` prints its own sentence only;
/// [`Error::source`] has what lies beneath.
pub struct Fault(Box<Inner>);

struct Inner {
    kind: FaultKind,
    retry: Retry,
    node: Option<String>,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What sort of thing went wrong, for exit codes and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// An operator could not do its work.
    Operator,
    /// An operator panicked.
    Panic,
    /// The broker, a file or another peer could not be reached or did not answer.
    Connection,
    /// The peer says that we may not do this.
    Permission,
    /// What the pipeline reads is gone, recreated or has a hole.
    SourceLost,
    /// Another instance has taken over.
    Fenced,
    /// A checkpoint could not be written, read or believed.
    Checkpoint,
    /// The pipeline or its surroundings are set up in a way that cannot work.
    Setup,
    /// Millstream broke a promise to itself. Please report it.
    Bug,
}

/// Whether another try from the last checkpoint may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It may, after a while.
    Backoff,
    /// It will not.
    Never,
}

impl Fault {
    /// A fault of a kind that tells by itself whether to try again: connections, operators, panics and checkpoints
    /// are; the others are not.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        let retry = match kind {
            FaultKind::Operator | FaultKind::Panic | FaultKind::Connection | FaultKind::Checkpoint => Retry::Backoff,
            _ => Retry::Never,
        };
        Fault(Box::new(Inner { kind, retry, node: None, message: message.into(), source: None }))
    }

    /// A promise of Millstream to itself that does not hold.
    pub fn bug(message: impl Into<String>) -> Self {
        Fault::new(FaultKind::Bug, message)
    }

    /// An operator that could not do its work.
    pub fn operator(message: impl Into<String>) -> Self {
        Fault::new(FaultKind::Operator, message)
    }

    /// The same fault, with what lies beneath it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same fault, at `node` unless it already names one.
    #[must_use]
    pub fn at(mut self, node: &str) -> Self {
        self.0.node.get_or_insert_with(|| node.to_owned());
        self
    }

    /// The same fault, with another answer to whether a retry may help.
    #[must_use]
    pub fn retry_with(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// What sort of thing went wrong.
    pub fn kind(&self) -> FaultKind {
        self.0.kind
    }

    /// Whether another try may help.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// The node that it happened at.
    pub fn node(&self) -> Option<&str> {
        self.0.node.as_deref()
    }

    /// The fault and all that lies beneath it, on one line, for a log.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut beneath = self.source();
        while let Some(error) = beneath {
            text.push_str(": ");
            text.push_str(&error.to_string());
            beneath = error.source();
        }
        text
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.node {
            Some(node) => write!(f, "{node}: {}", self.0.message),
            None => f.write_str(&self.0.message),
        }
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fault({:?}, {:?}: {})", self.0.kind, self.0.retry, self.chain())
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_node_once_and_prints_the_chain_on_request() {
        let fault = Fault::operator("cannot divide").because("by zero").at("halve").at("outer");
        assert_eq!(fault.to_string(), "halve: cannot divide");
        assert_eq!(fault.chain(), "halve: cannot divide: by zero");
        assert_eq!(fault.node(), Some("halve"));
    }
}
