//! [`Explode`]: one row for each item of a list.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, UInt32Array, UInt64Array, make_array};
use arrow::buffer::NullBuffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};

use super::ExprError;
use super::schema::describe_field;
use crate::suggest::did_you_mean;
use crate::{Batch, Fault, Operator, Origins, Outbox, Parts, Result, Times, Turn};

/// Makes a row of each item of a list column; the other columns, the time and the message are those of its row. A row
/// whose list is null or empty gives none, unless it is asked to.
///
/// ```text
/// rows                  1: [a b]      2: []     3: null   4: [null c]
/// given                 1: a   1: b                       4: null   4: c
/// given (keep_empty)    1: a   1: b   2: null   3: null   4: null   4: c
/// ```
///
/// Items come in the order of the list, some thousand at a time, as there is room for them. Nothing is kept, and no row is
/// rejected.
pub struct Explode {
    column: usize,
    keep_empty: bool,
    flatten: bool,
    schema: SchemaRef,
    open: Option<Open>,
}

/// A batch of which rows are still to be made.
struct Open {
    times: Times,
    rows: RecordBatch,
    list: ListArray,
    origins: Option<Origins>,
    weight: usize,
    total: usize,
    // The next row, and the next item of its list.
    row: usize,
    item: usize,
}

/// How many rows are made at a time.
const BATCH_ROWS: usize = 8_192;

impl Explode {
    /// Explodes a list column, which becomes a column of its items.
    ///
    /// With `keep_empty`, a list that is null or empty gives one row with null in its place. With `flatten`, items must
    /// be structs, and their fields become columns of their own in place of the list.
    ///
    /// # Errors
    /// A column that there is not, or that holds no lists, or no structs to flatten; two columns of one name.
    pub fn new(input: &SchemaRef, column: &str, keep_empty: bool, flatten: bool) -> Result<Self, ExprError> {
        let Some((place, field)) = input.column_with_name(column) else {
            let known = input.fields().iter().map(|field| field.name().as_str());
            return Err(
                ExprError::new(format!("there is no column `{column}`")).help(did_you_mean(column, "columns", known))
            );
        };
        let DataType::List(item) = field.data_type() else {
            return Err(ExprError::new(format!("`{column}` is {}, and must be a list", describe_field(field))));
        };
        let items: Vec<FieldRef> = match item.data_type() {
            DataType::Struct(fields) if flatten => {
                let nullable = |field: &FieldRef| field.is_nullable() || item.is_nullable() || keep_empty;
                let column = |field: &FieldRef| Arc::new(Field::clone(field).with_nullable(nullable(field)));
                fields.iter().map(column).collect()
            }
            _ if flatten => {
                let what =
                    format!("the items of `{column}` are {}, and only structs can be flattened", describe_field(item));
                return Err(ExprError::new(what));
            }
            _ => vec![Arc::new(Field::clone(item).with_name(column).with_nullable(item.is_nullable() || keep_empty))],
        };
        let mut fields = input.fields().to_vec();
        fields.splice(place..=place, items);
        for (i, field) in fields.iter().enumerate() {
            if fields.iter().take(i).any(|before| before.name() == field.name()) {
                let what = format!("there would be two columns called `{}`", field.name());
                return Err(ExprError::new(what).help("rename or drop one of them with `select` first".to_owned()));
            }
        }
        let schema = Arc::new(Schema::new(Fields::from(fields)));
        Ok(Explode { column: place, keep_empty, flatten, schema, open: None })
    }

    /// The columns that it gives.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

impl Open {
    fn length(&self, row: usize) -> usize {
        if self.list.is_null(row) { 0 } else { usize::try_from(self.list.value_length(row)).unwrap_or(0) }
    }

