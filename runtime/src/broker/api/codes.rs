//! The `err_code`s of JetStream that Millstream tells apart.

/// The account may not have so much.
pub const ACCOUNT_LIMIT: u16 = 10002;
/// A request that the server does not understand.
pub const BAD_REQUEST: u16 = 10003;
/// No such consumer.
pub const CONSUMER_NOT_FOUND: u16 = 10014;
/// A consumer's configuration cannot be so, or cannot be changed so.
pub const CONSUMER_CONFIG: u16 = 10012;
/// The account may have no more streams.
pub const STREAMS_LIMIT: u16 = 10027;
/// No message at this sequence or on this subject.
pub const NO_MESSAGE: u16 = 10037;
/// JetStream has no room left.
pub const INSUFFICIENT_RESOURCES: u16 = 10023;
/// A stream of this name exists with another configuration.
pub const STREAM_NAME_IN_USE: u16 = 10058;
/// No such stream.
pub const STREAM_NOT_FOUND: u16 = 10059;
/// The message was meant for another stream.
pub const STREAM_MISMATCH: u16 = 10060;
/// The message is larger than the stream takes.
pub const MESSAGE_TOO_LARGE: u16 = 10054;
/// Another stream captures some of these subjects.
pub const SUBJECTS_OVERLAP: u16 = 10065;
/// Not the expected last message id.
pub const WRONG_LAST_ID: u16 = 10070;
/// Not the expected last sequence: a compare-and-set lost.
pub const WRONG_LAST_SEQUENCE: u16 = 10071;
/// The stream is full and refuses new messages.
pub const STORE_FAILED: u16 = 10077;
/// A pull consumer without acks on a work queue.
pub const WORKQUEUE_NEEDS_ACK: u16 = 10084;
/// A work queue takes explicit acks only.
pub const WORKQUEUE_NEEDS_EXPLICIT_ACK: u16 = 10098;
/// A work queue that one consumer reads whole takes no other.
pub const WORKQUEUE_NOT_UNIQUE: u16 = 10099;
/// Consumers of a work queue overlap.
pub const WORKQUEUE_OVERLAP: u16 = 10100;
/// Rollup is not allowed on this stream.
pub const ROLLUP_FAILED: u16 = 10111;
/// A consumer of this name exists with another configuration.
pub const CONSUMER_EXISTS: u16 = 10148;
/// A comparison on a subject that has a write on its way (replicated streams): try again.
pub const WRONG_LAST_SEQUENCE_IN_PROCESS: u16 = 10164;
/// A malformed time to live.
pub const TTL_INVALID: u16 = 10165;
/// The stream does not allow a time to live.
pub const TTL_DISABLED: u16 = 10166;
/// The stream does not allow atomic batches.
pub const ATOMIC_DISABLED: u16 = 10174;
/// An atomic batch lacks a message.
pub const ATOMIC_INCOMPLETE: u16 = 10176;
/// A header that an atomic batch cannot hold.
pub const ATOMIC_UNSUPPORTED_HEADER: u16 = 10177;
/// An atomic batch of too many messages.
pub const ATOMIC_TOO_LARGE: u16 = 10199;
/// An atomic batch with a message id that the stream knows.
pub const ATOMIC_DUPLICATE_ID: u16 = 10201;
/// The stream does not allow fast ingest.
pub const FAST_DISABLED: u16 = 10205;
/// A fast-ingest batch that the server does not know (any more).
pub const FAST_UNKNOWN_BATCH: u16 = 10208;
/// Too many atomic batches are open.
pub const ATOMIC_TOO_MANY: u16 = 10210;
/// A reply subject that is no place in a batch of fast ingest.
pub const FAST_PATTERN: u16 = 10206;
/// A batch of fast ingest cannot have this id.
pub const FAST_ID: u16 = 10207;
