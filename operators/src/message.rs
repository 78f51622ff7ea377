//! [`Message`]: what moves along an edge, and in which order.

use std::any::{Any, TypeId, type_name};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Batch, Fault, Parts, Payload, Rejected, Result, Times, Timestamp};

/// What moves along an edge, in order. A legal stream is
///
/// ```text
/// (Data | Watermark | Barrier)* End
/// ```
///
/// where watermarks never go back, epochs go up by one, and no batch is empty.
#[derive(Debug)]
pub enum Message {
    /// Rows.
    Data(AnyBatch),
    /// No row that follows is older than this, late ones aside.
    Watermark(Watermark),
    /// What came before belongs to the checkpoint, what follows does not.
    Barrier(Barrier),
    /// Nothing follows.
    End,
}

/// How far event time has come on one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watermark {
    /// No row that follows is older, late ones aside.
    At(Timestamp),
    /// The input is silent for now and holds nobody back.
    Idle,
}

/// The number of a checkpoint: each is one more than the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch that follows.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The line that a checkpoint draws through the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// The checkpoint that it belongs to.
    pub epoch: Epoch,
    /// What happens when it has passed.
    pub then: Then,
}

/// What happens when a [`Barrier`] has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The stream goes on.
    GoOn,
    /// The run stops, to go on from this checkpoint another time: `End` follows, and operators keep what they hold.
    Stop,
    /// The input is at its end: operators send what is left, and `End` follows. The checkpoint before has their state, and the
    /// next run, which may find more input, goes on from that.
    Finish,
}

/// A batch whose payload type is known at run time only: what crosses between operators and between tasks.
///
/// One type check a batch, at the operator's door, gives the typed batch back: see [`AnyBatch::typed`].
pub struct AnyBatch {
    rows: Box<dyn Any + Send>,
    shell: Parts<()>,
    len: usize,
    kind: &'static Kind,
}

/// What is known of a payload only where its type is.
struct Kind {
    name: fn() -> &'static str,
    scatter: fn(AnyBatch, &[u32], usize) -> Vec<AnyBatch>,
    split_off: fn(&mut AnyBatch, usize) -> AnyBatch,
}

trait HasKind: Payload + Sized {
    const KIND: &'static Kind = &Kind {
        name: type_name::<Self>,
        scatter: |batch, to, parts| match batch.typed::<Self>() {
            Ok(batch) => batch.scatter(to, parts).into_iter().map(AnyBatch::from).collect(),
            // The function was stored beside the rows that it is for.
            Err(_) => Vec::new(),
        },
        split_off: |batch, at| {
            let shell = Parts { times: Times::default(), rows: (), origins: None, weight: 0 };
            let whole = AnyBatch { rows: Box::new(()), shell, len: 0, kind: Self::KIND };
            match std::mem::replace(batch, whole).typed::<Self>() {
                Ok(mut head) => {
                    let tail = head.split_off(at);
                    *batch = head.into();
                    tail.into()
                }
                // As above.
                Err(_) => Batch::<Vec<()>>::at(Timestamp::MIN, Vec::new()).into(),
            }
        },
    };
}

impl<P: Payload> HasKind for P {}

impl<P: Payload> From<Batch<P>> for AnyBatch {
    fn from(batch: Batch<P>) -> Self {
        let Parts { times, rows, origins, weight } = batch.into_parts();
        let len = rows.len();
        let shell = Parts { times, rows: (), origins, weight };
        AnyBatch { rows: Box::new(rows), shell, len, kind: P::KIND }
    }
}

impl AnyBatch {
    /// Deals the rows out to `parts` batches, as [`Batch::scatter`] does.
    pub fn scatter(self, to: &[u32], parts: usize) -> Vec<AnyBatch> {
        (self.kind.scatter)(self, to, parts)
    }

    /// Takes the rows from row `at` on away, and gives them, as [`Batch::split_off`] does.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> AnyBatch {
        (self.kind.split_off)(self, at)
    }

    /// Writes `node` into the causes that name none, if the rows are `Rejected<T>`; see
    /// [`PortType::of_rejected`](crate::PortType::of_rejected).
    pub fn name_causes<T: Send + 'static>(&mut self, node: &str) {
        let rejected = self.rows.downcast_mut::<Vec<Rejected<T>>>();
        for Rejected { cause, .. } in rejected.into_iter().flatten().filter(|row| row.cause.node.is_empty()) {
            node.clone_into(&mut cause.node);
        }
    }

    /// A copy, if the payload is a `P`: for outputs that several nodes read.
    pub fn copied<P: Payload + Clone>(&self) -> Option<AnyBatch> {
        let rows = self.rows::<P>()?.clone();
        let Parts { times, origins, weight, .. } = self.shell.clone();
        Some(Batch { times, rows, origins, weight }.into())
    }

    /// Where each row came from, if that is known.
    pub fn origins(&self) -> Option<&crate::Origins> {
        self.shell.origins.as_ref()
    }

    /// The batch with its payload type.
    ///
    /// # Errors
    /// A fault when the payload is of another type; `check` finds that before anything runs.
    pub fn typed<P: Payload>(self) -> Result<Batch<P>> {
        let Parts { times, origins, weight, .. } = self.shell;
        match self.rows.downcast::<P>() {
            Ok(rows) => Ok(Batch { times, rows: *rows, origins, weight }),
            Err(_) => Err(Fault::bug(format!("takes {}, got {}", type_name::<P>(), (self.kind.name)()))),
        }
    }

    /// The payload, if it is a `P`.
    pub fn rows<P: Payload>(&self) -> Option<&P> {
        self.rows.downcast_ref()
    }

    /// The payload's type.
    pub fn payload_type(&self) -> TypeId {
        (*self.rows).type_id()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes that it accounts for; see [`Batch::weight`].
    pub fn weight(&self) -> usize {
        self.shell.weight
    }

    /// The event time of each row.
    pub fn times(&self) -> &[Timestamp] {
        &self.shell.times
    }

    /// Puts `other` behind these rows if both are `Vec<T>` with origins of the same messages, or without origins;
    /// gives it back otherwise.
    pub(crate) fn append<T: Send + 'static>(&mut self, other: Batch<Vec<T>>) -> Option<Batch<Vec<T>>> {
        let joins = match (&self.shell.origins, &other.origins) {
            (None, None) => true,
            (Some(mine), Some(theirs)) => mine.same_messages(theirs),
            _ => false,
        };
        let Some(rows) = self.rows.downcast_mut::<Vec<T>>().filter(|_| joins) else { return Some(other) };
        let Parts { times, rows: more, origins, weight } = other.into_parts();
        self.len += more.len();
        rows.extend(more);
        self.shell.times.append(times);
        self.shell.weight += weight;
        if let (Some(mine), Some(theirs)) = (&mut self.shell.origins, origins) {
            mine.rows_mut().extend(theirs.of_row());
        }
        None
    }
}

impl fmt::Debug for AnyBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnyBatch({} rows of {}, {} bytes)", self.len, (self.kind.name)(), self.shell.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_of_another_type_is_a_fault_that_names_both() {
        let any = AnyBatch::from(Batch::at(Timestamp::MIN, vec![1u8]));
        assert_eq!(any.len(), 1);
        let fault = any.typed::<Vec<String>>().unwrap_err();
        assert!(
            fault.to_string().contains("takes alloc::vec::Vec<alloc::string::String>, got alloc::vec::Vec<u8>"),
            "{fault}"
        );
    }
}
