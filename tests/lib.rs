//! What whole-engine stories share; each story is a file beside this one.

pub mod support;
