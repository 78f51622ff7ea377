//! [`Operator`]: the contract between the engine and what is done to rows.

use crate::{Batch, Outbox, Payload, PortType, Result, StateVisitor, Timestamp};

/// What an operator says when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    /// It has done all that it was asked.
    Done,
    /// There is more: the engine drains the outbox and calls again, before anything else.
    Again,
}

/// What an operator does with the watermarks that come to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeKeeping {
    /// It looks at them: the engine passes each on when the operator is done with it.
    #[default]
    Passes,
    /// It tells others in their place, which stay behind them ([`Outbox::watermark`]). That nothing comes from upstream for
    /// now ([`Watermark::Idle`](crate::Watermark::Idle)) is passed on.
    Delays,
    /// They end at it: it tells by itself how far event time has come, and when nothing comes for now
    /// ([`Outbox::watermark`]).
    Makes,
}

/// Something that is done to a stream of rows: synchronous, typed and pure.
///
/// # What the engine promises
/// - It calls one method at a time, in the order of the stream: `(on_batch | on_watermark | on_idle | on_wake | state)* on_end`.
/// - No batch is empty, and watermarks never go back, but for the first ones behind a restart: those may be behind what its state
///   has seen.
/// - After [`Turn::Again`] it drains the outbox, waits for room downstream, and calls again: [`on_more`] after
///   `on_batch`, and otherwise the same method with the same argument, until [`Turn::Done`].
/// - [`state`] is called between batches only, to save; and once before the first batch, to restore.
/// - A panic is caught and becomes a fault of the run: state goes back to the last checkpoint.
///
/// # What the operator promises
/// - Its output depends on rows, times and state alone: no clock, no random number, no I/O. Then a replay after a crash
///   gives the same output.
/// - It does not matter where batches are cut: the test kit checks this for every operator.
/// - It neither blocks nor spawns; a call takes about a millisecond at most. What could produce a flood, or go through much of
///   its state, returns [`Turn::Again`] whenever [`Outbox::has_room`] says no.
/// - It passes row origins along if rows map to rows.
///
/// Bad rows are sent to a side output as [`Rejected`](crate::Rejected); an `Err` stops the run.
///
/// ```
/// use millstream_operators::{Batch, Operator, Outbox, Result, Turn};
///
/// /// Numbers the rows.
/// struct Enumerate(u64);
///
/// impl Operator for Enumerate {
///     type In = Vec<String>;
///     type Out = Vec<(u64, String)>;
///
///     fn on_batch(&mut self, batch: Batch<Self::In>, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
///         out.send(batch.map_rows(|rows| {
///             rows.into_iter().map(|row| { self.0 += 1; (self.0, row) }).collect()
///         })?);
///         Ok(Turn::Done)
///     }
///
///     fn state(&mut self, visit: &mut millstream_operators::StateVisitor<'_>) -> Result {
///         visit.value("next", &mut self.0)
///     }
/// }
/// ```
///
/// [`on_more`]: Operator::on_more
/// [`state`]: Operator::state
pub trait Operator: Send + 'static {
    /// What it takes.
    type In: Payload;
    /// What it gives.
    type Out: Payload;

    /// Takes a batch, which is not empty.
    ///
    /// # Errors
    /// A fault stops the run. A row that is wrong is no fault: send it to a side output.
    fn on_batch(&mut self, batch: Batch<Self::In>, out: &mut Outbox<'_, Self::Out>) -> Result<Turn>;

    /// Goes on with the last batch, after `on_batch` or `on_more` returned [`Turn::Again`].
    ///
    /// # Errors
    /// As [`on_batch`](Operator::on_batch).
    fn on_more(&mut self, _out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        Ok(Turn::Done)
    }

    /// Event time has come to `now`; the engine passes the watermark on when this is done.
    ///
    /// # Errors
    /// As [`on_batch`](Operator::on_batch).
    fn on_watermark(&mut self, _now: Timestamp, _out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        Ok(Turn::Done)
    }

    /// Nothing comes from upstream for now ([`Watermark::Idle`](crate::Watermark::Idle)): of interest to who
    /// [makes](TimeKeeping::Makes) watermarks; for all others the engine passes it on when this is done.
    ///
    /// # Errors
    /// As [`on_batch`](Operator::on_batch).
    fn on_idle(&mut self, _out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        Ok(Turn::Done)
    }

    /// The time asked for with [`Outbox::wake_after`] has passed; `now` is the engine's clock.
    ///
    /// # Errors
    /// As [`on_batch`](Operator::on_batch).
    fn on_wake(&mut self, _now: Timestamp, _out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        Ok(Turn::Done)
    }

    /// Nothing follows in this run: send what is left. State is listed before; a run that finds more input later goes on from
    /// that, as if this had not been called.
    ///
    /// # Errors
    /// As [`on_batch`](Operator::on_batch).
    fn on_end(&mut self, _out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        Ok(Turn::Done)
    }

    /// Lists the state, to save or to restore it.
    ///
    /// # Errors
    /// When a value cannot be encoded or decoded.
    fn state(&mut self, _visit: &mut StateVisitor<'_>) -> Result {
        Ok(())
    }

    /// What becomes of watermarks from upstream, which it sees in [`on_watermark`](Operator::on_watermark).
    fn time_keeping(&self) -> TimeKeeping {
        TimeKeeping::Passes
    }

    /// How many rows came to each step so far, for an operator that does the work of several; empty for all others.
    fn counts(&self) -> Vec<u64> {
        Vec::new()
    }

    /// The side outputs, in the order of their ports; port 0 is the main output.
    fn sides(&self) -> Vec<PortType> {
        Vec::new()
    }
}
