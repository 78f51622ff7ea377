//! Typed operators and edges behind one shape each, so that the engine can hold any of them.
//!
//! The price is one virtual call and one type check a batch; see the traits of `millstream-operators` for the
//! contracts, which hold here word for word.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_operators::{
    AnyBatch, AsyncOperator, Batch, Cause, Either, Emit, Epoch, Fault, FaultKind, Ledger, Marked, Operator, Origins,
    Outbox, Outputs, Parts, Payload, Record, Rejected, Result, Retry, Sink, Source, StateVisitor, TimeKeeping,
    Timestamp, Turn,
};

/// A future in a box.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An [`Operator`] of any types.
#[expect(missing_docs, reason = "each method is the one of `Operator` with the same name")]
pub trait DynOperator: Send {
    fn on_batch(&mut self, port: usize, batch: AnyBatch, emit: &mut dyn Emit) -> Result<Turn>;
    fn on_more(&mut self, emit: &mut dyn Emit) -> Result<Turn>;
    fn on_watermark(&mut self, now: Timestamp, emit: &mut dyn Emit) -> Result<Turn>;
    fn on_idle(&mut self, emit: &mut dyn Emit) -> Result<Turn>;
    fn on_wake(&mut self, now: Timestamp, emit: &mut dyn Emit) -> Result<Turn>;
    fn on_end(&mut self, emit: &mut dyn Emit) -> Result<Turn>;
    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result;
    fn time_keeping(&self) -> TimeKeeping;
    /// Rows in by step, for a pass that does the work of several nodes; empty for all others.
    fn counts(&self) -> Vec<u64> {
        Vec::new()
    }
}

/// An operator with one input, erased.
pub fn erase<O: Operator>(operator: O) -> Box<dyn DynOperator> {
    Box::new(Erased { operator, take: |_, batch| batch.typed::<O::In>() })
}

/// An operator with two inputs, erased: what comes in at port 0 is `Left`, at port 1 `Right`.
pub fn erase_join<L: Payload, R: Payload, O: Operator<In = Either<L, R>>>(operator: O) -> Box<dyn DynOperator> {
    Box::new(Erased {
        operator,
        take: |port, batch| match port {
            0 => batch.typed::<L>()?.map_rows(Either::Left),
            _ => batch.typed::<R>()?.map_rows(Either::Right),
        },
    })
}

struct Erased<O: Operator> {
    operator: O,
    take: fn(usize, AnyBatch) -> Result<Batch<O::In>>,
}

impl<O: Operator> Erased<O> {
    fn with(
        &mut self,
        emit: &mut dyn Emit,
        call: impl FnOnce(&mut O, &mut Outbox<'_, O::Out>) -> Result<Turn>,
    ) -> Result<Turn> {
        let mut out = Outbox::new(emit);
        let turn = call(&mut self.operator, &mut out)?;
        out.finish();
        Ok(turn)
    }
}

impl<O: Operator> DynOperator for Erased<O> {
    fn on_batch(&mut self, port: usize, batch: AnyBatch, emit: &mut dyn Emit) -> Result<Turn> {
        let batch = (self.take)(port, batch)?;
        self.with(emit, |operator, out| operator.on_batch(batch, out))
    }

    fn on_more(&mut self, emit: &mut dyn Emit) -> Result<Turn> {
        self.with(emit, O::on_more)
    }

    fn on_watermark(&mut self, now: Timestamp, emit: &mut dyn Emit) -> Result<Turn> {
        self.with(emit, |operator, out| operator.on_watermark(now, out))
    }

    fn on_idle(&mut self, emit: &mut dyn Emit) -> Result<Turn> {
        self.with(emit, O::on_idle)
    }

    fn on_wake(&mut self, now: Timestamp, emit: &mut dyn Emit) -> Result<Turn> {
        self.with(emit, |operator, out| operator.on_wake(now, out))
    }

    fn on_end(&mut self, emit: &mut dyn Emit) -> Result<Turn> {
        self.with(emit, O::on_end)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        self.operator.state(visit)
    }

    fn time_keeping(&self) -> TimeKeeping {
        self.operator.time_keeping()
    }

