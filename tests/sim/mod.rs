//! The simulator: the real engine with the real JetStream connectors on the embedded broker, in virtual time, under faults
//! that one seed decides; an independent computation judges what comes out.
//!
//! ```sh
//! target/debug/sim run --seeds 20000
//! target/debug/sim steps        # a crash at every message of a small scenario
//! target/debug/sim replay 1234  # one seed, shrunk if it fails
//! target/debug/sim bugs         # planted bugs, each of which must be caught
//! ```

mod beside;
mod census;
mod corpus;
mod faults;
mod joined;
mod letters;
mod loss;
mod meeting;
mod monitor;
mod nemesis;
mod oracle;
mod order;
mod owners;
mod pipeline;
mod planted;
mod reached;
mod scenario;
mod shrink;
mod steps;
mod witness;
mod world;

pub use corpus::{Known, corpus};
pub use oracle::Event;
pub use planted::{Caught, catches, hunt};
pub use reached::{Cell, Reached, Table};
pub use scenario::{Ending, Loss, Scenario, Strike, What};
pub use shrink::shrink;
pub use steps::{Deed, Origin, Promise, Step};
pub use world::{Passed, run};
