//! The keys of a join that are away, as a checkpoint has them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt8Array, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampMicrosecondType, UInt8Type};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

use super::bound::How;
use super::keys::{Both, Side};
use super::parked::{COUNT, Layout, Parked, Row, broken, number};
use super::saved::{cannot_restore, checked};
use super::together::lasts;
use crate::columnar::group::KeyBytes;
use crate::state::FrozenEntries;
use crate::{Fault, Result, Run, Snapshot};

/// So many bytes of entries are in memory as columns at a time while a snapshot is encoded.
const PART: usize = 2 << 20;

/// Rows of a side to be saved, when to come back to the key of each, and which are of a key group.
type ToSave<'a> = (Vec<Row<'a>>, Vec<Option<i64>>, BTreeMap<u32, Vec<u32>>);

/// What was saved of keys: when to come back to each, and its rows.
type Held = BTreeMap<KeyBytes, (Option<i64>, Both<Vec<(u8, Vec<u8>)>>)>;

impl Layout {
    /// Keys with what is held of them as bytes to be saved: by key group the rows of the left, then those of the right, each
    /// behind their length, with two more columns: what is known of the row, and when to come back to its key.
    fn save(&self, keys: &[(KeyBytes, Vec<u8>)], key_groups: u32) -> Result<BTreeMap<u32, Vec<u8>>> {
        let groups = self.groups(keys.iter().map(|(key, _)| key), key_groups)?;
        let mut all: Both<ToSave<'_>> = Both::default();
        for ((_, bytes), group) in keys.iter().zip(&groups) {
            let rows = Parked::rows_of(bytes).ok_or_else(|| Fault::bug("a key of a join is broken"))?;
            for (side, rows) in [(Side::Left, rows.left), (Side::Right, rows.right)] {
                let (all, due, places) = all.of_mut(side);
                let from = number(all.len());
                places.entry(*group).or_default().extend(from..from + number(rows.len()));
                due.extend(rows.iter().map(|_| Parked::due_of(bytes)));
                all.extend(rows);
            }
        }
        let mut saved: BTreeMap<u32, Vec<u8>> = groups.iter().map(|group| (*group, Vec::new())).collect();
        for side in [Side::Left, Side::Right] {
            let (rows, due, mut places) = std::mem::take(all.of_mut(side));
            let columns = self.rows()?.of(side).columns(rows.iter().map(|(_, row)| *row))?;
            let marks: ArrayRef = Arc::new(UInt8Array::from_iter_values(rows.iter().map(|(marks, _)| *marks)));
            let due: ArrayRef = Arc::new(Int64Array::from(due));
            let columns = columns.into_iter().chain([marks, due]).collect();
            let rows =
                RecordBatch::try_new(Arc::new(with_notes(&self.sides.of(side).stored)), columns).map_err(broken)?;
            for (group, bytes) in &mut saved {
                let encoded = encoded(&rows, places.remove(group).unwrap_or_default()).map_err(broken)?;
                bytes.extend(number(encoded.len()).to_le_bytes());
                bytes.extend(encoded);
            }
        }
        Ok(saved)
    }

