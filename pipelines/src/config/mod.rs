//! The pipeline file: TOML that becomes calls of the DSL at the payload type `RecordBatch`.
//!
//! [`load`] reads a file into a [`Loaded`] pipeline, or gives a [`Report`] of everything that is wrong with it: each
//! mistake with its line, the place in it, and the way out.

mod compile;
mod node;
mod place;
mod problem;
mod report;
mod rows;
mod settings;
mod unit_test;
mod validate;
mod variables;

pub use compile::{Loaded, Options, load};
pub(crate) use node::merged;
pub use report::{Mistake, Report};
pub(crate) use settings::FileSettings;
pub use unit_test::{Expected, Given, UnitTest};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A table of the file.
type Table<'f> = DeTable<'f>;
/// A value of the file, with the bytes that it stands at.
type Value<'f> = Spanned<DeValue<'f>>;
