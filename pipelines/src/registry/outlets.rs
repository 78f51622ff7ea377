//! [`Outlets`]: the sinks of rejected rows in a pipeline file, by name.

use std::collections::{HashMap, HashSet};

use millstream_operators::suggest::did_you_mean;

use super::RejectedWord;
use crate::dsl::{OnRejected, Outlet};

/// The sinks of rejected rows that are wired so far, and which of them were named.
#[derive(Default)]
pub(crate) struct Outlets {
    known: HashMap<String, Outlet>,
    // Something is wrong with them, which is noted.
    broken: HashSet<String>,
    // Whether or not there can be any rows for them.
    named: HashSet<String>,
}

/// A name that stands for no sink of rejected rows.
pub(crate) struct Unknown {
    pub(crate) what: String,
    pub(crate) help: String,
}

impl Outlets {
    /// Adds a sink.
    pub(crate) fn add(&mut self, name: &str, outlet: Outlet) {
        self.known.insert(name.to_owned(), outlet);
    }

    /// Adds a sink that something is wrong with.
    pub(crate) fn add_broken(&mut self, name: &str) {
        self.broken.insert(name.to_owned());
    }

    /// Whether there is a sink that neither takes rows nor was named.
    pub(crate) fn is_unused(&self, name: &str) -> bool {
        self.known.get(name).is_some_and(|outlet| !outlet.is_used() && !self.named.contains(name))
    }

    /// What becomes of rows, as `word` says.
    ///
    /// # Errors
    /// It names no sink of rejected rows.
    pub(crate) fn resolve(&mut self, word: &RejectedWord) -> Result<OnRejected, Unknown> {
        let name = match word {
            RejectedWord::Stop => return Ok(OnRejected::Stop),
            RejectedWord::Drop => return Ok(OnRejected::Drop),
            RejectedWord::SendTo(name) => name,
        };
        self.named.insert(name.clone());
        if let Some(outlet) = self.known.get(name) {
            return Ok(OnRejected::To(outlet.clone()));
        }
        if self.broken.contains(name) {
            // The mistake is noted; that rows are rejected into nothing is not another.
            return Ok(OnRejected::Drop);
        }
        let known: Vec<&str> = self.known.keys().map(String::as_str).collect();
        let help = did_you_mean(name, "sinks without a `from`", known)
            .unwrap_or_else(|| format!("add `[sinks.{name}]` without a `from`"));
        Err(Unknown { what: format!("`{name}` is no sink of rejected rows"), help })
    }
}