    /// The next rows: for each, the row that it is made of, and its item if it has one.
    fn next(&mut self, keep_empty: bool) -> (Vec<u32>, Vec<Option<u64>>) {
        let (mut parents, mut items) = (Vec::new(), Vec::new());
        while self.row < self.rows.num_rows() && parents.len() < BATCH_ROWS {
            let (parent, length) = (u32::try_from(self.row).unwrap_or(u32::MAX), self.length(self.row));
            if length == 0 && keep_empty {
                parents.push(parent);
                items.push(None);
            }
            let count = (length - self.item).min(BATCH_ROWS - parents.len());
            let start =
                self.list.value_offsets().get(self.row).and_then(|start| u64::try_from(*start).ok()).unwrap_or(0);
            let first = start + self.item as u64;
            parents.extend(std::iter::repeat_n(parent, count));
            items.extend((first..first + count as u64).map(Some));
            self.item += count;
            if self.item == length {
                self.row += 1;
                self.item = 0;
            }
        }
        (parents, items)
    }
}

impl Explode {
    fn make(&self, open: &Open, parents: Vec<u32>, items: Vec<Option<u64>>) -> Result<Batch<RecordBatch>> {
        let bug = |error| Fault::bug("cannot take items apart").because(error);
        let times = open.times.select(parents.iter().map(|row| *row as usize));
        let origins = open.origins.as_ref().map(|origins| origins.select(parents.iter().map(|row| *row as usize)));
        let weight = open.weight.checked_mul(parents.len()).map_or(open.weight, |weight| weight / open.total.max(1));
        let (parents, items) = (UInt32Array::from(parents), UInt64Array::from(items));
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for (place, column) in open.rows.columns().iter().enumerate() {
            if place != self.column {
                columns.push(take(column, &parents, None).map_err(bug)?);
                continue;
            }
            let taken = take(open.list.values(), &items, None).map_err(bug)?;
            if self.flatten {
                let parts = taken.as_struct();
                columns.extend(
                    parts
                        .columns()
                        .iter()
                        .map(|part| masked(part, parts.nulls()))
                        .collect::<Result<Vec<_>, _>>()
                        .map_err(bug)?,
                );
            } else {
                columns.push(taken);
            }
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(bug)?;
        Batch::from_parts(Parts { times, rows, origins, weight })
    }
}

/// A field of structs as a column of its own: null where the struct is.
fn masked(part: &ArrayRef, of_struct: Option<&NullBuffer>) -> Result<ArrayRef, arrow::error::ArrowError> {
    if of_struct.is_none_or(|nulls| nulls.null_count() == 0) || part.data_type() == &DataType::Null {
        return Ok(Arc::clone(part));
    }
    let nulls = NullBuffer::union(part.nulls(), of_struct);
    Ok(make_array(part.to_data().into_builder().nulls(nulls).build()?))
}

impl Operator for Explode {
    type In = RecordBatch;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<RecordBatch>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let Parts { times, rows, origins, weight } = batch.into_parts();
        let list = rows.columns().get(self.column).and_then(|column| column.as_list_opt::<i32>()).cloned();
        let list = list.ok_or_else(|| Fault::bug("the column to explode is no list"))?;
        let mut open = Open { times, rows, list, origins, weight, total: 0, row: 0, item: 0 };
        open.total = (0..open.rows.num_rows()).map(|row| open.length(row).max(usize::from(self.keep_empty))).sum();
        self.open = Some(open);
        self.on_more(out)
    }

    fn on_more(&mut self, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let Some(mut open) = self.open.take() else { return Ok(Turn::Done) };
        loop {
            let (parents, items) = open.next(self.keep_empty);
            if !parents.is_empty() {
                out.send(self.make(&open, parents, items)?);
            }
            if open.row >= open.rows.num_rows() {
                return Ok(Turn::Done);
            }
            if !out.has_room() {
                self.open = Some(open);
                return Ok(Turn::Again);
            }
        }
    }
}

impl std::fmt::Debug for Explode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Explode(to {})", super::describe(&self.schema))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::columnar::describe;
    use crate::columnar::steps::{Step, steps_do_not_matter};
    use crate::columnar::tests::{at_port, lines, rows, run};
    use crate::origin::tests::numbered;
    use crate::testkit::Bench;

    const COLUMNS: [(&str, &str); 3] =
        [("id", "int64 not null"), ("items", "list<struct<sku: utf8 not null, n: int32>>"), ("at", "date")];
    const LINES: [&str; 4] = [
        r#"{"id":1,"items":[{"sku":"a","n":1},{"sku":"b"}],"at":"2026-01-01"}"#,
        r#"{"id":2,"items":[]}"#,
        r#"{"id":3}"#,
        r#"{"id":4,"items":[null,{"sku":"c","n":3}]}"#,
    ];

