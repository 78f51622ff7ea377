//! The JetStream API as typed calls: streams, consumers, messages, key-value entries,
//! objects.
//!
//! Every call is one request on a `$JS.API.*` subject through a [`Connection`](super::Connection), so the same
//! code speaks to a real server and to the embedded broker.

pub(super) mod base64;
pub mod codes;
mod js;
mod kv;
mod object;
mod types;
mod wire;

pub use js::Js;
pub use kv::Entry;
pub(crate) use kv::is_gone;
pub use object::ObjectInfo;
pub use types::{
    AccountInfo, AckPolicy, ApiLevel, ConsumerConfig, ConsumerInfo, DeliverPolicy, Discard, PubAck, Purge, Retention,
    SequencePair, Storage, StoredMessage, StreamConfig, StreamInfo, StreamState,
};
