//! The same verbs over Arrow record batches, for pipelines whose columns are known at run time only: what a pipeline
//! file builds.
//!
//! - [`schema`] reads the types that a file declares; [`Expression`] is one SQL expression over such columns.
//! - [`Decode`] and [`Encode`] stand between bytes and rows.
//! - [`Filter`], [`Select`], [`Explode`] and [`Route`] work on rows.
//!
//! A row that an expression cannot be computed for (a division by zero, a number that does not fit) goes to the port
//! [`REJECTED`] of its operator, as JSON text with the cause; the other rows of the batch go on.

mod base64;
mod cells;
mod expr;
mod expr_check;
mod expr_functions;
mod expr_plan;
mod expr_total;
mod filter;
mod payload;
mod rows;
mod schema;
mod select;
mod suggest;
mod temporal;
#[cfg(test)]
mod tests;

pub use expr::{ExprError, Expression};
pub use filter::Filter;
pub use payload::keep;
pub use rows::{Clock, REJECTED};
pub use schema::{TypeError, describe, parse_field, parse_type, schema};
pub use select::Select;
