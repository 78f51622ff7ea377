//! The seam to the outside: what Millstream needs from a message broker, at the level of core NATS.
//!
//! Everything JetStream (pull requests, acks, `RESET`, fast ingest, group replies, KV) is messages on
//! `$JS.API.*` and reply subjects. So the seam is publish, subscribe and request, and the protocol above it is
//! written once; it runs on a real server ([`ConnectOptions::connect`], feature `jetstream`) and on the
//! embedded broker alike.

#![cfg_attr(
    not(feature = "jetstream"),
    allow(clippy::unused_async, reason = "without a server nothing here has to wait")
)]

mod api;
#[cfg(feature = "jetstream")]
mod connect;
mod connection;
mod connections;
#[cfg(feature = "jetstream")]
mod context;
mod embedded;
mod error;
mod message;
#[cfg(feature = "jetstream")]
mod nats;
#[cfg(feature = "jetstream")]
mod ports;
#[cfg(feature = "jetstream")]
mod program;
#[cfg(any(feature = "jetstream", feature = "s3"))]
mod secret;
#[cfg(feature = "jetstream")]
mod server;
mod subject;
mod subscription;

pub(crate) use api::is_gone;
pub use api::{
    AccountInfo, AckPolicy, ApiLevel, ConsumerConfig, ConsumerInfo, DeliverPolicy, Discard, Entry, Js, ObjectInfo,
    PubAck, Purge, Retention, SequencePair, Storage, StoredMessage, StreamConfig, StreamInfo, StreamState, codes,
};
#[cfg(feature = "jetstream")]
pub use connect::{ConnectOptions, TlsOptions};
#[cfg(feature = "cli")]
pub(crate) use connect::{NO_SERVER, split_urls};
pub use connection::{Connection, LinkState};
pub(crate) use connections::stream_fault;
pub use connections::{Connections, Purpose, fault};
pub use embedded::{Embedded, EmbeddedOptions, Fate, Hook};
pub use error::{ApiError, BrokerError, DeniedAction};
pub use message::{Incoming, Outgoing};
#[cfg(feature = "jetstream")]
pub use ports::free_port;
#[cfg(feature = "jetstream")]
pub use program::find_program;
#[cfg(feature = "cli")]
pub(crate) use program::{INSTALL, parse_version, programs, version_of};
#[cfg(feature = "cli")]
pub(crate) use server::signal;

/// The client's name as the source of logs.
#[cfg(feature = "cli")]
pub(crate) const CLIENT: &str = "async_nats";
#[cfg(any(feature = "jetstream", feature = "s3"))]
pub use secret::Secret;
#[cfg(feature = "jetstream")]
pub use server::{NatsServer, ServerOptions};
pub use subject::{Subject, is_publishable, is_subset, matches, overlaps};
pub use subscription::Subscription;
