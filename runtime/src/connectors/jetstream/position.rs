//! [`JetStreamPosition`]: where a source stands, and whether the stream still holds what follows.

use millstream_operators::{Fault, FaultKind, Result, Retry, Timestamp};
use serde::{Deserialize, Serialize};

use crate::broker::StreamInfo;

/// Where a source begins when there is no checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the first message that the stream has.
    #[default]
    Earliest,
    /// At what comes from now on.
    Latest,
    /// At this stream sequence.
    Sequence(u64),
    /// At the first message stored at or after this time.
    Time(Timestamp),
}

/// What happens when the stream has lost messages that were not read yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnGap {
    /// The pipeline stops and says what is missing.
    #[default]
    Fail,
    /// The loss is logged, and reading goes on behind it.
    Skip,
}

/// How far a source has come in its stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JetStreamPosition {
    /// The stream.
    pub stream: String,
    /// When it was created: one that was deleted and made again has other messages at the same sequences.
    pub created: String,
    /// The sequence of the last message that was read.
    pub sequence: u64,
    /// When what was read last was stored, or when there was nothing more to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached_at: Option<Timestamp>,
    /// Where the consumer is told, and of which attachment this is: later ones count deliveries anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack: Option<(u64, String)>,
}

impl JetStreamPosition {
    /// Whether a stream still holds all that follows; `Ok(Some(n))` is a position behind a gap that may be skipped.
    pub(super) fn validate(&self, info: &StreamInfo, on_gap: OnGap) -> Result<Option<u64>> {
        let lost = |words: String| Err(Fault::new(FaultKind::SourceLost, words).retry_with(Retry::Never));
        let stream = &info.config.name;
        if self.created != info.created {
            return lost(format!(
                "stream {stream} was deleted and created again (at {}, the checkpoint knows the one of {}): its sequences mean other messages now; start under a new pipeline name, or remove the pipeline's checkpoint",
                info.created, self.created
            ));
        }
        if info.state.last_seq < self.sequence {
            return lost(format!(
                "stream {stream} ends at {}, but {} was read already: it was restored from an older copy, or lost what it had confirmed",
                info.state.last_seq, self.sequence
            ));
        }
        if info.state.first_seq > self.sequence + 1 && info.state.last_seq > self.sequence {
            let (from, to) = (self.sequence + 1, info.state.first_seq - 1);
            let words = format!(
                "stream {stream} no longer has the messages {from} to {to}, which were not read yet: limits or a purge removed them"
            );
            if on_gap == OnGap::Fail {
                return lost(format!("{words}; set on_gap = \"skip\" to go on behind them"));
            }
            tracing::warn!("{words}; going on behind them, as on_gap says");
            return Ok(Some(to));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(created: &str, first_seq: u64, last_seq: u64) -> StreamInfo {
        let mut info = StreamInfo { created: created.into(), ..StreamInfo::default() };
        info.state.first_seq = first_seq;
        info.state.last_seq = last_seq;
        info
    }

    fn at(sequence: u64) -> JetStreamPosition {
        JetStreamPosition { created: "then".into(), sequence, ..JetStreamPosition::default() }
    }

    #[test]
    fn what_is_gone_is_never_skipped_in_silence() {
        let kind = |position: JetStreamPosition, info| position.validate(&info, OnGap::Fail).map_err(|f| f.kind());
        assert_eq!(kind(at(10), stream("then", 1, 20)), Ok(None));
        assert_eq!(kind(at(10), stream("then", 11, 10)), Ok(None), "all read, all gone");
        assert_eq!(kind(at(10), stream("now", 1, 20)), Err(FaultKind::SourceLost));
        assert_eq!(kind(at(10), stream("then", 1, 9)), Err(FaultKind::SourceLost));
        assert_eq!(kind(at(10), stream("then", 15, 20)), Err(FaultKind::SourceLost));
        assert_eq!(at(10).validate(&stream("then", 15, 20), OnGap::Skip).unwrap(), Some(14));
    }
}
