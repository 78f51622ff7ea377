//! [`KeyCodec`]: keys as bytes that can be looked up and sorted, and state by key as bytes that can be saved.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::row::{RowConverter, Rows, SortField};

use super::keys::hashes;
use crate::{Fault, FaultKind, Result, Retry};

/// A key as bytes that sort as its values do. They are never saved: what they look like is Arrow's own affair.
pub(in crate::columnar) type KeyBytes = Box<[u8]>;

/// The key of one more column, of whole numbers without nulls: what the columns of a key are written as stands one behind the
/// other.
pub(super) fn with_number(key: &[u8], number: i64) -> KeyBytes {
    let ordered = (number ^ i64::MIN).to_be_bytes();
    [key, &[1], &ordered].concat().into()
}

/// The key without its last column, which is of whole numbers; and the number.
pub(super) fn without_number(key: &[u8]) -> (&[u8], i64) {
    match key.split_last_chunk::<8>() {
        Some(([rest @ .., _], number)) => (rest, i64::from_be_bytes(*number) ^ i64::MIN),
        _ => (key, 0),
    }
}

/// Makes bytes of the columns of a key, and columns of the bytes.
pub(in crate::columnar) struct KeyCodec {
    // Without columns there is one key, of no bytes.
    converter: Option<RowConverter>,
    columns: usize,
    // How many of them, from the first on, say which subtask a key belongs to.
    grouped: usize,
    /// The columns of what is saved: those of the key, and what belongs to it.
    saved: SchemaRef,
}

/// The keys of some rows.
pub(in crate::columnar) struct RowKeys(Option<Rows>);

impl RowKeys {
    /// The key of a row.
    pub(in crate::columnar) fn get(&self, row: usize) -> &[u8] {
        self.0.as_ref().map_or(&[], |rows| rows.row(row).data())
    }

    /// The keys of the first `rows` rows.
    pub(super) fn first(&self, rows: usize) -> Vec<KeyBytes> {
        (0..rows).map(|row| self.get(row).into()).collect()
    }
}

impl KeyCodec {
    /// For keys of these columns, and state with these others.
    pub(in crate::columnar) fn new(keys: &[Field], state: Vec<Field>) -> Result<Self> {
        let fields = keys.iter().map(|key| SortField::new(key.data_type().clone())).collect::<Vec<_>>();
        let converter = (!fields.is_empty()).then(|| RowConverter::new(fields)).transpose();
        let converter = converter.map_err(|error| Fault::bug("these are no keys").because(error))?;
        // What a column is called, or whether it may be null, changes nothing about what was saved.
        let named =
            keys.iter().enumerate().map(|(n, key)| key.clone().with_name(format!("key{n}")).with_nullable(true));
        let saved = Arc::new(Schema::new(named.chain(state).collect::<Vec<_>>()));
        Ok(KeyCodec { converter, columns: keys.len(), grouped: keys.len(), saved })
    }

    /// The same, where the first `grouped` columns of a key alone say which subtask it belongs to.
    pub(super) fn grouped_by(self, grouped: usize) -> Self {
        KeyCodec { grouped, ..self }
    }

    /// What belongs to a key: the places of the columns in what is saved, and what they hold.
    pub(super) fn value_fields(&self) -> impl Iterator<Item = (usize, &FieldRef)> {
        self.saved.fields().iter().enumerate().skip(self.columns)
    }

    /// The keys of rows with these columns.
    pub(in crate::columnar) fn keys(&self, columns: &[ArrayRef]) -> Result<RowKeys> {
        let rows = self.converter.as_ref().map(|converter| converter.convert_columns(columns)).transpose();
        rows.map(RowKeys).map_err(|error| Fault::bug("cannot read keys").because(error))
    }