    fn counts(&self) -> Vec<u64> {
        self.operator.counts()
    }
}

/// A [`Source`] of any types; positions are encoded.
#[expect(missing_docs, reason = "each method is the one of `Source` with the same name")]
pub trait DynSource: Send {
    fn open(&mut self, from: Option<Bytes>) -> Boxed<'_, Result>;
    fn next(&mut self, max_rows: usize) -> Boxed<'_, Result<Option<AnyBatch>>>;
    fn position(&self) -> Result<Bytes>;
    fn commit(&mut self, upto: Bytes) -> Boxed<'_, Result>;
    fn is_endless(&self) -> bool;
    fn lag(&self) -> Option<u64>;
    fn drive(&mut self) -> Boxed<'_, Result>;
    fn release(&mut self) -> Boxed<'_, Result>;
    fn close(&mut self) -> Boxed<'_, Result>;
}

/// A source, erased. Its positions are JSON, so that people can read them in a manifest.
pub fn erase_source<S: Source>(source: S) -> Box<dyn DynSource> {
    Box::new(ErasedSource(source))
}

struct ErasedSource<S>(S);

fn position_fault(done: &str, error: serde_json::Error) -> Fault {
    Fault::new(FaultKind::Checkpoint, format!("a source position cannot be {done}"))
        .retry_with(Retry::Never)
        .because(error)
}

impl<S: Source> DynSource for ErasedSource<S> {
    fn open(&mut self, from: Option<Bytes>) -> Boxed<'_, Result> {
        Box::pin(async move {
            let from = match from {
                Some(bytes) => Some(serde_json::from_slice(&bytes).map_err(|e| position_fault("decoded", e))?),
                None => None,
            };
            self.0.open(from).await
        })
    }

    fn next(&mut self, max_rows: usize) -> Boxed<'_, Result<Option<AnyBatch>>> {
        Box::pin(async move { Ok(self.0.next(max_rows).await?.map(AnyBatch::from)) })
    }

    fn position(&self) -> Result<Bytes> {
        serde_json::to_vec(&self.0.position()).map(Bytes::from).map_err(|e| position_fault("encoded", e))
    }

    fn commit(&mut self, upto: Bytes) -> Boxed<'_, Result> {
        Box::pin(async move {
            let upto = serde_json::from_slice(&upto).map_err(|e| position_fault("decoded", e))?;
            self.0.commit(upto).await
        })
    }

    fn is_endless(&self) -> bool {
        self.0.is_endless()
    }

    fn lag(&self) -> Option<u64> {
        self.0.lag()
    }

    fn drive(&mut self) -> Boxed<'_, Result> {
        Box::pin(self.0.drive())
    }

    fn release(&mut self) -> Boxed<'_, Result> {
        Box::pin(self.0.release())
    }

    fn close(&mut self) -> Boxed<'_, Result> {
        Box::pin(self.0.close())
    }
}

/// A [`Sink`] of any type.
#[expect(missing_docs, reason = "each method is the one of `Sink` with the same name")]
pub trait DynSink: Send {
    fn open(&mut self) -> Boxed<'_, Result>;
    fn write(&mut self, batch: AnyBatch) -> Boxed<'_, Result>;
    fn flush(&mut self, epoch: Epoch) -> Boxed<'_, Result>;
    fn commit(&mut self, epoch: Epoch) -> Boxed<'_, Result>;
    fn outputs(&mut self) -> Option<Arc<[Record]>>;
    fn check<'a>(&'a mut self, from: &'a [Outputs]) -> Boxed<'a, Result>;
    fn resume(&mut self, from: Vec<Outputs>) -> Boxed<'_, Result<Option<Marked>>>;
    fn ledger(&mut self) -> Option<Box<dyn Ledger>>;
    fn drive(&mut self) -> Boxed<'_, Result>;
}

/// A sink, erased.
pub fn erase_sink<S: Sink>(sink: S) -> Box<dyn DynSink> {
    Box::new(ErasedSink(sink))
}

struct ErasedSink<S>(S);

impl<S: Sink> DynSink for ErasedSink<S> {
    fn open(&mut self) -> Boxed<'_, Result> {
        Box::pin(self.0.open())
    }

    fn write(&mut self, batch: AnyBatch) -> Boxed<'_, Result> {
        Box::pin(async move { self.0.write(batch.typed()?).await })
    }

    fn flush(&mut self, epoch: Epoch) -> Boxed<'_, Result> {
        Box::pin(self.0.flush(epoch))
    }

    fn commit(&mut self, epoch: Epoch) -> Boxed<'_, Result> {
        Box::pin(self.0.commit(epoch))
    }

    fn outputs(&mut self) -> Option<Arc<[Record]>> {
        self.0.outputs()
    }

    fn check<'a>(&'a mut self, from: &'a [Outputs]) -> Boxed<'a, Result> {
        Box::pin(self.0.check(from))
    }

    fn resume(&mut self, from: Vec<Outputs>) -> Boxed<'_, Result<Option<Marked>>> {
        Box::pin(self.0.resume(from))
    }

    fn ledger(&mut self) -> Option<Box<dyn Ledger>> {
        self.0.ledger()
    }

    fn drive(&mut self) -> Boxed<'_, Result> {
        Box::pin(self.0.drive())
    }
}

/// How the calls of an async operator are bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncLimits {
    /// How many calls run at once, over all rows.
    pub concurrency: usize,
    /// How long a call may take; the row is rejected then.
    pub timeout: Duration,
    /// Whether results keep the order of their rows.
    pub ordered: bool,
}

