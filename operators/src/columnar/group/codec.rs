//! [`KeyCodec`]: keys as bytes that can be looked up and sorted, and state by key as bytes that can be saved.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::row::{RowConverter, Rows, SortField};

use super::keys::hashes;
use crate::{Fault, FaultKind, Result, Retry};

/// A key as bytes that sort as its values do. They are never saved: what they look like is Arrow's own affair.
pub(in crate::columnar) type KeyBytes = Box<[u8]>;

/// Makes bytes of the columns of a key, and columns of the bytes.
pub(in crate::columnar) struct KeyCodec {
    // Without columns there is one key, of no bytes.
    converter: Option<RowConverter>,
    columns: usize,
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
        Ok(KeyCodec { converter, columns: keys.len(), saved })
    }

    /// The keys of rows with these columns.
    pub(in crate::columnar) fn keys(&self, columns: &[ArrayRef]) -> Result<RowKeys> {
        let rows = self.converter.as_ref().map(|converter| converter.convert_columns(columns)).transpose();
        rows.map(RowKeys).map_err(|error| Fault::bug("cannot read keys").because(error))
    }

    /// Keys as columns.
    pub(in crate::columnar) fn columns<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a KeyBytes>,
    ) -> Result<Vec<ArrayRef>> {
        let Some(converter) = &self.converter else { return Ok(Vec::new()) };
        let parser = converter.parser();
        let columns = converter.convert_rows(keys.into_iter().map(|key| parser.parse(key)));
        columns.map_err(|error| Fault::bug("cannot write keys").because(error))
    }

    /// Rows of what is saved, of keys and the columns that belong to them.
    pub(in crate::columnar) fn rows(
        &self,
        keys: &[KeyBytes],
        state: impl IntoIterator<Item = ArrayRef>,
    ) -> Result<RecordBatch> {
        let columns = self.columns(keys)?.into_iter().chain(state).collect();
        RecordBatch::try_new(Arc::clone(&self.saved), columns).map_err(cannot_save)
    }

    /// Rows of what is saved as bytes, by key group.
    pub(in crate::columnar) fn save(&self, all: &[RecordBatch], key_groups: u32) -> Result<BTreeMap<u32, Vec<u8>>> {
        let all = arrow::compute::concat_batches(&self.saved, all).map_err(cannot_save)?;
        let mut rows: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (row, hash) in (0..).zip(hashes(all.columns().iter().take(self.columns), all.num_rows())) {
            rows.entry(hash % key_groups.max(1)).or_default().push(row);
        }
        let encoded = rows.into_iter().map(|(group, rows)| {
            let rows = take_record_batch(&all, &UInt32Array::from(rows))?;
            let mut writer = StreamWriter::try_new(Vec::new(), &self.saved)?;
            writer.write(&rows)?;
            Ok((group, writer.into_inner()?))
        });
        encoded.collect::<Result<_, _>>().map_err(cannot_save)
    }

    /// Keys and what belongs to them, of bytes that were saved.
    pub(in crate::columnar) fn restore(&self, bytes: &[u8]) -> Result<Vec<(RowKeys, Vec<ArrayRef>)>> {
        let mut all = Vec::new();
        for batch in StreamReader::try_new(bytes, None).map_err(cannot_restore)? {
            let batch = batch.map_err(cannot_restore)?;
            if types(&batch.schema()) != types(&self.saved) {
                let words = "its state has other keys or aggregates than the pipeline: keep them, or give the step another name, which begins without state";
                return Err(Fault::new(FaultKind::Checkpoint, words).retry_with(Retry::Never));
            }
            let (keys, state) = batch.columns().split_at_checked(self.columns).unwrap_or_default();
            all.push((self.keys(keys)?, state.to_vec()));
        }
        Ok(all)
    }
}

fn types(schema: &Schema) -> Vec<DataType> {
    schema.fields().iter().map(|field| field.data_type().clone()).collect()
}

fn cannot_save(error: ArrowError) -> Fault {
    Fault::bug("the state of columns cannot be saved").because(error)
}

fn cannot_restore(error: ArrowError) -> Fault {
    let words = "the state of columns cannot be restored";
    Fault::new(FaultKind::Checkpoint, words).retry_with(Retry::Never).because(error)
}
