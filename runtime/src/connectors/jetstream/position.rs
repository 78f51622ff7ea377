//! [`JetStreamPosition`]: where a source stands, and whether the stream still holds what follows.

use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{Fault, FaultKind, Result, Retry, Timestamp};
use serde::{Deserialize, Serialize};

use crate::broker::{StreamInfo, is_subset};

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
    /// As `Skip`, and a record of the loss goes where the source's rejected rows go, in the place of what is gone.
    Record,
}

/// How far a source has come in its stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JetStreamPosition {
    /// The stream.
    pub stream: String,
    /// When it was created: one that was deleted and made again has other messages at the same sequences.
    pub created: String,
    /// The subjects that were read, none for all; not known of checkpoints of old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subjects: Option<Vec<String>>,
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
    /// Whether a stream still holds all that follows; `Ok(Some(gap))` is a gap that may be skipped.
    pub(super) fn validate(&self, info: &StreamInfo, on_gap: OnGap) -> Result<Option<Gap>> {
        self.check_stream(info)?;
        self.gap(info, None).map(|gap| gap.judged(on_gap)).transpose()
    }

    /// Refuses to read subjects that were not read so far, in a stream that has messages before the position: those of
    /// these subjects would be left out. They are the gap, where it may be skipped.
    pub(super) fn check_subjects(&self, info: &StreamInfo, now: &[String], on_gap: OnGap) -> Result<Option<Gap>> {
        let before = self.subjects.as_deref().unwrap_or_default();
        if before.is_empty() || self.sequence < info.state.first_seq {
            return Ok(None);
        }
        let all = [">".to_owned()];
        let now = if now.is_empty() { &all } else { now };
        let is_new = |subject: &&String| !before.iter().any(|wide| is_subset(subject, wide));
        let new: Vec<&String> = now.iter().filter(is_new).collect();
        if new.is_empty() {
            return Ok(None);
        }
        let (stream, sequence) = (&info.config.name, self.sequence);
        let words = format!(
            "the source reads the subjects {new:?} of stream {stream} now, which it did not read up to message {sequence}"
        );
        if on_gap != OnGap::Fail {
            let words = format!("{words}: what is there of them up to there is left out");
            tracing::warn!("{words}, as on_gap says");
            return Ok(Some(Gap { from: info.state.first_seq, to: sequence, words }));
        }
        let out = "start under a new pipeline name to read all of them, or set on_gap = \"skip\" (or \"record_and_skip\") to leave out what came before";
        Err(Fault::new(FaultKind::Setup, format!("{words}: {out}")).retry_with(Retry::Never))
    }

    /// Refuses another stream of the same name, and one that ends before the position.
    pub(super) fn check_stream(&self, info: &StreamInfo) -> Result {
        let stream = &info.config.name;
        if self.created != info.created && !planted(Bug::IgnoreCreated) {
            return Err(lost(format!(
                "stream {stream} was deleted and created again (at {}, the checkpoint knows the one of {}): its sequences mean other messages now; start under a new pipeline name, or remove the pipeline's checkpoint",
                info.created, self.created
            )));
        }
        if info.state.last_seq < self.sequence {
            return Err(lost(format!(
                "stream {stream} ends at {}, but {} was read already: it was restored from an older copy, or lost what it had confirmed",
                info.state.last_seq, self.sequence
            )));
        }
        Ok(())
    }

    /// What the stream no longer has of what follows, if its beginning is behind that. Of a source that reads some
    /// subjects, `least` of those messages are known to be its own.
    pub(super) fn gap(&self, info: &StreamInfo, least: Option<u64>) -> Option<Gap> {
        let follows = info.state.first_seq <= self.sequence + 1 || info.state.last_seq <= self.sequence;
        if follows || planted(Bug::IgnoreGap) {
            return None;
        }
        let (stream, from, to) = (&info.config.name, self.sequence + 1, info.state.first_seq - 1);
        let words = match least {
            None => format!("stream {stream} no longer has the messages {from} to {to}, which were not read yet"),
            Some(least) => format!(
                "stream {stream} no longer has the messages {from} to {to}: at least {least} of them are of the subjects that are read, and were not read yet"
            ),
        };
        Some(Gap { from, to, words: format!("{words}: limits or a purge removed them") })
    }
}

/// Messages that are gone and were not read.
#[derive(Debug)]
pub(super) struct Gap {
    /// The first of them.
    pub(super) from: u64,
    /// The last of them.
    pub(super) to: u64,
    /// What to say of them.
    pub(super) words: String,
}

impl Gap {
    /// The same gap, if it may be skipped.
    pub(super) fn judged(self, on_gap: OnGap) -> Result<Gap> {
        if on_gap == OnGap::Fail {
            return Err(lost(format!(
                "{}; set on_gap = \"record_and_skip\" or \"skip\" to go on behind them",
                self.words
            )));
        }
        tracing::warn!("{}; going on behind them, as on_gap says", self.words);
        Ok(self)
    }
}

fn lost(words: String) -> Fault {
    Fault::new(FaultKind::SourceLost, words).retry_with(Retry::Never)
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
        let kind = |position: JetStreamPosition, info| {
            position
                .validate(&info, OnGap::Fail)
                .map_or_else(|fault| Some(fault.kind()), |gap| gap.map(|_| unreachable!()))
        };
        assert_eq!(kind(at(10), stream("then", 1, 20)), None);
        assert_eq!(kind(at(10), stream("then", 11, 10)), None, "all read, all gone");
        assert_eq!(kind(at(10), stream("now", 1, 20)), Some(FaultKind::SourceLost));
        assert_eq!(kind(at(10), stream("then", 1, 9)), Some(FaultKind::SourceLost));
        assert_eq!(kind(at(10), stream("then", 15, 20)), Some(FaultKind::SourceLost));
        for on_gap in [OnGap::Skip, OnGap::Record] {
            let gap = at(10).validate(&stream("then", 15, 20), on_gap).unwrap().unwrap();
            assert_eq!((gap.from, gap.to), (11, 14));
        }
    }

    #[test]
    fn subjects_that_were_not_read_so_far_are_not_left_out_in_silence() {
        let read = |subjects: &[&str]| subjects.iter().map(|subject| (*subject).to_owned()).collect::<Vec<_>>();
        let before = JetStreamPosition { subjects: Some(read(&["in.a", "in.b.*"])), ..at(10) };
        let check = |now: &[&str]| before.check_subjects(&stream("then", 1, 20), &read(now), OnGap::Fail);
        assert!(check(&["in.a"]).is_ok() && check(&["in.b.x", "in.b.*"]).is_ok());
        for wider in [&["in.a", "in.c"][..], &["in.b.>"], &[]] {
            let fault = check(wider).unwrap_err();
            assert!(fault.kind() == FaultKind::Setup && fault.to_string().contains("up to message 10"), "{fault}");
        }
        assert!(before.check_subjects(&stream("then", 11, 20), &read(&["in.c"]), OnGap::Fail).is_ok(), "all are gone");
        let gap = before.check_subjects(&stream("then", 3, 20), &read(&["in.c"]), OnGap::Skip).unwrap().unwrap();
        assert_eq!((gap.from, gap.to), (3, 10));
        let all = JetStreamPosition { subjects: Some(Vec::new()), ..at(10) };
        assert!(all.check_subjects(&stream("then", 1, 20), &read(&["in.c"]), OnGap::Fail).is_ok());
    }
}
