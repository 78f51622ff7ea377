//! [`Encoder`]: a snapshot of state that its operator encodes by itself.

use std::collections::BTreeMap;

use super::{Run, Snapshot};
use crate::Result;

/// What makes the bytes of each key group.
type Encode = Box<dyn FnOnce(u32) -> Result<BTreeMap<u32, Vec<u8>>> + Send>;

/// State that is encoded later and elsewhere, all of it or nothing.
pub(super) struct Encoder {
    entries: usize,
    changed: bool,
    encode: Encode,
}

impl Encoder {
    /// A snapshot of so many entries, which `encode` makes bytes of; whether any has changed since the last.
    pub(super) fn of<F>((entries, encode): (usize, F), changed: bool) -> Box<dyn Snapshot>
    where
        F: FnOnce(u32) -> Result<BTreeMap<u32, Vec<u8>>> + Send + 'static,
    {
        Box::new(Encoder { entries, changed, encode: Box::new(encode) })
    }
}

impl Snapshot for Encoder {
    fn len(&self) -> usize {
        // However few have changed: all may be wanted, as for the first checkpoint after a rescale.
        self.entries
    }

    fn encode_in_parts(self: Box<Self>, key_groups: u32, whole: bool, give: &mut dyn FnMut(Run) -> Result) -> Result {
        match whole || self.changed {
            true => Run::whole_of((self.encode)(key_groups)?).in_parts(give),
            false => give(Run::default()),
        }
    }
}
