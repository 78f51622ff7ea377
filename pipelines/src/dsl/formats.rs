//! The formats of a source or sink that gives or takes payloads: `file_source("in.ndjson").json::<Order>()`.

use bytes::Bytes;
use millstream_operators::rows::{Format, Json, MsgPack, Ndjson, Raw, Text};

use super::{Decoding, Encoding, SinkNode, SourceNode};

impl SourceNode {
    /// One JSON value a payload, by serde.
    pub fn json<T: Send + 'static>(self) -> Decoding<Self, T, Json>
    where
        Json: Format<T>,
    {
        Decoding::new(self, Json)
    }

    /// Lines of JSON values, any number a payload.
    pub fn ndjson<T: Send + 'static>(self) -> Decoding<Self, T, Ndjson>
    where
        Ndjson: Format<T>,
    {
        Decoding::new(self, Ndjson)
    }

    /// One MessagePack value a payload, by serde.
    pub fn msgpack<T: Send + 'static>(self) -> Decoding<Self, T, MsgPack>
    where
        MsgPack: Format<T>,
    {
        Decoding::new(self, MsgPack)
    }

    /// Payloads of UTF-8 text.
    pub fn text(self) -> Decoding<Self, String, Text> {
        Decoding::new(self, Text)
    }

    /// Payloads as they are.
    pub fn raw(self) -> Decoding<Self, Bytes, Raw> {
        Decoding::new(self, Raw)
    }
}

impl SinkNode {
    /// One JSON value a message, by serde.
    pub fn json<T: Send + 'static>(self) -> Encoding<Self, T, Json>
    where
        Json: Format<T>,
    {
        Encoding::new(self, Json)
    }

    /// One MessagePack value a message, by serde.
    pub fn msgpack<T: Send + 'static>(self) -> Encoding<Self, T, MsgPack>
    where
        MsgPack: Format<T>,
    {
        Encoding::new(self, MsgPack)
    }

    /// Messages of UTF-8 text.
    pub fn text(self) -> Encoding<Self, String, Text> {
        Encoding::new(self, Text)
    }

    /// Payloads as they are.
    pub fn raw(self) -> Encoding<Self, Bytes, Raw> {
        Encoding::new(self, Raw)
    }
}
