//! [`Sealed`]: groups as they are at a barrier, on their way into a table.

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take;

use super::codec::KeyCodec;
use super::key_set::KeySet;
use crate::{Fault, Result};

/// Keys and the columns of their states, which do not change: a snapshot shares them, and a pane goes on from them until they
/// stand in its table.
pub(super) struct Sealed {
    keys: KeySet,
    states: Vec<ArrayRef>,
}

impl Sealed {
    pub(super) fn new(keys: KeySet, states: Vec<ArrayRef>) -> Self {
        Sealed { keys, states }
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Where the states of a key are.
    pub(super) fn find(&self, key: &[u8]) -> Option<u32> {
        self.keys.find(key).and_then(|place| u32::try_from(place).ok())
    }

    /// The states at some places, as columns.
    pub(super) fn values(&self, places: &[u32]) -> Result<Vec<ArrayRef>> {
        let places = UInt32Array::from(places.to_vec());
        let columns = self.states.iter().map(|column| take(column, &places, None));
        columns.collect::<Result<_, _>>().map_err(|error| Fault::bug("cannot read sealed state").because(error))
    }

    /// So many keys at most, from one on, and the columns of their states.
    pub(super) fn some(&self, from: usize, most: usize) -> (Vec<&[u8]>, Vec<ArrayRef>) {
        let to = from.saturating_add(most).min(self.len());
        let states = self.states.iter().map(|column| column.slice(from, to - from));
        (self.keys.range(from..to).collect(), states.collect())
    }

    /// All of it as rows of what is saved.
    pub(super) fn rows(&self, codec: &KeyCodec) -> Result<RecordBatch> {
        codec.rows(self.keys.range(0..self.len()), self.states.iter().cloned())
    }
}
