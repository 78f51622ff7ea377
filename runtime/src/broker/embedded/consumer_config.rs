//! What a consumer's configuration may be, and how the server completes it.

use serde_json::{Value, json};

use super::refusal::{bad_json, consumer_config, refusal, stream_config};
use super::stream_config::{is_name, is_subject};
use crate::broker::{AckPolicy, ApiError, ConsumerConfig, DeliverPolicy, Retention, StreamConfig, codes, is_subset};

/// Fields of the server's that the embedded broker takes and shows. Limits of pulls have their effect.
const TAKEN: [&str; 8] =
    ["description", "replay_policy", "sample_freq", "max_batch", "max_expires", "max_bytes", "direct", "pause_until"];
/// Fields of the server's whose effect the embedded broker does not have.
const MISSING: [&str; 9] = [
    "deliver_subject",
    "deliver_group",
    "flow_control",
    "idle_heartbeat",
    "headers_only",
    "rate_limit_bps",
    "priority_groups",
    "priority_policy",
    "priority_timeout",
];

/// Reads a configuration as a request holds it.
pub(super) fn parse(mut config: Value) -> Result<ConsumerConfig, ApiError> {
    if let Some(fields) = config.as_object_mut() {
        // What a request leaves out is not what our own calls leave out.
        fields.entry("ack_policy").or_insert_with(|| "none".into());
    }
    let config: ConsumerConfig = serde_json::from_value(config).map_err(bad_json)?;
    for (name, value) in &config.rest {
        let set = !matches!(value, Value::Null | Value::Bool(false)) && *value != json!("") && *value != json!(0);
        if MISSING.contains(&name.as_str()) && set && *value != json!([]) && *value != json!("none") {
            return Err(consumer_config(format!("the embedded broker has no {name}: use a nats-server")));
        }
        if !MISSING.contains(&name.as_str()) && !TAKEN.contains(&name.as_str()) {
            return Err(bad_json(format_args!("json: unknown field {name:?}")));
        }
    }
    if config.rest.get("replay_policy").is_some_and(|policy| policy == "original") {
        return Err(consumer_config("the embedded broker has no original replay policy: use a nats-server"));
    }
    Ok(config)
}

/// Completes a configuration as the server does, and refuses what makes no sense on this stream.
pub(super) fn complete(mut config: ConsumerConfig, stream: &StreamConfig) -> Result<ConsumerConfig, ApiError> {
    if config.max_deliver < 1 {
        config.max_deliver = -1;
    }
    if config.max_waiting < 1 {
        config.max_waiting = 512;
    }
    if config.max_ack_pending < -1 {
        config.max_ack_pending = -1;
    }
    let acks = config.ack_policy != AckPolicy::None;
    if config.ack_wait == 0 && acks {
        config.ack_wait = 30_000_000_000;
    }
    if let Some(first) = config.backoff.first() {
        config.ack_wait = *first;
    }
    if config.max_ack_pending == 0 && acks {
        config.max_ack_pending = 1000;
    }
    if config.durable_name.is_empty() && config.inactive_threshold == 0 {
        config.inactive_threshold = 5_000_000_000;
    }
    config.rest.entry("replay_policy").or_insert_with(|| "instant".into());
    for (name, what) in [(&config.name, ""), (&config.durable_name, "durable ")] {
        if !name.is_empty() && !is_name(name) {
            let why = format!("consumer {what}name can not contain '.', '*', '>', '\\', '/'");
            return Err(stream_config(why));
        }
    }
    if config.num_replicas > 1 {
        return Err(refusal(400, 10126, "consumer config replica count exceeds parent stream"));
    }
    let steps = i64::try_from(config.backoff.len()).unwrap_or(i64::MAX);
    if config.max_deliver != -1 && steps > config.max_deliver {
        return Err(refusal(400, 10116, "max deliver is required to be > length of backoff values"));
    }
    if !acks && stream.retention == Retention::WorkQueue {
        let why = "consumer in pull mode requires explicit ack policy on workqueue stream";
        return Err(refusal(400, codes::WORKQUEUE_NEEDS_ACK, why));
    }
    check_filters(&config)?;
    check_start(&config)?;
    if !config.durable_name.is_empty() && !config.name.is_empty() && config.name != config.durable_name {
        return Err(refusal(400, 10132, "Consumer Durable and Name have to be equal if both are provided"));
    }
    Ok(config)
}

