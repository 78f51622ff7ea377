//! How a Millstream pipeline is declared: the graph, the typed DSL and the pipeline file.

pub mod dsl;
pub mod graph;