    /// The keys of rows of what is saved, and the columns that belong to them.
    pub(super) fn apart<'a>(&self, rows: &'a RecordBatch) -> Result<(RowKeys, &'a [ArrayRef])> {
        let (keys, values) = rows.columns().split_at_checked(self.columns).unwrap_or_default();
        Ok((self.keys(keys)?, values))
    }

    /// The key group of each of so many rows, of which the columns of the key come first.
    pub(in crate::columnar) fn groups(&self, columns: &[ArrayRef], rows: usize, key_groups: u32) -> Vec<u32> {
        let hashes = hashes(columns.iter().take(self.grouped), rows);
        hashes.into_iter().map(|hash| hash % key_groups.max(1)).collect()
    }

    /// Keys as columns.
    pub(in crate::columnar) fn columns<'a, K: AsRef<[u8]> + ?Sized + 'a>(
        &self,
        keys: impl IntoIterator<Item = &'a K>,
    ) -> Result<Vec<ArrayRef>> {
        let Some(converter) = &self.converter else { return Ok(Vec::new()) };
        let parser = converter.parser();
        let columns = converter.convert_rows(keys.into_iter().map(|key| parser.parse(key.as_ref())));
        columns.map_err(|error| Fault::bug("cannot write keys").because(error))
    }

    /// Rows of what is saved, of keys and the columns that belong to them.
    pub(in crate::columnar) fn rows<'a, K: AsRef<[u8]> + ?Sized + 'a>(
        &self,
        keys: impl IntoIterator<Item = &'a K>,
        state: impl IntoIterator<Item = ArrayRef>,
    ) -> Result<RecordBatch> {
        let columns = self.columns(keys)?.into_iter().chain(state).collect();
        RecordBatch::try_new(Arc::clone(&self.saved), columns).map_err(cannot_save)
    }

    /// Rows of what is saved as bytes, by key group.
    pub(in crate::columnar) fn save(&self, all: &[RecordBatch], key_groups: u32) -> Result<BTreeMap<u32, Vec<u8>>> {
        let all = arrow::compute::concat_batches(&self.saved, all).map_err(cannot_save)?;
        self.encoded(&all, key_groups, |_| {})
    }

    /// The same in the order of keys: the same bytes whoever held them.
    pub(super) fn save_sorted(&self, all: &[RecordBatch], key_groups: u32) -> Result<BTreeMap<u32, Vec<u8>>> {
        let all = arrow::compute::concat_batches(&self.saved, all).map_err(cannot_save)?;
        let keys = self.keys(all.columns().get(..self.columns).unwrap_or_default())?;
        self.encoded(&all, key_groups, |rows| rows.sort_by_key(|row| keys.get(*row as usize)))
    }

    /// Keys alone as bytes, by key group.
    pub(in crate::columnar) fn save_keys(&self, keys: &[KeyBytes], key_groups: u32) -> Result<BTreeMap<u32, Vec<u8>>> {
        if keys.is_empty() {
            return Ok(BTreeMap::new());
        }
        let fields: Vec<_> = self.saved.fields().iter().take(self.columns).cloned().collect();
        let options = RecordBatchOptions::new().with_row_count(Some(keys.len()));
        let schema = Arc::new(Schema::new(fields));
        let all = RecordBatch::try_new_with_options(schema, self.columns(keys)?, &options).map_err(cannot_save)?;
        self.encoded(&all, key_groups, |_| {})
    }

    fn encoded(
        &self,
        all: &RecordBatch,
        key_groups: u32,
        order: impl Fn(&mut [u32]),
    ) -> Result<BTreeMap<u32, Vec<u8>>> {
        let mut rows: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (row, group) in (0..).zip(self.groups(all.columns(), all.num_rows(), key_groups)) {
            rows.entry(group).or_default().push(row);
        }
        let encoded = rows.into_iter().map(|(group, mut rows)| {
            order(&mut rows);
            let count = RecordBatchOptions::new().with_row_count(Some(rows.len()));
            let rows = match all.num_columns() {
                // Keys of no columns: how many there are is all that they are.
                0 => RecordBatch::try_new_with_options(all.schema(), Vec::new(), &count)?,
                _ => take_record_batch(all, &UInt32Array::from(rows))?,
            };
            let mut writer = StreamWriter::try_new(Vec::new(), all.schema_ref())?;
            writer.write(&rows)?;
            Ok((group, writer.into_inner()?))
        });
        encoded.collect::<Result<_, _>>().map_err(cannot_save)
    }

    /// Keys and what belongs to them, of bytes that were saved.
    pub(in crate::columnar) fn restore(&self, bytes: &[u8]) -> Result<Vec<(RowKeys, Vec<ArrayRef>)>> {
        let all = self.decoded(bytes, self.saved.fields().len())?;
        Ok(all.into_iter().map(|(keys, state, _)| (keys, state)).collect())
    }

    /// Keys of bytes that were saved of keys alone.
    pub(in crate::columnar) fn restore_keys(&self, bytes: &[u8]) -> Result<Vec<KeyBytes>> {
        Ok(self.decoded(bytes, self.columns)?.into_iter().flat_map(|(keys, _, rows)| keys.first(rows)).collect())
    }

    /// Keys, what belongs to them, and how many there are.
    fn decoded(&self, bytes: &[u8], columns: usize) -> Result<Vec<(RowKeys, Vec<ArrayRef>, usize)>> {
        let mut all = Vec::new();
        // One stream or several.
        let mut rest = bytes;
        while !rest.is_empty() {
            for batch in StreamReader::try_new(&mut rest, None).map_err(cannot_restore)? {
                let batch = batch.map_err(cannot_restore)?;
                if types(batch.schema_ref()).ne(types(&self.saved).take(columns)) {
                    let words = "its state has other keys or aggregates than the pipeline: keep them, or start under a new pipeline name";
                    return Err(Fault::new(FaultKind::Checkpoint, words).retry_with(Retry::Never));
                }
                let (keys, state) = batch.columns().split_at_checked(self.columns).unwrap_or_default();
                all.push((self.keys(keys)?, state.to_vec(), batch.num_rows()));
            }
        }
        Ok(all)
    }
}

