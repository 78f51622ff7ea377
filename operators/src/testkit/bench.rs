//! [`Bench`]: one operator, driven by hand.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{
    AnyBatch, Batch, Emit, Fault, Frozen, KeyGroup, Operator, Outbox, Payload, Result, Runs, Saved, Spill,
    StateVisitor, Timestamp, Turn, Watermark,
};

/// Drives one operator as the engine would: batches, watermarks, wakes, the end, a restart; and shows what it gave.
///
/// It panics when the operator fails, as a test should; the methods that begin with `try_` do not.
///
/// ```
/// use millstream_operators::rows::{Map, RowPass, Whole};
/// use millstream_operators::testkit::Bench;
/// let mut bench = Bench::new(RowPass::new(Map::new(Whole::default(), |n: i64| n + 1)));
/// bench.rows([1, 2]);
/// assert_eq!(bench.take(), [2, 3]);
/// ```
pub struct Bench<O: Operator> {
    operator: O,
    given: Given,
    now: Timestamp,
    turns: usize,
}

#[derive(Default)]
struct Given {
    ports: BTreeMap<usize, Vec<AnyBatch>>,
    watermarks: Vec<Watermark>,
    wakes: Vec<Duration>,
    room: Option<usize>,
    since_drained: usize,
}

impl Emit for Given {
    fn emit(&mut self, port: usize, batch: AnyBatch) {
        self.since_drained += 1;
        self.ports.entry(port).or_default().push(batch);
    }

    fn watermark(&mut self, watermark: Watermark) {
        self.watermarks.push(watermark);
    }

    fn has_room(&self) -> bool {
        self.room.is_none_or(|room| self.since_drained < room)
    }

    fn wake_after(&mut self, span: Duration) {
        self.wakes.push(span);
    }
}

#[expect(clippy::panic, reason = "a test kit fails tests")]
fn unwrap<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|fault| panic!("{}", fault.chain()))
}

impl<O: Operator> Bench<O> {
    /// A bench with an operator that has no state yet. As the engine does, it wakes it once at the start.
    pub fn new(operator: O) -> Self {
        let mut bench = Bench { operator, given: Given::default(), now: Timestamp::from_micros(0), turns: 0 };
        bench.wake();
        bench
    }

    /// A bench with an operator that gets its state back first.
    pub fn restored(mut operator: O, saved: &Saved) -> Self {
        unwrap(operator.state(&mut StateVisitor::restore(saved)));
        Bench::new(operator)
    }

    /// The same, whose keyed state comes in runs and keeps to a budget.
    pub fn restored_within(mut operator: O, saved: &Saved, runs: &mut dyn Runs, spill: &Arc<Spill>) -> Self {
        unwrap(operator.state(&mut StateVisitor::restore_within(saved, runs, spill)));
        unwrap(spill.check());
        Bench::new(operator)
    }

    /// Lets its state keep to a budget; what of it stays in memory however much it is.
    pub fn fit(&mut self, spill: &Arc<Spill>) -> Vec<String> {
        let mut stays = Vec::new();
        unwrap(self.operator.state(&mut StateVisitor::fit(spill, &mut stays)));
        unwrap(spill.check());
        stays
    }

    /// Pretends that so many batches fill what is downstream.
    pub fn room_for(&mut self, batches: usize) {
        self.given.room = Some(batches);
    }

    /// The operator.
    pub fn operator(&self) -> &O {
        &self.operator
    }

    /// How often the operator was called so far.
    pub fn turns(&self) -> usize {
        self.turns
    }

    /// Gives it a batch.
    pub fn batch(&mut self, batch: Batch<O::In>) {
        unwrap(self.try_batch(batch));
    }

    /// Gives it a batch.
    ///
    /// # Errors
    /// The operator's fault.
    pub fn try_batch(&mut self, batch: Batch<O::In>) -> Result {
        if batch.is_empty() {
            return Err(Fault::bug("no batch is empty"));
        }
        let mut turn = self.call(|operator, out| operator.on_batch(batch, out))?;
        while turn == Turn::Again {
            turn = self.call(O::on_more)?;
        }
        Ok(())
    }

