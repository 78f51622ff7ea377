//! [`StateVisitor`]: how an operator lists its state, once, so that saving and restoring cannot drift apart.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::encoder::Encoder;
#[cfg(feature = "columnar")]
use super::restoring::Piece;
use super::restoring::{Restore, Runs};
use super::run::{decoded, encoded};
use super::{Frozen, Keyed, Panes, Saved, Spill, StateKey, StateValue, Timers, Versions};
use crate::bugs::{Bug, planted};
use crate::{Result, Timestamp};

/// Visits each piece of an operator's state, to save it or to put it back. The name of a piece finds it again after a
/// restart, so it must stay as it is.
///
/// ```
/// use millstream_operators::{Frozen, Keyed, Result, StateVisitor};
/// #[derive(Default)]
/// struct Counts { total: u64, of_key: Keyed<String, u64> }
/// impl Counts {
///     fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
///         visit.value("total", &mut self.total)?;
///         visit.keyed("of_key", &mut self.of_key)
///     }
/// }
/// let (mut counts, mut frozen) = (Counts::default(), Frozen::default());
/// counts.of_key.insert("a".to_owned(), 7);
/// counts.state(&mut StateVisitor::freeze(&mut frozen)).unwrap();
/// // It goes on while its state of then is encoded.
/// counts.of_key.insert("a".to_owned(), 8);
/// let saved = frozen.encode(128).unwrap();
/// let mut restored = Counts::default();
/// restored.state(&mut StateVisitor::restore(&saved)).unwrap();
/// assert_eq!(restored.of_key.get(&"a".to_owned()), Some(&7));
/// ```
pub struct StateVisitor<'a>(pub(super) Mode<'a>);

/// What was saved of panes, by pane.
pub type PaneGroups = Vec<(i64, Vec<Bytes>)>;

