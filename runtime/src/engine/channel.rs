//! A channel bounded in rows and in bytes, whose room comes back when a batch is *dropped*: what is bounded is memory in
//! use, not the length of a queue.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures::task::AtomicWaker;
use millstream_operators::{AnyBatch, Barrier, Message, Watermark};
use tokio::sync::mpsc;
use tokio::task::coop::consume_budget;

use super::told::Told;

/// A message on its way. Rows take room until it is dropped; nothing else does.
#[derive(Debug)]
pub(crate) enum Envelope {
    Data(AnyBatch, Room),
    Watermarks(Told),
    Barrier(Barrier),
    End,
}

/// Room in a channel; it comes back on drop.
#[derive(Debug)]
pub(crate) struct Room {
    budget: Budget,
    taken: Capacity,
}

/// How much may be on the way along one edge.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    // Rows and bytes that are free, in one number, so that both are taken and given back at once and without a lock.
    free: AtomicU64,
    capacity: Capacity,
    closed: AtomicBool,
    // The one task that sends along the edge, while it waits for room.
    waiting: AtomicWaker,
}

/// The bounds of a channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    pub(crate) rows: u32,
    /// In units of [`BYTE_UNIT`].
    pub(crate) bytes: u32,
}

// Both bounds are counted in u32: units of 16 bytes let one count to 64 GiB.
const BYTE_UNIT: usize = 16;

impl Capacity {
    pub(crate) fn new(rows: usize, bytes: usize) -> Self {
        let most = u32::MAX / 8;
        let clamp = |n: usize| u32::try_from(n).unwrap_or(most).clamp(1, most);
        Capacity { rows: clamp(rows), bytes: clamp(bytes.div_ceil(BYTE_UNIT)) }
    }

    fn packed(self) -> u64 {
        u64::from(self.rows) << 32 | u64::from(self.bytes)
    }

    fn unpacked(packed: u64) -> Self {
        Capacity { rows: (packed >> 32) as u32, bytes: packed as u32 }
    }
}

impl Budget {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Budget(Arc::new(Shared {
            free: AtomicU64::new(capacity.packed()),
            capacity,
            closed: AtomicBool::new(false),
            waiting: AtomicWaker::new(),
        }))
    }

    /// Waits for room for a batch; `None` when the receiver is gone. One that is larger than the capacity takes all of
    /// it, so that it can always pass. One task at a time waits here: an edge has one that sends.
    async fn admit(&self, need: Capacity) -> Option<Room> {
        let Capacity { rows, bytes } = self.0.capacity;
        let need = Capacity { rows: need.rows.min(rows), bytes: need.bytes.min(bytes) };
        // A task whose receiver keeps up never waits for room, and must yield to others all the same.
        consume_budget().await;
        poll_fn(|context| {
            let taken = |taken: Result<Room, Closed>| Poll::Ready(taken.ok());
            match self.take(need) {
                Some(room) => taken(room),
                None => {
                    self.0.waiting.register(context.waker());
                    // Room that came back before the line above woke nobody.
                    self.take(need).map_or(Poll::Pending, taken)
                }
            }
        })
        .await
    }

    /// Takes room if there is enough; `None` if there is not.
    fn take(&self, need: Capacity) -> Option<Result<Room, Closed>> {
        if self.0.closed.load(Ordering::Acquire) {
            return Some(Err(Closed));
        }
        let fits = |free: u64| {
            let Capacity { rows, bytes } = Capacity::unpacked(free);
            (rows >= need.rows && bytes >= need.bytes).then(|| free - need.packed())
        };
        self.0.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        Some(Ok(Room { budget: self.clone(), taken: need }))
    }

    fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.waiting.wake();
    }

    /// How full it is, from 0 to 1: rows or bytes, whichever is fuller.
    pub(crate) fn fill(&self) -> f64 {
        let free = Capacity::unpacked(self.0.free.load(Ordering::Relaxed));
        let share = |free: u32, of: u32| 1.0 - f64::from(free) / f64::from(of);
        share(free.rows, self.0.capacity.rows).max(share(free.bytes, self.0.capacity.bytes))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.0.free.fetch_add(self.taken.packed(), Ordering::AcqRel);
        self.budget.0.waiting.wake();
    }
}

