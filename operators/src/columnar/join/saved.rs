//! Chunks of rows as a checkpoint has them: encoded by key group, and put back.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;

use super::plan::{HOW, SideColumns};
use super::store::Store;
use crate::columnar::group::hashes;
use crate::{Fault, FaultKind, Result, Retry, StateVisitor};

/// Visits the rows of a side and what is known of each; whether something was put back.
pub(super) fn visit(visit: &mut StateVisitor<'_>, name: &str, store: &mut Store, side: &SideColumns) -> Result<bool> {
    let names: Vec<i64> = store.chunks_mut().map(|(name, _)| name).collect();
    let rows = visit.changed_groups(name, names.iter().copied(), |name| {
        let Some(chunk) = store.chunk_mut(name) else { return Err(lost()) };
        let changed = !std::mem::replace(&mut chunk.saved.0, true);
        let (rows, keys) = (chunk.rows.clone(), side.stored_keys.clone());
        Ok((rows.num_rows(), changed, move |key_groups| rows_by_group(&rows, &keys, key_groups)))
    })?;
    let marks = visit.changed_groups(&format!("{name}_marks"), names, |name| {
        let Some(chunk) = store.chunk_mut(name) else { return Err(lost()) };
        let changed = !std::mem::replace(&mut chunk.saved.1, true);
        let (rows, keys, marks) = (chunk.rows.clone(), side.stored_keys.clone(), Arc::clone(&chunk.marks));
        Ok((marks.len(), changed, move |key_groups| Ok(marks_by_group(&rows, &keys, &marks, key_groups))))
    })?;
    let Some(rows) = rows else { return Ok(false) };
    let mut marks: BTreeMap<i64, Vec<Bytes>> = marks.into_iter().flatten().collect();
    let mut saved = BTreeMap::new();
    for (name, groups) in rows {
        let marks = marks.remove(&name).unwrap_or_default();
        let marks: BTreeMap<u32, &[u8]> = marks.iter().filter_map(|bytes| split(bytes)).collect();
        let (mut all_rows, mut all_marks) = (Vec::new(), Vec::new());
        for bytes in &groups {
            let (group, bytes) = split(bytes).ok_or_else(|| Fault::bug("saved rows have no key group"))?;
            let before: usize = all_rows.iter().map(RecordBatch::num_rows).sum();
            read(bytes, side, &mut all_rows)?;
            let rows = all_rows.iter().map(RecordBatch::num_rows).sum::<usize>() - before;
            let marks = marks.get(&group).filter(|marks| marks.len() == rows);
            all_marks.extend_from_slice(marks.ok_or_else(|| Fault::bug("saved rows lack their marks"))?);
        }
        saved.insert(name, (concat_batches(&side.stored, &all_rows).map_err(cannot_restore)?, all_marks));
    }
    store.restore(saved);
    Ok(true)
}

fn lost() -> Fault {
    Fault::bug("rows of a join are gone")
}

/// The rows of each key group, in their order.
fn by_group(rows: &RecordBatch, keys: &[usize], key_groups: u32) -> BTreeMap<u32, Vec<u32>> {
    let columns = keys.iter().filter_map(|place| rows.columns().get(*place));
    let mut groups: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (row, hash) in (0..).zip(hashes(columns, rows.num_rows())) {
        groups.entry(hash % key_groups.max(1)).or_default().push(row);
    }
    groups
}

/// Bytes that begin with the number of their key group: what is saved of rows in one place and in another finds together.
fn begun(group: u32) -> Vec<u8> {
    group.to_le_bytes().to_vec()
}

fn split(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (group, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*group), rest))
}

fn rows_by_group(rows: &RecordBatch, keys: &[usize], key_groups: u32) -> Result<BTreeMap<u32, Vec<u8>>> {
    let encoded = by_group(rows, keys, key_groups).into_iter().map(|(group, places)| {
        let rows = take_record_batch(rows, &UInt32Array::from(places))?;
        let mut writer = StreamWriter::try_new(begun(group), &rows.schema())?;
        writer.write(&rows)?;
        Ok((group, writer.into_inner()?))
    });
    let cannot_save = |error: ArrowError| Fault::bug("the rows of a join cannot be saved").because(error);
    encoded.collect::<Result<_, _>>().map_err(cannot_save)
}

fn marks_by_group(rows: &RecordBatch, keys: &[usize], marks: &[u8], key_groups: u32) -> BTreeMap<u32, Vec<u8>> {
    let encoded = by_group(rows, keys, key_groups).into_iter().map(|(group, places)| {
        let mut bytes = begun(group);
        bytes.extend(places.iter().filter_map(|row| marks.get(*row as usize)));
        (group, bytes)
    });
    encoded.collect()
}

fn read(bytes: &[u8], side: &SideColumns, to: &mut Vec<RecordBatch>) -> Result {
    for rows in StreamReader::try_new(bytes, None).map_err(cannot_restore)? {
        to.push(checked(&rows.map_err(cannot_restore)?, side)?);
    }
    Ok(())
}

/// Rows that were saved, as the pipeline keeps them now.
pub(super) fn checked(rows: &RecordBatch, side: &SideColumns) -> Result<RecordBatch> {
    if columns(rows.schema_ref()) != columns(&side.stored) {
        let words = "its state has rows of other columns than the pipeline: keep them, or give the step another name, which begins without state";
        return Err(Fault::new(FaultKind::Checkpoint, words).retry_with(Retry::Never));
    }
    let how = |schema: &Schema| schema.metadata().get(HOW).cloned();
    // State of a program that did not note it says nothing.
    if let (Some(before), Some(now)) = (how(rows.schema_ref()), how(&side.stored))
        && before != now
    {
        let words = format!(
            "its state is of a join that was `{before}`, and it is `{now}` now, for which other rows would have been kept: say again what it was, or give the step another name, which begins without state"
        );
        return Err(Fault::new(FaultKind::Checkpoint, words).retry_with(Retry::Never));
    }
    // Whether a column may be null is what the pipeline says now.
    let rows = RecordBatch::try_new(SchemaRef::clone(&side.stored), rows.columns().to_vec());
    rows.map_err(cannot_restore)
}

fn columns(schema: &Schema) -> Vec<(&str, &DataType)> {
    schema.fields().iter().map(|field| (field.name().as_str(), field.data_type())).collect()
}

pub(super) fn cannot_restore(error: ArrowError) -> Fault {
    Fault::new(FaultKind::Checkpoint, "the rows of a join cannot be restored").retry_with(Retry::Never).because(error)
}
