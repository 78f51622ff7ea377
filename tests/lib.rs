//! What whole-engine stories share; each story is a file beside this one.

#[allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::indexing_slicing,
    missing_debug_implementations,
    reason = "it is test code, though not inside a test"
)]
pub mod sim;
pub mod support;
