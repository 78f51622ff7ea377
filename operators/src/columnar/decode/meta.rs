//! [`Meta`]: columns about the message that a row came from.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringBuilder, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field};

use crate::Origins;
use crate::columnar::schema;

/// A column that is not in the payload of a message but about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meta {
    /// The subject that it was published on: `utf8`.
    Subject,
    /// Its sequence in the stream: `uint64`.
    Sequence,
    /// When the stream stored it: `timestamp`.
    Time,
    /// The first value of a header: `utf8`, null if there is none.
    Header(String),
}

impl Meta {
    pub(super) fn field(&self, name: &str) -> Field {
        let data_type = match self {
            Meta::Subject | Meta::Header(_) => DataType::Utf8,
            Meta::Sequence => DataType::UInt64,
            Meta::Time => schema::timestamp(),
        };
        Field::new(name, data_type, true)
    }

    pub(super) fn column(&self, origins: Option<&Origins>, of_row: &[usize]) -> ArrayRef {
        let of = || of_row.iter().map(|row| origins.and_then(|origins| origins.get(*row)));
        match self {
            Meta::Sequence => Arc::new(of().map(|origin| origin.map(|o| o.sequence)).collect::<UInt64Array>()),
            Meta::Time => {
                let times = of().map(|origin| origin.map(|o| o.stored_at.as_micros()));
                Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone(schema::UTC))
            }
            Meta::Subject | Meta::Header(_) => {
                let mut text = StringBuilder::new();
                for origin in of() {
                    text.append_option(origin.and_then(|origin| match self {
                        Meta::Header(name) => origin.headers.get(name),
                        _ => Some(origin.subject()),
                    }));
                }
                Arc::new(text.finish())
            }
        }
    }
}