    /// What [`save`](Layout::save) made bytes of, perhaps several times.
    pub(super) fn read(&self, mut bytes: &[u8], horizon: i64) -> Result<Vec<(KeyBytes, Parked)>> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let mut keys = Held::new();
            for side in [Side::Left, Side::Right] {
                let ipc = bytes.split_first_chunk::<COUNT>();
                let ipc = ipc.and_then(|(length, rest)| rest.split_at_checked(u32::from_le_bytes(*length) as usize));
                let (ipc, rest) = ipc.ok_or_else(cut_off)?;
                bytes = rest;
                for rows in StreamReader::try_new(ipc, None).map_err(cannot_restore)? {
                    self.read_rows(side, &rows.map_err(cannot_restore)?, horizon, &mut keys)?;
                }
            }
            all.extend(keys.into_iter().map(|(key, (due, Both { left, right }))| {
                let rows = Both { left: left.iter().map(borrowed), right: right.iter().map(borrowed) };
                (key, Parked::of(due, rows))
            }));
        }
        Ok(all)
    }

    fn read_rows(&self, side: Side, rows: &RecordBatch, horizon: i64, keys: &mut Held) -> Result {
        let columns = self.sides.of(side);
        let place = |back: usize| rows.num_columns().checked_sub(back).and_then(|place| rows.columns().get(place));
        let marks = place(2).and_then(|marks| marks.as_primitive_opt::<UInt8Type>()).ok_or_else(cut_off)?;
        let due = place(1).and_then(|due| due.as_primitive_opt::<Int64Type>()).ok_or_else(cut_off)?;
        let stored: Vec<usize> = (0..rows.num_columns() - 2).collect();
        let stored = checked(&rows.project(&stored).map_err(cannot_restore)?, columns)?;
        let names = self.codec.keys(&columns.key_columns(&stored))?;
        let bytes = self.rows()?.of(side).bytes(stored.columns())?;
        let times = stored.columns().first().and_then(|times| times.as_primitive_opt::<Int64Type>());
        let times = times.ok_or_else(cut_off)?;
        let until = self.until.filter(|_| side == Side::Left).and_then(|until| stored.columns().get(until));
        let until = until.and_then(|until| until.as_primitive_opt::<TimestampMicrosecondType>());
        for row in 0..stored.num_rows() {
            let (at, of) = keys.entry(names.get(row).into()).or_default();
            of.of_mut(side).push((marks.value(row), bytes.row(row).data().to_vec()));
            // Versions may have been kept for ever until now.
            let is_to_end = side == Side::Right && matches!(self.bound.how, How::AsOf { ttl: Some(_) });
            if due.is_null(row) && !is_to_end {
                continue;
            }
            let until = until.map(|until| if until.is_null(row) { i64::MIN } else { until.value(row) });
            // How near rows have to be may have changed since; when versions are not needed any more, does not follow from them.
            let due = match self.bound.how {
                How::AsOf { .. } if !due.is_null(row) => Some(due.value(row)),
                _ => lasts(&self.bound, horizon, side, times.value(row), until).map(|(_, due)| due),
            };
            *at = at.iter().copied().chain(due).min();
        }
        Ok(())
    }

    /// Keys of bytes that were saved of keys alone.
    pub(super) fn read_keys(&self, bytes: &[u8]) -> Result<Vec<KeyBytes>> {
        self.codec.restore_keys(bytes)
    }
}

fn borrowed((marks, row): &(u8, Vec<u8>)) -> Row<'_> {
    (*marks, row)
}

/// The columns that are kept of rows, and the two more that are saved of those that are away.
fn with_notes(stored: &Schema) -> Schema {
    let notes = [Field::new("", DataType::UInt8, false), Field::new("", DataType::Int64, true)];
    let fields: Vec<_> = stored.fields().iter().cloned().chain(notes.map(Arc::new)).collect();
    Schema::new(fields).with_metadata(HashMap::clone(stored.metadata()))
}

fn encoded(rows: &RecordBatch, places: Vec<u32>) -> Result<Vec<u8>, ArrowError> {
    let rows = take_record_batch(rows, &UInt32Array::from(places))?;
    let mut writer = StreamWriter::try_new(Vec::new(), rows.schema_ref())?;
    writer.write(&rows)?;
    writer.into_inner()
}

fn cut_off() -> Fault {
    cannot_restore(ArrowError::ParseError("they are cut off".to_owned()))
}

/// The keys that were away at a barrier.
pub(super) struct Frozen {
    pub(super) layout: Arc<Layout>,
    pub(super) entries: Option<FrozenEntries>,
    pub(super) is_lost: bool,
}

impl Frozen {
    fn run(&self, keys: BTreeMap<KeyBytes, Option<Vec<u8>>>, key_groups: u32, whole: bool) -> Result<Run> {
        let (mut gone, mut put) = (Vec::new(), Vec::new());
        for (key, parked) in keys {
            match parked {
                Some(parked) => put.push((key, parked)),
                None => gone.push(key),
            }
        }
        let put = if put.is_empty() { BTreeMap::new() } else { self.layout.save(&put, key_groups)? };
        Ok(Run::of_parts(whole, self.layout.codec.save_keys(&gone, key_groups)?, put))
    }
}

impl Snapshot for Frozen {
    fn len(&self) -> usize {
        self.entries.as_ref().map_or(0, |entries| entries.entries)
    }

    fn encode_in_parts(self: Box<Self>, key_groups: u32, whole: bool, give: &mut dyn FnMut(Run) -> Result) -> Result {
        let whole = whole || self.is_lost;
        // One that was noted twice is told once.
        let (mut part, mut weight, mut is_first) = (BTreeMap::new(), 0, true);
        if let Some(entries) = &self.entries {
            let mut add = |key: &[u8], parked: Option<&[u8]>| {
                weight += key.len() + parked.map_or(0, <[u8]>::len);
                part.insert(KeyBytes::from(key), parked.map(<[u8]>::to_vec));
                if weight < PART {
                    return Ok(());
                }
                (weight, is_first) = (0, false);
                give(self.run(std::mem::take(&mut part), key_groups, whole)?)
            };
            match whole {
                true => entries.each(|_, key, parked| add(key, Some(parked)))?,
                false => entries.each_noted(|_, key, parked| add(key, parked))?,
            }
        }
        if part.is_empty() && !is_first { Ok(()) } else { give(self.run(part, key_groups, whole)?) }
    }
}
