//! [`Stopper`]: how a run is asked to end.

use std::sync::Arc;

use tokio::sync::watch;

/// What a run is asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// Go on.
    #[default]
    No,
    /// Stop reading, let everything pass, make a last checkpoint.
    Drain,
    /// Stop where you are.
    Now,
}

/// Asks a run to end. Clones ask the same run.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<watch::Sender<Stop>>);

impl Default for Stopper {
    fn default() -> Self {
        Stopper(Arc::new(watch::Sender::new(Stop::No)))
    }
}

impl Stopper {
    /// Stop reading, let everything that was read pass, make a last checkpoint: the next run produces no duplicate.
    pub fn drain(&self) {
        self.0.send_if_modified(|stop| raise(stop, Stop::Drain));
    }

    /// Stop at once: nothing is lost, and the next run repeats what came after the last checkpoint.
    pub fn now(&self) {
        self.0.send_if_modified(|stop| raise(stop, Stop::Now));
    }

    /// Whether an end was asked for.
    pub fn is_stopping(&self) -> bool {
        *self.0.borrow() != Stop::No
    }

    /// Whether a stop at once was asked for.
    pub fn is_stopping_now(&self) -> bool {
        *self.0.borrow() == Stop::Now
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Stop> {
        self.0.subscribe()
    }
}

fn raise(stop: &mut Stop, to: Stop) -> bool {
    let higher = to > *stop;
    if higher {
        *stop = to;
    }
    higher
}
