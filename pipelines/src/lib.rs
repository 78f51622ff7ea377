//! How a Millstream pipeline is declared: the graph, the typed DSL and the pipeline file.

#[cfg(feature = "columnar")]
pub mod config;
pub mod dsl;
pub mod graph;
#[cfg(feature = "columnar")]
pub mod registry;
