//! A row is wrong: [`Rejected`], data like any other.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Origins;

/// A row that could not be used, and why. It travels like any other row, so that it can be dead-lettered, counted or
/// dropped on purpose; the message that it came from is the batch's [`Origin`](crate::Origin) of the row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected<T> {
    /// The row, as it was when it was refused.
    pub row: T,
    /// Why.
    pub cause: Cause,
}

/// Why a row was rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cause {
    /// The class of error, for routing and counting.
    pub code: Code,
    /// What is wrong with the row, in a sentence without a full stop.
    pub message: String,
    /// The node that refused it.
    pub node: String,
    /// How many bytes into the message the trouble was found.
    pub offset: Option<u64>,
}

/// The class of a [`Cause`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Code {
    /// The bytes are not what the format says.
    Decode,
    /// Messages are gone that were not read: it stands in their place.
    Gap,
    /// The operator refused the row.
    Operator,
    /// The operator panicked on it.
    Panic,
    /// A call for it took too long.
    Timeout,
    /// It has no event time, or one that cannot be.
    EventTime,
    /// It came after its window had closed.
    Late,
    /// The message made of it would be larger than its sink allows.
    Oversize,
    /// The subject or header made of it is not a legal one.
    Address,
}

impl Code {
    /// The word for it in metrics and headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Decode => "decode",
            Code::Gap => "gap",
            Code::Operator => "operator",
            Code::Panic => "panic",
            Code::Timeout => "timeout",
            Code::EventTime => "event_time",
            Code::Late => "late",
            Code::Oversize => "oversize",
            Code::Address => "address",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Cause {
    /// A cause; the engine fills in the node.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Cause { code, message: message.into(), node: String::new(), offset: None }
    }

    /// The operator refused the row, with these words.
    pub fn operator(why: impl fmt::Display) -> Self {
        Cause::new(Code::Operator, why.to_string())
    }

    /// Why each row of a batch is rejected that stands in the place of messages that are gone.
    pub(crate) fn of_gap(origins: Option<&Origins>) -> Option<Self> {
        Some(Cause::new(Code::Gap, origins?.gap()?.as_ref()))
    }

    /// The same cause, found `offset` bytes into the message.
    #[must_use]
    pub fn at_byte(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// The same cause, found by `node` unless it already names one.
    #[must_use]
    pub fn at_node(mut self, node: &str) -> Self {
        if self.node.is_empty() {
            node.clone_into(&mut self.node);
        }
        self
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.offset {
            Some(offset) => write!(f, " at byte {offset}"),
            None => Ok(()),
        }
    }
}
