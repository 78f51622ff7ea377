//! [`Lookup`]: each row with the columns that a table has for it now.

use std::fmt;
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::rows::{compute_or_reject, rejected_port, rejected_rows};
use super::{Clock, Decode, DecodeFormat, ExprError, Expression, keep};
use crate::{Batch, Cause, Code, Fault, Operator, Outbox, Parts, PortType, Result, Table, Turn};

/// What a [`Lookup`] looks up, and what it makes of what it finds.
#[derive(Clone, Debug)]
pub struct LookupColumns {
    /// The key of a row: an SQL expression; what it gives is looked up as text. Null finds nothing.
    pub key: Expression,
    /// How the table's values are read.
    pub format: DecodeFormat,
    /// Their columns.
    pub values: Option<SchemaRef>,
    /// What stands before the names of these columns.
    pub prefix: String,
    /// Rows for which the table has nothing are dropped; otherwise the columns are null.
    pub inner: bool,
}

/// Puts the columns of a [`Table`]'s values behind those of each row: what the table has for its key at that moment (see
/// [`rows::Lookup`](crate::rows::Lookup)).
///
/// ```text
/// table            1: ann, 3: bob, 4: what cannot be read
/// rows             0         1        2         3        4
/// given            0, null   1, ann   2, null   3, bob
/// given (inner)              1, ann             3, bob
/// rejected                                               4
/// ```
///
/// Rows keep their times and messages. The table is no state: what is found depends on when it is looked up, so a replay may
/// give something else.
///
/// # Errors
/// A row whose entry cannot be read, or whose key cannot be computed, goes to the port [`REJECTED`](super::REJECTED), number 1,
/// as JSON text.
pub struct Lookup {
    table: Table,
    key: Expression,
    decode: Decode,
    inner: bool,
    schema: SchemaRef,
    clock: Clock,
}

impl Lookup {
    /// The operator that looks rows up in `table`; `clock` is what `now()` asks.
    ///
    /// # Errors
    /// A format whose messages may hold several rows or that lacks its columns, and two columns of one name.
    pub fn new(table: Table, columns: &LookupColumns, clock: Clock) -> Result<Self, ExprError> {
        if let DecodeFormat::Ndjson | DecodeFormat::ArrowIpc = columns.format {
            let what = format!("`{}` may be several rows, and a key stands for one", columns.format.word());
            return Err(ExprError::new(what).help("use json, msgpack, text or raw".to_owned()));
        }
        let input = columns.key.input();
        // What stands for a row is text, whatever it was made of.
        let key = match columns.key.data_type() {
            DataType::Utf8 => columns.key.clone(),
            _ => Expression::compile(&format!("cast(({}) as varchar)", columns.key.sql()), input)?,
        };
        let decode = Decode::new(columns.format, columns.values.as_ref())?;
        let found = decode.schema().fields().iter().map(|field| {
            let nullable = field.is_nullable() || !columns.inner;
            let name = format!("{}{}", columns.prefix, field.name());
            Field::new(name, field.data_type().clone(), nullable).with_metadata(field.metadata().clone())
        });
        let found: Vec<Field> = found.collect();
        if let Some(twice) = found.iter().find(|field| input.column_with_name(field.name()).is_some()) {
            let what = format!("there would be two columns `{}`", twice.name());
            return Err(ExprError::new(what).help("give those of the table a `prefix`".to_owned()));
        }
        let fields: Vec<Field> = input.fields().iter().map(|field| field.as_ref().clone()).chain(found).collect();
        Ok(Lookup { table, key, decode, inner: columns.inner, schema: Arc::new(Schema::new(fields)), clock })
    }

    /// The columns of the results.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

impl Operator for Lookup {
    type In = RecordBatch;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<RecordBatch>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let (batch, keys) = compute_or_reject(std::slice::from_ref(&self.key), batch, (self.clock)(), out, 1)?;
        let keys = keys.first().and_then(|keys| keys.as_string_opt::<i32>());
        let keys = keys.ok_or_else(|| Fault::bug("a key that is looked up is no text"))?;
        let entries = self.table.look_up(keys);
        let (mut of_entry, mut found) = (Vec::new(), Vec::new());
        for (row, entry) in entries.into_iter().enumerate() {
            if let Some(entry) = entry {
                of_entry.push(row);
                found.push(entry);
            }
        }
        let decoded = self.decode.each(&found)?;
        let (mut places, mut known) = (vec![None; batch.len()], vec![!self.inner; batch.len()]);
        for (place, entry) in (0u32..).zip(&decoded.of_row) {
            let row = of_entry.get(*entry).copied().unwrap_or(usize::MAX);
            if let (Some(at), Some(known)) = (places.get_mut(row), known.get_mut(row)) {
                (*at, *known) = (Some(place), true);
            }
        }
        let refused = decoded.refused.into_iter().filter_map(|(entry, why)| {
            let row = *of_entry.get(entry)?;
            let key = keys.value(row);
            Some((row, Cause::new(Code::Decode, format!("what the table has for `{key}` cannot be read: {why}"))))
        });
        let refused: Vec<(usize, Cause)> = refused.collect();
        if !refused.is_empty() {
            for (row, _) in &refused {
                known.get_mut(*row).into_iter().for_each(|known| *known = false);
            }
            out.send_port(1, rejected_rows(batch.rows(), batch.times(), batch.origins(), refused)?);
        }
        let places = places.into_iter().zip(&known).filter(|(_, known)| **known).map(|(place, _)| place);
        let places = UInt32Array::from_iter(places);
        let Parts { times, rows, origins, weight } = keep(batch, &BooleanArray::from(known))?.into_parts();
        let wrong = |error| Fault::bug("what was found does not fit to the rows").because(error);
        let mut columns = rows.columns().to_vec();
        for column in decoded.rows.columns() {
            columns.push(take(column, &places, None).map_err(wrong)?);
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(wrong)?;
        out.send(Batch::from_parts(Parts { times, rows, origins, weight })?);
        Ok(Turn::Done)
    }

