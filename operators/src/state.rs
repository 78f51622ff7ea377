//! [`StateVisitor`]: how an operator lists its state, once, so that saving and restoring cannot drift apart.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Fault, FaultKind, Result};

/// The saved state of one operator: encoded values by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Saved(BTreeMap<String, Bytes>);

impl Saved {
    /// The bytes that it takes.
    pub fn weight(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// Whether the operator keeps no state.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names of the values.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// Visits each piece of an operator's state, to save it or to put it back.
///
/// ```
/// use millstream_operators::{Result, Saved, StateVisitor};
/// struct Count(u64);
/// impl Count {
///     fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
///         visit.value("count", &mut self.0)
///     }
/// }
/// let mut saved = Saved::default();
/// Count(7).state(&mut StateVisitor::save(&mut saved)).unwrap();
/// let mut restored = Count(0);
/// restored.state(&mut StateVisitor::restore(&saved)).unwrap();
/// assert_eq!(restored.0, 7);
/// ```
pub struct StateVisitor<'a>(Mode<'a>);

enum Mode<'a> {
    Save(&'a mut Saved),
    Restore(&'a Saved),
}

impl<'a> StateVisitor<'a> {
    /// Saves what is visited.
    pub fn save(to: &'a mut Saved) -> Self {
        StateVisitor(Mode::Save(to))
    }

    /// Puts saved values back into what is visited; what was not saved is left as it is.
    pub fn restore(from: &'a Saved) -> Self {
        StateVisitor(Mode::Restore(from))
    }

    /// Visits one value. The name finds it again after a restart, so it must stay as it is.
    ///
    /// # Errors
    /// A checkpoint fault when the value cannot be encoded, or when what was saved does not decode as an `S`.
    pub fn value<S: Serialize + DeserializeOwned>(&mut self, name: &str, value: &mut S) -> Result {
        match &mut self.0 {
            Mode::Save(saved) => {
                let bytes = rmp_serde::to_vec_named(value).map_err(|error| wrong("saved", name, error))?;
                saved.0.insert(name.to_owned(), bytes.into());
            }
            Mode::Restore(saved) => {
                if let Some(bytes) = saved.0.get(name) {
                    *value = rmp_serde::from_slice(bytes)
                        .map_err(|error| wrong("restored", name, error).retry_with(crate::Retry::Never))?;
                }
            }
        }
        Ok(())
    }
}

fn wrong(done: &str, name: &str, error: impl std::error::Error + Send + Sync + 'static) -> Fault {
    Fault::new(FaultKind::Checkpoint, format!("state `{name}` cannot be {done}")).because(error)
}

impl fmt::Debug for StateVisitor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Mode::Save(_) => "StateVisitor(save)",
            Mode::Restore(_) => "StateVisitor(restore)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_saved_is_left_as_it_is() {
        let mut value = 5u8;
        StateVisitor::restore(&Saved::default()).value("n", &mut value).unwrap();
        assert_eq!(value, 5);
    }

    #[test]
    fn a_value_of_another_type_is_a_fault_that_names_it() {
        let mut saved = Saved::default();
        StateVisitor::save(&mut saved).value("n", &mut String::from("seven")).unwrap();
        let fault = StateVisitor::restore(&saved).value("n", &mut 0u64).unwrap_err();
        assert_eq!((fault.kind(), fault.to_string().contains("`n`")), (FaultKind::Checkpoint, true));
    }
}
