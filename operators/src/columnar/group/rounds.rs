//! [`Rounds`]: the rows of a batch in pieces that are taken in one behind the other, where keys give a result with every so many.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::codec::RowKeys;

/// Rows that are taken in at once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    pub(super) rows: Vec<u32>,
    /// Those of them with which their keys have a result: no key twice, and no row of these keys comes behind.
    pub(super) full: Vec<u32>,
}

/// The rows of a batch. A round has rows of each key as far as its next result, so there are as many as there are results of one
/// key, and one more.
#[derive(Debug)]
pub(super) struct Rounds {
    pub(super) all: Vec<Round>,
    /// Which row of its key each is, counted from 1.
    pub(super) places: Vec<i64>,
}

impl Rounds {
    /// Of so many rows with these keys, which give a result with `every` so many, and of which there have been rows `before`.
    pub(super) fn new(keys: &RowKeys, rows: usize, every: i64, before: Vec<(&[u8], i64)>) -> Self {
        let of_key = before.into_iter().map(|(key, rows)| (key, (rows, 0)));
        let mut of_key: HashMap<&[u8], (i64, usize), FixedState> = of_key.collect();
        let (mut all, mut places) = (Vec::<Round>::new(), Vec::with_capacity(rows));
        for row in 0..rows {
            let (place, round) = of_key.entry(keys.get(row)).or_default();
            *place = place.saturating_add(1);
            places.push(*place);
            if all.len() <= *round {
                all.resize_with(*round + 1, Round::default);
            }
            let Some(of_round) = all.get_mut(*round) else { continue };
            let row = u32::try_from(row).unwrap_or(u32::MAX);
            of_round.rows.push(row);
            if *place % every.max(1) == 0 {
                of_round.full.push(row);
                *round += 1;
            }
        }
        Rounds { all, places }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};
    use arrow::datatypes::{DataType, Field};

    use super::*;
    use crate::columnar::group::codec::KeyCodec;

    #[test]
    fn each_round_goes_as_far_as_the_next_result_of_its_keys() {
        let codec = KeyCodec::new(&[Field::new("key", DataType::Utf8, false)], Vec::new()).unwrap();
        let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "a", "b", "a", "a", "b"]));
        let keys = codec.keys(&[names]).unwrap();
        let Rounds { all, places } = Rounds::new(&keys, 6, 2, vec![(keys.get(0), 1)]);
        let round = |rows: &[u32], full: &[u32]| Round { rows: rows.to_vec(), full: full.to_vec() };
        assert_eq!(all, [round(&[0, 2, 5], &[0, 5]), round(&[1, 3], &[3]), round(&[4], &[])]);
        assert_eq!(places, [2, 3, 1, 4, 5, 2]);
    }
}