    /// Tells it that event time has come to `now`.
    pub fn watermark(&mut self, now: Timestamp) {
        while unwrap(self.call(|operator, out| operator.on_watermark(now, out))) == Turn::Again {}
    }

    /// Tells it that nothing comes from upstream for now.
    pub fn idle(&mut self) {
        while unwrap(self.call(O::on_idle)) == Turn::Again {}
    }

    /// Lets the engine's clock go on, and wakes the operator if it asked for a time that has passed.
    pub fn advance(&mut self, span: Duration) {
        self.now = self.now.saturating_add(span);
        let due = self.given.wakes.iter().filter(|wake| **wake <= span).count();
        let later = self.given.wakes.iter().filter_map(|wake| wake.checked_sub(span)).filter(|wake| !wake.is_zero());
        self.given.wakes = later.collect();
        for _ in 0..due {
            self.wake();
        }
    }

    fn wake(&mut self) {
        let now = self.now;
        while unwrap(self.call(|operator, out| operator.on_wake(now, out))) == Turn::Again {}
    }

    /// Ends its input.
    pub fn end(&mut self) {
        while unwrap(self.call(O::on_end)) == Turn::Again {}
    }

    /// Saves its state.
    pub fn save(&mut self) -> Saved {
        unwrap(self.freeze().encode(KeyGroup::DEFAULT_COUNT))
    }

    /// Its state as it is now, to be encoded whole or as what has changed since it was frozen last.
    pub fn freeze(&mut self) -> Frozen {
        let mut frozen = Frozen::default();
        unwrap(self.operator.state(&mut StateVisitor::freeze(&mut frozen)));
        frozen
    }

    /// The batches at port 0 since the last look.
    pub fn take_batches(&mut self) -> Vec<Batch<O::Out>> {
        self.take_port(0)
    }

    /// The batches at a port since the last look, whatever their payload: side outputs of record batches, too.
    pub fn take_port<P: Payload>(&mut self, port: usize) -> Vec<Batch<P>> {
        let batches = self.given.ports.remove(&port).unwrap_or_default();
        batches.into_iter().map(|batch| unwrap(batch.typed())).collect()
    }

    /// The batches at all ports since the last look.
    pub(crate) fn take_ports(&mut self) -> BTreeMap<usize, Vec<AnyBatch>> {
        std::mem::take(&mut self.given.ports)
    }

    /// The watermarks that it made since the last look.
    pub fn take_watermarks(&mut self) -> Vec<Watermark> {
        std::mem::take(&mut self.given.watermarks)
    }

    /// The batches at a side output since the last look.
    pub fn take_side_batches<T: Send + 'static>(&mut self, port: usize) -> Vec<Batch<Vec<T>>> {
        self.take_port(port)
    }

    /// The rows at a side output since the last look.
    pub fn take_side<T: Send + 'static>(&mut self, port: usize) -> Vec<T> {
        self.take_side_batches(port).into_iter().flat_map(|batch| batch.into_parts().rows).collect()
    }

    fn call(&mut self, call: impl FnOnce(&mut O, &mut Outbox<'_, O::Out>) -> Result<Turn>) -> Result<Turn> {
        self.turns += 1;
        self.given.since_drained = 0;
        let mut out = Outbox::new(&mut self.given);
        let turn = call(&mut self.operator, &mut out)?;
        out.finish();
        Ok(turn)
    }
}

impl<T: Send + 'static, U: Send + 'static, O: Operator<In = Vec<T>, Out = Vec<U>>> Bench<O> {
    /// Gives it rows as one batch, at the times 0, 1, 2, … microseconds.
    pub fn rows(&mut self, rows: impl IntoIterator<Item = T>) {
        self.batch(super::timed(rows).into_iter().collect());
    }

    /// The rows at port 0 since the last look.
    pub fn take(&mut self) -> Vec<U> {
        self.take_batches().into_iter().flat_map(|batch| batch.into_parts().rows).collect()
    }
}

impl<O: Operator> fmt::Debug for Bench<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bench({} turns)", self.turns)
    }
}
