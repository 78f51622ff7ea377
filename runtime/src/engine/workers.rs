//! [`Workers`]: the threads that tasks run on, each with a current-thread runtime of its own.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use millstream_operators::{Fault, FaultKind, Result};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};

use super::order::Order;

/// Where tasks run: on threads of their own, or on the runtime that is there already.
///
/// A worker is one thread with a current-thread runtime: a subtask stays on its worker, with the connection that it
/// uses, and nothing of the data path is shared between workers.
///
/// Stages whose state may wait for a disk run apart, so that no connection waits with them.
#[derive(Clone)]
pub struct Workers {
    workers: Arc<Vec<Worker>>,
    apart: Arc<Vec<Worker>>,
    // In a simulation: who goes on next.
    order: Option<Order>,
}

struct Worker {
    handle: Handle,
    // Dropped with the last clone: the thread leaves its runtime, which drops the tasks that are left.
    _alive: Option<oneshot::Sender<()>>,
}

impl Workers {
    /// The runtime that this is called on: for tests with paused time, and for programs that have one.
    ///
    /// # Errors
    /// A setup fault outside of a tokio runtime.
    pub fn here() -> Result<Self> {
        let handle = Handle::try_current().map_err(|error| setup("there is no tokio runtime here").because(error))?;
        Ok(Workers { workers: Arc::new(vec![Worker { handle, _alive: None }]), apart: Arc::default(), order: None })
    }

    /// The runtime that this is called on and no other thread, for simulations: which task goes on next is decided by `seed`.
    ///
    /// # Errors
    /// As [`here`](Workers::here).
    pub fn simulated(seed: u64) -> Result<Self> {
        Ok(Workers { order: Some(Order::of(seed)), ..Workers::here()? })
    }

    /// `count` threads, at least one.
    ///
    /// # Errors
    /// A setup fault when the system gives no more threads.
    pub fn threads(count: usize) -> Result<Self> {
        let workers = (0..count.max(1)).map(|number| Worker::start(format!("millstream-{number}")));
        Ok(Workers { workers: Arc::new(workers.collect::<Result<_>>()?), apart: Arc::default(), order: None })
    }

    /// As many threads again, for stages that may wait for a disk; none where workers are no threads of their own.
    ///
    /// # Errors
    /// As [`threads`](Workers::threads).
    pub(crate) fn with_some_apart(mut self) -> Result<Self> {
        let own = self.workers.iter().filter(|worker| worker._alive.is_some()).count();
        let apart = (0..own).map(|number| Worker::start(format!("millstream-state-{number}")));
        self.apart = Arc::new(apart.collect::<Result<_>>()?);
        Ok(self)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// Runs a subtask's future on the worker of that subtask.
    pub(crate) fn spawn(
        &self,
        subtask: u32,
        tasks: &mut JoinSet<Result>,
        future: impl Future<Output = Result> + Send + 'static,
    ) {
        if let Some(worker) = self.workers.get(subtask as usize % self.workers.len().max(1)) {
            match &self.order {
                None => tasks.spawn_on(future, &worker.handle),
                Some(order) => tasks.spawn_on(order.task(future), &worker.handle),
            };
        }
    }

    /// Does what would keep the tasks of this thread waiting: on another one, where there may be one.
    ///
    /// # Errors
    /// It panicked.
    pub(crate) async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        match self.order {
            None => tokio::task::spawn_blocking(work).await,
            Some(_) => Ok(work()),
        }
    }

    /// Runs a whole run as a task of its own.
    #[cfg(feature = "testkit")]
    pub(crate) fn spawn_run<T: Send + 'static>(
        &self,
        run: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        match &self.order {
            None => tokio::spawn(run),
            Some(order) => tokio::spawn(order.task(run)),
        }
    }

    /// Runs the future of a subtask that may wait for a disk.
    pub(crate) fn spawn_apart(
        &self,
        subtask: u32,
        tasks: &mut JoinSet<Result>,
        future: impl Future<Output = Result> + Send + 'static,
    ) {
        match self.apart.get(subtask as usize % self.apart.len().max(1)) {
            Some(worker) => drop(tasks.spawn_on(future, &worker.handle)),
            None => self.spawn(subtask, tasks, future),
        }
    }
}

impl Worker {
    fn start(name: String) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| setup("a worker's runtime cannot be made").because(error))?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                let _ = runtime.block_on(ended);
            })
            .map_err(|error| setup("a worker's thread cannot be started").because(error))?;
        Ok(Worker { handle, _alive: Some(alive) })
    }
}

fn setup(what: &str) -> Fault {
    Fault::new(FaultKind::Setup, what)
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workers({})", self.workers.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_subtask_stays_on_its_worker() {
        let workers = Workers::threads(2).unwrap();
        let mut tasks = JoinSet::new();
        for subtask in [0, 1, 2, 3] {
            workers.spawn(subtask, &mut tasks, async move {
                let thread = std::thread::current().name().map(str::to_owned);
                assert_eq!(thread, Some(format!("millstream-{}", subtask % 2)));
                Ok(())
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn in_a_simulation_nothing_is_done_on_another_thread() {
        let here = std::thread::current().id();
        let id = || std::thread::current().id();
        assert_eq!(Workers::simulated(7).unwrap().aside(id).await.unwrap(), here);
        assert_ne!(Workers::here().unwrap().aside(id).await.unwrap(), here);
    }
}
