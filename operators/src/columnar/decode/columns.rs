//! [`Columns`]: the columns of a row, or of a struct, that are filled side by side.

use std::collections::HashMap;

use arrow::array::ArrayRef;
use arrow::datatypes::{FieldRef, Fields};
use arrow::error::ArrowError;

use super::column::{Column, Refusal};

/// Named columns that are filled together: those of a row, or of a struct.
pub(super) struct Columns {
    fields: Fields,
    columns: Vec<Column>,
    // Objects tend to have their keys in one order: the next one is looked for behind the last.
    next: usize,
    // Where there are many, others are not looked for one by one.
    places: HashMap<String, usize>,
}

/// More columns than this are found by hash.
const FEW: usize = 16;

impl Columns {
    /// Empty columns; `None` if no schema can declare one of the types.
    pub(super) fn new(fields: &Fields, prefix: &str) -> Option<Columns> {
        let columns = fields.iter().map(|field| Column::new(field, &format!("{prefix}{}", field.name())));
        let places = fields.iter().enumerate().map(|(place, field)| (field.name().clone(), place));
        let places = if fields.len() > FEW { places.collect() } else { HashMap::new() };
        Some(Columns { fields: fields.clone(), columns: columns.collect::<Option<_>>()?, next: 0, places })
    }

    /// The place of the column of this name.
    pub(super) fn find(&mut self, name: &str) -> Option<usize> {
        let is = |field: &FieldRef| field.name() == name;
        let found = match self.fields.get(self.next) {
            Some(field) if is(field) => self.next,
            _ if self.places.is_empty() => self.fields.iter().position(is)?,
            _ => *self.places.get(name)?,
        };
        self.next = (found + 1) % self.fields.len().max(1);
        Some(found)
    }

    /// The column at a place, ready for its value in row `row`: an earlier value of that row is taken back.
    pub(super) fn begin(&mut self, place: usize, row: usize) -> Option<&mut Column> {
        let column = self.columns.get_mut(place)?;
        if column.len() > row {
            column.truncate(row);
        }
        Some(column)
    }

    /// Fills the columns that row `row` has no value for.
    pub(super) fn close_row(&mut self, row: usize) -> Result<(), Refusal> {
        self.next = 0;
        self.columns.iter_mut().filter(|column| column.len() <= row).try_for_each(Column::put_missing)
    }

    /// What they are declared as.
    pub(super) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Appends a null to each, though there may be none: for what is inside of a null.
    pub(super) fn fill(&mut self) {
        self.columns.iter_mut().for_each(Column::fill);
    }

    /// Takes back all rows but the first `len`.
    pub(super) fn truncate(&mut self, len: usize) {
        self.next = 0;
        self.columns.iter_mut().for_each(|column| column.truncate(len));
    }

    /// The arrays of all columns, which are empty afterwards.
    pub(super) fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.columns.iter_mut().map(Column::finish).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columnar::tests::lines;
    use crate::columnar::{parse_field, schema};
    use arrow::array::{Array, AsArray, RecordBatch};
    use arrow::datatypes::TimestampMicrosecondType;

    fn columns(declared: &[(&str, &str)]) -> (Columns, arrow::datatypes::SchemaRef) {
        let schema = schema(declared.iter().copied()).unwrap();
        (Columns::new(schema.fields(), "").unwrap(), schema)
    }

    #[test]
    fn a_row_that_is_taken_back_leaves_nothing_behind() {
        let (mut columns, schema) =
            columns(&[("t", "utf8"), ("l", "list<utf8>"), ("s", "struct<a: int8 not null, b: list<bool>>")]);
        for row in 0..3usize {
            // The second row is filled half-way and taken back.
            let at = row.min(1);
            columns.begin(0, at).unwrap().put_text(&format!("row {row}")).unwrap();
            let list = columns.begin(1, at).unwrap();
            list.items().unwrap().put_text("x").unwrap();
            list.items().unwrap().put_null().unwrap();
            if row == 1 {
                columns.begin(2, at).unwrap().fields().unwrap().begin(0, at).unwrap().put_int(1).unwrap();
                columns.truncate(1);
                continue;
            }
            list.close_list().unwrap();
            columns.close_row(at).unwrap();
        }
        let rows = RecordBatch::try_new(schema, columns.finish().unwrap()).unwrap();
        assert_eq!(
            lines(&rows),
            [
                serde_json::json!({"t": "row 0", "l": ["x", null], "s": null}),
                serde_json::json!({"t": "row 2", "l": ["x", null], "s": null}),
            ]
        );
    }

