//! Frames that are looked up in a table outside.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_operators::columnar::{DecodeFormat, Lookup, LookupColumns, schema};
use millstream_operators::{Operator, PortType, Problem, Table};

use super::Frame;
use super::node::{built, clock_of, frame_port, idle};
use crate::dsl::TableNode;
use crate::graph::{DynOperator, Make, Node, Role, Subtask, erase};

/// What of a table is wanted, and for which key: for [`Frame::lookup`].
#[derive(Clone, Debug)]
pub struct LookupValues {
    /// The key of a row: an SQL expression.
    pub key: String,
    /// How the table's values are read.
    pub format: DecodeFormat,
    /// The columns of the values and their types, as [`schema`] reads them; text and raw bytes need none.
    pub columns: Option<Vec<(String, String)>>,
    /// What stands before the names of these columns.
    pub prefix: String,
    /// Rows for which the table has nothing are dropped; otherwise the columns are null.
    pub inner: bool,
}

impl Frame {
    /// Each row with the columns that a table outside has for its key at that moment. Rows whose entry cannot be read are
    /// rejected. The first row waits until the whole table is there; see [`Stream::lookup`](crate::dsl::Stream::lookup), and
    /// [`Lookup`] for a timeline.
    #[must_use]
    pub fn lookup(self, name: &str, table: &TableNode, values: LookupValues) -> Frame {
        let make = |frame: &Frame| {
            table.note_problems(&frame.pipeline, name);
            let key = frame.compile(name, "lookup.key", &values.key);
            let declared = declared(frame, name, values.columns.as_deref());
            let (key, declared) = (key?, declared?);
            let LookupValues { format, prefix, inner, .. } = values;
            let columns = LookupColumns { key, format, values: declared, prefix, inner };
            let made = Lookup::new(Table::default(), &columns, idle());
            let made = made.map_err(|error| frame.wrong(name, "lookup", error)).ok()?;
            let (schema, make_table) = (Arc::clone(made.schema()), Arc::clone(&table.make));
            let detail = columns.key.sql().to_owned();
            let make: Make<dyn DynOperator> = Arc::new(move |subtask: &Subtask| {
                let table = make_table(subtask)?;
                Lookup::new(table, &columns, clock_of(subtask)).map(erase).map_err(built)
            });
            let mut node = Node::new(name, "lookup", Role::Operator(make));
            table.attach(&mut node, &detail);
            node.inputs = vec![PortType::of::<RecordBatch>("in")];
            node.outputs = std::iter::once(frame_port(&schema)).chain(made.sides()).collect();
            let made = frame.enter_node(node);
            made.reject(frame, name);
            Some(made.main(frame, schema))
        };
        self.then(make)
    }
}

/// The columns of the values, if any are declared; what is wrong with them is noted.
fn declared(frame: &Frame, name: &str, columns: Option<&[(String, String)]>) -> Option<Option<SchemaRef>> {
    let Some(columns) = columns else { return Some(None) };
    match schema(columns.iter().map(|(column, text)| (column.as_str(), text.as_str()))) {
        Ok(schema) => Some(Some(schema)),
        Err(wrong) => {
            for (column, error) in wrong {
                let mut problem = Problem::at(name, error.what).in_setting(format!("lookup.schema.{column}"));
                (problem.within, problem.help) = (Some(error.within), error.help);
                frame.pipeline.problem(problem);
            }
            None
        }
    }
}
