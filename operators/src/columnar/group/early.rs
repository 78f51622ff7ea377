//! [`Early`]: which results are to be given before their windows close.

use std::collections::BTreeSet;

use crate::window::Emit;
use crate::{Result, StateVisitor, Timestamp};

/// The windows of keys that have changed since they gave a result early, where windows give some at an interval.
///
/// It is not saved: of each key it is noted how far event time had come when it changed, and when results were last given.
pub(super) struct Early<W> {
    emit: Emit,
    changed: BTreeSet<W>,
    given: Timestamp,
}

impl<W: Ord> Early<W> {
    pub(super) fn new(emit: Emit) -> Self {
        Early { emit, changed: BTreeSet::new(), given: Timestamp::MIN }
    }

    pub(super) fn emit(&self) -> Emit {
        self.emit
    }

    /// Whether it must be noted of each row how far event time had come when it was taken in.
    pub(super) fn is_noted(&self) -> bool {
        matches!(self.emit, Emit::Every(_))
    }

    /// Windows that are open have changed: those come back that are to give a result at once.
    pub(super) fn note<'w>(&mut self, windows: impl Iterator<Item = W> + 'w) -> Vec<W> {
        match self.emit {
            Emit::OnChange => windows.collect(),
            Emit::Every(_) => {
                self.changed.extend(windows);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The windows that are to give a result, as the watermark goes from `before` to `now`; those that it closes have given
    /// theirs. Once for each of its ways.
    pub(super) fn due(
        &mut self,
        before: Timestamp,
        now: Timestamp,
        closed: impl Fn(&W) -> bool,
    ) -> Option<BTreeSet<W>> {
        self.at(before, now).filter(|_| self.given != now)?;
        self.given = now;
        self.changed.retain(|window| !closed(window));
        Some(std::mem::take(&mut self.changed)).filter(|changed| !changed.is_empty())
    }

    /// The last moment at which results are due as the watermark goes from `before` to `now`, if there is one.
    pub(super) fn at(&self, before: Timestamp, now: Timestamp) -> Option<Timestamp> {
        self.emit.due(before, now)
    }

    /// A window is back that changed when event time had come to `at`.
    pub(super) fn restore(&mut self, window: W, at: Timestamp) {
        if at >= self.given {
            self.changed.insert(window);
        }
    }

    pub(super) fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        match self.is_noted() {
            true => visit.time("given", &mut self.given),
            false => Ok(()),
        }
    }
}
