//! [`Kept`]: how a node keeps the state of its keys: for how long, and in which version.

use std::fmt;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::Versions;

/// For how long, and in which version, a node keeps the state of its keys; [`kept`] begins it.
pub struct Kept<S> {
    pub(super) ttl: Option<Duration>,
    pub(super) versions: Versions<S>,
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
        self.ttl = Some(span);
        self
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
        Kept { ttl: self.ttl, versions: self.versions.clone() }
    }
}

impl<S> fmt::Debug for Kept<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("ttl", &self.ttl).field("versions", &self.versions).finish()
    }
}

impl<S> fmt::Display for Kept<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(span) = self.ttl {
            write!(f, "forgotten after {span:?}, ")?;
        }
        write!(f, "state version {}", self.versions.version())
    }
}