/// The sending end of an edge: it may lead, with others, into one inbox. It is not `Clone`: one task sends.
#[derive(Debug)]
pub(crate) struct Sender {
    input: usize,
    budget: Budget,
    queue: mpsc::UnboundedSender<(usize, Envelope)>,
    // The last that was sent, if it was of event time and may not be taken yet.
    told: Mutex<Option<Told>>,
}

/// The receiver is gone: the task behind it has stopped, and so should this one.
#[derive(Debug)]
pub(crate) struct Closed;

impl Sender {
    /// Sends a message, when there is room for it.
    pub(crate) async fn send(&self, message: Message) -> Result<(), Closed> {
        let envelope = match message {
            Message::Data(batch) => {
                let need = Capacity::new(batch.len(), batch.weight());
                Envelope::Data(batch, self.budget.admit(need).await.ok_or(Closed)?)
            }
            Message::Watermark(watermark) => return self.tell(watermark),
            Message::Barrier(barrier) => Envelope::Barrier(barrier),
            Message::End => Envelope::End,
        };
        // What comes behind it is told behind it.
        *self.told() = None;
        self.queue.send((self.input, envelope)).map_err(|_| Closed)
    }

    fn tell(&self, watermark: Watermark) -> Result<(), Closed> {
        let mut told = self.told();
        if told.as_ref().is_some_and(|told| told.add(watermark)) {
            return if self.queue.is_closed() { Err(Closed) } else { Ok(()) };
        }
        let new = told.insert(Told::new(watermark)).clone();
        self.queue.send((self.input, Envelope::Watermarks(new))).map_err(|_| Closed)
    }

    fn told(&self) -> MutexGuard<'_, Option<Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }
}