    #[test]
    fn numbers_fit_or_are_refused() {
        for (kind, good, bad) in [
            (
                "int8",
                vec!["127", "-128", "1.0", "1e2", "-0"],
                vec!["128", "1.5", "1e400", "99999999999999999999999999999999999999999"],
            ),
            ("uint64", vec!["18446744073709551615", "0"], vec!["-1", "18446744073709551616", "1e19"]),
            (
                "int64",
                vec!["-9223372036854775808", "9007199254740991.0"],
                vec!["9223372036854775808", "9007199254740993.0"],
            ),
            ("float64", vec!["1e308", "-0.0", "5e-324", "123456789012345678901234567890"], vec!["1e309", "-1e400"]),
            ("float32", vec!["3.4e38"], vec!["3.5e38"]),
            ("decimal(5, 2)", vec!["999.99", "-0.01", "1e2", "1.500"], vec!["1000", "0.001", "1e999999999999", "1e3"]),
            ("timestamp", vec!["1767268800000000", "-1"], vec!["1.5", "9223372036854775808"]),
            ("utf8", vec![], vec!["1"]),
            ("bool", vec![], vec!["1"]),
            ("date", vec![], vec!["1"]),
        ] {
            for (numbers, fits) in [(good, true), (bad, false)] {
                for number in numbers {
                    let mut column = Column::new(&parse_field("x", kind).unwrap(), "x").unwrap();
                    let put = column.put_number(number);
                    assert_eq!(put.is_ok(), fits, "{kind} {number}: {put:?}");
                    assert_eq!(column.finish().unwrap().len(), usize::from(fits), "{kind} {number}");
                }
            }
        }
    }

    #[test]
    fn numbers_are_times_in_the_unit_that_is_declared() {
        for (kind, number, micros) in [
            ("timestamp", "1436918400000000", Some(1_436_918_400_000_000)),
            ("timestamp(ms)", "1436918400000", Some(1_436_918_400_000_000)),
            ("timestamp(ms)", "-1", Some(-1_000)),
            ("timestamp(s)", "1.0", Some(1_000_000)),
            ("timestamp(ms)", "0.5", None),
            ("timestamp(s)", "9223372036855", None),
        ] {
            let mut column = Column::new(&parse_field("x", kind).unwrap(), "x").unwrap();
            assert_eq!(column.put_number(number).is_ok(), micros.is_some(), "{kind} {number}");
            column.put_text("1970-01-01T00:00:01Z").unwrap();
            let times = column.finish().unwrap();
            let times: Vec<i64> = times.as_primitive::<TimestampMicrosecondType>().values().to_vec();
            assert_eq!(times, micros.into_iter().chain([1_000_000]).collect::<Vec<_>>(), "{kind} {number}");
        }
    }

    #[test]
    fn a_key_that_comes_twice_counts_with_its_last_value() {
        let (mut columns, schema) = columns(&[("n", "int64"), ("t", "utf8")]);
        for n in 1..=3 {
            columns.begin(0, 0).unwrap().put_int(n).unwrap();
        }
        columns.close_row(0).unwrap();
        let rows = RecordBatch::try_new(schema, columns.finish().unwrap()).unwrap();
        assert_eq!(lines(&rows), [serde_json::json!({"n": 3, "t": null})]);
    }

    #[test]
    fn columns_are_found_in_any_order_however_many_there_are() {
        for count in [3, 16, 17, 100] {
            let declared: Vec<(String, &str)> = (0..count).map(|n| (format!("c{n}"), "int64")).collect();
            let list: Vec<_> = declared.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
            let (mut columns, _) = columns(&list);
            for step in [1, 7, count - 1] {
                for n in (0..count).map(|n| n * step % count) {
                    assert_eq!(columns.find(&format!("c{n}")), Some(n), "{count} columns in steps of {step}");
                }
            }
            assert_eq!((columns.find("c"), columns.find(&format!("c{count}"))), (None, None));
        }
    }

    #[test]
    fn refusals_name_the_place() {
        let (mut columns, _) = columns(&[("s", "struct<a: list<int8 not null>>")]);
        let list = columns.begin(0, 0).unwrap().fields().unwrap().begin(0, 0).unwrap();
        assert_eq!(list.items().unwrap().put_null().unwrap_err(), "`s.a[]` must not be null");
        assert_eq!(list.items().unwrap().put_text("x").unwrap_err(), "`s.a[]` must be int8, not the text \"x\"");
        assert_eq!(list.put_bool(true).unwrap_err(), "`s.a` must be list<int8 not null>, not true");
    }
}
