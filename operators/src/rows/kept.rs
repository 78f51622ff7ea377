//! [`Kept`]: how a node keeps the state of its keys: for how long, and in which version.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::silence::{Clock, Silence};
use crate::{StateKey, Timestamp, Versions};

/// For how long, and in which version, a node keeps the state of its keys; [`kept`] begins it.
pub struct Kept<S> {
    ttl: Option<(Duration, Time)>,
    pub(super) versions: Versions<S>,
}

/// By what time a key is silent.
#[derive(Clone)]
enum Time {
    OfRows,
    OfClock(Clock),
}

/// State that is kept for ever, in version 1, unless more is said.
pub fn kept<S>() -> Kept<S> {
    Kept { ttl: None, versions: Versions::default() }
}

impl<S> Kept<S> {
    /// A key is forgotten when no row has come for it for longer than `span` of event time, which needs watermarks upstream; see
    /// [`Expiry`](crate::Expiry).
    #[must_use]
    pub fn ttl(mut self, span: Duration) -> Self {
        self.ttl = Some((span, Time::OfRows));
        self
    }

    /// A key is forgotten when no row has come for it for longer than `span` on the clock of the engine, whatever the times of
    /// rows are. What it had is gone for a row that comes later, and its memory is free after twice the span at the latest.
    /// Rows that are read again after a crash come when they come: results may be others then.
    #[must_use]
    pub fn ttl_by_clock(mut self, span: Duration) -> Self {
        let stands_still: Clock = Arc::new(|| Timestamp::MIN);
        self.ttl = Some((span, Time::OfClock(stands_still)));
        self
    }

    /// Whether keys are forgotten by event time, which all rows must have then.
    pub fn by_event_time(&self) -> bool {
        matches!(self.ttl, Some((_, Time::OfRows)))
    }

    /// The clock to go by, where one is needed.
    #[must_use]
    pub fn on_clock(mut self, clock: Arc<dyn Fn() -> Timestamp + Send + Sync>) -> Self {
        if let Some((_, Time::OfClock(of))) = &mut self.ttl {
            *of = clock;
        }
        self
    }

    /// Which keys are to be forgotten, if any are.
    pub(super) fn silence<K: StateKey>(&self) -> Option<Silence<K>> {
        let (span, time) = self.ttl.as_ref()?;
        let clock = match time {
            Time::OfRows => None,
            Time::OfClock(clock) => Some(Arc::clone(clock)),
        };
        Some(Silence::new(*span, clock))
    }

    /// The type of the state is of this version now. Programs before it had versions from 1 on; say how their values become
    /// such with [`migrate`](Kept::migrate).
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.versions = self.versions.now(version);
        self
    }

    /// A value of an older version becomes one of this version by `migrate`, when a run goes on from a checkpoint that has such.
    #[must_use]
    pub fn migrate<Old, F>(mut self, version: u32, migrate: F) -> Self
    where
        Old: DeserializeOwned,
        F: Fn(Old) -> S + Send + Sync + 'static,
    {
        self.versions = self.versions.migrate(version, migrate);
        self
    }
}

impl<S> Clone for Kept<S> {
    fn clone(&self) -> Self {
        Kept { ttl: self.ttl.clone(), versions: self.versions.clone() }
    }
}

impl<S> fmt::Debug for Kept<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("ttl", &self.ttl.as_ref().map(|(span, _)| span))
            .field("versions", &self.versions)
            .finish()
    }
}

impl<S> fmt::Display for Kept<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let forgotten = match &self.ttl {
            Some((span, Time::OfRows)) => Some(format!("forgotten after {span:?}")),
            Some((span, Time::OfClock(_))) => Some(format!("forgotten after {span:?} by the clock")),
            None => None,
        };
        let version = self.versions.version();
        let version = (version > 1).then(|| format!("state version {version}"));
        f.write_str(&forgotten.into_iter().chain(version).collect::<Vec<_>>().join(", "))
    }
}
