//! [`KeyColumns`]: the columns that rows are grouped by.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Int8Type, Int16Type, Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};

use crate::columnar::ExprError;
use crate::columnar::schema::describe_type;
use crate::suggest::did_you_mean;
use crate::{Fnv1a32, Key, KeyWriter};

/// The columns that rows are grouped by. A row's key group is that of a typed [`Key`] of the same values: a text is its
/// UTF-8, a number its decimal digits, a time its microseconds, and null a key of its own.
#[derive(Clone, Debug)]
pub struct KeyColumns {
    places: Arc<[usize]>,
}

impl KeyColumns {
    /// These columns of `schema`, in this order.
    ///
    /// # Errors
    /// For each column that is not there, or of a type that is no key, its place in the list and what is wrong.
    pub fn new(schema: &SchemaRef, columns: &[String]) -> Result<Self, Vec<(usize, ExprError)>> {
        let mut wrong = Vec::new();
        let mut places = Vec::new();
        for (number, column) in columns.iter().enumerate() {
            let Ok(place) = schema.index_of(column) else {
                let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                let error = ExprError::new(format!("there is no column `{column}`"));
                wrong.push((number, error.help(did_you_mean(column, "columns", names))));
                continue;
            };
            let data_type = schema.field(place).data_type();
            if !is_key(data_type) {
                let what = format!("column `{column}` is {}, which is no key", describe_type(data_type));
                let help = "keys are texts, whole numbers, booleans, dates and timestamps; compute one with `set`";
                wrong.push((number, ExprError::new(what).help(help.to_owned())));
            }
            places.push(place);
        }
        if wrong.is_empty() { Ok(KeyColumns { places: places.into() }) } else { Err(wrong) }
    }

    /// The columns' places.
    pub fn places(&self) -> &[usize] {
        &self.places
    }

    /// Writes the key group of each row behind those in `out`.
    pub fn groups(&self, rows: &RecordBatch, key_groups: u32, out: &mut Vec<u32>) {
        let columns = self.places.iter().filter_map(|place| rows.columns().get(*place));
        out.extend(hashes(columns, rows.num_rows()).into_iter().map(|hash| hash % key_groups.max(1)));
    }
}

/// The hash of each row over some columns.
pub(in crate::columnar) fn hashes<'a>(columns: impl Iterator<Item = &'a ArrayRef>, rows: usize) -> Vec<u32> {
    let mut hashes = vec![Fnv1a32::default(); rows];
    for column in columns {
        write(column, &mut hashes);
    }
    hashes.into_iter().map(Fnv1a32::finish).collect()
}

fn is_key(data_type: &DataType) -> bool {
    use DataType::*;
    matches!(
        data_type,
        Utf8 | Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Date32 | Timestamp(..)
    )
}

fn write(column: &ArrayRef, hashes: &mut [Fnv1a32]) {
    macro_rules! numbers {
        ($type:ty) => {{
            if let Some(numbers) = column.as_primitive_opt::<$type>() {
                write_each(numbers.iter(), hashes);
            }
        }};
    }
    match column.data_type() {
        DataType::Utf8 => {
            for (hash, text) in hashes.iter_mut().zip(column.as_string::<i32>().iter()) {
                match text {
                    Some(text) => hash.write(text.as_bytes()),
                    None => None::<bool>.write_to(hash),
                }
            }
        }
        DataType::Boolean => write_each(column.as_boolean().iter(), hashes),
        DataType::Int8 => numbers!(Int8Type),
        DataType::Int16 => numbers!(Int16Type),
        DataType::Int32 => numbers!(Int32Type),
        DataType::Int64 => numbers!(Int64Type),
        DataType::UInt8 => numbers!(UInt8Type),
        DataType::UInt16 => numbers!(UInt16Type),
        DataType::UInt32 => numbers!(UInt32Type),
        DataType::UInt64 => numbers!(UInt64Type),
        DataType::Date32 => numbers!(Date32Type),
        DataType::Timestamp(..) => numbers!(TimestampMicrosecondType),
        // `new` lets no other through.
        _ => {}
    }
}

fn write_each<K: Key>(keys: impl Iterator<Item = Option<K>>, hashes: &mut [Fnv1a32]) {
    for (hash, key) in hashes.iter_mut().zip(keys) {
        key.write_to(hash);
    }
}

impl fmt::Display for KeyColumns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} columns", self.places.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyGroup;
    use crate::columnar::tests::rows;

    fn columns(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_row_is_in_the_key_group_of_a_typed_key_of_the_same_values() {
        let declared = &[("name", "utf8"), ("n", "int64"), ("ok", "bool"), ("x", "float64")];
        let batch = rows(declared, &[r#"{"name":"a","n":-7,"ok":true}"#, r#"{"n":12}"#]);
        let keys = KeyColumns::new(&batch.rows().schema(), &columns(&["name", "n", "ok"])).unwrap();
        let mut groups = Vec::new();
        keys.groups(batch.rows(), 128, &mut groups);
        let first = KeyGroup::of(&(Some("a".to_owned()), -7i64, true), 128);
        let second = KeyGroup::of(&(None::<String>, 12i64, None::<bool>), 128);
        assert_eq!(groups, [first.0, second.0]);
    }

    #[test]
    fn all_columns_that_are_no_keys_are_told() {
        let schema = rows(&[("name", "utf8"), ("x", "float64")], &["{}"]).rows().schema();
        let wrong = KeyColumns::new(&schema, &columns(&["nam", "x"])).unwrap_err();
        let words: Vec<String> = wrong.iter().map(|(number, error)| format!("{number}: {error}")).collect();
        assert!(words[0].contains("0: there is no column `nam` (did you mean `name`?)"), "{words:?}");
        assert!(words[1].contains("1: column `x` is float64, which is no key"), "{words:?}");
    }
}
