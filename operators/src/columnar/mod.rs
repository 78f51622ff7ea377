//! The same verbs over Arrow record batches, for pipelines whose columns are known at run time only: what a pipeline
//! file builds.
//!
//! - [`schema`] reads the types that a file declares; [`Expression`] is one SQL expression over such columns.
//! - [`Decode`] and [`Encode`] stand between bytes and rows.
//! - [`Filter`], [`Select`], [`Explode`] and [`Route`] work on rows; [`WindowAggregate`] and [`Join`] on rows of a key.
//!
//! A row that an expression cannot be computed for (a division by zero, a number that does not fit) goes to the port
//! [`REJECTED`] of its operator, as JSON text with the cause; the other rows of the batch go on.
//!
//! ```
//! use std::sync::Arc;
//! use bytes::Bytes;
//! use millstream_operators::columnar::{Decode, DecodeFormat, Expression, Filter, schema};
//! use millstream_operators::{Batch, Rejected, Timestamp, testkit::Bench};
//!
//! let columns = schema([("n", "int64")]).unwrap();
//! let mut decode = Bench::new(Decode::new(DecodeFormat::Json, Some(&columns)).unwrap());
//! let messages = [r#"{"n":1}"#, r#"{"n":"x"}"#, r#"{"n":3}"#].map(Bytes::from);
//! decode.batch(Batch::at(Timestamp::from_micros(0), messages.to_vec()));
//! assert_eq!(decode.take_side::<Rejected<Bytes>>(1)[0].row, r#"{"n":"x"}"#);
//!
//! let predicate = Expression::compile("6 / (n - 1) > 2", &columns).unwrap();
//! let clock = Arc::new(|| Timestamp::from_micros(0));
//! let mut filter = Bench::new(Filter::new(predicate, clock).unwrap());
//! decode.take_batches().into_iter().for_each(|batch| filter.batch(batch));
//! assert_eq!(filter.take_batches()[0].len(), 1);
//! assert_eq!(filter.take_side::<Rejected<Bytes>>(1)[0].row, r#"{"n":1}"#);
//! ```

mod base64;
mod cells;
#[cfg(test)]
mod checkpoints;
mod decode;
mod encode;
mod event_time;
mod explode;
mod expr;
mod filter;
mod generate;
mod group;
mod join;
mod lookup;
mod payload;
mod pick;
mod rejected;
mod route;
mod rows;
mod schema;
mod select;
#[cfg(test)]
mod steps;
mod temporal;
#[cfg(test)]
mod tests;
mod value_rows;

pub use decode::{Decode, DecodeFormat, Meta};
#[cfg(any(test, feature = "testkit"))]
pub use decode::{HOSTILE_COLUMNS, HostileJson, hostile_json};
pub use encode::{Encode, EncodeError, EncodeFormat, EncodeTimes, Encoding};
pub use event_time::EventTime;
pub use explode::Explode;
pub use expr::{ExprError, Expression};
pub use filter::Filter;
pub use generate::{numbers, numbers_schema};
pub use group::{
    Aggregates, Computed, CountAggregate, Dedup, GlobalAggregate, KeyColumns, LastAggregate, OwnWindows,
    SessionAggregate, Top, WindowAggregate,
};
pub use join::{Bound, Join, JoinKind, JoinMistakes, JoinPlan};
pub use lookup::{Lookup, LookupColumns};
pub use payload::keep;
pub use rejected::RejectedColumns;
pub use route::Route;
pub use rows::{Clock, REJECTED};
pub use schema::{TypeError, describe, parse_field, parse_type, schema};
pub use select::Select;
