//! [`Outbox`]: where an operator puts what it gives.

use std::fmt;
use std::time::Duration;

use crate::{AnyBatch, Batch, Origins, Payload, Side, Times, Timestamp, Watermark};

/// Takes what operators give. The engine implements it; so does the test kit.
pub trait Emit {
    /// Takes a batch, which is not empty, at an output port.
    fn emit(&mut self, port: usize, batch: AnyBatch);

    /// Takes a watermark, behind everything emitted before.
    fn watermark(&mut self, watermark: Watermark);

    /// Whether more would be welcome now.
    fn has_room(&self) -> bool;

    /// Calls the operator's `on_wake` when `span` has passed.
    fn wake_after(&mut self, span: Duration);
}

/// Where an operator puts its output: whole batches with [`send`](Outbox::send), single rows with
/// [`push`](Outbox::push), which are gathered into batches.
///
/// Putting something in never blocks. What could fill it without end asks [`has_room`](Outbox::has_room), and returns
/// [`Turn::Again`](crate::Turn::Again) when there is none.
pub struct Outbox<'a, P: Payload> {
    emit: &'a mut dyn Emit,
    staged: Option<Batch<P>>,
    // Rows for side outputs are few: one open batch a port, found by a walk.
    sides: Vec<(usize, AnyBatch)>,
}

/// How many pushed rows make a batch.
const STAGED_ROWS: usize = 1024;

impl<'a, P: Payload> Outbox<'a, P> {
    /// An outbox that hands everything to `emit`. Call [`finish`](Outbox::finish) in the end.
    pub fn new(emit: &'a mut dyn Emit) -> Self {
        Outbox { emit, staged: None, sides: Vec::new() }
    }

    /// Sends a batch, behind everything pushed before. An empty one is dropped.
    pub fn send(&mut self, batch: Batch<P>) {
        self.send_staged();
        if !batch.is_empty() {
            self.emit.emit(0, batch.into());
        }
    }

    /// Sends a batch to a side output, behind everything pushed to it before. An empty one is dropped.
    pub fn send_side<T: Send + 'static>(&mut self, side: &Side<T>, batch: Batch<Vec<T>>) {
        self.send_port(side.port(), batch);
    }

    /// Sends a payload of any type to an output port: for operators whose ports are known at run time only.
    pub fn send_port<Q: Payload>(&mut self, port: usize, batch: Batch<Q>) {
        self.send_staged();
        if let Some(at) = self.sides.iter().position(|(open, _)| *open == port) {
            let (_, rows) = self.sides.remove(at);
            self.emit.emit(port, rows);
        }
        if !batch.is_empty() {
            self.emit.emit(port, batch.into());
        }
    }

    /// Adds a row to a side output.
    pub fn push_side<T: Send + 'static>(&mut self, side: &Side<T>, at: Timestamp, row: T) {
        self.stage_side(side.port(), Batch::at(at, vec![row]));
    }

    /// Adds row number `row` of a batch with these `origins` to a side output, as `value`.
    pub fn push_side_from<T: Send + 'static>(
        &mut self,
        side: &Side<T>,
        at: Timestamp,
        value: T,
        origins: Option<&Origins>,
        row: usize,
    ) {
        let origins = origins.map(|origins| origins.select([row]));
        self.stage_side(side.port(), Batch { times: Times::same(at, 1), rows: vec![value], origins, weight: 0 });
    }

    fn stage_side<T: Send + 'static>(&mut self, port: usize, one: Batch<Vec<T>>) {
        let Some(at) = self.sides.iter().position(|(open, _)| *open == port) else {
            return self.sides.push((port, one.into()));
        };
        let left_over = match self.sides.get_mut(at) {
            Some((_, open)) if open.len() < STAGED_ROWS => open.append(one),
            _ => Some(one),
        };
        if let Some(one) = left_over {
            let (_, full) = self.sides.remove(at);
            self.emit.emit(port, full);
            self.sides.push((port, one.into()));
        }
    }

    /// Whether more would be welcome now; if not, return [`Turn::Again`](crate::Turn::Again) when there is more. There may be no room
    /// for changes of state, too, where that does not fit in memory.
    pub fn has_room(&self) -> bool {
        self.emit.has_room()
    }

    /// Tells how far event time has come, behind everything sent and pushed before: for operators that
    /// [make or delay watermarks](crate::Operator::time_keeping).
    pub fn watermark(&mut self, watermark: Watermark) {
        self.send_staged();
        for (port, rows) in std::mem::take(&mut self.sides) {
            self.emit.emit(port, rows);
        }
        self.emit.watermark(watermark);
    }

    /// Asks for [`on_wake`](crate::Operator::on_wake) when `span` has passed on the engine's clock. A wake that was
    /// asked for is not called off; several may be open.
    pub fn wake_after(&mut self, span: Duration) {
        self.emit.wake_after(span);
    }

    /// Sends what was pushed and is not sent yet. Whoever made the outbox calls this.
    pub fn finish(mut self) {
        self.send_staged();
        for (port, rows) in std::mem::take(&mut self.sides) {
            self.emit.emit(port, rows);
        }
    }

    fn send_staged(&mut self) {
        if let Some(batch) = self.staged.take() {
            self.emit.emit(0, batch.into());
        }
    }
}

impl<T: Send + 'static> Outbox<'_, Vec<T>> {
    /// Adds a row that comes from no single input row.
    pub fn push(&mut self, at: Timestamp, row: T) {
        if self.staged.as_ref().is_some_and(|staged| staged.origins.is_some() || staged.len() >= STAGED_ROWS) {
            self.send_staged();
        }
        let staged = self.staged.get_or_insert_with(|| Batch {
            times: Times::default(),
            rows: Vec::new(),
            origins: None,
            weight: 0,
        });
        staged.times.push(at);
        staged.rows.push(row);
    }
}

impl<P: Payload> fmt::Debug for Outbox<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outbox({} rows staged)", self.staged.as_ref().map_or(0, Batch::len))
    }
}
