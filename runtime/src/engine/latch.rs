//! [`Latch`]: what must be there before the first row is read.

use std::sync::{Mutex, PoisonError};

use millstream_operators::{Fault, FaultKind, Result};
use tokio::sync::watch;

/// Holds rows back until everything is there that operators look at: sources read nothing, and nobody is woken. Nodes find it
/// among the resources.
#[derive(Debug)]
pub struct Latch {
    opening: Mutex<Vec<watch::Receiver<State>>>,
    // Whether nobody is to be woken before a row has been read.
    resting: watch::Sender<bool>,
}

/// Nothing yet; or that reading may begin, or the fault that it would be.
type State = Option<Result<(), (FaultKind, String)>>;

/// Opens the latch, or says why it cannot be opened. Dropped before, it is a fault.
#[derive(Debug)]
pub struct Opener(watch::Sender<State>);

impl Default for Latch {
    fn default() -> Self {
        Latch { opening: Mutex::default(), resting: watch::Sender::new(false) }
    }
}

impl Latch {
    /// A run begins, in which nobody is woken before the first row if it `rests`: it goes on from the end of the input, where
    /// all that was due has been given, and of which no trace is in the state.
    pub(crate) fn rest(&self, rests: bool) {
        self.resting.send_replace(rests);
    }

    /// A row has been read.
    pub(crate) fn rouse(&self) {
        self.resting.send_if_modified(std::mem::take);
    }

    /// Waits until operators may be woken. Cancel-safe.
    ///
    /// # Errors
    /// As [`opened`](Latch::opened).
    pub(crate) async fn woken(&self) -> Result {
        self.opened().await?;
        let mut resting = self.resting.subscribe();
        // It is dropped with this.
        let _ = resting.wait_for(|rests| !rests).await;
        Ok(())
    }

    /// Nothing is read until the opener has said that it may.
    pub fn hold(&self) -> Opener {
        let (sender, receiver) = watch::channel(None);
        let mut all = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        // Who is gone without a word belonged to a run that did not come about.
        let is_forgotten = |one: &watch::Receiver<State>| one.borrow().is_none() && one.has_changed().is_err();
        all.retain(|one| !is_open(one) && !is_forgotten(one));
        all.push(receiver);
        Opener(sender)
    }

    /// Waits until all have said that reading may begin, those that come meanwhile as well. Cancel-safe.
    ///
    /// # Errors
    /// The first that says why it must not.
    pub(crate) async fn opened(&self) -> Result {
        while let Some(mut shut) = self.shut() {
            match shut.wait_for(Option::is_some).await.map(|state| state.clone()) {
                Ok(Some(said)) => said.map_err(|(kind, why)| Fault::new(kind, why))?,
                Ok(None) | Err(_) => return Err(Fault::bug("who was to make a table ready is gone")),
            }
        }
        Ok(())
    }

    fn shut(&self) -> Option<watch::Receiver<State>> {
        let all = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|one| !is_open(one)).cloned()
    }
}

fn is_open(one: &watch::Receiver<State>) -> bool {
    matches!(*one.borrow(), Some(Ok(())))
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
        let latch = Latch::default();
        latch.opened().await.unwrap();
        let (first, second) = (latch.hold(), latch.hold());
        first.open();
        first.refuse(&Fault::bug("too late"));
        let early = tokio::time::timeout(std::time::Duration::ZERO, latch.opened()).await;
        assert!(early.is_err() && !second.has_said());
        let third = tokio::select! {
            biased;
            _ = latch.opened() => None,
            third = async {
                second.open();
                latch.hold()
            } => Some(third),
        };
        assert!(tokio::time::timeout(std::time::Duration::ZERO, latch.opened()).await.is_err());
        third.unwrap().open();
        latch.opened().await.unwrap();
    }

    #[tokio::test]
    async fn behind_the_end_of_the_input_nobody_is_woken_before_a_row() {
        let latch = Latch::default();
        latch.woken().await.unwrap();
        latch.rest(true);
        latch.opened().await.unwrap();
        assert!(tokio::time::timeout(std::time::Duration::ZERO, latch.woken()).await.is_err());
        latch.rouse();
        latch.woken().await.unwrap();
    }

    #[tokio::test]
    async fn it_says_why_it_stays_shut() {
        let latch = Latch::default();
        latch.hold().refuse(&Fault::operator("no such bucket"));
        assert!(latch.opened().await.unwrap_err().to_string().contains("no such bucket"));
        let forgotten = Latch::default();
        drop(forgotten.hold());
        assert!(forgotten.opened().await.unwrap_err().to_string().contains("is gone"));
    }
}
