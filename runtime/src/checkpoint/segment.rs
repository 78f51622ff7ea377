//! [`Segment`]: a piece of a checkpoint, a run of keyed state or some outputs, named by what it holds.

use std::fmt;
use std::io::Read;
use std::str::FromStr;

use bytes::Bytes;
use millstream_operators::{Fault, FaultKind, Result, Retry};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The SHA-256 of some bytes, which names them: what has the same name is the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BlobId([u8; 32]);

/// A piece of a checkpoint: what of it is in the manifest. Its bytes, MessagePack and then Zstandard, are stored under its id, or
/// are here where they are few.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// The SHA-256 of its bytes.
    pub sha256: BlobId,
    /// How many bytes there are.
    pub size: u64,
    /// How many they are when they are not compressed.
    pub length: u64,
    /// Whether it holds everything there was, and not only what had changed.
    pub whole: bool,
    /// The bytes, where they are few.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "base64_bytes")]
    pub inline: Option<Bytes>,
}

/// Up to so many bytes are no message or file of their own.
const FEW: usize = 1 << 10;
/// The quickest: state is written again and again.
const LEVEL: i32 = 1;

impl BlobId {
    /// The name of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        BlobId(Sha256::digest(bytes).into())
    }

    /// The 32 bytes of the hash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Segment {
    /// A value, a [`Run`](millstream_operators::Run) or other, as a segment, and the bytes to store under its id, if they
    /// are not in it.
    ///
    /// # Errors
    /// A checkpoint fault when it cannot be encoded.
    pub fn pack<T: Serialize>(value: &T, whole: bool) -> Result<(Segment, Option<Bytes>)> {
        let encoded = rmp_serde::to_vec(value).map_err(|error| damaged("a piece cannot be encoded").because(error))?;
        let bytes = zstd::bulk::compress(&encoded, LEVEL);
        let bytes = Bytes::from(bytes.map_err(|error| damaged("a piece cannot be compressed").because(error))?);
        let (sha256, size, length) = (BlobId::of(&bytes), bytes.len() as u64, encoded.len() as u64);
        let (inline, stored) = if bytes.len() <= FEW { (Some(bytes), None) } else { (None, Some(bytes)) };
        Ok((Segment { sha256, size, length, whole, inline }, stored))
    }

    /// What is in its bytes, once they have been checked; `place` says where they were read.
    ///
    /// # Errors
    /// A checkpoint fault that names the segment, its place and what is wrong.
    pub fn unpack<T: DeserializeOwned>(&self, bytes: &[u8], place: &str) -> Result<T> {
        let wrong = |what: String| damaged(&format!("its segment {} in {place} {what}", self.sha256));
        if bytes.len() as u64 != self.size {
            return Err(wrong(format!("should have {} bytes and has {}", self.size, bytes.len())));
        }
        if BlobId::of(bytes) != self.sha256 {
            return Err(wrong("is damaged: its SHA-256 is another".into()));
        }
        // No room is made for what the bytes do not say.
        let mut encoded = Vec::new();
        let read = zstd::stream::read::Decoder::new(bytes)
            .and_then(|decoder| decoder.take(self.length.saturating_add(1)).read_to_end(&mut encoded));
        read.map_err(|error| wrong("does not decompress".into()).because(error))?;
        if encoded.len() as u64 != self.length {
            return Err(wrong(format!("should have {} bytes inside and has others", self.length)));
        }
        rmp_serde::from_slice(&encoded).map_err(|error| wrong("does not decode".into()).because(error))
    }

    /// That it is not where it should be.
    pub(crate) fn missing(&self, place: &str) -> Fault {
        damaged(&format!("its segment {} is missing in {place}", self.sha256))
    }
}

fn damaged(what: &str) -> Fault {
    Fault::new(FaultKind::Checkpoint, format!("the checkpoint is damaged: {what}")).retry_with(Retry::Never)
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobId({self})")
    }
}

impl FromStr for BlobId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "a SHA-256 is 64 digits from 0 to f";
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(WRONG);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| WRONG)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| WRONG)?;
        }
        Ok(BlobId(bytes))
    }
}

impl From<BlobId> for String {
    fn from(id: BlobId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for BlobId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Bytes inside JSON.
mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Option<Bytes>, to: S) -> Result<S::Ok, S::Error> {
        bytes.as_ref().map(|bytes| STANDARD.encode(bytes)).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Bytes>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| STANDARD.decode(text).map(Bytes::from)).transpose().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millstream_operators::Run;

    use super::*;

    fn packed(run: &Run) -> (Segment, Option<Bytes>) {
        Segment::pack(run, run.whole).unwrap()
    }

    fn run(len: usize) -> Run {
        let noise = (0..len).map(|n| (n * 7 % 251) as u8 ^ (n / 251) as u8);
        Run::whole_of(BTreeMap::from([(3, noise.collect())]))
    }

    #[test]
    fn a_run_comes_back_from_its_bytes_and_few_are_in_the_segment_itself() {
        let (small, none) = packed(&run(10));
        assert!(none.is_none());
        assert_eq!(small.unpack::<Run>(small.inline.as_ref().unwrap(), "here").unwrap(), run(10));
        let (large, bytes) = packed(&run(100_000));
        assert!(large.inline.is_none());
        assert_eq!(large.unpack::<Run>(&bytes.unwrap(), "there").unwrap(), run(100_000));
        let json = serde_json::to_string(&small).unwrap();
        assert_eq!(serde_json::from_str::<Segment>(&json).unwrap(), small);
    }

    #[test]
    fn bytes_that_are_cut_off_or_changed_are_not_believed_nor_lengths_that_cannot_be() {
        let (segment, bytes) = packed(&run(100_000));
        let bytes = bytes.unwrap();
        for cut in (0..bytes.len()).step_by(997) {
            assert!(segment.unpack::<Run>(&bytes[..cut], "there").is_err());
            let mut changed = bytes.to_vec();
            changed[cut] ^= 4;
            let fault = segment.unpack::<Run>(&changed, "there").unwrap_err();
            assert!(fault.to_string().contains(&segment.sha256.to_string()), "{fault}");
        }
        for length in [u64::MAX, segment.length - 1, segment.length + 1] {
            let liar = Segment { length, ..segment.clone() };
            assert!(liar.unpack::<Run>(&bytes, "there").is_err(), "{length}");
        }
    }
}