fn types(schema: &Schema) -> impl Iterator<Item = &DataType> {
    schema.fields().iter().map(|field| field.data_type())
}

fn cannot_save(error: ArrowError) -> Fault {
    Fault::bug("the state of columns cannot be saved").because(error)
}

fn cannot_restore(error: ArrowError) -> Fault {
    let words = "the state of columns cannot be restored";
    Fault::new(FaultKind::Checkpoint, words).retry_with(Retry::Never).because(error)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn keys_of_no_columns_are_saved_as_any_others() {
        let codec = KeyCodec::new(&[], vec![Field::new("n", DataType::Int64, false)]).unwrap();
        let saved = codec.save_keys(&[KeyBytes::default()], 128).unwrap();
        let back: Vec<KeyBytes> = saved.values().flat_map(|bytes| codec.restore_keys(bytes).unwrap()).collect();
        assert_eq!(back, [KeyBytes::default()]);
    }

    #[test]
    fn one_more_number_stands_behind_a_key_as_it_would_if_it_were_one_of_its_columns() {
        let fields = [Field::new("text", DataType::Utf8, true), Field::new("n", DataType::Int64, false)];
        let (short, long) = (KeyCodec::new(&fields[..1], vec![]).unwrap(), KeyCodec::new(&fields, vec![]).unwrap());
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some(""), Some(&*"long".repeat(40))]));
        let numbers = [7, i64::MIN, -1, i64::MAX];
        let keys = short.keys(&[Arc::clone(&texts)]).unwrap();
        let longer = long.keys(&[texts, Arc::new(Int64Array::from(numbers.to_vec()))]).unwrap();
        for (row, number) in numbers.into_iter().enumerate() {
            assert_eq!(&*with_number(keys.get(row), number), longer.get(row));
            assert_eq!(without_number(longer.get(row)), (keys.get(row), number));
        }
    }
}