pub(super) enum Mode<'a> {
    Freeze(&'a mut Frozen),
    Restore(Restore<'a>),
    Fit(&'a Arc<Spill>, &'a mut Vec<String>),
    List(&'a mut Vec<String>),
}

impl<'a> StateVisitor<'a> {
    /// Notes what is visited as it is now.
    pub fn freeze(to: &'a mut Frozen) -> Self {
        StateVisitor(Mode::Freeze(to))
    }

    /// Puts what was saved back into what is visited; what was not saved is left as it is.
    pub fn restore(from: &'a Saved) -> Self {
        StateVisitor(Mode::Restore(Restore { saved: from, streamed: None }))
    }

    /// As [`restore`](StateVisitor::restore), with the runs of keyed state from elsewhere, and what does not fit in memory
    /// out of it.
    pub fn restore_within(from: &'a Saved, runs: &'a mut dyn Runs, spill: &'a Arc<Spill>) -> Self {
        StateVisitor(Mode::Restore(Restore { saved: from, streamed: Some((runs, spill)) }))
    }

    /// Lets go what is more than fits in memory, from the first visit on. The names of what stays in memory however much it is
    /// are added to `stays`.
    pub fn fit(spill: &'a Arc<Spill>, stays: &'a mut Vec<String>) -> Self {
        StateVisitor(Mode::Fit(spill, stays))
    }

    /// Notes the names of the pieces that are visited, also of those that hold nothing yet, such as panes before the first.
    pub fn list(to: &'a mut Vec<String>) -> Self {
        StateVisitor(Mode::List(to))
    }

    /// Visits a value that belongs to the subtask as a whole. A node with such state keeps its number of subtasks.
    ///
    /// # Errors
    /// A checkpoint fault when the value cannot be encoded, or when what was saved does not decode as an `S`.
    pub fn value<S: Serialize + DeserializeOwned>(&mut self, name: &str, value: &mut S) -> Result {
        match &mut self.0 {
            Mode::Freeze(frozen) => {
                frozen.small.values.insert(name.to_owned(), encoded(name, value)?);
            }
            Mode::Restore(restore) => {
                if let Some(bytes) = restore.saved.values.get(name) {
                    *value = decoded(name, bytes)?;
                }
            }
            Mode::Fit(..) => {}
            Mode::List(names) => names.push(name.to_owned()),
        }
        Ok(())
    }

    /// Whether what was saved comes back.
    pub fn is_restoring(&self) -> bool {
        matches!(self.0, Mode::Restore(_))
    }

    /// Whether what is more than fits in memory is let go.
    #[cfg(feature = "columnar")]
    pub(crate) fn is_fitting(&self) -> bool {
        matches!(self.0, Mode::Fit(..))
    }

    /// Lets timers keep to the budget that are not saved, as they follow from what is; before they are set.
    #[cfg(feature = "columnar")]
    pub(crate) fn fit_timers<K: StateKey>(&mut self, timers: &mut Timers<K>) {
        match &mut self.0 {
            Mode::Fit(spill, _) | Mode::Restore(Restore { streamed: Some((_, spill)), .. }) => timers.fit(spill),
            Mode::Freeze(_) | Mode::Restore(_) | Mode::List(_) => {}
        }
    }

    /// Visits how far event time has come. Where the number of subtasks changes, each gets the earliest.
    ///
    /// # Errors
    /// None today.
    pub fn time(&mut self, name: &str, time: &mut Timestamp) -> Result {
        let mut times = BTreeMap::from([(String::new(), *time)]);
        self.times(name, &mut times)?;
        if let Some(restored) = times.get("") {
            *time = *restored;
        }
        Ok(())
    }

    /// As [`time`](StateVisitor::time), of several things that are told apart.
    ///
    /// # Errors
    /// None today.
    pub fn times(&mut self, name: &str, times: &mut BTreeMap<String, Timestamp>) -> Result {
        match &mut self.0 {
            Mode::Freeze(frozen) => {
                frozen.small.times.insert(name.to_owned(), times.clone());
            }
            Mode::Restore(restore) => {
                if let Some(saved) = restore.saved.times.get(name) {
                    times.clone_from(saved);
                }
            }
            Mode::Fit(..) => {}
            Mode::List(names) => names.push(name.to_owned()),
        }
        Ok(())
    }

    /// Visits a value for each key. Where the number of subtasks changes, each gets those of its key groups.
    ///
    /// # Errors
    /// As [`value`](StateVisitor::value).
    pub fn keyed<K: StateKey, S: StateValue>(&mut self, name: &str, keyed: &mut Keyed<K, S>) -> Result {
        self.keyed_as(name, keyed, &Versions::default())
    }

    /// As [`keyed`](StateVisitor::keyed), of values whose type is of a version and may have been another before.
    ///
    /// # Errors
    /// As [`value`](StateVisitor::value), or when what was saved is of a version that there is no way from.
    pub fn keyed_as<K: StateKey, S: StateValue>(
        &mut self,
        name: &str,
        keyed: &mut Keyed<K, S>,
        versions: &Versions<S>,
    ) -> Result {
        match &mut self.0 {
            Mode::Freeze(frozen) => {
                if versions.version() > 1 {
                    frozen.small.versions.insert(name.to_owned(), versions.version());
                }
                frozen.keyed.push((name.to_owned(), keyed.freeze()?));
            }
            Mode::Restore(restore) if restore.has(name) => *keyed = restore.keyed(name, versions)?,
            Mode::Restore(_) => {}
            Mode::Fit(spill, _) => keyed.fit(spill),
            Mode::List(names) => names.push(name.to_owned()),
        }
        Ok(())
    }

    /// Visits a value for each key in each of some panes, which come and go: `name/<pane>` in what is saved.
    ///
    /// # Errors
    /// As [`value`](StateVisitor::value).
    pub fn panes<K: StateKey, S: StateValue>(&mut self, name: &str, panes: &mut Panes<K, S>) -> Result {
        self.panes_as(name, panes.all(), &Versions::default())
    }

    /// As [`panes`](StateVisitor::panes), of values whose type is of a version and may have been another before.
    ///
    /// # Errors
    /// As [`keyed_as`](StateVisitor::keyed_as).
    pub fn panes_as<K: StateKey, S: StateValue>(
        &mut self,
        name: &str,
        panes: &mut BTreeMap<i64, Keyed<K, S>>,
        versions: &Versions<S>,
    ) -> Result {
        match &mut self.0 {
            Mode::Freeze(frozen) => {
                for (pane, keyed) in panes {
                    if versions.version() > 1 {
                        frozen.small.versions.insert(format!("{name}/{pane}"), versions.version());
                    }
                    frozen.keyed.push((format!("{name}/{pane}"), keyed.freeze()?));
                }
            }
            Mode::Restore(restore) => {
                panes.clear();
                for whole_name in restore.names() {
                    if let Some(pane) = pane_of(name, &whole_name) {
                        panes.insert(pane, restore.keyed(&whole_name, versions)?);
                    }
                }
            }
            Mode::Fit(spill, _) => panes.values_mut().for_each(|keyed| keyed.fit(spill)),
            Mode::List(names) => names.push(name.to_owned()),
        }
        Ok(())
    }

    /// Visits timers; they go with their keys.
    ///
    /// # Errors
    /// As [`value`](StateVisitor::value).
    pub fn timers<K: StateKey>(&mut self, name: &str, timers: &mut Timers<K>) -> Result {
        match &mut self.0 {
            Mode::Freeze(frozen) => frozen.keyed.push((name.to_owned(), timers.freeze()?)),
            Mode::Restore(_) if planted(Bug::LoseTimers) => {}
            Mode::Restore(restore) if restore.has(name) => *timers = restore.timers(name)?,
            Mode::Restore(_) => {}
            Mode::Fit(spill, _) => timers.fit(spill),
            Mode::List(names) => names.push(name.to_owned()),
        }
        Ok(())
    }

    /// Visits keyed state that an operator encodes by itself: `freeze` gives how many entries there are, and what makes
    /// the bytes of each key group of them, later and elsewhere. Otherwise those that were saved come back.
    ///
    /// # Errors
    /// What `freeze` says.
    pub fn groups<F>(&mut self, name: &str, freeze: impl FnOnce() -> Result<(usize, F)>) -> Result<Option<Vec<Bytes>>>
    where
        F: FnOnce(u32) -> Result<BTreeMap<u32, Vec<u8>>> + Send + 'static,
    {
        match &mut self.0 {
            Mode::Freeze(frozen) => {
                frozen.keyed.push((name.to_owned(), Encoder::of(freeze()?, true)));
                Ok(None)
            }
            Mode::Restore(restore) if restore.has(name) => restore.bytes(name).map(Some),
            Mode::Restore(_) => Ok(None),
            Mode::Fit(_, stays) => {
                stays.push(name.to_owned());
                Ok(None)
            }
            Mode::List(names) => {
                names.push(name.to_owned());
                Ok(None)
            }
        }
    }

    /// Visits keyed state of an operator's own kind; `new` begins it anew, to be restored. True if it was.
    #[cfg(feature = "columnar")]
    pub(crate) fn piece<P: Piece>(&mut self, name: &str, piece: &mut P, new: impl Fn() -> P) -> Result<bool> {
        match &mut self.0 {
            Mode::Freeze(frozen) => frozen.keyed.push((name.to_owned(), piece.freeze()?)),
            Mode::Restore(restore) if restore.has(name) => {
                *piece = restore.piece(name, new)?;
                return Ok(true);
            }
            Mode::Restore(_) => {}
            Mode::Fit(spill, stays) => {
                if !piece.fit(spill)? {
                    stays.push(name.to_owned());
                }
            }
            Mode::List(names) => names.push(name.to_owned()),
        }
        Ok(false)
    }

    /// As `piece`, of each of some panes, which come and go: `name/<pane>` in what is saved.
    #[cfg(feature = "columnar")]
    pub(crate) fn pane_pieces<P: Piece>(
        &mut self,
        name: &str,
        panes: &mut BTreeMap<i64, P>,
        new: impl Fn() -> P,
    ) -> Result<bool> {
        match &mut self.0 {
            Mode::Freeze(frozen) => {
                for (pane, piece) in panes {
                    frozen.keyed.push((format!("{name}/{pane}"), piece.freeze()?));
                }
            }
            Mode::Restore(restore) => {
                panes.clear();
                for whole_name in restore.names() {
                    if let Some(pane) = pane_of(name, &whole_name) {
                        panes.insert(pane, restore.piece(&whole_name, &new)?);
                    }
                }
                return Ok(true);
            }
            Mode::Fit(spill, stays) => {
                // Whether there is a place for such is seen before there are any.
                let mut all = new().fit(spill)?;
                for piece in panes.values_mut() {
                    all &= piece.fit(spill)?;
                }
                if !all {
                    stays.push(name.to_owned());
                }
            }
            Mode::List(names) => names.push(name.to_owned()),
        }
        Ok(false)
    }

    /// As [`groups`](StateVisitor::groups), of each of some panes, which come and go: `name/<pane>` in what is saved.
    ///
    /// # Errors
    /// What `freeze` says.
    pub fn pane_groups<F>(
        &mut self,
        name: &str,
        panes: impl IntoIterator<Item = i64>,
        mut freeze: impl FnMut(i64) -> Result<(usize, F)>,
    ) -> Result<Option<PaneGroups>>
    where
        F: FnOnce(u32) -> Result<BTreeMap<u32, Vec<u8>>> + Send + 'static,
    {
        match &mut self.0 {
            Mode::Freeze(frozen) => {
                for pane in panes {
                    frozen.keyed.push((format!("{name}/{pane}"), Encoder::of(freeze(pane)?, true)));
                }
                Ok(None)
            }
            Mode::Restore(restore) => {
                let names = restore.names();
                let panes = names.iter().filter_map(|whole_name| Some((pane_of(name, whole_name)?, whole_name)));
                panes.map(|(pane, whole_name)| Ok((pane, restore.bytes(whole_name)?))).collect::<Result<_>>().map(Some)
            }
            Mode::Fit(_, stays) => {
                stays.push(name.to_owned());
                Ok(None)
            }
            Mode::List(names) => {
                names.push(name.to_owned());
                Ok(None)
            }
        }
    }

    /// As [`pane_groups`](StateVisitor::pane_groups), where `freeze` also says whether a pane has changed since it was last
    /// frozen or put back: one that has not is not encoded again.
    ///
    /// # Errors
    /// What `freeze` says.
    pub fn changed_groups<F>(
        &mut self,
        name: &str,
        panes: impl IntoIterator<Item = i64>,
        mut freeze: impl FnMut(i64) -> Result<(usize, bool, F)>,
    ) -> Result<Option<PaneGroups>>
    where
        F: FnOnce(u32) -> Result<BTreeMap<u32, Vec<u8>>> + Send + 'static,
    {
        let Mode::Freeze(frozen) = &mut self.0 else {
            return self.pane_groups(name, [], |pane| freeze(pane).map(|(entries, _, encode)| (entries, encode)));
        };
        for pane in panes {
            let (entries, changed, encode) = freeze(pane)?;
            frozen.keyed.push((format!("{name}/{pane}"), Encoder::of((entries, encode), changed)));
        }
        Ok(None)
    }
}

/// The pane in `name/<pane>`.
fn pane_of(name: &str, whole_name: &str) -> Option<i64> {
    whole_name.strip_prefix(name)?.strip_prefix('/')?.parse().ok()
}

impl fmt::Debug for StateVisitor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Mode::Freeze(_) => "StateVisitor(freeze)",
            Mode::Restore(_) => "StateVisitor(restore)",
            Mode::Fit(..) => "StateVisitor(fit)",
            Mode::List(_) => "StateVisitor(list)",
        })
    }
}
