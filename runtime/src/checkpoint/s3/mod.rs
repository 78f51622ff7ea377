//! Checkpoints in a bucket of S3: how to reach it ([`S3Options`]), and the store in it ([`S3Store`]).

#[cfg(feature = "s3")]
mod https;
mod options;
#[cfg(feature = "s3")]
mod store;
#[cfg(all(test, feature = "s3"))]
mod tests;

pub use options::S3Options;
#[cfg(feature = "cli")]
pub(crate) use options::SCHEME;
#[cfg(feature = "s3")]
pub use store::S3Store;
