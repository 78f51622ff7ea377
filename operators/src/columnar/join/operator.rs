//! [`Join`]: rows of two streams of columns, put together.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use bytes::Bytes;

use super::away::Away;
use super::keys::{Both, Held, Keys, Side};
use super::parked::Layout;
use super::plan::{JoinPlan, Pick};
use super::saved;
use super::store::{HELD, Store};
use super::together::{Arriving, Product};
use super::width::HEAVY;
use crate::columnar::group::{KeyCodec, RowKeys};
use crate::columnar::rows::rejected_rows;
use crate::{
    Batch, Cause, Code, Either, Fault, Operator, Outbox, Parts, PortType, Rejected, Result, StateVisitor, TimeKeeping,
    Timestamp, Turn, Watermark,
};

/// Puts rows of two streams together that have the same key, as a [`Bound`](super::Bound) says; what is given of them, a
/// [`JoinKind`](super::JoinKind) says:
///
/// ```text
/// within 1 before and 2 after, full          in windows of 10, left             as of the left's time
/// left            10            |            left   3     12 |   |              prices   5: a        9: b |
/// right     9         12    13  |            right     7     |10 |20            orders         7   3      |10
/// given        10-9   10-12     |15          given           |3-7|12-           given                     |3- 7-a
///                               |-13
/// ```
///
/// - `within`, `until` and `unbounded` give a pair when the second of its rows comes; its time is the later of both, or that
///   of the watermark if it lies behind that: `unbounded` takes rows behind the watermark, and what goes by time behind it
///   must not find their pairs late. A row without a partner is given when the watermark says that none will come, with the last time at which one could have.
/// - In windows and sessions all is given when they close, with their last moment as its time, and `as_of` when the
///   watermark has passed the row of the left, with the time of that.
/// - Semi joins give a row of the left with its first partner, anti joins when it will have none. In windows that overlap
///   each window is joined by itself: a row of the left comes once for each in which it has a partner, or has none.
/// - A null in the key is equal to nothing, so a row with one has no partner.
///
/// # State
/// The rows that may still be joined, with all their columns; of the right of semi and anti joins only those of the key. As
/// of a time, the newest version of each key stays for ever, unless versions are valid for a time only. What does
/// not fit in memory goes to the spill store, key by key with all rows of it: those of the keys of a batch have to fit.
///
/// # Order
/// What the rows of a batch give comes in their order, and for each in the order of the partners' times; what watermarks
/// give, in the order of time and key.
///
/// # Errors
/// Rows that come when what they could be joined with is gone go to port 1, `late`, as JSON text. It may be left open. With
/// `within` and `until` those are the rows behind the watermark (less the lateness that is allowed), with `unbounded` those
/// that would be forgotten already, in windows those of closed ones; and as of a time the rows of the left behind the
/// watermark, and versions of the right that are older than one that was valid already.
pub struct Join {
    pub(super) plan: JoinPlan,
    pub(super) codec: Arc<KeyCodec>,
    pub(super) stores: Both<Store>,
    pub(super) keys: Keys,
    // Rows before this are late.
    horizon: Timestamp,
    // What was found and is not given yet: rows; rows of both sides of a window; keys that are due.
    pub(super) picks: Vec<Pick>,
    pub(super) products: Vec<Product>,
    pub(super) firing: Firing,
    pub(super) rest: Option<Rest>,
    pub(super) layout: Arc<Layout>,
    // The keys that are not in memory, and how many rows came since it was last looked whether all fit.
    pub(super) away: Away,
    pub(super) grown: usize,
}

/// The keys that are due, in memory, the last of them first.
#[derive(Default)]
pub(super) struct Firing {
    pub(super) at: i64,
    /// Those that are next.
    pub(super) keys: Vec<u32>,
    /// Those that come behind others that are not in memory.
    pub(super) waiting: Vec<u32>,
}

/// A batch of which some rows are not taken in yet.
pub(super) struct Rest {
    side: Side,
    parts: Parts<RecordBatch>,
    found: Found,
    // The number of the first row, and which row is next.
    first: u64,
    next: usize,
    late: Vec<usize>,
}

/// What is looked at of some rows.
pub(super) struct Found {
    keys: RowKeys,
    /// Which rows have a null in their key.
    nulls: Option<NullBuffer>,
    /// The latest times of the right.
    until: Option<ArrayRef>,
}

/// Rows of a batch of results, which is no heavier than [`HEAVY`] either.
const RESULTS: usize = 8 * 1024;

impl Found {
    /// The key of a row.
    pub(super) fn key(&self, row: usize) -> &[u8] {
        self.keys.get(row)
    }

    pub(super) fn new(codec: &KeyCodec, keys: &[ArrayRef], until: Option<ArrayRef>) -> Result<Self> {
        let nulls = keys.iter().fold(None, |nulls, column| NullBuffer::union(nulls.as_ref(), column.nulls()));
        Ok(Found { keys: codec.keys(keys)?, nulls, until })
    }

