//! The async edges: [`Source`], [`Sink`] and [`AsyncOperator`]. Everything between them is an
//! [`Operator`](crate::Operator).

use std::future::{Future, pending};

use serde::Serialize;
use serde::de::DeserializeOwned;

use std::sync::Arc;

use crate::{Batch, Cause, Epoch, Fault, FaultKind, Ledger, Marked, Outputs, Payload, Record, Result};

/// Where rows come from.
///
/// # What the engine promises
/// - [`open`](Source::open) is called once and first, with the position of the checkpoint that the run starts from.
/// - A checkpoint of the position is committed right after `open`, before the first [`next`](Source::next), so that
///   "from now on" means one and the same place for ever.
/// - [`commit`](Source::commit) is called only after the checkpoint that holds the position is durable, with positions
///   that never go back; some may be skipped.
/// - While no row is asked for it polls [`drive`](Source::drive); [`release`](Source::release) comes once, when no row
///   will be asked for any more.
///
/// # What the source promises
/// - `next` is cancel-safe: when its future is dropped, no row is lost.
/// - [`position`](Source::position) covers exactly the rows that `next` has returned.
/// - Opened at a position, it gives the rows behind it, again in the same order; or it fails. It skips nothing in
///   silence.
pub trait Source: Send + 'static {
    /// What it gives.
    type Out: Payload;
    /// Where it stands.
    type Position: Serialize + DeserializeOwned + Clone + Send + 'static;

    /// Gets ready to read behind `from`, or from its configured start.
    fn open(&mut self, from: Option<Self::Position>) -> impl Future<Output = Result> + Send;

    /// Waits for rows, at most `max_rows` of them where it can tell; `None` when there will be no more.
    fn next(&mut self, max_rows: usize) -> impl Future<Output = Result<Option<Batch<Self::Out>>>> + Send;

    /// The position behind the last row that `next` has returned.
    fn position(&self) -> Self::Position;

    /// Rows up to here will never be asked for again.
    fn commit(&mut self, _upto: Self::Position) -> impl Future<Output = Result> + Send {
        async { Ok(()) }
    }

    /// Whether it goes on for ever, so that a run with it has no end of its own.
    fn is_endless(&self) -> bool {
        false
    }

    /// How many rows are known to wait, if that is known.
    fn lag(&self) -> Option<u64> {
        None
    }

    /// What goes on while nobody asks for rows, because those given wait for room or because the source was told to
    /// stop: signs of life to a peer. Cancel-safe; it never returns unless it fails.
    fn drive(&mut self) -> impl Future<Output = Result> + Send {
        pending()
    }

    /// No more rows will be asked for: gives back what it took from its peer and has not given. Rows that it has given
    /// are still to be committed.
    fn release(&mut self) -> impl Future<Output = Result> + Send {
        async { Ok(()) }
    }

    /// Lets go of what it holds elsewhere, after the last `commit` of an orderly stop.
    fn close(&mut self) -> impl Future<Output = Result> + Send {
        async { Ok(()) }
    }
}

/// Where rows go.
///
/// # What the engine promises
/// - [`write`](Sink::write) and [`flush`](Sink::flush) come one at a time; between them, and while it waits for the
///   next batch, it polls [`drive`](Sink::drive).
/// - [`commit`](Sink::commit) is called when the checkpoint of the epoch is durable.
///
/// # What the sink promises
/// - `write` returns when it has taken the batch over, and waits while it has no room: that is backpressure.
/// - When `flush` returns, every row written before is stored where it belongs.
/// - While its peer is away it waits and tries again; it neither drops nor grows.
///
/// # Sinks that store each row once
/// A sink may keep rows until the checkpoint that they belong to is durable, and store them then: a failure repeats
/// none (Flink calls it two-phase commit). What is different for it:
/// - When `flush` returns, everything is stored that `commit` was called for; the rows behind that are kept.
/// - [`outputs`](Sink::outputs) gives those, right after `flush`. They become part of the checkpoint.
/// - [`commit`](Sink::commit) begins to store them, and returns at once; `drive` goes on with it.
/// - [`check`](Sink::check) is called once, before anything is written: with what the checkpoint has that the run starts
///   from. A start that it refuses leaves all as it was.
/// - [`resume`](Sink::resume) is called once, before any row: with the same, when nobody else can complete a checkpoint any
///   more.
/// - [`ledger`](Sink::ledger) is asked for right after that where the pipeline keeps no state. From then on the engine
///   stores what `outputs` gives, and neither `commit` nor `drive` has anything to store.
pub trait Sink: Send + 'static {
    /// What it takes.
    type In: Payload;

    /// Gets ready to write.
    fn open(&mut self) -> impl Future<Output = Result> + Send {
        async { Ok(()) }
    }

    /// Takes a batch over.
    fn write(&mut self, batch: Batch<Self::In>) -> impl Future<Output = Result> + Send;

    /// Waits until every row written so far is stored.
    fn flush(&mut self, epoch: Epoch) -> impl Future<Output = Result> + Send;

    /// The checkpoint of `epoch` is durable.
    fn commit(&mut self, _epoch: Epoch) -> impl Future<Output = Result> + Send {
        async { Ok(()) }
    }

    /// The rows that are not stored yet and for which `commit` was not called, in order; `None` if it is no sink that
    /// keeps them.
    fn outputs(&mut self) -> Option<Arc<[Record]>> {
        None
    }

    /// Looks whether it can go on from what a checkpoint has of its outputs, and of those of subtasks that are no more;
    /// changes nothing.
    ///
    /// # Errors
    /// It is not known what of them is stored; or they are not, and this is no sink that could.
    fn check(&mut self, from: &[Outputs]) -> impl Future<Output = Result> + Send {
        let unpublished = from.iter().find(|outputs| !outputs.published).map(|outputs| outputs.epoch);
        async move {
            let Some(epoch) = unpublished else { return Ok(()) };
            let words = format!(
                "the outputs of checkpoint {epoch} may not all be published, and this sink does not store each row once: start the pipeline once more with guarantee = \"effectively-once\" and stop it in an orderly way"
            );
            Err(Fault::new(FaultKind::Setup, words))
        }
    }

    /// Makes sure that what a checkpoint has of its outputs, and of those of subtasks that are no more, is stored once;
    /// gives what its marker says then, if it has one.
    ///
    /// # Errors
    /// As [`check`](Sink::check).
    fn resume(&mut self, from: Vec<Outputs>) -> impl Future<Output = Result<Option<Marked>>> + Send {
        async move {
            self.check(&from).await?;
            Ok(None)
        }
    }

    /// Hands over what stores outputs and positions together, if it can.
    fn ledger(&mut self) -> Option<Box<dyn Ledger>> {
        None
    }

    /// What goes on between batches: confirmations, retries, linger. Cancel-safe; it never returns unless it fails.
    fn drive(&mut self) -> impl Future<Output = Result> + Send {
        pending()
    }
}

/// A call to elsewhere for each row. The engine bounds how many run at once and how long each may take, and keeps
/// order if asked.
pub trait AsyncOperator: Send + Sync + 'static {
    /// What it takes.
    type In: Send + 'static;
    /// What it gives.
    type Out: Send + 'static;

    /// Calls for one row; an `Err` rejects the row.
    fn call(&self, row: Self::In) -> impl Future<Output = Result<Self::Out, Cause>> + Send + 'static;
}
