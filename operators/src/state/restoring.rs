//! [`Restore`]: keyed state that comes back, from what was saved or a run at a time.

use std::sync::Arc;

use bytes::Bytes;

#[cfg(feature = "columnar")]
use super::Snapshot;
use super::versions::Read;
use super::{Keyed, Run, Saved, Spill, StateKey, StateValue, Timers, Versions};
use crate::Result;

/// Keyed state that its operator keeps in a way of its own.
#[cfg(feature = "columnar")]
pub(crate) trait Piece {
    /// All of it as it is now, and what has changed since the last snapshot.
    fn freeze(&mut self) -> Result<Box<dyn Snapshot>>;

    /// Keeps to the budget from now on, and lets go of what is too much; false if it stays in memory however much it is.
    fn fit(&mut self, spill: &Arc<Spill>) -> Result<bool>;

    /// Does what a run says, of state that is restored; nothing counts as changed by that.
    fn play(&mut self, run: &Run) -> Result;
}

/// The runs of keyed state that is restored, read one at a time: all of them may not fit in memory.
pub trait Runs {
    /// The names of the pieces that there are.
    fn names(&self) -> Vec<String>;

    /// Gives the runs of a piece to `play`, one behind the other.
    ///
    /// # Errors
    /// One cannot be read, or what `play` says.
    fn each(&mut self, name: &str, play: &mut dyn FnMut(&Run) -> Result) -> Result;
}

/// What is put back.
pub(super) struct Restore<'a> {
    pub(super) saved: &'a Saved,
    // In place of those that are in `saved`, and where what does not fit goes.
    pub(super) streamed: Option<(&'a mut dyn Runs, &'a Arc<Spill>)>,
}

impl Restore<'_> {
    pub(super) fn names(&self) -> Vec<String> {
        match &self.streamed {
            Some((runs, _)) => runs.names(),
            None => self.saved.runs.keys().cloned().collect(),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        match &self.streamed {
            Some((runs, _)) => runs.names().iter().any(|other| other == name),
            None => self.saved.runs.contains_key(name),
        }
    }

    pub(super) fn each(&mut self, name: &str, mut play: impl FnMut(&Run) -> Result) -> Result {
        match &mut self.streamed {
            Some((runs, _)) => runs.each(name, &mut play),
            None => self.saved.runs.get(name).into_iter().flatten().try_for_each(play),
        }
    }

    pub(super) fn keyed<K: StateKey, S: StateValue>(
        &mut self,
        name: &str,
        versions: &Versions<S>,
    ) -> Result<Keyed<K, S>> {
        let read: Option<Read<S>> = versions.reader(name, self.version(name))?;
        let mut keyed = Keyed::default();
        if let Some((_, spill)) = &self.streamed {
            keyed.fit(spill);
        }
        self.each(name, |run| keyed.play(name, run, read.as_deref()))?;
        keyed.settle();
        if read.is_some() {
            // Values of two versions must not meet in one checkpoint.
            keyed.tell_all();
        }
        Ok(keyed)
    }

    pub(super) fn version(&self, name: &str) -> u32 {
        self.saved.versions.get(name).copied().unwrap_or(1)
    }

    pub(super) fn timers<K: StateKey>(&mut self, name: &str) -> Result<Timers<K>> {
        let mut timers = Timers::default();
        if let Some((_, spill)) = &self.streamed {
            timers.fit(spill);
        }
        self.each(name, |run| timers.play(name, run))?;
        timers.settle();
        Ok(timers)
    }

    #[cfg(feature = "columnar")]
    pub(super) fn piece<P: Piece>(&mut self, name: &str, new: impl FnOnce() -> P) -> Result<P> {
        let mut piece = new();
        if let Some((_, spill)) = &self.streamed {
            piece.fit(spill)?;
        }
        self.each(name, |run| piece.play(run))?;
        Ok(piece)
    }

    pub(super) fn bytes(&mut self, name: &str) -> Result<Vec<Bytes>> {
        let mut all = Vec::new();
        self.each(name, |run| {
            all.extend(run.put().cloned());
            Ok(())
        })?;
        Ok(all)
    }
}
