//! What a stream's configuration may be, and how the server completes it.

use serde_json::{Value, json};

use super::refusal::{bad_json, refusal, stream_config};
use crate::broker::{ApiError, Discard, Retention, StreamConfig, is_subset, overlaps};

/// Fields of the server's that the embedded broker takes and shows, though they change nothing here.
const IGNORED: [&str; 10] = [
    "description",
    "max_consumers",
    "compression",
    "metadata",
    "mirror_direct",
    "no_ack",
    "persist_mode",
    "placement",
    "pedantic",
    "consumer_limits",
];
/// Fields of the server's whose effect the embedded broker does not have.
const MISSING: [&str; 11] = [
    "mirror",
    "sources",
    "republish",
    "subject_transform",
    "sealed",
    "template_owner",
    "first_seq",
    "subject_delete_marker_ttl",
    "allow_msg_counter",
    "allow_msg_schedules",
    "allow_msg_counters",
];
const SECOND: u64 = 1_000_000_000;
const TENTH: u64 = SECOND / 10;

/// Reads a configuration as a request holds it.
pub(super) fn parse(body: &[u8]) -> Result<StreamConfig, ApiError> {
    let body: &[u8] = if body.is_empty() { b"{}" } else { body };
    let config: StreamConfig = serde_json::from_slice(body).map_err(bad_json)?;
    for (name, value) in &config.rest {
        let set = !matches!(value, Value::Null | Value::Bool(false)) && *value != json!([]) && *value != json!(0);
        if MISSING.contains(&name.as_str()) && set {
            return Err(stream_config(format!("the embedded broker has no {name}: use a nats-server")));
        }
        if !MISSING.contains(&name.as_str()) && !IGNORED.contains(&name.as_str()) {
            return Err(bad_json(format_args!("json: unknown field {name:?}")));
        }
    }
    Ok(config)
}

/// Completes a configuration as the server does, and refuses what makes no sense.
pub(super) fn complete(mut config: StreamConfig) -> Result<StreamConfig, ApiError> {
    if !is_name(&config.name) {
        let why = "stream name is required and can not contain '.', '*', '>', '\\', '/'";
        return Err(stream_config(why));
    }
    for most in [&mut config.max_msgs, &mut config.max_bytes, &mut config.max_msgs_per_subject] {
        if *most < 1 {
            *most = -1;
        }
    }
    if config.max_msg_size < 1 {
        config.max_msg_size = -1;
    }
    config.num_replicas = config.num_replicas.max(1);
    if config.max_age != 0 && config.max_age < TENTH {
        return Err(stream_config("max age needs to be >= 100ms"));
    }
    if config.duplicate_window == 0 {
        config.duplicate_window = 120 * SECOND;
        if config.max_age != 0 {
            config.duplicate_window = config.duplicate_window.min(config.max_age);
        }
    }
    if config.max_age != 0 && config.duplicate_window > config.max_age {
        return Err(stream_config("duplicates window can not be larger then max age"));
    }
    if config.duplicate_window < TENTH {
        return Err(stream_config("duplicates window needs to be >= 100ms"));
    }
    if config.deny_purge && config.allow_rollup_hdrs {
        return Err(stream_config("roll-ups require the purge permission"));
    }
    if config.discard_new_per_subject {
        if config.discard != Discard::New {
            return Err(stream_config("discard new per subject requires discard new policy to be set"));
        }
        if config.max_msgs_per_subject < 1 {
            return Err(stream_config("discard new per subject requires max msgs per subject > 0"));
        }
    }
    if config.subjects.is_empty() {
        config.subjects.push(config.name.clone());
    }
    check_subjects(&config)?;
    if config.num_replicas > 1 {
        return Err(refusal(500, 10074, "replicas > 1 not supported in non-clustered mode"));
    }
    Ok(config)
}