/// A row of any type.
pub type AnyRow = Box<dyn Any + Send>;

/// A row that is being called for.
pub struct Call {
    /// Its event time.
    pub time: Timestamp,
    /// Its origin: one row.
    pub origin: Option<Origins>,
    /// The row itself, for the rejected ones.
    pub row: AnyRow,
    /// The call.
    pub future: Boxed<'static, Result<AnyRow, Cause>>,
}

/// A call that has ended.
pub struct Called {
    /// The row's event time.
    pub time: Timestamp,
    /// The row's origin: one row.
    pub origin: Option<Origins>,
    /// The row itself.
    pub row: AnyRow,
    /// What came of it.
    pub result: Result<AnyRow, Cause>,
}

/// An [`AsyncOperator`] of any types.
pub trait DynAsync: Send + Sync {
    /// The calls for the rows of a batch, none started yet.
    ///
    /// # Errors
    /// A fault when the batch is of another type.
    fn calls(&self, batch: AnyBatch) -> Result<Vec<Call>>;

    /// Results as a batch for port 0, and rejected rows as one for port 1.
    ///
    /// # Errors
    /// A fault when a row is not one of this operator's.
    fn gather(&self, called: Vec<Called>) -> Result<(AnyBatch, AnyBatch)>;
}

/// An async operator, erased; a row is copied so that it can be rejected whole.
pub fn erase_async<A: AsyncOperator>(operator: A) -> Box<dyn DynAsync>
where
    A::In: Clone,
{
    Box::new(ErasedAsync(operator))
}

struct ErasedAsync<A>(A);

impl<A: AsyncOperator> DynAsync for ErasedAsync<A>
where
    A::In: Clone,
{
    fn calls(&self, batch: AnyBatch) -> Result<Vec<Call>> {
        let Parts { times, rows, origins, .. } = batch.typed::<Vec<A::In>>()?.into_parts();
        let calls = times.into_iter().zip(rows).enumerate().map(|(i, (time, row))| {
            let origin = origins.as_ref().map(|origins| origins.select([i]));
            let call = self.0.call(row.clone());
            let future: Boxed<'static, _> = Box::pin(async move { call.await.map(|out| Box::new(out) as AnyRow) });
            Call { time, origin, row: Box::new(row), future }
        });
        Ok(calls.collect())
    }

    fn gather(&self, called: Vec<Called>) -> Result<(AnyBatch, AnyBatch)> {
        let (mut done, mut rejected) = (Gather::<A::Out>::default(), Gather::<Rejected<A::In>>::default());
        for Called { time, origin, row, result } in called {
            match result {
                Ok(out) => done.push(time, origin, unbox(out)?),
                Err(cause) => rejected.push(time, origin, Rejected { row: unbox(row)?, cause }),
            }
        }
        Ok((done.batch()?, rejected.batch()?))
    }
}

fn unbox<T: 'static>(row: AnyRow) -> Result<T> {
    row.downcast().map(|row| *row).map_err(|_| Fault::bug("an async operator was handed the row of another"))
}

/// Rows of many batches put into one, with the messages that they came from.
struct Gather<T> {
    times: Vec<Timestamp>,
    rows: Vec<T>,
    origins: Option<Origins>,
    messages: Vec<millstream_operators::Origin>,
    of_row: Vec<u32>,
    types: PhantomData<fn() -> T>,
}

impl<T> Default for Gather<T> {
    fn default() -> Self {
        let (times, rows, messages, of_row) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Gather { times, rows, origins: None, messages, of_row, types: PhantomData }
    }
}

impl<T: Send + 'static> Gather<T> {
    fn push(&mut self, time: Timestamp, origin: Option<Origins>, row: T) {
        self.times.push(time);
        self.rows.push(row);
        if let Some(origin) = origin {
            self.of_row.push(u32::try_from(self.messages.len()).unwrap_or(u32::MAX));
            self.messages.extend(origin.get(0).cloned());
            self.origins = Some(origin);
        }
    }

    fn batch(self) -> Result<AnyBatch> {
        let complete = self.of_row.len() == self.rows.len();
        let origins = self
            .origins
            .filter(|_| complete)
            .map(|any| Origins::new(std::sync::Arc::clone(any.place()), self.of_row, self.messages));
        Batch::from_parts(Parts { times: self.times.into(), rows: self.rows, origins, weight: 0 }).map(AnyBatch::from)
    }
}

macro_rules! opaque_debug {
    ($($name:ty),*) => {$(impl fmt::Debug for $name {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(stringify!($name)) }
    })*};
}
opaque_debug!(dyn DynOperator, dyn DynSource, dyn DynSink, dyn DynAsync, Call, Called);