    fn sides(&self) -> Vec<PortType> {
        vec![rejected_port(1, true)]
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lookup({} in {:?})", self.key.sql(), self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rejected;
    use crate::columnar::steps::{Step, steps_do_not_matter};
    use crate::columnar::tests::{clock, joined, lines, numbered_batch, run};
    use crate::origin::tests::numbered;
    use crate::testkit::Bench;
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::json;

    fn columns(key: &str, inner: bool) -> LookupColumns {
        let key = Expression::compile(key, &numbered_batch(1).rows().schema()).unwrap();
        let values = crate::columnar::schema([("name", "utf8 not null"), ("points", "int64")]).unwrap();
        LookupColumns { key, format: DecodeFormat::Json, values: Some(values), prefix: String::new(), inner }
    }

    fn table() -> Table {
        Table::of([("1", r#"{"name":"ann","points":7}"#), ("3", r#"{"name":"bob"}"#), ("4", "no object")])
    }

    #[test]
    fn rows_are_given_the_columns_of_their_entries_or_null() {
        let mut bench = Bench::new(Lookup::new(table(), &columns("n", false), clock()).unwrap());
        bench.batch(numbered_batch(5).with_origins(numbered(5)).unwrap());
        let given = bench.take_batches().remove(0);
        let wanted = [
            json!({"n": 0, "name": null, "points": null}),
            json!({"n": 1, "name": "ann", "points": 7}),
            json!({"n": 2, "name": null, "points": null}),
            json!({"n": 3, "name": "bob", "points": null}),
        ];
        assert_eq!(lines(given.rows()), wanted);
        assert_eq!(given.origins().unwrap().get(3).unwrap().sequence, 3);
        let rejected = bench.take_side_batches::<Rejected<Bytes>>(1).remove(0);
        assert_eq!((rejected.len(), &rejected.rows()[0].row), (1, &Bytes::from(r#"{"n":4}"#)));
        assert!(rejected.rows()[0].cause.to_string().contains("for `4`"), "{}", rejected.rows()[0].cause);
    }

    #[test]
    fn rows_without_an_entry_are_dropped_if_only_those_with_one_are_wanted() {
        let mut lookup = Lookup::new(table(), &columns("nullif(n, 1)", true), clock()).unwrap();
        let given = joined(&mut run(&mut lookup, [numbered_batch(4)]), 0).unwrap();
        assert_eq!(lines(&given), [json!({"n": 3, "name": "bob", "points": null})]);
        assert!(!lookup.schema().field(1).is_nullable());
        assert!(joined(&mut run(&mut lookup, [numbered_batch(1)]), 0).is_none(), "an empty batch");
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_batches_are_cut_and_where_it_is_restarted(inner: bool, seed: u64) {
            let columns = columns("n % 5", inner);
            let make = || Lookup::new(table(), &columns, clock()).unwrap();
            let batch = numbered_batch(40).with_origins(numbered(40)).unwrap();
            let told = steps_do_not_matter(make, &[Step::Rows(batch)], seed);
            // Two of five keys have an entry, and one has one that cannot be read.
            prop_assert_eq!((told.port(0).len(), told.port(1).len()), (if inner { 16 } else { 32 }, 8));
        }
    }

    #[test]
    fn what_cannot_be_looked_up_is_told_with_a_way_out() {
        let twice = LookupColumns { values: Some(numbered_batch(1).rows().schema()), ..columns("n", true) };
        let error = Lookup::new(table(), &twice, clock()).unwrap_err().to_string();
        assert!(error.contains("two columns `n`") && error.contains("`prefix`"), "{error}");
        assert!(Lookup::new(table(), &LookupColumns { prefix: "c_".into(), ..twice }, clock()).is_ok());
        let several = LookupColumns { format: DecodeFormat::Ndjson, ..columns("n", true) };
        let error = Lookup::new(table(), &several, clock()).unwrap_err().to_string();
        assert!(error.contains("`ndjson` may be several rows"), "{error}");
    }
}
