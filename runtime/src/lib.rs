//! Millstream: a stateful stream-processing runtime for NATS JetStream.
//!
//! ```no_run
//! use millstream::prelude::*;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Order { id: String, amount: f64 }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> std::process::ExitCode {
//!     let pipeline = Pipeline::new("large-orders");
//!     pipeline
//!         .source("orders", jetstream("ORDERS").json::<Order>().rejected_to("dead", dead_letters("mill_dlq").create()))
//!         .filter("large", |order| order.amount >= 10.0)
//!         .sink("totals", jetstream_to("LARGE").json().subject("large.orders").stop_on_rejected());
//!     millstream::main(&pipeline).await
//! }
//! ```

pub mod broker;
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
pub mod connectors;
pub mod engine;
#[cfg(feature = "columnar")]
pub mod file;
#[cfg(feature = "jetstream")]
mod launch;
#[cfg(feature = "testkit")]
pub mod testkit;

#[cfg(feature = "jetstream")]
pub use launch::{Launch, RunError, main, main_graph, run};
pub use millstream_operators as operators;
pub use millstream_pipelines as pipelines;

/// What a pipeline in Rust needs, in one line.
pub mod prelude {
    pub use std::time::Duration;

    pub use millstream_operators::aggregate::{
        approx_distinct, collect, count, count_distinct, first, last, max, mean, min, of_version, quantile, sum, top,
        top_rows, variance,
    };
    #[cfg(feature = "columnar")]
    pub use millstream_operators::columnar::{DecodeFormat, EncodeFormat, EncodeTimes, Meta};
    pub use millstream_operators::join::{RowVersions, unbounded, within};
    pub use millstream_operators::rows::{Group, Json, Kept, MsgPack, Ndjson, Raw, RowContext, Text, Tokens, kept};
    pub use millstream_operators::watermarks::{ascending, bounded_lateness};
    pub use millstream_operators::window::{
        Emit, Firing, Windowed, count_windows, global, last_rows, session, sliding, tumbling, until,
    };
    pub use millstream_operators::{
        Batch, Cause, Fault, Headers, Key, Operator, Outbox, Rejected, Result, StateVisitor, Timestamp, Turn, Versions,
    };
    #[cfg(feature = "columnar")]
    pub use millstream_pipelines::dsl::{Frame, OnRejected, Outlet, columns_from, columns_to};
    pub use millstream_pipelines::dsl::{KeyedStream, Pipeline, Stream, when};
    pub use millstream_pipelines::graph::{AsyncLimits, View, explain};
    pub use serde::{Deserialize, Serialize};

    #[cfg(feature = "columnar")]
    pub use crate::connectors::generate;
    pub use crate::connectors::{
        core_nats, core_nats_to, dead_letters, file_sink, file_source, jetstream, jetstream_to, kv_table, stdout,
    };
    #[cfg(feature = "jetstream")]
    pub use crate::{Launch, broker::ConnectOptions};
}

#[cfg(all(doctest, feature = "jetstream"))]
#[doc = include_str!("../../README.md")]
struct Readme;
