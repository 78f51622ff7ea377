//! [`Beside`]: work of a run on threads that may wait, with connections that are the run's.

use std::future::Future;

use millstream_operators::{Fault, FaultKind, Result};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

/// Where tasks of a run have work done that would keep others waiting.
///
/// What such work asks the broker for runs where the run's coordinator does: a connection belongs to a thread, and threads that
/// may wait come and go.
#[derive(Clone, Debug)]
pub(crate) struct Beside {
    main: Handle,
    // Dropped with the last piece of work.
    busy: mpsc::Sender<()>,
}

/// What is left of a run's work when its tasks have ended.
#[derive(Debug)]
pub(crate) struct Left(mpsc::Receiver<()>);

impl Left {
    /// Waits until nothing is.
    pub(crate) async fn none(&mut self) {
        while self.0.recv().await.is_some() {}
    }
}

impl Beside {
    /// For a run on the runtime that this is called on.
    pub(crate) fn here() -> (Self, Left) {
        let (busy, left) = mpsc::channel(1);
        (Beside { main: Handle::current(), busy }, Left(left))
    }

    /// Has work done, from now on, which is told when nobody waits for it any more.
    ///
    /// # Errors
    /// What `work` says; it panicked at `what`.
    pub(crate) fn work<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Wanted) -> Result<T> + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send + 'static {
        let (wants, wanted) = watch::channel(());
        let (wanted, busy) = (Wanted { main: self.main.clone(), wanted }, self.busy.clone());
        // What it gives is gone before the run counts it as done, also if nobody takes it.
        let work = tokio::task::spawn_blocking(move || (work(&wanted), busy));
        async move {
            let done = work.await.map(|(done, _)| done);
            drop(wants);
            done.unwrap_or_else(|error| Err(Fault::new(FaultKind::Panic, what).because(error)))
        }
    }
}

/// Whether work is still wanted, and the way from it to the run's connections.
#[derive(Debug)]
pub(crate) struct Wanted {
    main: Handle,
    wanted: watch::Receiver<()>,
}

impl Wanted {
    /// Fails if nobody waits for the work any more.
    ///
    /// # Errors
    /// A fault that nobody sees.
    pub(crate) fn check(&self) -> Result {
        if self.wanted.has_changed().is_ok() { Ok(()) } else { Err(ended()) }
    }

    /// Waits for something as long as the work is wanted.
    ///
    /// # Errors
    /// As [`check`](Wanted::check).
    pub(crate) fn wait<T: Send + 'static>(&self, until: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let mut wanted = self.wanted.clone();
        let done = self.main.spawn(async move {
            tokio::select! {
                biased;
                _ = wanted.changed() => None,
                done = until => Some(done),
            }
        });
        self.main.block_on(done).ok().flatten().ok_or_else(ended)
    }
}

fn ended() -> Fault {
    Fault::new(FaultKind::Checkpoint, "the run that wanted it has ended")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn what_is_waited_for_runs_on_the_thread_of_the_run() {
        let (beside, _left) = Beside::here();
        let here = thread::current().id();
        let (there, waited) = beside
            .work("it panicked", |wanted| Ok((thread::current().id(), wanted.wait(async { thread::current().id() })?)))
            .await
            .unwrap();
        assert!(there != here && waited == here);
    }

    #[tokio::test]
    async fn work_that_nobody_wants_ends_and_is_waited_for() {
        let (beside, mut left) = Beside::here();
        let begun = Arc::new(Notify::new());
        let begins = Arc::clone(&begun);
        let work = tokio::spawn(async move {
            let endless = beside.work("it panicked", move |wanted| {
                begins.notify_one();
                let waited = wanted.wait(std::future::pending::<()>());
                assert!(wanted.check().is_err());
                waited
            });
            endless.await
        });
        begun.notified().await;
        assert!(tokio::time::timeout(Duration::from_millis(10), left.none()).await.is_err());
        work.abort();
        left.none().await;
    }
}
