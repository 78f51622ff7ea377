//! [`lint`]: what in a stream's settings can lose messages before they are read.

use millstream_operators::Timestamp;

use crate::broker::{Discard, StreamConfig, StreamInfo};

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
    risks.extend(removals(config));
    if config.rest.get("persist_mode").and_then(serde_json::Value::as_str) == Some("async") {
        risks.push("persist_mode = async confirms messages before they are stored, so that a crash may take them back");
    }
    risks
}

/// Which ways there are for people and publishers to remove messages that were not read.
pub(crate) fn removals(config: &StreamConfig) -> Vec<&'static str> {
    let mut ways = Vec::new();
    let mut way = |there: bool, words: &'static str| there.then(|| ways.push(words));
    way(
        config.allow_rollup_hdrs,
        "a rollup removes messages before it, which cannot be noticed where it is by subject",
    );
    way(!config.deny_delete, "messages may be deleted one by one (deny_delete is off), which cannot be noticed");
    way(!config.deny_purge, "the stream may be purged (deny_purge is off)");
    ways
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

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::broker::{Js, NatsServer};

    /// A stream that nothing can take messages from.
    fn safe(name: &str) -> StreamConfig {
        StreamConfig { deny_delete: true, deny_purge: true, ..StreamConfig::new(name, [name]) }
    }

    /// Each as a real server tells of it, so that no field is called otherwise there.
    #[tokio::test]
    async fn whatever_can_lose_unread_messages_is_named_and_nothing_else() {
        let server = NatsServer::start().await.unwrap();
        let js = Js::new(server.connect().await.unwrap());
        let late: Map<_, _> = [("persist_mode".to_owned(), json!("async"))].into_iter().collect();
        let minute = 60_000_000_000;
        let new = Discard::New;
        for (config, said) in [
            (safe("safe"), ""),
            (StreamConfig { max_age: minute * 5, ..safe("age") }, "max_age removes"),
            (StreamConfig { max_msgs: 10, ..safe("msgs") }, "discard = old with max_msgs"),
            (StreamConfig { max_bytes: 1_000, ..safe("bytes") }, "discard = old with max_msgs or max_bytes"),
            (StreamConfig { max_msgs: 10, discard: new, ..safe("new") }, ""),
            (StreamConfig { max_msgs_per_subject: 1, ..safe("per") }, "max_msgs_per_subject"),
            (StreamConfig { allow_msg_ttl: true, ..safe("ttl") }, "time to live"),
            (StreamConfig { allow_rollup_hdrs: true, deny_purge: false, ..safe("roll") }, "rollup|deny_purge"),
            (StreamConfig { deny_delete: false, ..safe("del") }, "deny_delete is off"),
            (StreamConfig { deny_purge: false, ..safe("purge") }, "deny_purge is off"),
            (StreamConfig { rest: late, ..safe("late") }, "persist_mode = async"),
        ] {
            let name = config.name.clone();
            js.create_stream(&config).await.unwrap();
            let risks = risks(&js.stream(&name).await.unwrap());
            let said: Vec<_> = said.split('|').filter(|said| !said.is_empty()).collect();
            assert_eq!(risks.len(), said.len(), "{name}: {risks:?}");
            assert!(risks.iter().zip(said).all(|(risk, said)| risk.contains(said)), "{name}: {risks:?}");
        }
    }

    #[test]
    fn a_position_is_overdue_when_half_of_the_time_to_read_on_is_over() {
        let mut info = StreamInfo::default();
        let (reached, minute) = (Timestamp::from_millis(0), 60_000);
        let at = |info: &StreamInfo, millis| overdue(info, reached, Timestamp::from_millis(millis)).is_some();
        assert!(!at(&info, minute * 1_000_000), "messages do not go by age");
        info.config.max_age = 10 * 60_000_000_000;
        assert!(!at(&info, 5 * minute) && at(&info, 5 * minute + 1));
        let words = overdue(&info, reached, Timestamp::from_millis(6 * minute)).unwrap();
        assert!(words.contains("360 s old") && words.contains("after 600 s"), "{words}");
    }
}
