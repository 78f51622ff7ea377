//! [`Gate`]: what must be there before the first row is read.

use std::sync::{Mutex, PoisonError};

use millstream_operators::{Fault, FaultKind, Result};
use tokio::sync::watch;

/// Holds sources back until everything is there that operators look at; nodes find it among the resources.
#[derive(Debug, Default)]
pub struct Gate(Mutex<Vec<watch::Receiver<State>>>);

/// Nothing yet; or that reading may begin, or the fault that it would be.
type State = Option<Result<(), (FaultKind, String)>>;

/// Opens the gate, or says why it cannot be opened. Dropped before, it is a fault.
#[derive(Debug)]
pub struct Opener(watch::Sender<State>);

impl Gate {
    /// Nothing is read until the opener has said that it may.
    pub fn hold(&self) -> Opener {
        let (sender, receiver) = watch::channel(None);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(receiver);
        Opener(sender)
    }

    /// Waits until all have said that reading may begin. Cancel-safe.
    ///
    /// # Errors
    /// The first that says why it must not.
    pub(crate) async fn opened(&self) -> Result {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for mut one in all {
            match one.wait_for(Option::is_some).await.map(|state| state.clone()) {
                Ok(Some(said)) => said.map_err(|(kind, why)| Fault::new(kind, why))?,
                Ok(None) | Err(_) => return Err(Fault::bug("who was to make a table ready is gone")),
            }
        }
        Ok(())
    }
}

impl Opener {
    /// Reading may begin.
    pub fn open(&self) {
        self.say(Ok(()));
    }

    /// Reading must not begin, unless it has begun.
    pub fn refuse(&self, fault: &Fault) {
        self.say(Err((fault.kind(), fault.chain())));
    }

    /// Whether it has said anything.
    pub fn has_said(&self) -> bool {
        self.0.borrow().is_some()
    }

    fn say(&self, what: Result<(), (FaultKind, String)>) {
        self.0.send_if_modified(|state| {
            let first = state.is_none();
            if first {
                *state = Some(what);
            }
            first
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_opens_when_all_have_said_so_and_what_is_said_stands() {
        let gate = Gate::default();
        gate.opened().await.unwrap();
        let (first, second) = (gate.hold(), gate.hold());
        first.open();
        first.refuse(&Fault::bug("too late"));
        let early = tokio::time::timeout(std::time::Duration::ZERO, gate.opened()).await;
        assert!(early.is_err() && !second.has_said());
        second.open();
        gate.opened().await.unwrap();
    }

    #[tokio::test]
    async fn it_says_why_it_stays_shut() {
        let gate = Gate::default();
        gate.hold().refuse(&Fault::operator("no such bucket"));
        assert!(gate.opened().await.unwrap_err().to_string().contains("no such bucket"));
        let forgotten = Gate::default();
        drop(forgotten.hold());
        assert!(forgotten.opened().await.unwrap_err().to_string().contains("is gone"));
    }
}
