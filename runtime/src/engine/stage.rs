//! The task of a stage: inbox -> chain -> router, again and again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use millstream_operators::{Epoch, Message, Result, Then};
use tokio::time::Instant;

use super::chain::{Chain, Item, Output};
use super::clock::Clock;
use super::inbox::{Event, Inbox};
use super::latch::Latch;
use super::metrics::Metrics;
use super::report::{Line, Part, Report};
use super::restore::Restore;
use super::router::{Router, Stopped};
use super::snapshots::{All, Snapshots};

/// One subtask of a stage.
pub(crate) struct StageTask {
    pub(crate) inbox: Inbox,
    pub(crate) chain: Chain,
    pub(crate) router: Router,
    pub(crate) clock: Clock,
    pub(crate) snapshots: Snapshots,
    pub(crate) line: Line,
    pub(crate) metrics: Metrics,
    pub(crate) timers: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Behind which nobody is woken.
    pub(crate) latch: Arc<Latch>,
    /// What is to be restored before anything else.
    pub(crate) restore: Option<Restore>,
    /// Batches and watermarks since state was last made to fit in memory.
    pub(crate) unfitted: u32,
    /// The state of a checkpoint that is being encoded.
    pub(crate) saving: Option<(Epoch, Saving)>,
}

/// Maps look by themselves how much comes into them; what grows inside of their values is looked at so often.
const OFTEN: u32 = 16;
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) type Saving = Pin<Box<dyn Future<Output = Result<All>> + Send>>;

impl StageTask {
    /// Runs until the stream ends, something goes wrong, or a task downstream is gone.
    pub(crate) async fn run(mut self) -> Result {
        match self.work().await {
            Ok(()) | Err(Stopped::Downstream) => Ok(()),
            Err(Stopped::Fault(fault)) => Err(fault),
        }
    }

    async fn work(&mut self) -> Result<(), Stopped> {
        if let Some(restore) = self.restore.take() {
            self.chain = restore.into(std::mem::take(&mut self.chain)).await.map_err(Stopped::Fault)?;
            self.line.tell(Report::Open(self.line.task, None)).await;
        }
        let latch = Arc::clone(&self.latch);
        let mut open = false;
        loop {
            let timer = self.timers.peek().map(|Reverse((at, _))| *at);
            tokio::select! {
                biased;
                saved = done(&mut self.saving) => self.saved(saved).await?,
                opened = latch.woken(), if !open => {
                    opened.map_err(Stopped::Fault)?;
                    open = true;
                    // Restored operators may hold rows that wait for a timer: each is woken once, and asks again if it wants.
                    for link in 0..self.chain.len() {
                        self.chain.push(link, Item::Wake(self.clock.now()));
                    }
                    self.drain().await?;
                }
                () = until(timer), if open => self.wake().await?,
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
                self.fit()?;
                // Only now: what the rows became has left, or is held by whoever holds it.
                drop(room);
            }
            Event::Watermark(watermark) => {
                self.chain.push(0, Item::Watermark(watermark));
                self.drain().await?;
                self.fit()?;
            }
            Event::Barrier(barrier) => {
                if barrier.then == Then::Finish {
                    self.chain.push(0, Item::End);
                    self.drain().await?;
                    self.router.control(|| Message::Barrier(barrier)).await?;
                    self.all_saved().await?;
                    // What operators held before the end is in the checkpoint before, and stays what the next run goes on from.
                    self.line.passed(barrier.epoch, Part::State(All::none())).await;
                    self.router.control(|| Message::End).await?;
                    return Ok(true);
                }
                // Before there is another to be encoded.
                self.all_saved().await?;
                self.unfitted = OFTEN;
                let start = Instant::now();
                self.fit()?;
                let frozen = self.chain.freeze().map_err(Stopped::Fault)?;
                self.metrics.paused(start.elapsed());
                // It is being encoded though nobody polls: this task may wait for others that wait for this snapshot.
                self.saving = Some((barrier.epoch, Box::pin(self.snapshots.take(frozen))));
                self.router.control(|| Message::Barrier(barrier)).await?;
                if barrier.then != Then::GoOn {
                    self.all_saved().await?;
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

    fn fit(&mut self) -> Result<(), Stopped> {
        self.unfitted += 1;
        if self.unfitted >= OFTEN {
            self.unfitted = 0;
            self.chain.fit().map_err(Stopped::Fault)?;
        }
        Ok(())
    }

    /// Reports the state of a checkpoint, which is encoded.
    async fn saved(&mut self, (epoch, saved): (Epoch, Result<All>)) -> Result<(), Stopped> {
        self.saving = None;
        self.line.passed(epoch, Part::State(saved.map_err(Stopped::Fault)?)).await;
        Ok(())
    }

    async fn all_saved(&mut self) -> Result<(), Stopped> {
        if self.saving.is_none() {
            return Ok(());
        }
        let saved = done(&mut self.saving).await;
        self.saved(saved).await
    }

    /// Waits while snapshots, of this task or another, have to be encoded before more is written to where state is that does not
    /// fit in memory.
    async fn catch_up(&mut self) -> Result<(), Stopped> {
        while self.chain.is_behind() {
            match self.saving.is_some() {
                true => self.all_saved().await?,
                false => tokio::time::sleep(PAUSE).await,
            }
        }
        Ok(())
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
            self.catch_up().await?;
        }
        for wake in self.chain.take_wakes() {
            self.timers.push(Reverse((Instant::now() + wake.after, wake.link)));
        }
        Ok(())
    }
}

/// Waits for what is being encoded, for ever if nothing is. Cancel-safe.
async fn done(saving: &mut Option<(Epoch, Saving)>) -> (Epoch, Result<All>) {
    match saving {
        Some((epoch, saving)) => (*epoch, saving.await),
        None => std::future::pending().await,
    }
}

async fn until(timer: Option<Instant>) {
    match timer {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
