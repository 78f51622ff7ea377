//! Every aggregate that can be called, in any pieces, over restarts and with no memory, beside DataFusion's own over all rows.

use arrow::array::{ArrayRef, BooleanArray, Float64Array};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion_common::ScalarValue;
use datafusion_expr::AggregateUDF;
use datafusion_expr::type_coercion::functions::fields_with_udf;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::aggregate::AggregateExprBuilder;
use datafusion_physical_expr::expressions::{Column, Literal};
use serde_json::Value;

use super::super::calls::FUNCTIONS;
use super::*;
use crate::columnar::steps::{Step, Way, told};
use crate::columnar::tests::lines;

/// Of these each takes the first that it can.
const ARGUMENTS: [&[&str]; 7] =
    [&["x"], &["x", "y"], &["n"], &["b"], &["x", "0.25"], &["x", "n", "0.25"], &["t", "','"]];

const ROWS: i32 = 60;

/// Rows of two keys, some of them null, whose sums are the same in any order.
fn some() -> Batch<RecordBatch> {
    let some = |row: i32| (row % 7 != 3).then_some(row);
    let column = |name, column: ArrayRef| (name, column, true);
    let rows = RecordBatch::try_from_iter_with_nullable([
        column(
            "key",
            Arc::new((0..ROWS).map(|row| Some(["a", "b"][usize::from(row % 3 == 0)])).collect::<StringArray>()),
        ),
        column(
            "x",
            Arc::new(
                (0..ROWS).map(|row| some(row).map(|row| f64::from(row * 37 % 61) / 4.0)).collect::<Float64Array>(),
            ),
        ),
        column(
            "y",
            Arc::new((0..ROWS).map(|row| some(row + 2).map(|row| f64::from(row * 17 % 53))).collect::<Float64Array>()),
        ),
        column(
            "n",
            Arc::new((0..ROWS).map(|row| some(row + 1).map(|row| i64::from(row * 5 % 19 + 1))).collect::<Int64Array>()),
        ),
        column("b", Arc::new((0..ROWS).map(|row| some(row).map(|row| row % 5 != 0)).collect::<BooleanArray>())),
        column("t", Arc::new((0..ROWS).map(|row| some(row).map(|row| format!("t{row}"))).collect::<StringArray>())),
    ]);
    Batch::new((0..i64::from(ROWS)).map(at).collect(), rows.unwrap()).unwrap()
}

/// What DataFusion's own accumulator makes of all rows.
fn oracle(function: &Arc<AggregateUDF>, arguments: &[&str], rows: &RecordBatch) -> Value {
    let fields: Vec<FieldRef> = arguments
        .iter()
        .map(|name| match rows.schema().field_with_name(name) {
            Ok(field) => Arc::new(field.clone()),
            Err(_) if name.starts_with('\'') => Arc::new(Field::new(*name, DataType::Utf8, false)),
            Err(_) => Arc::new(Field::new(*name, DataType::Float64, false)),
        })
        .collect();
    let fields = fields_with_udf(&fields, function.as_ref()).unwrap();
    let fields: Vec<Field> =
        fields.iter().zip(arguments).map(|(field, name)| field.as_ref().clone().with_name(*name)).collect();
    let (mut physical, mut columns): (Vec<Arc<dyn PhysicalExpr>>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for (place, (name, field)) in arguments.iter().zip(&fields).enumerate() {
        let literal = match name.strip_prefix('\'') {
            Some(text) => Some(ScalarValue::Utf8(Some(text.trim_end_matches('\'').to_owned()))),
            None => name.parse().ok().map(|number| ScalarValue::Float64(Some(number))),
        };
        match literal {
            Some(literal) => {
                let literal = literal.cast_to(field.data_type()).unwrap();
                columns.push(literal.to_array_of_size(rows.num_rows()).unwrap());
                physical.push(Arc::new(Literal::new(literal)));
            }
            None => {
                columns.push(cast(rows.column_by_name(name).unwrap(), field.data_type()).unwrap());
                physical.push(Arc::new(Column::new(name, place)));
            }
        }
    }
    let builder = AggregateExprBuilder::new(Arc::clone(function), physical).schema(Arc::new(Schema::new(fields)));
    let mut accumulator = builder.alias("v").build().unwrap().create_accumulator().unwrap();
    accumulator.update_batch(&columns).unwrap();
    let value = accumulator.evaluate().unwrap().to_array().unwrap();
    lines(&RecordBatch::try_from_iter_with_nullable([("v", value, true)]).unwrap()).remove(0)["v"].take()
}

/// Equal, but for the order in which numbers were rounded.
fn alike(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0),
        _ => a == b,
    }
}

#[test]
fn every_aggregate_of_datafusion_gives_what_it_gives_over_all_rows_however_they_come() {
    let (rows, keys) = (some(), KeyColumns::new(&some().rows().schema(), &["key".to_owned()]).unwrap());
    let mut functions: Vec<&Arc<AggregateUDF>> = FUNCTIONS.values().collect();
    functions.sort_by_key(|function| function.name());
    functions.dedup_by_key(|function| function.name());
    assert!(functions.len() >= 37, "{}", functions.len());
    for function in functions {
        let compiled = ARGUMENTS.iter().find_map(|arguments| {
            let sql = format!("{}({})", function.name(), arguments.join(", "));
            let columns = [("v".to_owned(), sql.clone())];
            Some((arguments, sql, Aggregates::compile(&columns, &rows.rows().schema()).ok()?))
        });
        let (arguments, sql, compiled) = compiled.unwrap_or_else(|| panic!("no arguments fit `{}`", function.name()));
        let make =
            || GlobalAggregate::new(&rows.rows().schema(), global(), keys.clone(), compiled.clone(), clock()).unwrap();
        let expected = ["a", "b"].map(|key| {
            let of_key = rows.rows().column(0).as_string::<i32>().iter().map(|of| of.map(|of| of == key)).collect();
            oracle(function, arguments, &filter_record_batch(rows.rows(), &of_key).unwrap())
        });
        for (seed, way) in [
            (None, Way::Cut),
            (Some(1), Way::Cut),
            (Some(2), Way::Restarted),
            (Some(3), Way::Spilled),
            (Some(4), Way::GoesOn),
        ] {
            let told = told(&make, &[Step::Rows(rows.clone())], seed, way);
            let value = |line: &String| {
                let line = line.rsplit_once(" at ").unwrap().0;
                serde_json::from_str::<Value>(line).unwrap()["v"].take()
            };
            let given: Vec<Value> = told.port(0).iter().map(value).collect();
            assert!(
                given.len() == 2 && given.iter().zip(&expected).all(|(given, expected)| alike(given, expected)),
                "{sql}, {way:?}: {given:?} instead of {expected:?}"
            );
        }
    }
}
