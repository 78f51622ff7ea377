//! Checkpoints: what a complete one is ([`Manifest`]), and where it is kept ([`Store`]).

mod kv;
mod local;
mod manifest;
mod memory;
mod store;

pub use kv::KvStore;
pub use local::LocalStore;
pub use manifest::{Manifest, NodeState, SourcePosition};
pub use memory::MemoryStore;
pub use store::{Revision, Store, StoreError, Stored};