/// The receiving end of all edges into one subtask.
#[derive(Debug)]
pub(crate) struct Receiver {
    queue: mpsc::UnboundedReceiver<(usize, Envelope)>,
    sender: Option<mpsc::UnboundedSender<(usize, Envelope)>>,
    budgets: Vec<Budget>,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "data is bounded by budgets, control messages by their number")]
        let (sender, queue) = mpsc::unbounded_channel();
        Receiver { queue, sender: Some(sender), budgets: Vec::new() }
    }

    /// Adds an input, and gives its sending end. All are added before the first `recv`.
    pub(crate) fn connect(&mut self, capacity: Capacity) -> Option<Sender> {
        let queue = self.sender.clone()?;
        let (input, budget) = (self.budgets.len(), Budget::new(capacity));
        self.budgets.push(budget.clone());
        Some(Sender { input, budget, queue, told: Mutex::new(None) })
    }

    /// How many inputs there are.
    pub(crate) fn inputs(&self) -> usize {
        self.budgets.len()
    }

    /// The next message and the input that it came from; `None` when all senders are gone.
    pub(crate) async fn recv(&mut self) -> Option<(usize, Envelope)> {
        // From here on only the senders that were handed out keep the channel open.
        self.sender = None;
        self.queue.recv().await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Wakes senders that wait for room which will never come.
        for budget in &self.budgets {
            budget.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use millstream_operators::{Batch, Timestamp};

    use super::*;

    fn rows(n: usize, bytes: usize) -> Message {
        Message::Data(Batch::at(Timestamp::MIN, vec![0u8; n]).weighing(bytes).into())
    }

    #[tokio::test]
    async fn room_comes_back_when_the_batch_is_dropped_not_when_it_is_received() {
        let mut receiver = Receiver::new();
        let sender = receiver.connect(Capacity::new(10, 1 << 20)).unwrap();
        sender.send(rows(10, 0)).await.unwrap();
        let (_, held) = receiver.recv().await.unwrap();
        assert!(sender.send(rows(1, 0)).now_or_never().is_none());
        drop(held);
        assert!(sender.send(rows(1, 0)).now_or_never().is_some());
    }

    #[tokio::test]
    async fn bytes_bound_it_as_rows_do() {
        let mut receiver = Receiver::new();
        let sender = receiver.connect(Capacity::new(1_000, 1_600)).unwrap();
        sender.send(rows(1, 1_600)).await.unwrap();
        assert!(sender.send(rows(1, 16)).now_or_never().is_none());
        assert!(sender.budget().fill() > 0.99);
    }

    #[tokio::test]
    async fn a_batch_larger_than_the_capacity_passes_alone() {
        let mut receiver = Receiver::new();
        let sender = receiver.connect(Capacity::new(10, 1 << 20)).unwrap();
        assert!(sender.send(rows(1_000, 0)).now_or_never().is_some());
        assert!(sender.send(rows(1, 0)).now_or_never().is_none());
    }

    #[tokio::test]
    async fn control_messages_need_no_room() {
        let mut receiver = Receiver::new();
        let sender = receiver.connect(Capacity::new(1, 16)).unwrap();
        sender.send(rows(1, 16)).await.unwrap();
        assert!(sender.send(Message::End).now_or_never().is_some());
    }

    #[tokio::test]
    async fn watermarks_that_nobody_takes_do_not_pile_up() {
        let told = |n| Message::Watermark(Watermark::At(Timestamp::from_micros(n)));
        let mut receiver = Receiver::new();
        let sender = receiver.connect(Capacity::new(10, 1 << 20)).unwrap();
        for n in 0..1_000 {
            sender.send(told(n)).await.unwrap();
        }
        sender.send(rows(1, 0)).await.unwrap();
        sender.send(told(1_000)).await.unwrap();
        sender.send(Message::End).await.unwrap();
        let mut got = Vec::new();
        while let Ok((_, envelope)) = receiver.queue.try_recv() {
            got.push(match envelope {
                Envelope::Data(..) => "rows".to_owned(),
                Envelope::Watermarks(told) => format!("{:?}", told.take()[0]),
                other => format!("{other:?}"),
            });
        }
        let at = |n| format!("{:?}", Some(Watermark::At(Timestamp::from_micros(n))));
        assert_eq!(got, [at(999), "rows".to_owned(), at(1_000), "End".to_owned()]);
        drop(receiver);
        assert!(sender.send(told(1_001)).await.is_err());
    }

    #[tokio::test]
    async fn a_sender_that_waits_learns_that_the_receiver_is_gone() {
        let mut receiver = Receiver::new();
        let sender = receiver.connect(Capacity::new(1, 16)).unwrap();
        sender.send(rows(1, 16)).await.unwrap();
        let waiting = tokio::spawn(async move { sender.send(rows(1, 16)).await });
        tokio::task::yield_now().await;
        drop(receiver);
        assert!(waiting.await.unwrap().is_err());
    }

    /// The next message, in whatever thread and without a runtime.
    fn pop(receiver: &mut Receiver) -> Option<Envelope> {
        futures::executor::block_on(receiver.recv()).map(|(_, envelope)| envelope)
    }

    #[test]
    fn room_that_comes_back_on_another_thread_always_wakes_the_sender() {
        const MESSAGES: usize = 50_000;
        let mut receiver = Receiver::new();
        let sender = receiver.connect(Capacity::new(3, 1 << 20)).unwrap();
        let budget = sender.budget().clone();
        let sending = std::thread::spawn(move || {
            for n in 0..MESSAGES {
                futures::executor::block_on(sender.send(rows(n % 5 + 1, n % 7))).unwrap();
            }
        });
        let mut got = 0;
        while let Some(envelope) = pop(&mut receiver) {
            got += 1;
            assert!(budget.fill() > 0.0, "what was received still takes room");
            drop(envelope);
        }
        sending.join().unwrap();
        assert_eq!((got, budget.fill()), (MESSAGES, 0.0));
    }
}