fn check_subjects(config: &StreamConfig) -> Result<(), ApiError> {
    for (place, subject) in config.subjects.iter().enumerate() {
        if !is_subject(subject) {
            return Err(stream_config("invalid subject"));
        }
        let rest = config.subjects.get(place + 1..).unwrap_or_default();
        if !no_ack(config) {
            if subject == ">" {
                return Err(stream_config("capturing all subjects requires no-ack to be true"));
            }
            if overlaps(subject, "$JS.>") && !is_subset(subject, "$JS.EVENT.>") {
                return Err(stream_config("subjects that overlap with jetstream api require no-ack to be true"));
            }
            if overlaps(subject, "$SYS.>") && !is_subset(subject, "$SYS.ACCOUNT.>") {
                return Err(stream_config("subjects that overlap with system api require no-ack to be true"));
            }
        }
        if let Some(other) = rest.iter().find(|other| overlaps(other, subject)) {
            return Err(stream_config(format!("subject {subject:?} overlaps with {other:?}")));
        }
    }
    Ok(())
}

/// Whether the stream shall acknowledge nothing.
pub(super) fn no_ack(config: &StreamConfig) -> bool {
    config.rest.get("no_ack").and_then(Value::as_bool).unwrap_or(false)
}

/// Refuses a change that the server refuses; both are complete.
pub(super) fn check_update(old: &StreamConfig, new: &StreamConfig) -> Result<(), ApiError> {
    let why = if new.storage != old.storage {
        "stream configuration update can not change storage type"
    } else if new.retention != old.retention
        && (new.retention == Retention::WorkQueue || old.retention == Retention::WorkQueue)
    {
        "stream configuration update can not change retention policy to/from workqueue"
    } else if old.deny_delete && !new.deny_delete {
        "stream configuration update can not cancel deny message deletes"
    } else if old.deny_purge && !new.deny_purge {
        "stream configuration update can not cancel deny purge"
    } else if old.allow_msg_ttl && !new.allow_msg_ttl {
        "message TTL status can not be disabled"
    } else {
        return Ok(());
    };
    Err(stream_config(why))
}

/// A configuration as the server tells it: with what has its default value too.
pub(super) fn describe(config: &StreamConfig) -> Value {
    let mut told = json!({
        "max_consumers": -1,
        "max_age": 0,
        "compression": "none",
        "allow_direct": false,
        "mirror_direct": false,
        "sealed": false,
        "deny_delete": false,
        "deny_purge": false,
        "allow_rollup_hdrs": false,
        "consumer_limits": {},
        "allow_msg_ttl": false,
    });
    if let (Some(told), Value::Object(own)) = (told.as_object_mut(), json!(config)) {
        told.extend(own);
    }
    told
}

/// Whether a stream or consumer can be called so.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '\\' | '/'))
}

/// Whether this is a subject or pattern.
pub(super) fn is_subject(subject: &str) -> bool {
    let mut tokens = subject.split('.').peekable();
    while let Some(token) = tokens.next() {
        let last = tokens.peek().is_none();
        if token.is_empty() || token.chars().any(char::is_whitespace) || (token == ">" && !last) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_completed() {
        let config = complete(StreamConfig { max_age: SECOND, ..StreamConfig::new("S", ["a.>"]) }).unwrap();
        assert_eq!((config.max_msgs, config.max_msg_size, config.duplicate_window), (-1, -1, SECOND));
        assert_eq!(describe(&config)["compression"], "none");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(parse(br#"{"name":"S","bogus":1}"#).unwrap_err().err_code, 10025);
        assert!(parse(br#"{"name":"S","mirror":{"name":"T"}}"#).unwrap_err().description.contains("no mirror"));
        for subjects in [vec!["a..b"], vec!["a", "a"], vec![">"], vec!["$JS.API.>"], vec!["a.*", "a.b"]] {
            assert_eq!(complete(StreamConfig::new("S", subjects)).unwrap_err().err_code, 10052);
        }
        assert!(complete(StreamConfig::new("a.b", ["a"])).is_err());
    }
}
