//! What becomes of a gap where it is no fault: it is passed, and where its loss is to be recorded, a record comes first.

use millstream_operators::{Batch, Origin, Origins, Result};

use super::jumps::Jumps;
use super::position::{Gap, OnGap};
use super::read::JetStreamRead;
use super::rows::Given;
use super::source::JetStreamSource;

/// What a gap means where jumps mean this: the position behind it. One that is to be recorded is left in `gone`, and may
/// be passed when its record is given.
pub(super) fn judge(gap: Gap, jumps: &mut Jumps, on_gap: OnGap, gone: &mut Option<Gap>) -> Result<u64> {
    if *jumps == Jumps::Compacted {
        // Once an attachment: such a stream does it all the time.
        *jumps = Jumps::Untold;
        tracing::warn!("{}; or later messages of the same subjects did (max_msgs_per_subject): going on", gap.words);
        return Ok(gap.to);
    }
    let gap = gap.judged(on_gap)?;
    let to = gap.to;
    if on_gap == OnGap::Record {
        *gone = Some(gap);
    }
    Ok(to)
}

/// The stream went on at `got` where `wanted` was next, which were not read.
pub(super) fn jumped(read: &JetStreamRead, wanted: u64, got: u64) -> Gap {
    let (stream, last) = (&read.stream, got - 1);
    let words = format!(
        "stream {stream} went on at {got} where {wanted} was next: the messages {wanted} to {last} are gone and were not read"
    );
    Gap { from: wanted, to: last, words }
}

impl JetStreamSource {
    /// Goes behind a gap right behind the position, or leaves it to be recorded first.
    pub(super) fn pass(&mut self, gap: Gap) {
        match self.read().on_gap {
            OnGap::Record => self.gone = Some(gap),
            OnGap::Fail | OnGap::Skip => self.position.sequence = self.position.sequence.max(gap.to),
        }
    }

    /// The record of a gap, behind which the position is then: a crash before the next checkpoint finds the gap again.
    pub(super) fn record(&mut self, gap: Gap) -> Result<Given> {
        self.position.sequence = self.position.sequence.max(gap.to);
        let stored_at = self.clock.as_ref().map(|clock| clock.now()).unwrap_or_default();
        let record = serde_json::json!({ "stream": self.place.stream, "first": gap.from, "last": gap.to });
        let payload = bytes::Bytes::from(record.to_string());
        let origin = Origin { sequence: gap.from, stored_at, payload: payload.clone(), ..Origin::default() };
        let origins = Origins::of_gap(self.place.clone(), origin, gap.words);
        Batch::new(vec![stored_at], vec![payload])?.with_origins(origins).map(Some)
    }
}