fn check_filters(config: &ConsumerConfig) -> Result<(), ApiError> {
    let many = &config.filter_subjects;
    if !config.filter_subject.is_empty() && !many.is_empty() {
        return Err(refusal(400, 10136, "consumer cannot have both FilterSubject and FilterSubjects specified"));
    }
    if many.iter().any(String::is_empty) {
        return Err(refusal(400, 10139, "consumer filter in FilterSubjects cannot be empty"));
    }
    let one = Some(&config.filter_subject).filter(|filter| !filter.is_empty());
    if many.iter().chain(one).any(|filter| !is_subject(filter)) {
        return Err(stream_config("invalid subject"));
    }
    let overlap = |(place, filter): (usize, &String)| {
        many.iter().enumerate().any(|(other, wide)| other != place && is_subset(filter, wide))
    };
    if many.iter().enumerate().any(overlap) {
        return Err(refusal(400, 10138, "consumer subject filters cannot overlap"));
    }
    Ok(())
}

fn check_start(config: &ConsumerConfig) -> Result<(), ApiError> {
    let (by_seq, by_time) = (config.opt_start_seq > 0, config.opt_start_time.is_some());
    let filtered = !config.filter_subject.is_empty() || !config.filter_subjects.is_empty();
    let policy = match config.deliver_policy {
        DeliverPolicy::All => "all",
        DeliverPolicy::Last => "last",
        DeliverPolicy::New => "new",
        DeliverPolicy::LastPerSubject => "last per subject",
        DeliverPolicy::ByStartSequence => "by start sequence",
        DeliverPolicy::ByStartTime => "by start time",
    };
    let why = match config.deliver_policy {
        DeliverPolicy::ByStartSequence if !by_seq => "start sequence is not set",
        DeliverPolicy::ByStartSequence if by_time => "start time is also set",
        DeliverPolicy::ByStartTime if !by_time => "start time is not set",
        DeliverPolicy::ByStartTime if by_seq => "start start sequence is also set",
        DeliverPolicy::ByStartSequence | DeliverPolicy::ByStartTime => return Ok(()),
        _ if by_seq => "start sequence is also set",
        _ if by_time => "start time is also set",
        DeliverPolicy::LastPerSubject if !filtered => "filter subject is not set",
        _ => return Ok(()),
    };
    Err(refusal(400, 10094, format!("consumer delivery policy is deliver {policy}, but optional {why}")))
}

/// Refuses a change that the server refuses; both are complete.
pub(super) fn check_update(old: &ConsumerConfig, new: &ConsumerConfig) -> Result<(), ApiError> {
    let what = if old.deliver_policy != new.deliver_policy {
        "deliver policy"
    } else if old.mem_storage != new.mem_storage {
        "storage type"
    } else if old.opt_start_seq != new.opt_start_seq {
        "start sequence"
    } else if old.opt_start_time != new.opt_start_time {
        "start time"
    } else if old.ack_policy != new.ack_policy {
        "ack policy"
    } else if old.max_waiting != new.max_waiting {
        "max waiting"
    } else {
        return Ok(());
    };
    Err(consumer_config(format!("{what} can not be updated")))
}

/// A configuration as the server tells it.
pub(super) fn describe(config: &ConsumerConfig) -> Value {
    json!(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_completed() {
        let stream = StreamConfig::new("S", ["a"]);
        let config = complete(ConsumerConfig::durable("c"), &stream).unwrap();
        assert_eq!((config.ack_wait, config.max_ack_pending, config.max_deliver), (30_000_000_000, 1000, -1));
        let config = complete(ConsumerConfig { backoff: vec![5, 6], ..ConsumerConfig::default() }, &stream).unwrap();
        assert_eq!((config.ack_wait, config.inactive_threshold), (5, 5_000_000_000));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let stream = StreamConfig::new("S", ["a"]);
        let refused = |config: ConsumerConfig| complete(config, &stream).unwrap_err().err_code;
        assert_eq!(refused(ConsumerConfig { opt_start_seq: 3, ..ConsumerConfig::durable("c") }), 10094);
        let overlap = vec!["a.*".to_owned(), "a.b".to_owned()];
        assert_eq!(refused(ConsumerConfig { filter_subjects: overlap, ..ConsumerConfig::durable("c") }), 10138);
        assert_eq!(parse(json!({"deliver_subject": "x"})).unwrap_err().err_code, 10012);
        assert_eq!(parse(json!({"bogus": 1})).unwrap_err().err_code, 10025);
    }
}
