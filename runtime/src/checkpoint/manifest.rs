//! [`Manifest`]: what a complete checkpoint is.

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_operators::{Epoch, Fault, FaultKind, Result, Retry, Saved, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::output_log::OutputLog;
use super::segment::Segment;

/// Everything that a run needs to go on: where each source stood and what each operator held, at one barrier.
///
/// On the wire it is a line that says what follows, with its length and SHA-256, and then JSON. Small state is MessagePack in
/// base 64 inside; of keyed state it names the segments. A manifest is checked against that line, its format, the pipeline's
/// name, and the revision that it was written behind, before it is believed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The pipeline that it belongs to.
    pub pipeline: String,
    /// The checkpoint's number.
    pub epoch: Epoch,
    /// Its generation: the revision that was the store's newest when it was written, 0 if there was none. What a store gives its
    /// manifests is known only afterwards. Those of before this was noted do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// When it was made.
    pub at: Timestamp,
    /// The version of Millstream that made it.
    pub version: String,
    /// The run that made it, by a name that no other has, over all its restarts.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run: String,
    /// How many key groups keyed state is shared out in.
    pub key_groups: u32,
    /// Where each source stood, by node and subtask.
    pub sources: BTreeMap<String, Vec<SourcePosition>>,
    /// What each operator held, by node and subtask.
    pub operators: BTreeMap<String, Vec<NodeState>>,
    /// The outputs of sinks that store each row once, by node and subtask: those of the last epoch that had some.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sinks: BTreeMap<String, Vec<OutputLog>>,
    /// Whether operators have given all that they can give of what the sources gave until there, as at the end of the input:
    /// what they hold is from before that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finished: bool,
}

/// Where a subtask of a source stood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourcePosition {
    /// The subtask.
    pub subtask: u32,
    /// How many subtasks there were.
    pub of: u32,
    /// The source's own position.
    pub position: serde_json::Value,
}

/// What a subtask of an operator held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeState {
    /// The subtask.
    pub subtask: u32,
    /// How many subtasks there were.
    pub of: u32,
    /// What is not keyed, encoded.
    #[serde(with = "base64_saved")]
    pub small: Saved,
    /// Keyed state, by name: runs to be played one behind the other.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keyed: BTreeMap<String, Vec<Segment>>,
}

const MAGIC: &str = "millstream-checkpoint 2";

impl Manifest {
    /// The sink whose marker tells where the sources stand, if the run that wrote this stores positions beside outputs.
    pub fn ahead(&self) -> Option<&str> {
        let ahead = |logs: &Vec<OutputLog>| logs.iter().any(|log| log.ahead);
        self.sinks.iter().find(|(_, logs)| ahead(logs)).map(|(node, _)| node.as_str())
    }

    /// Whether all outputs of what it covers are in their streams, and nothing but these.
    pub fn is_published(&self) -> bool {
        self.sinks.values().flatten().all(|log| log.published && !log.ahead)
    }

    /// Says of a sink that its marker says this, and that all its outputs are published.
    pub fn mark(&mut self, node: &str, epoch: Epoch, total: u64, ahead: bool) {
        let logs = self.sinks.entry(node.to_owned()).or_default();
        logs.retain(|log| log.subtask != 0);
        logs.insert(0, OutputLog::marked(epoch, total, ahead));
    }

