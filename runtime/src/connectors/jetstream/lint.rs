//! [`lint`]: what in a stream's settings can lose messages before they are read.

use millstream_operators::Timestamp;

use crate::broker::{Discard, StreamInfo};

/// Says what can lose messages of a stream before they are read, one sentence each.
pub(super) fn risks(info: &StreamInfo) -> Vec<&'static str> {
    let config = &info.config;
    let mut risks = Vec::new();
    let mut risk = |there: bool, words: &'static str| there.then(|| risks.push(words));
    let limited = config.max_msgs > 0 || config.max_bytes > 0;
    risk(config.max_age > 0, "max_age removes messages, read or not");
    risk(
        limited && config.discard == Discard::Old,
        "discard = old with max_msgs or max_bytes removes the oldest messages, read or not",
    );
    risk(
        config.max_msgs_per_subject > 0 && !(config.discard == Discard::New && config.discard_new_per_subject),
        "max_msgs_per_subject removes older messages of a subject, which cannot be noticed",
    );
    risk(config.allow_msg_ttl, "messages may expire by their own time to live, which cannot be noticed");
    risk(
        config.allow_rollup_hdrs,
        "a rollup removes messages before it, which cannot be noticed where it is by subject",
    );
    risk(!config.deny_delete, "messages may be deleted one by one (deny_delete is off), which cannot be noticed");
    risk(!config.deny_purge, "the stream may be purged (deny_purge is off)");
    let persists_late = config.rest.get("persist_mode").and_then(serde_json::Value::as_str) == Some("async");
    risk(
        persists_late,
        "persist_mode = async confirms messages before they are stored, so that a crash may take them back",
    );
    risks
}

/// What to say of a position that was reached so long ago that `max_age` may catch up with it.
pub(super) fn overdue(info: &StreamInfo, reached_at: Timestamp, now: Timestamp) -> Option<String> {
    let max_age = i64::try_from(info.config.max_age / 1_000).unwrap_or(i64::MAX);
    let behind = now.as_micros().saturating_sub(reached_at.as_micros());
    (max_age > 0 && behind > max_age / 2).then(|| {
        format!(
            "the last checkpoint is {} s old and messages go after {} s: more than half of the time to read them is over",
            behind / 1_000_000,
            max_age / 1_000_000
        )
    })
}
