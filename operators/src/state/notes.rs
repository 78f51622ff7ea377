//! [`Notes`]: the keys that have changed since the last snapshot and are in memory no more.

use super::spill::SpillView;
use crate::Result;

/// Keys of a table, some of them several times, of which the last are in memory, and the others in the table, many in a piece.
#[derive(Default)]
pub(super) struct Notes {
    // Each behind its length.
    keys: Vec<u8>,
    // How many pieces are in the table.
    stored: u32,
}

/// So many bytes of keys are in memory before they go to the table.
const MANY: usize = 256 << 10;
/// What the places of pieces begin with: no key group is as high, and behind the end of time stands something else.
const PLACE: [u8; 10] = [0xff; 10];

/// Whether a key of the table is the place of a piece.
pub(super) fn is_note(key: &[u8]) -> bool {
    key.starts_with(&PLACE)
}

fn place(number: u32) -> Vec<u8> {
    [&PLACE[..], &number.to_be_bytes()].concat()
}

impl Notes {
    /// Notes a key. A piece and its place come back, to be put into the table, when there are many.
    #[must_use]
    pub(super) fn note(&mut self, key: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
        self.keys.extend_from_slice(&length.to_be_bytes());
        self.keys.extend_from_slice(key);
        if self.keys.len() < MANY {
            return None;
        }
        self.stored += 1;
        Some((place(self.stored), std::mem::take(&mut self.keys)))
    }

    /// Where pieces are in the table.
    pub(super) fn places(&self) -> impl Iterator<Item = Vec<u8>> {
        (1..=self.stored).map(place)
    }

    /// Gives the keys, each of a piece once, in their order.
    pub(super) fn each(&self, view: Option<&dyn SpillView>, mut give: impl FnMut(&[u8]) -> Result) -> Result {
        let stored = self.places().filter_map(|place| view?.get(&place).transpose());
        for keys in stored.chain([Ok(self.keys.clone())]) {
            let keys = keys?;
            let mut all: Vec<&[u8]> = Split(&keys).collect();
            all.sort_unstable();
            all.dedup();
            all.into_iter().try_for_each(&mut give)?;
        }
        Ok(())
    }
}

/// Pieces, each behind its length.
struct Split<'a>(&'a [u8]);

impl<'a> Iterator for Split<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let (piece, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        self.0 = rest;
        Some(piece)
    }
}