    pub(super) fn row(&self, row: usize, time: i64, number: u64) -> Arriving<'_> {
        let is_null = self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
        let until = self.until.as_ref().map(|until| {
            let until = until.as_primitive_opt::<TimestampMicrosecondType>().filter(|until| !until.is_null(row));
            until.map_or(i64::MIN, |until| until.value(row))
        });
        Arriving { key: self.keys.get(row), is_null, time, until, number }
    }
}

impl Join {
    /// The operator.
    ///
    /// # Errors
    /// None that the plan has not found.
    pub fn new(plan: JoinPlan) -> Result<Self> {
        let stores = Both {
            left: Store::new(plan.sides.left.stored.clone()),
            right: Store::new(plan.sides.right.stored.clone()),
        };
        let codec = Arc::new(KeyCodec::new(&plan.sides.left.key_fields(), Vec::new())?);
        let layout = Arc::new(Layout::new(&codec, &plan));
        Ok(Join {
            away: Away::new(&layout, Timestamp::MIN),
            layout,
            grown: 0,
            codec,
            plan,
            stores,
            keys: Keys::default(),
            horizon: Timestamp::MIN,
            picks: Vec::new(),
            products: Vec::new(),
            firing: Firing::default(),
            rest: None,
        })
    }

    /// How far event time has come.
    pub(super) fn horizon(&self) -> i64 {
        self.horizon.as_micros()
    }

    /// How many of what was picked make the next batch.
    fn fitting(&self) -> usize {
        let (most, Both { left, right }) = (self.picks.len().min(RESULTS), &self.stores);
        if most.saturating_mul(left.widest() + right.widest()) <= HEAVY {
            return most;
        }
        let mut bytes = 0;
        let fits = |pick: &&Pick| {
            bytes += pick.left.map_or(0, |number| left.width(number));
            bytes += pick.right.map_or(0, |number| right.width(number));
            bytes <= HEAVY
        };
        self.picks.iter().take(most).take_while(fits).count().max(1)
    }

