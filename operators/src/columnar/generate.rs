//! Rows from nothing: [`numbers`], which a [`Select`](super::Select) makes generated rows of.

use std::sync::Arc;

use arrow::array::{RecordBatch, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::schema;
use crate::Timestamp;

/// The columns of [`numbers`]: `n: uint64 not null` and `at: timestamp not null`.
pub fn numbers_schema() -> SchemaRef {
    let fields = [("n", DataType::UInt64), ("at", schema::timestamp())];
    Arc::new(Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, false)).to_vec()))
}

/// Rows that are numbered from `from` on, all at one time; fewer than `count` where numbers end.
pub fn numbers(from: u64, count: usize, at: Timestamp) -> RecordBatch {
    let n: UInt64Array = (from..=u64::MAX).take(count).collect::<Vec<_>>().into();
    let at = TimestampMicrosecondArray::from(vec![at.as_micros(); n.len()]).with_timezone(schema::UTC);
    let empty = RecordBatch::new_empty(numbers_schema());
    // Two columns of one length and the types above.
    RecordBatch::try_new(numbers_schema(), vec![Arc::new(n), Arc::new(at)]).unwrap_or(empty)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Batch;
    use crate::columnar::tests::{clock, joined, lines, run};
    use crate::columnar::{Expression, Select};

    #[test]
    fn a_select_over_numbers_makes_rows() {
        let compile =
            |(name, sql): (&str, &str)| (name.to_owned(), Expression::compile(sql, &numbers_schema()).unwrap());
        let columns = [
            ("id", "'c-' || n % 2"),
            ("amount", "n * 1.5"),
            ("at", "at + cast(cast(n as int64) * 1000000 as duration)"),
        ];
        let mut select = Select::new(columns.map(compile).to_vec(), clock()).unwrap();
        let rows = numbers(5, 2, Timestamp::from_micros(0));
        let made = joined(&mut run(&mut select, [Batch::at(Timestamp::MIN, rows)]), 0).unwrap();
        assert_eq!(
            lines(&made),
            [
                json!({"id": "c-1", "amount": 7.5, "at": "1970-01-01T00:00:05Z"}),
                json!({"id": "c-0", "amount": 9.0, "at": "1970-01-01T00:00:06Z"}),
            ]
        );
    }

    #[test]
    fn numbers_end_where_they_end() {
        assert_eq!(numbers(u64::MAX, 3, Timestamp::MIN).num_rows(), 1);
        assert_eq!(numbers(0, 0, Timestamp::MIN).num_rows(), 0);
    }
}