    /// The segments whose bytes are not in it.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        let states = self.operators.values().flatten();
        let keyed = states.flat_map(|state| state.keyed.values()).flatten();
        let outputs = self.sinks.values().flatten().flat_map(|log| &log.pieces);
        keyed.chain(outputs).filter(|segment| segment.inline.is_none())
    }

    /// The bytes to store.
    ///
    /// # Errors
    /// A checkpoint fault when a position cannot be encoded.
    pub fn encode(&self) -> Result<Bytes> {
        let json = serde_json::to_vec(self).map_err(|error| damaged("cannot be encoded").because(error))?;
        let mut bytes = format!("{MAGIC} {} {}\n", json.len(), hex(&Sha256::digest(&json))).into_bytes();
        bytes.extend_from_slice(&json);
        Ok(bytes.into())
    }

    /// The manifest in `bytes`, once everything about it has been checked. `place` says where it was read.
    ///
    /// # Errors
    /// A checkpoint fault that names the place and what is wrong; it is never tried again, and nothing is deleted.
    pub fn decode(bytes: &[u8], pipeline: &str, place: &str) -> Result<Self> {
        let wrong = |what: String| damaged(&format!("in {place} {what}"));
        let end = bytes.iter().take(256).position(|byte| *byte == b'\n');
        let (head, json) = end.and_then(|end| Some((bytes.get(..end)?, bytes.get(end + 1..)?))).unwrap_or((&[], &[]));
        let head = std::str::from_utf8(head).unwrap_or("");
        let Some(rest) = head.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(' ')) else {
            let found: String = head.chars().take(40).collect();
            return Err(wrong(format!(
                "is not one that this version reads: it begins with {found:?}, not with {MAGIC:?}"
            )));
        };
        let (length, digest) = rest.split_once(' ').unwrap_or((rest, ""));
        if length.parse() != Ok(json.len()) {
            return Err(wrong(format!(
                "is cut off or has grown: it should have {length} bytes and has {}",
                json.len()
            )));
        }
        if hex(&Sha256::digest(json)) != digest {
            return Err(wrong("is damaged: its SHA-256 is not the one that it was written with".into()));
        }
        let manifest: Manifest =
            serde_json::from_slice(json).map_err(|error| wrong("does not decode".into()).because(error))?;
        if manifest.pipeline != pipeline {
            return Err(wrong(format!("belongs to pipeline {:?}, not to {pipeline:?}", manifest.pipeline)));
        }
        Ok(manifest)
    }
}

fn damaged(what: &str) -> Fault {
    Fault::new(FaultKind::Checkpoint, format!("the checkpoint {what}")).retry_with(Retry::Never)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// State inside JSON: MessagePack in base 64.
mod base64_saved {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use millstream_operators::Saved;
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(saved: &Saved, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(rmp_serde::to_vec(saved).map_err(S::Error::custom)?))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Saved, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        rmp_serde::from_slice(&bytes).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use millstream_operators::{Frozen, StateVisitor};

    use super::*;

    fn sample() -> Manifest {
        let mut frozen = Frozen::default();
        StateVisitor::freeze(&mut frozen).value("count", &mut 7u64).unwrap();
        let small = frozen.encode(128).unwrap();
        Manifest {
            pipeline: "orders".into(),
            epoch: Epoch(3),
            version: "0.1.0".into(),
            key_groups: 128,
            sources: [(
                "in".into(),
                vec![SourcePosition { subtask: 0, of: 1, position: serde_json::json!({"seq": 9}) }],
            )]
            .into(),
            operators: [("count".into(), vec![NodeState { subtask: 0, of: 1, small, keyed: BTreeMap::new() }])].into(),
            ..Manifest::default()
        }
    }

    #[test]
    fn comes_back_as_it_was() {
        let manifest = sample();
        assert_eq!(Manifest::decode(&manifest.encode().unwrap(), "orders", "test").unwrap(), manifest);
    }

    #[test]
    fn is_not_believed_when_cut_off_or_changed_anywhere() {
        let bytes = sample().encode().unwrap();
        for cut in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..cut], "orders", "test").is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            assert!(Manifest::decode(&changed, "orders", "test").is_err(), "changed at {at}");
        }
    }

    #[test]
    fn of_before_generations_were_noted_is_read() {
        let json = serde_json::to_string(&sample()).unwrap();
        assert!(!json.contains("after"), "{json}");
        assert_eq!(serde_json::from_str::<Manifest>(&json).unwrap().after, None);
    }

    #[test]
    fn of_another_pipeline_is_refused_by_name() {
        let fault = Manifest::decode(&sample().encode().unwrap(), "payments", "/data/ckpt").unwrap_err();
        assert!(fault.to_string().contains("/data/ckpt belongs to pipeline \"orders\""), "{fault}");
    }
}
