//! A channel bounded in rows and in bytes, whose room comes back when a batch is *dropped*: what is bounded is memory in
//! use, not the length of a queue.

use std::sync::Arc;

use millstream_operators::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// A message, and the room that it takes until it is dropped. Control messages take none.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub(crate) message: Message,
    pub(crate) room: Option<Room>,
}

/// Room in a channel; it comes back on drop.
#[derive(Debug)]
pub(crate) struct Room {
    _rows: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// How much may be on the way along one edge.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    rows: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    capacity: Capacity,
}

/// The bounds of a channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    pub(crate) rows: u32,
    /// In units of [`BYTE_UNIT`].
    pub(crate) bytes: u32,
}

// A semaphore counts in u32: units of 16 bytes let it count to 64 GiB.
const BYTE_UNIT: usize = 16;

impl Capacity {
    pub(crate) fn new(rows: usize, bytes: usize) -> Self {
        let most = u32::MAX / 8;
        let clamp = |n: usize| u32::try_from(n).unwrap_or(most).clamp(1, most);
        Capacity { rows: clamp(rows), bytes: clamp(bytes.div_ceil(BYTE_UNIT)) }
    }
}

impl Budget {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Budget {
            rows: Arc::new(Semaphore::new(capacity.rows as usize)),
            bytes: Arc::new(Semaphore::new(capacity.bytes as usize)),
            capacity,
        }
    }

    /// Waits for room for a batch. One that is larger than the capacity takes all of it, so that it can always pass.
    async fn admit(&self, need: Capacity) -> Option<Room> {
        // Rows before bytes, everywhere: two waiters never hold what the other needs.
        let rows = Arc::clone(&self.rows).acquire_many_owned(need.rows.min(self.capacity.rows)).await.ok()?;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(need.bytes.min(self.capacity.bytes)).await.ok()?;
        Some(Room { _rows: rows, _bytes: bytes })
    }

    /// How full it is, from 0 to 1: rows or bytes, whichever is fuller.
    pub(crate) fn fill(&self) -> f64 {
        let share = |free: usize, of: u32| 1.0 - (free as f64 / f64::from(of)).min(1.0);
        let rows = share(self.rows.available_permits(), self.capacity.rows);
        rows.max(share(self.bytes.available_permits(), self.capacity.bytes))
    }
}

/// The sending end of an edge: it may lead, with others, into one inbox.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    input: usize,
    budget: Budget,
    queue: mpsc::UnboundedSender<(usize, Envelope)>,
}

/// The receiver is gone: the task behind it has stopped, and so should this one.
#[derive(Debug)]
pub(crate) struct Closed;

impl Sender {
    /// Sends a message, when there is room for it.
    pub(crate) async fn send(&self, message: Message) -> Result<(), Closed> {
        let room = match &message {
            Message::Data(batch) => {
                let need = Capacity::new(batch.len(), batch.weight());
                Some(self.budget.admit(need).await.ok_or(Closed)?)
            }
            _ => None,
        };
        self.queue.send((self.input, Envelope { message, room })).map_err(|_| Closed)
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
        Some(Sender { input, budget, queue })
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
            budget.rows.close();
            budget.bytes.close();
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
    async fn a_sender_that_waits_learns_that_the_receiver_is_gone() {
        let mut receiver = Receiver::new();
        let sender = receiver.connect(Capacity::new(1, 16)).unwrap();
        sender.send(rows(1, 16)).await.unwrap();
        let waiting = tokio::spawn(async move { sender.send(rows(1, 16)).await });
        tokio::task::yield_now().await;
        drop(receiver);
        assert!(waiting.await.unwrap().is_err());
    }
}