    /// Gives what was picked as far as there is room, but some in any case; whether that was all.
    pub(super) fn give(&mut self, out: &mut Outbox<'_, RecordBatch>) -> Result<bool> {
        while !self.picks.is_empty() {
            let picks: Vec<Pick> = self.picks.drain(..self.fitting()).collect();
            let rows = self.plan.rows(&self.stores, &picks)?;
            let times = picks.iter().map(|pick| Timestamp::from_micros(pick.time)).collect();
            let weight = rows.get_array_memory_size();
            out.send(Batch::new(times, rows)?.weighing(weight));
            if !self.picks.is_empty() && !out.has_room() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives what was picked if that is much; whether there is room for more.
    fn give_much(&mut self, out: &mut Outbox<'_, RecordBatch>) -> Result<bool> {
        Ok(self.picks.len() < RESULTS || self.give(out)? && out.has_room())
    }

    pub(super) fn tidy(&mut self) -> Result {
        self.keys.shrink();
        self.stores.left.tidy()?;
        self.stores.right.tidy()
    }

    /// Finds the rows again that were put back.
    fn index(&mut self) -> Result {
        self.keys = Keys::default();
        for side in [Side::Left, Side::Right] {
            let columns = self.plan.sides.of(side);
            let store = std::mem::replace(self.stores.of_mut(side), Store::new(columns.stored.clone()));
            for (numbers, rows, marks) in store.chunks() {
                self.find_again(side, numbers.iter().copied(), rows, marks, true)?;
            }
            *self.stores.of_mut(side) = store;
        }
        Ok(())
    }

    /// Puts the rows of a side that are held into the lists of their keys, and perhaps comes back to those when that is due.
    pub(super) fn find_again(
        &mut self,
        side: Side,
        numbers: impl Iterator<Item = u64>,
        rows: &RecordBatch,
        marks: &[u8],
        comes_back: bool,
    ) -> Result {
        let columns = self.plan.sides.of(side);
        // All columns of the left are kept, behind that of times.
        let until = self.plan.until.filter(|_| side == Side::Left).map(|place| place + 1);
        let until = until.and_then(|place| rows.columns().get(place).cloned());
        let found = Found::new(&self.codec, &columns.key_columns(rows), until)?;
        let times = rows.columns().first().and_then(|times| times.as_primitive_opt::<Int64Type>());
        let times = times.ok_or_else(|| Fault::bug("saved rows have no times"))?;
        let all = numbers.zip(marks).zip(times.values()).enumerate();
        for (row, ((number, _), time)) in all.filter(|(_, ((_, marks), _))| **marks & HELD != 0) {
            let arriving = found.row(row, *time, number);
            let Some((last, due)) = self.lasts(side, &arriving) else { continue };
            let key = self.keys.number(arriving.key, arriving.is_null);
            let held = Held { time: *time, last, number };
            if let Some(key) = self.keys.get_mut(key) {
                key.insert(side, held, self.plan.tells_its_end(side));
            }
            if comes_back {
                self.keys.come_back(key, due);
            }
        }
        Ok(())
    }

    fn refuse(rest: &Rest, now: Timestamp, out: &mut Outbox<'_, RecordBatch>) -> Result {
        let Parts { times, rows, origins, .. } = &rest.parts;
        let cause = |row: &usize| {
            let behind = times.get(*row).map_or_else(Default::default, |time| now.since(*time));
            let words =
                format!("it is late: {behind:?} behind the watermark, and what it could be joined with is gone");
            (*row, Cause::new(Code::Late, words))
        };
        out.send_port(1, rejected_rows(rows, times, origins.as_ref(), rest.late.iter().map(cause))?);
        Ok(())
    }
}

impl Operator for Join {
    type In = Either<RecordBatch, RecordBatch>;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<Self::In>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let Parts { times, rows, origins, weight } = batch.into_parts();
        let (side, rows) = match rows {
            Either::Left(rows) => (Side::Left, rows),
            Either::Right(rows) => (Side::Right, rows),
        };
        let columns = self.plan.sides.of(side);
        let stored = columns.stored(&times, &rows)?;
        let until = self.plan.until.filter(|_| side == Side::Left);
        let until = until.and_then(|place| rows.columns().get(place).cloned());
        let found = Found::new(&self.codec, &columns.key_columns(&stored), until)?;
        self.bring((0..rows.num_rows()).map(|row| found.key(row)))?;
        self.grown += rows.num_rows();
        let first = self.stores.of_mut(side).push(stored);
        let parts = Parts { times, rows, origins, weight };
        self.rest = Some(Rest { side, parts, found, first, next: 0, late: Vec::new() });
        self.on_more(out)
    }

    fn on_more(&mut self, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let Some(mut rest) = self.rest.take() else { return Ok(Turn::Done) };
        loop {
            if !self.give_much(out)? {
                self.rest = Some(rest);
                return Ok(Turn::Again);
            }
            let Some(time) = rest.parts.times.get(rest.next) else { break };
            let row = rest.next;
            rest.next += 1;
            let arriving = rest.found.row(row, time.as_micros(), rest.first + row as u64);
            if !self.take_in(rest.side, &arriving) {
                rest.late.push(row);
            }
        }
        if !self.give(out)? {
            self.rest = Some(rest);
            return Ok(Turn::Again);
        }
        if !rest.late.is_empty() {
            let now = self.horizon.saturating_add(self.plan.bound.allowed_lateness);
            Join::refuse(&rest, now, out)?;
        }
        self.tidy()?;
        if self.has_grown() {
            self.let_go()?;
        }
        Ok(Turn::Done)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let horizon = match now {
            Timestamp::MAX => now,
            now => now.saturating_sub(self.plan.bound.allowed_lateness).max(self.horizon),
        };
        loop {
            if !self.give_much(out)? {
                return Ok(Turn::Again);
            }
            if let Some(product) = self.products.last_mut() {
                if product.picked(&mut self.picks, RESULTS) {
                    self.products.pop();
                }
                continue;
            }
            if let Some(key) = self.firing.keys.pop() {
                self.fire(self.firing.at, key);
                continue;
            }
            if self.has_grown() {
                if !self.give(out)? {
                    return Ok(Turn::Again);
                }
                self.tidy()?;
                self.let_go()?;
            }
            if !self.next_due(horizon.as_micros())? {
                break;
            }
            if !out.has_room() {
                return Ok(Turn::Again);
            }
        }
        if !self.give(out)? {
            return Ok(Turn::Again);
        }
        self.tidy()?;
        self.horizon = horizon;
        if self.time_keeping() == TimeKeeping::Delays {
            out.watermark(Watermark::At(horizon));
        }
        Ok(Turn::Done)
    }

    fn on_end(&mut self, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        match self.horizon {
            Timestamp::MAX => Ok(Turn::Done),
            _ => self.on_watermark(Timestamp::MAX, out),
        }
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.time("horizon", &mut self.horizon)?;
        if !visit.is_fitting() {
            let Both { left, right } = &mut self.stores;
            let left = saved::visit(visit, "left", left, &self.plan.sides.left)?;
            let right = saved::visit(visit, "right", right, &self.plan.sides.right)?;
            if left || right {
                self.index()?;
            }
        }
        if visit.piece("away", &mut self.away, || Away::new(&self.layout, self.horizon))? {
            let back = self.away.take_kept()?;
            self.come_back_with(back)?;
        }
        if visit.is_fitting() { self.let_go() } else { Ok(()) }
    }

    fn time_keeping(&self) -> TimeKeeping {
        match self.plan.bound.allowed_lateness.is_zero() {
            true => TimeKeeping::Passes,
            false => TimeKeeping::Delays,
        }
    }

    fn sides(&self) -> Vec<PortType> {
        vec![crate::Side::<Rejected<Bytes>>::rejected(1).port_type().named("late").optional()]
    }
}

impl fmt::Debug for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (left, right) = (self.stores.left.len(), self.stores.right.len());
        write!(f, "Join({}, {}: {left} and {right} rows of {} keys)", self.plan.kind, self.plan.bound, self.keys.len())
    }
}
