//! The task of an async operator: a bounded number of calls at once, in order or not.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::future::FutureExt;
use futures::stream::{FuturesOrdered, FuturesUnordered, StreamExt};
use millstream_operators::{Cause, Code, Message, Result, Then};
use millstream_pipelines::graph::{AsyncLimits, Boxed, Call, Called, DynAsync};

use super::channel::Room;
use super::inbox::{Event, Inbox};
use super::metrics::NodeMetrics;
use super::report::{Line, Part};
use super::router::{Router, Stopped};
use super::snapshots::All;

/// One subtask of an async operator.
pub(crate) struct AsyncTask {
    pub(crate) node: Arc<str>,
    pub(crate) operator: Box<dyn DynAsync>,
    pub(crate) limits: AsyncLimits,
    pub(crate) inbox: Inbox,
    pub(crate) router: Router,
    pub(crate) line: Line,
    pub(crate) metrics: Arc<NodeMetrics>,
}

/// A call that has ended, and the room of the batch that its row came in.
type Ended = (Called, Option<Arc<Room>>);

enum Calls {
    Ordered(FuturesOrdered<Boxed<'static, Ended>>),
    Unordered(FuturesUnordered<Boxed<'static, Ended>>),
}

impl Calls {
    fn push(&mut self, call: Boxed<'static, Ended>) {
        match self {
            Calls::Ordered(calls) => calls.push_back(call),
            Calls::Unordered(calls) => calls.push(call),
        }
    }

    fn len(&self) -> usize {
        match self {
            Calls::Ordered(calls) => calls.len(),
            Calls::Unordered(calls) => calls.len(),
        }
    }

    async fn next(&mut self) -> Option<Ended> {
        match self {
            Calls::Ordered(calls) => calls.next().await,
            Calls::Unordered(calls) => calls.next().await,
        }
    }
}

impl AsyncTask {
    /// Runs until the stream ends, something goes wrong, or a task downstream is gone.
    pub(crate) async fn run(mut self) -> Result {
        let node = Arc::clone(&self.node);
        match self.work().await {
            Ok(()) | Err(Stopped::Downstream) => Ok(()),
            Err(Stopped::Fault(fault)) => Err(fault.at(&node)),
        }
    }

    async fn work(&mut self) -> Result<(), Stopped> {
        let mut calls = if self.limits.ordered {
            Calls::Ordered(FuturesOrdered::new())
        } else {
            Calls::Unordered(FuturesUnordered::new())
        };
        let mut waiting: VecDeque<(Call, Option<Arc<Room>>)> = VecDeque::new();
        loop {
            while calls.len() < self.limits.concurrency.max(1) {
                let Some((call, room)) = waiting.pop_front() else { break };
                calls.push(bounded(call, room, self.limits));
            }
            // Rows of one batch wait here at most: their room stays taken until their calls have ended.
            tokio::select! {
                biased;
                Some(ended) = calls.next(), if calls.len() > 0 => self.send(ended, &mut calls).await?,
                event = self.inbox.next(), if waiting.is_empty() => match event {
                    None => return Ok(()),
                    Some(event) => match event.map_err(Stopped::Fault)? {
                        Event::Data(_, batch, room) => {
                            self.metrics.came_in(batch.len());
                            let room = room.map(Arc::new);
                            let started = self.operator.calls(batch).map_err(Stopped::Fault)?;
                            waiting.extend(started.into_iter().map(|call| (call, room.clone())));
                        }
                        control => {
                            // What came before leaves before.
                            while let Some(ended) = calls.next().await {
                                self.send(ended, &mut calls).await?;
                            }
                            if self.pass(control).await? {
                                return Ok(());
                            }
                        }
                    },
                },
            }
        }
    }

    async fn pass(&mut self, control: Event) -> Result<bool, Stopped> {
        match control {
            Event::Watermark(watermark) => self.router.control(|| Message::Watermark(watermark)).await?,
            Event::Barrier(barrier) => {
                self.router.control(|| Message::Barrier(barrier)).await?;
                self.line.passed(barrier.epoch, Part::State(All::none())).await;
                if barrier.then != Then::GoOn {
                    self.router.control(|| Message::End).await?;
                    return Ok(true);
                }
            }
            Event::End => {
                self.router.control(|| Message::End).await?;
                return Ok(true);
            }
            Event::Data(..) => {}
        }
        Ok(false)
    }

    /// Sends a result on, and with it those that are ready by now.
    async fn send(&mut self, first: Ended, calls: &mut Calls) -> Result<(), Stopped> {
        let (mut called, mut rooms) = (vec![first.0], vec![first.1]);
        while called.len() < 1024
            && let Some(Some((next, room))) = calls.next().now_or_never()
        {
            called.push(next);
            rooms.push(room);
        }
        for Called { result, .. } in &mut called {
            if let Err(cause) = result {
                *cause = cause.clone().at_node(&self.node);
            }
        }
        let (done, rejected) = self.operator.gather(called).map_err(Stopped::Fault)?;
        for (port, batch) in [(0, done), (1, rejected)] {
            if !batch.is_empty() {
                self.metrics.went_out(port, batch.len());
                self.router.send(0, port, batch).await?;
            }
        }
        Ok(())
    }
}

fn bounded(call: Call, room: Option<Arc<Room>>, limits: AsyncLimits) -> Boxed<'static, Ended> {
    Box::pin(async move {
        let Call { time, origin, row, future } = call;
        let called = AssertUnwindSafe(tokio::time::timeout(limits.timeout, future)).catch_unwind().await;
        let result = match called {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Cause::new(Code::Timeout, format!("the call took longer than {:?}", limits.timeout))),
            Err(_) => Err(Cause::new(Code::Panic, "the call panicked")),
        };
        (Called { time, origin, row, result }, room)
    })
}
