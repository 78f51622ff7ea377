//! [`OutputLog`]: the outputs of a sink that a checkpoint keeps until they are published.

use std::sync::Arc;

use bytes::Bytes;
use millstream_operators::{Epoch, Fault, FaultKind, Headers, Outputs, Record, Result, Retry};
use serde::{Deserialize, Serialize};

use super::segment::{BlobId, Segment};

/// What of the outputs of a subtask of a sink is in the manifest: those of the last epoch that had some. Its pieces are
/// segments: MessagePack and then Zstandard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputLog {
    /// The subtask.
    pub subtask: u32,
    /// The epoch.
    pub epoch: Epoch,
    /// How many records there are.
    pub total: u64,
    /// The records, in order.
    pub pieces: Vec<Segment>,
    /// The epoch before it that had outputs, and how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<(Epoch, u64)>,
    /// Whether it is known that all are published: a later checkpoint, in an orderly course, waited for it.
    #[serde(default)]
    pub published: bool,
    /// Whether the run stores positions beside outputs from here on: where the sources stand, the sink's marker tells, and
    /// the manifest only where they stood when this epoch's outputs were the last.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ahead: bool,
}

/// A record as it is encoded.
#[derive(Serialize, Deserialize)]
struct Encoded {
    subject: Bytes,
    headers: Vec<(String, String)>,
    payload: Bytes,
}

/// A piece is cut where it has so many bytes.
const PIECE: usize = 4 << 20;

impl OutputLog {
    /// Packs the records of an epoch, and gives the bytes to store under their ids.
    ///
    /// # Errors
    /// A checkpoint fault when they cannot be encoded.
    pub fn pack(subtask: u32, epoch: Epoch, records: &[Record]) -> Result<(OutputLog, Vec<(BlobId, Bytes)>)> {
        let (mut pieces, mut blobs, mut piece, mut size) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (number, Record { subject, headers, payload }) in records.iter().enumerate() {
            size += subject.len() + headers.wire_len() + payload.len();
            let headers = headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            piece.push(Encoded { subject: subject.clone(), headers, payload: payload.clone() });
            if size >= PIECE || number + 1 == records.len() {
                let (segment, bytes) = Segment::pack(&std::mem::take(&mut piece), true)?;
                blobs.extend(bytes.map(|bytes| (segment.sha256, bytes)));
                pieces.push(segment);
                size = 0;
            }
        }
        let total = records.len() as u64;
        Ok((OutputLog { subtask, epoch, total, pieces, before: None, published: false, ahead: false }, blobs))
    }

    /// What is known of a sink whose marker says this: all outputs are published.
    pub fn marked(epoch: Epoch, total: u64, ahead: bool) -> Self {
        OutputLog { subtask: 0, epoch, total, pieces: Vec::new(), before: None, published: true, ahead }
    }

    /// What is known of the outputs, without records.
    pub fn without_records(&self) -> Outputs {
        let OutputLog { subtask, epoch, total, before, published, ahead, .. } = *self;
        Outputs { subtask, epoch, total, records: Arc::from([]), before, published, ahead }
    }

    /// The outputs, with records that were read from `bytes` of each piece; those that are published need none.
    ///
    /// # Errors
    /// A checkpoint fault: a piece is damaged, or holds another number of records.
    pub fn unpack(&self, bytes: &[Bytes], place: &str) -> Result<Outputs> {
        let mut records = Vec::new();
        for (piece, bytes) in self.pieces.iter().zip(bytes) {
            for Encoded { subject, headers, payload } in piece.unpack::<Vec<Encoded>>(bytes, place)? {
                let mut legal = Headers::NONE;
                for (name, value) in &headers {
                    legal.push(name, value).map_err(|error| damaged(place, &error.to_string()))?;
                }
                records.push(Record { subject, headers: legal, payload });
            }
        }
        if !self.published && records.len() as u64 != self.total {
            return Err(damaged(place, &format!("it should hold {} outputs and holds {}", self.total, records.len())));
        }
        Ok(Outputs { records: Arc::from(records), ..self.without_records() })
    }
}

fn damaged(place: &str, what: &str) -> Fault {
    let words = format!("the checkpoint in {place} is damaged in the outputs that it keeps: {what}");
    Fault::new(FaultKind::Checkpoint, words).retry_with(Retry::Never)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(count: usize, size: usize) -> Vec<Record> {
        let mut headers = Headers::NONE;
        headers.push("a", "b").unwrap();
        let payload = |n: usize| (0..size).map(|i| (n * 31 + i * 7) as u8 ^ (i / 13) as u8).collect::<Vec<u8>>();
        let record =
            |n| Record { subject: format!("out.{n}").into(), headers: headers.clone(), payload: payload(n).into() };
        (0..count).map(record).collect()
    }

    fn read(log: &OutputLog, blobs: &[(BlobId, Bytes)]) -> Vec<Bytes> {
        let stored = |id| blobs.iter().find(|(other, _)| *other == id).map(|(_, bytes)| bytes.clone());
        log.pieces.iter().map(|piece| piece.inline.clone().or_else(|| stored(piece.sha256)).unwrap()).collect()
    }

    #[test]
    fn records_come_back_in_order_whether_they_are_few_or_fill_several_pieces() {
        for (count, size, pieces) in [(1, 3, 1), (7, 2 << 20, 4), (0, 0, 0)] {
            let all = records(count, size);
            let (log, blobs) = OutputLog::pack(2, Epoch(7), &all).unwrap();
            assert_eq!((log.pieces.len(), log.total), (pieces, count as u64));
            let outputs = log.unpack(&read(&log, &blobs), "here").unwrap();
            assert_eq!((&*outputs.records, outputs.epoch, outputs.subtask), (&*all, Epoch(7), 2));
        }
    }

    #[test]
    fn a_log_that_lacks_records_is_not_believed_unless_they_are_published() {
        let (mut log, blobs) = OutputLog::pack(0, Epoch(7), &records(3, 2_000)).unwrap();
        let bytes = read(&log, &blobs);
        log.total = 4;
        assert!(log.unpack(&bytes, "here").unwrap_err().to_string().contains("should hold 4 outputs and holds 3"));
        log.published = true;
        assert!(log.unpack(&[], "here").unwrap().records.is_empty());
    }
}
