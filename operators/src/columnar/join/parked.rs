//! [`Parked`]: what is held of a key while it is away, and [`Layout`], how that becomes bytes and comes back.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::error::ArrowError;

use super::away::Back;
use super::bound::Bound;
use super::keys::{Both, Side};
use super::plan::{JoinPlan, SideColumns};
use crate::columnar::group::{KeyBytes, KeyCodec};
use crate::columnar::value_rows::ValueRows;
use crate::{Fault, Result};

/// What is held of a key, as bytes: when to come back to it, how many rows of the left there are, and of each row what is known
/// of it, its length, and its columns. They are never saved: what they look like is Arrow's own affair.
pub(super) struct Parked(Vec<u8>);

/// A row of a key: what is known of it, and its columns as bytes.
pub(super) type Row<'a> = (u8, &'a [u8]);

const DUE: usize = 1 + size_of::<i64>();
pub(super) const COUNT: usize = size_of::<u32>();

impl Parked {
    pub(super) fn of<'a>(due: Option<i64>, rows: Both<impl ExactSizeIterator<Item = Row<'a>>>) -> Self {
        let mut bytes = vec![u8::from(due.is_some())];
        bytes.extend(due.unwrap_or_default().to_be_bytes());
        bytes.extend(number(rows.left.len()).to_be_bytes());
        for (marks, row) in rows.left.chain(rows.right) {
            bytes.push(marks);
            bytes.extend(number(row.len()).to_be_bytes());
            bytes.extend_from_slice(row);
        }
        Parked(bytes)
    }

    /// When to come back to the key.
    pub(super) fn due(&self) -> Option<i64> {
        Parked::due_of(&self.0)
    }

    /// The same, of its bytes.
    pub(super) fn due_of(bytes: &[u8]) -> Option<i64> {
        let (is_due, rest) = bytes.split_first()?;
        rest.first_chunk().map(|due| i64::from_be_bytes(*due)).filter(|_| *is_due == 1)
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn rows_of(bytes: &[u8]) -> Option<Both<Vec<Row<'_>>>> {
        let (count, mut rest) = bytes.get(DUE..)?.split_first_chunk::<COUNT>()?;
        let mut rows = Vec::new();
        while let Some((marks, behind)) = rest.split_first() {
            let (length, behind) = behind.split_first_chunk::<COUNT>()?;
            let (row, behind) = behind.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            rows.push((*marks, row));
            rest = behind;
        }
        let right = (u32::from_be_bytes(*count) as usize <= rows.len())
            .then(|| rows.split_off(u32::from_be_bytes(*count) as usize))?;
        Some(Both { left: rows, right })
    }
}

pub(super) fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// The columns of both sides, and of the keys.
pub(super) struct Layout {
    pub(super) codec: Arc<KeyCodec>,
    pub(super) sides: Both<SideColumns>,
    pub(super) bound: Bound,
    /// The column of the left, of those that are kept, that tells until when a row waits.
    pub(super) until: Option<usize>,
    rows: Option<Both<ValueRows>>,
}

/// A key whose rows are to be parked: when to come back to it, and how many there are of either side.
pub(super) struct Going {
    pub(super) key: KeyBytes,
    pub(super) due: Option<i64>,
    pub(super) rows: Both<usize>,
}

impl Layout {
    pub(super) fn new(codec: &Arc<KeyCodec>, plan: &JoinPlan) -> Self {
        let sides = &plan.sides;
        let of = |side: &SideColumns| ValueRows::of(side.stored.fields().iter().map(|field| field.data_type()));
        let rows = of(&sides.left).zip(of(&sides.right)).map(|(left, right)| Both { left, right });
        let (bound, until) = (plan.bound.clone(), plan.until.map(|place| place + 1));
        Layout { codec: Arc::clone(codec), sides: sides.clone(), bound, until, rows }
    }

    /// Whether there are bytes for the columns of both sides.
    pub(super) fn can_be_away(&self) -> bool {
        self.rows.is_some()
    }

    pub(super) fn rows(&self) -> Result<&Both<ValueRows>> {
        self.rows.as_ref().ok_or_else(|| Fault::bug("rows of a join were away that cannot be"))
    }

    /// The key groups of keys.
    pub(super) fn groups<'a>(&self, keys: impl IntoIterator<Item = &'a KeyBytes>, key_groups: u32) -> Result<Vec<u32>> {
        let keys: Vec<&KeyBytes> = keys.into_iter().collect();
        let columns = self.codec.columns(keys.iter().copied())?;
        Ok(self.codec.groups(&columns, keys.len(), key_groups))
    }

    /// Parks keys, whose rows stand one behind the other: their columns as they are kept, and what is known of each.
    pub(super) fn park(
        &self,
        keys: Vec<Going>,
        rows: &Both<(Vec<ArrayRef>, Vec<u8>)>,
    ) -> Result<Vec<(KeyBytes, Parked)>> {
        let layout = self.rows()?;
        let (left, right) = (layout.left.bytes(&rows.left.0)?, layout.right.bytes(&rows.right.0)?);
        let mut next = Both { left: 0, right: 0 };
        let keys = keys.into_iter().map(|going| {
            let mut of = |side: Side| {
                let next = next.of_mut(side);
                let from = std::mem::replace(next, *next + going.rows.of(side));
                from..*next
            };
            let (lefts, rights) = (of(Side::Left), of(Side::Right));
            let marks = |side: Side, row: usize| rows.of(side).1.get(row).copied().unwrap_or_default();
            let rows = Both {
                left: lefts.map(|row| (marks(Side::Left, row), left.row(row).data())).collect::<Vec<_>>().into_iter(),
                right: rights
                    .map(|row| (marks(Side::Right, row), right.row(row).data()))
                    .collect::<Vec<_>>()
                    .into_iter(),
            };
            (going.key, Parked::of(going.due, rows))
        });
        Ok(keys.collect())
    }

    /// The rows of keys that come back.
    pub(super) fn back(&self, found: Vec<(KeyBytes, Vec<u8>)>) -> Result<Back> {
        if found.is_empty() {
            return Ok(Back::default());
        }
        let mut rows: Both<Vec<Row<'_>>> = Both::default();
        for (_, bytes) in &found {
            let Both { left, right } = Parked::rows_of(bytes).ok_or_else(|| Fault::bug("a key of a join is broken"))?;
            rows.left.extend(left);
            rows.right.extend(right);
        }
        let rows = Both { left: self.columns(Side::Left, &rows.left)?, right: self.columns(Side::Right, &rows.right)? };
        let keys = found.into_iter().map(|(key, bytes)| {
            let due = Parked::due_of(&bytes);
            (key, due)
        });
        Ok(Back { rows, keys: keys.collect() })
    }

    fn columns(&self, side: Side, rows: &[Row<'_>]) -> Result<Option<(RecordBatch, Vec<u8>)>> {
        if rows.is_empty() {
            return Ok(None);
        }
        let columns = self.rows()?.of(side).columns(rows.iter().map(|(_, row)| *row))?;
        let batch = RecordBatch::try_new(Arc::clone(&self.sides.of(side).stored), columns).map_err(broken)?;
        Ok(Some((batch, rows.iter().map(|(marks, _)| *marks).collect())))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` calls")]
pub(super) fn broken(error: ArrowError) -> Fault {
    Fault::bug(format!("keys of a join cannot be away: {error}"))
}
