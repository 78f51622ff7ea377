//! The task of a stage: inbox -> chain -> router, again and again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use millstream_operators::{Message, Result, Then};
use tokio::time::Instant;

use super::chain::{Chain, Item, Output};
use super::clock::Clock;
use super::inbox::{Event, Inbox};
use super::report::{Line, Part};
use super::router::{Router, Stopped};

/// One subtask of a stage.
pub(crate) struct StageTask {
    pub(crate) inbox: Inbox,
    pub(crate) chain: Chain,
    pub(crate) router: Router,
    pub(crate) clock: Clock,
    pub(crate) key_groups: u32,
    pub(crate) line: Line,
    pub(crate) timers: BinaryHeap<Reverse<(Instant, usize)>>,
}

impl StageTask {
    /// Runs until the stream ends, something goes wrong, or a task downstream is gone.
    pub(crate) async fn run(mut self) -> Result {
        match self.work().await {
            Ok(()) | Err(Stopped::Downstream) => Ok(()),
            Err(Stopped::Fault(fault)) => Err(fault),
        }
    }

    async fn work(&mut self) -> Result<(), Stopped> {
        // Restored operators may hold rows that wait for a timer: each is woken once, and asks again if it wants.
        for link in 0..self.chain.len() {
            self.chain.push(link, Item::Wake(self.clock.now()));
        }
        self.drain().await?;
        loop {
            let timer = self.timers.peek().map(|Reverse((at, _))| *at);
            tokio::select! {
                biased;
                () = until(timer) => self.wake().await?,
                event = self.inbox.next() => match event {
                    Some(event) => if self.take(event.map_err(Stopped::Fault)?).await? { return Ok(()) },
                    // A task upstream is gone without an end: its own fault says why.
                    None => return Ok(()),
                },
            }
        }
    }

    /// Does what an event asks for; says whether the stream is at its end.
    async fn take(&mut self, event: Event) -> Result<bool, Stopped> {
        match event {
            Event::Data(port, batch, room) => {
                self.chain.push(0, Item::Batch(port, batch));
                self.drain().await?;
                // Only now: what the rows became has left, or is held by whoever holds it.
                drop(room);
            }
            Event::Watermark(watermark) => {
                self.chain.push(0, Item::Watermark(watermark));
                self.drain().await?;
            }
            Event::Barrier(barrier) => {
                if barrier.then == Then::Finish {
                    self.chain.push(0, Item::End);
                    self.drain().await?;
                }
                let saved = self.chain.save(self.key_groups).map_err(Stopped::Fault)?;
                self.router.control(|| Message::Barrier(barrier)).await?;
                self.line.passed(barrier.epoch, Part::State(saved)).await;
                if barrier.then != Then::GoOn {
                    self.router.control(|| Message::End).await?;
                    return Ok(true);
                }
            }
            Event::End => {
                self.chain.push(0, Item::End);
                self.drain().await?;
                self.router.control(|| Message::End).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn wake(&mut self) -> Result<(), Stopped> {
        let now = Instant::now();
        while let Some(Reverse((at, link))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            self.chain.push(link, Item::Wake(self.clock.now()));
        }
        self.drain().await
    }

    /// Steps the chain until it has no more work, sending on what comes out in between.
    async fn drain(&mut self) -> Result<(), Stopped> {
        loop {
            let worked = self.chain.step().map_err(Stopped::Fault)?;
            while let Some(output) = self.chain.next_output() {
                match output {
                    Output::Batch { link, port, batch } => self.router.send(link, port, batch).await?,
                    Output::Watermark(watermark) => self.router.control(|| Message::Watermark(watermark)).await?,
                    // The barrier or end that asked for it follows.
                    Output::End => {}
                }
            }
            if !worked {
                break;
            }
        }
        for wake in self.chain.take_wakes() {
            self.timers.push(Reverse((Instant::now() + wake.after, wake.link)));
        }
        Ok(())
    }
}

async fn until(timer: Option<Instant>) {
    match timer {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
