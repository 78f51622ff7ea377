//! [`places`] and [`rounds`]: the rows of a batch in pieces that are taken in one behind the other, where keys give a result with
//! every so many.

use std::collections::HashMap;
use std::ops::Range;

use foldhash::fast::FixedState;

use super::codec::RowKeys;

/// Rows that are taken in at once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    pub(super) rows: Vec<u32>,
    /// Those of them with which their keys have a result: no key twice, and no row of these keys comes behind.
    pub(super) full: Vec<u32>,
}

/// Of so many rows with these keys, of which there have been some `before`: which row of its key each is, counted from 1.
pub(super) fn places(keys: &RowKeys, rows: usize, before: Vec<(&[u8], i64)>) -> Vec<i64> {
    let mut of_key: HashMap<&[u8], i64, FixedState> = before.into_iter().collect();
    let place = |row| {
        let place = of_key.entry(keys.get(row)).or_default();
        *place = place.saturating_add(1);
        *place
    };
    (0..rows).map(place).collect()
}

/// Some of the rows that have these places, where a key has a result with `every` so many. A round has rows of each key as far as
/// its next result, so there are as many as there are results of one key, and one more.
pub(super) fn rounds(keys: &RowKeys, rows: Range<usize>, places: &[i64], every: i64) -> Vec<Round> {
    let mut of_key: HashMap<&[u8], usize, FixedState> = HashMap::default();
    let mut all = Vec::<Round>::new();
    for (row, place) in rows.clone().zip(places.get(rows).unwrap_or_default()) {
        let round = of_key.entry(keys.get(row)).or_default();
        if all.len() <= *round {
            all.resize_with(*round + 1, Round::default);
        }
        let Some(of_round) = all.get_mut(*round) else { continue };
        let row = u32::try_from(row).unwrap_or(u32::MAX);
        of_round.rows.push(row);
        if place % every.max(1) == 0 {
            of_round.full.push(row);
            *round += 1;
        }
    }
    all
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
        let places = places(&keys, 6, vec![(keys.get(0), 1)]);
        assert_eq!(places, [2, 3, 1, 4, 5, 2]);
        let round = |rows: &[u32], full: &[u32]| Round { rows: rows.to_vec(), full: full.to_vec() };
        let whole = [round(&[0, 2, 5], &[0, 5]), round(&[1, 3], &[3]), round(&[4], &[])];
        assert_eq!(rounds(&keys, 0..6, &places, 2), whole);
        assert_eq!(rounds(&keys, 1..4, &places, 2), [round(&[1, 2, 3], &[3])]);
    }
}
