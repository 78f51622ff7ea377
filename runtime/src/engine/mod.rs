//! The engine: runs a [`Graph`](millstream_pipelines::graph::Graph) as tasks joined by bounded channels.
//!
//! ```text
//! SourceTask -> [channel] -> StageTask (inbox -> chain -> router) -> [channel] -> SinkTask
//!      \________________________ Coordinator: barriers, manifest, commits ___________/
//! ```

mod alignment;
mod async_stage;
mod beside;
mod chain;
mod channel;
mod claim;
mod clock;
mod coordinator;
mod edges;
mod fits;
mod forming;
mod frontier;
mod inbox;
mod job;
mod kept;
mod latch;
mod leftover;
#[cfg(feature = "spill")]
mod lsm;
mod marking;
mod metrics;
mod order;
mod ownership;
mod report;
mod restore;
mod round;
mod router;
mod run;
mod snapshots;
mod spill;
#[cfg(all(test, feature = "spill"))]
mod spill_tests;
mod stage;
mod start;
mod stop;
#[cfg(test)]
mod tests;
mod throttle;
mod told;
mod workers;

pub use clock::Clock;
pub use coordinator::Ended;
pub use latch::{Latch, Opener};
pub use metrics::{CheckpointSnapshot, Metrics, NodeMetrics, NodeSnapshot, StateSnapshot};
pub use ownership::Ownership;
pub(crate) use run::Begin;
pub use run::{Environment, Nudge, Replicas, Rewind, RunMode, run};
pub use stop::Stopper;
pub use workers::Workers;