    fn exploded(keep_empty: bool, flatten: bool) -> (String, Vec<serde_json::Value>) {
        let batch = rows(&COLUMNS, &LINES);
        let mut bench = Bench::new(Explode::new(&batch.rows().schema(), "items", keep_empty, flatten).unwrap());
        bench.batch(batch);
        (describe(bench.operator().schema()), lines(bench.take_batches()[0].rows()))
    }

    #[test]
    fn each_item_becomes_a_row() {
        let (schema, rows) = exploded(false, false);
        assert_eq!(schema, "id: int64 not null, items: struct<sku: utf8 not null, n: int32>, at: date");
        assert_eq!(
            rows,
            [
                json!({"id": 1, "items": {"sku": "a", "n": 1}, "at": "2026-01-01"}),
                json!({"id": 1, "items": {"sku": "b", "n": null}, "at": "2026-01-01"}),
                json!({"id": 4, "items": null, "at": null}),
                json!({"id": 4, "items": {"sku": "c", "n": 3}, "at": null}),
            ]
        );
    }

    #[test]
    fn empty_lists_can_be_kept_and_structs_flattened() {
        let (schema, rows) = exploded(true, true);
        assert_eq!(schema, "id: int64 not null, sku: utf8, n: int32, at: date");
        assert_eq!(
            rows,
            [
                json!({"id": 1, "sku": "a", "n": 1, "at": "2026-01-01"}),
                json!({"id": 1, "sku": "b", "n": null, "at": "2026-01-01"}),
                json!({"id": 2, "sku": null, "n": null, "at": null}),
                json!({"id": 3, "sku": null, "n": null, "at": null}),
                json!({"id": 4, "sku": null, "n": null, "at": null}),
                json!({"id": 4, "sku": "c", "n": 3, "at": null}),
            ]
        );
    }

    #[test]
    fn long_lists_come_in_parts_with_time_origin_and_share_of_the_weight() {
        let list: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
        let batch = rows(&[("l", "list<int64>")], &[r#"{"l":[7]}"#, &format!(r#"{{"l":[{}]}}"#, list.join(","))]);
        let batch = batch.with_origins(numbered(2)).unwrap().weighing(200_010);
        let mut explode = Explode::new(&batch.rows().schema(), "l", false, false).unwrap();
        let batches = at_port::<RecordBatch>(&mut run(&mut explode, [batch]), 0);
        assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), [8_192, 8_192, 3_617]);
        assert_eq!(batches.iter().map(Batch::weight).collect::<Vec<_>>(), [81_920, 81_920, 36_170]);
        assert_eq!([0, 1].map(|row| batches[0].origins().unwrap().get(row).unwrap().sequence), [0, 1]);
        assert!(batches[2].times().iter().all(|time| time.as_micros() == 7));
    }

    #[test]
    fn what_cannot_be_exploded_is_refused() {
        let schema = rows(&COLUMNS, &LINES).into_parts().rows.schema();
        for (column, words) in [("itms", "did you mean `items`?"), ("id", "`id` is int64 not null, and must be a list")]
        {
            assert!(Explode::new(&schema, column, false, false).unwrap_err().to_string().contains(words));
        }
        let lists =
            crate::columnar::schema([("n", "int8"), ("a", "list<utf8>"), ("b", "list<struct<n: int8>>")]).unwrap();
        assert!(Explode::new(&lists, "a", false, true).unwrap_err().what.contains("only structs"));
        assert!(Explode::new(&lists, "b", false, true).unwrap_err().what.contains("two columns called `n`"));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_batches_are_cut_and_where_it_is_restarted(
            of in prop::collection::vec(0usize..4, 1..12), keep: bool, flat: bool, seed: u64,
        ) {
            let batch = rows(&COLUMNS, &of.iter().map(|line| LINES[*line]).collect::<Vec<_>>());
            let make = || Explode::new(&batch.rows().schema(), "items", keep, flat).unwrap();
            let batch = batch.clone().with_origins(numbered(of.len() as u64)).unwrap();
            let items = |line: usize| [2, usize::from(keep), usize::from(keep), 2][line];
            let told = steps_do_not_matter(make, &[Step::Rows(batch)], seed);
            prop_assert_eq!(told.port(0).len(), of.iter().map(|line| items(*line)).sum::<usize>());
        }
    }
}
