//! [`Workers`]: the threads that tasks run on, each with a current-thread runtime of its own.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use millstream_operators::{Fault, FaultKind, Result};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Where tasks run: on threads of their own, or on the runtime that is there already.
///
/// A worker is one thread with a current-thread runtime: a subtask stays on its worker, with the connection that it
/// uses, and nothing of the data path is shared between workers.
#[derive(Clone)]
pub struct Workers(Arc<Vec<Worker>>);

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
        Ok(Workers(Arc::new(vec![Worker { handle, _alive: None }])))
    }

    /// `count` threads, at least one.
    ///
    /// # Errors
    /// A setup fault when the system gives no more threads.
    pub fn threads(count: usize) -> Result<Self> {
        (0..count.max(1)).map(Worker::start).collect::<Result<Vec<_>>>().map(|workers| Workers(Arc::new(workers)))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Runs a subtask's future on the worker of that subtask.
    pub(crate) fn spawn(
        &self,
        subtask: u32,
        tasks: &mut JoinSet<Result>,
        future: impl Future<Output = Result> + Send + 'static,
    ) {
        if let Some(worker) = self.0.get(subtask as usize % self.0.len().max(1)) {
            tasks.spawn_on(future, &worker.handle);
        }
    }
}

impl Worker {
    fn start(number: usize) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| setup("a worker's runtime cannot be made").because(error))?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name(format!("millstream-{number}"))
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
        write!(f, "Workers({})", self.0.len())
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
}
