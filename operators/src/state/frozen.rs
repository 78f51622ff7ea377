//! [`Frozen`]: the state of an operator at a barrier, to be encoded while the operator goes on.

use std::fmt;

use super::{Run, Saved};
use crate::Result;

/// Keyed state as it was at a barrier.
pub trait Snapshot: Send {
    /// About how many entries there are to encode.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Encodes all of it if `whole`, else what has changed since the snapshot before, by so many key groups. It may give
    /// all of it where that is no more, or what has changed is not known. It comes in parts of some MB: runs that say the same
    /// when they are played one behind the other, of which there is at least one. Either all of them are whole or none is.
    ///
    /// # Errors
    /// A checkpoint fault when an entry cannot be encoded, or what `give` says.
    fn encode_in_parts(self: Box<Self>, key_groups: u32, whole: bool, give: &mut dyn FnMut(Run) -> Result) -> Result;

    /// The same as one run.
    ///
    /// # Errors
    /// A checkpoint fault when an entry cannot be encoded.
    fn encode(self: Box<Self>, key_groups: u32, whole: bool) -> Result<Run> {
        let mut parts = Vec::new();
        self.encode_in_parts(key_groups, whole, &mut |part| {
            parts.push(part);
            Ok(())
        })?;
        Ok(Run::joined(parts))
    }
}

/// Pieces of keyed state, by name.
pub type Pieces = Vec<(String, Box<dyn Snapshot>)>;

/// The state of an operator at a barrier: small things encoded, and keyed state as it was then, which may be encoded later
/// and elsewhere.
#[derive(Default)]
pub struct Frozen {
    pub(super) small: Saved,
    pub(super) keyed: Pieces,
}

impl Frozen {
    /// About how many entries of keyed state there are to encode.
    pub fn len(&self) -> usize {
        self.keyed.iter().map(|(_, snapshot)| snapshot.len()).sum()
    }

    /// Whether the operator keeps no state.
    pub fn is_empty(&self) -> bool {
        self.small.is_empty() && self.keyed.is_empty()
    }

    /// Takes apart what is encoded and what is not.
    pub fn into_parts(self) -> (Saved, Pieces) {
        (self.small, self.keyed)
    }

    /// Encodes all of it, now.
    ///
    /// # Errors
    /// As [`Snapshot::encode`].
    pub fn encode(self, key_groups: u32) -> Result<Saved> {
        let mut saved = self.small;
        for (name, snapshot) in self.keyed {
            let run = snapshot.encode(key_groups, true).map_err(|fault| named(fault, &name))?;
            saved.runs.insert(name, vec![run]);
        }
        Ok(saved)
    }
}

fn named(fault: crate::Fault, name: &str) -> crate::Fault {
    crate::Fault::new(fault.kind(), format!("state `{name}` cannot be saved")).because(fault)
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.keyed.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Frozen").field("small", &self.small).field("keyed", &names).finish()
    }
}
