//! [`Inbox`]: the inputs of a subtask, merged: rows as they come, watermarks by minimum, barriers when aligned.

use std::collections::VecDeque;

use millstream_operators::{AnyBatch, Barrier, Result, Watermark};

use super::alignment::Alignment;
use super::channel::{Envelope, Receiver, Room};
use super::frontier::Frontier;

/// What a subtask gets to see, in order.
#[derive(Debug)]
pub(crate) enum Event {
    /// Rows at an input port; their room comes back when `Room` is dropped.
    Data(usize, AnyBatch, Option<Room>),
    /// The merged watermark has moved.
    Watermark(Watermark),
    /// The barrier has come in on all live inputs.
    Barrier(Barrier),
    /// All inputs have ended.
    End,
}

/// All edges into one subtask.
#[derive(Debug)]
pub(crate) struct Inbox {
    receiver: Receiver,
    ports: Vec<usize>,
    alignment: Alignment,
    frontier: Frontier,
    // What came in on an input behind the barrier that it waits with; its room stays taken, so this is bounded.
    held: Vec<VecDeque<Envelope>>,
    // What was held, in front of what is still in the channel.
    released: VecDeque<(usize, Envelope)>,
    ready: VecDeque<Event>,
}

impl Inbox {
    /// An inbox over a receiver whose inputs lead to these ports of the node.
    pub(crate) fn new(receiver: Receiver, ports: Vec<usize>) -> Self {
        let inputs = receiver.inputs();
        Inbox {
            receiver,
            ports,
            alignment: Alignment::new(inputs),
            frontier: Frontier::new(inputs),
            held: (0..inputs).map(|_| VecDeque::new()).collect(),
            released: VecDeque::new(),
            ready: VecDeque::new(),
        }
    }

    /// The next event; `None` when a task upstream is gone without an `End`. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Event>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            let (input, envelope) = match self.released.pop_front() {
                Some(next) => next,
                None => self.receiver.recv().await?,
            };
            if self.alignment.is_blocked(input) {
                if let Some(held) = self.held.get_mut(input) {
                    held.push_back(envelope);
                }
                continue;
            }
            match self.take(input, envelope) {
                Ok(Some(event)) => return Some(Ok(event)),
                Ok(None) => {}
                Err(fault) => return Some(Err(fault)),
            }
        }
    }

    fn take(&mut self, input: usize, envelope: Envelope) -> Result<Option<Event>> {
        Ok(match envelope {
            Envelope::Data(batch, room) => {
                let port = self.ports.get(input).copied().unwrap_or(0);
                Some(Event::Data(port, batch, Some(room)))
            }
            Envelope::Watermarks(told) => {
                let told = told.take().into_iter().flatten();
                self.ready.extend(told.filter_map(|told| self.frontier.update(input, told)).map(Event::Watermark));
                self.ready.pop_front()
            }
            Envelope::Barrier(barrier) => {
                let through = self.alignment.barrier(input, barrier)?;
                self.passed(through)
            }
            Envelope::End => {
                let through = self.alignment.close(input);
                let barrier = self.passed(through);
                self.ready.extend(barrier);
                self.ready.extend(self.frontier.close(input).map(Event::Watermark));
                if self.alignment.all_closed() {
                    self.ready.push_back(Event::End);
                }
                self.ready.pop_front()
            }
        })
    }

    fn passed(&mut self, through: Option<Barrier>) -> Option<Event> {
        let barrier = through?;
        for (input, held) in self.held.iter_mut().enumerate() {
            self.released.extend(held.drain(..).map(|envelope| (input, envelope)));
        }
        Some(Event::Barrier(barrier))
    }
}

#[cfg(test)]
mod tests {
    use millstream_operators::{Batch, Epoch, Message, Then, Timestamp};

    use super::super::channel::Capacity;
    use super::*;

    #[tokio::test]
    async fn an_input_that_waits_with_a_barrier_holds_one_watermark_however_many_come() {
        let mut receiver = Receiver::new();
        let senders = [0, 1].map(|_| receiver.connect(Capacity::new(100, 1 << 20)).unwrap());
        let mut inbox = Inbox::new(receiver, vec![0, 1]);
        let barrier = Barrier { epoch: Epoch(1), then: Then::GoOn };
        senders[0].send(Message::Barrier(barrier)).await.unwrap();
        for n in 0..1_000 {
            senders[0].send(Message::Watermark(Watermark::At(Timestamp::from_micros(n)))).await.unwrap();
            let _ = futures::poll!(std::pin::pin!(inbox.next()));
        }
        assert_eq!(inbox.held[0].len(), 1);
        senders[1].send(Message::Barrier(barrier)).await.unwrap();
        assert!(matches!(inbox.next().await, Some(Ok(Event::Barrier(_)))));
        let late = Watermark::At(Timestamp::from_micros(5_000));
        senders[1].send(Message::Watermark(late)).await.unwrap();
        let Some(Ok(Event::Watermark(told))) = inbox.next().await else { panic!("it has come to 999") };
        assert_eq!(told, Watermark::At(Timestamp::from_micros(999)));
    }

    fn rows(row: u8) -> Message {
        Message::Data(Batch::at(Timestamp::MIN, vec![row]).into())
    }

    fn barrier(n: u64) -> Message {
        Message::Barrier(Barrier { epoch: Epoch(n), then: Then::GoOn })
    }

    #[tokio::test]
    async fn rows_behind_a_barrier_wait_until_it_is_through() {
        let mut receiver = Receiver::new();
        let senders = [0, 1].map(|_| receiver.connect(Capacity::new(100, 1 << 20)).unwrap());
        let mut inbox = Inbox::new(receiver, vec![0, 0]);
        for message in [rows(1), barrier(1), rows(2), barrier(2), rows(3), Message::End] {
            senders[0].send(message).await.unwrap();
        }
        for message in [rows(10), barrier(1), rows(20), Message::End] {
            senders[1].send(message).await.unwrap();
        }
        let mut seen = Vec::new();
        loop {
            match inbox.next().await.unwrap().unwrap() {
                Event::Data(_, batch, _) => seen.push(format!("{}", batch.rows::<Vec<u8>>().unwrap()[0])),
                Event::Barrier(barrier) => seen.push(format!("barrier {}", barrier.epoch)),
                Event::Watermark(_) => {}
                Event::End => break,
            }
        }
        assert_eq!(seen, ["1", "10", "barrier 1", "2", "20", "barrier 2", "3"]);
    }
}
