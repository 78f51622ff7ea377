//! What a stream's settings mean for the node that reads or writes it. Pure.

use std::time::Duration;

use millstream_pipelines::graph::Access;
use serde_json::Value;

use super::facts::{Looked, Told};
use super::findings::Findings;
use crate::broker::{Discard, Retention, Storage, StreamConfig, StreamInfo, overlaps};
use crate::cli::output::{bytes, count, span};
use crate::connectors::{forgets, lacks, removals};

/// What a stream is like, unless that is `known`, and what is wrong with it for its node.
pub(super) fn judge(looked: &Looked, known: bool, findings: &mut Findings) {
    let Looked { node, access, stream, .. } = looked;
    let (name, verb) = match access {
        Access::Write { .. } => (access.stream(), "written"),
        Access::Follow { .. } => (access.stream(), "looked up in"),
        _ => (access.stream(), "read"),
    };
    let told = match stream {
        Ok(Some(told)) => told,
        Ok(None) => {
            match access {
                Access::Write { create: Some(subjects), .. } => {
                    findings.fact(format!(
                        "stream   {name}, {verb} by {node}: will be made at the first start, for {}",
                        subjects.join(", ")
                    ));
                }
                _ => {
                    findings.fact(format!("stream   {name}, {verb} by {node}: is not there"));
                    let bucket = name.strip_prefix("KV_").filter(|_| matches!(access, Access::Follow { .. }));
                    findings.error(match bucket {
                        Some(bucket) => format!(
                            "there is no bucket {bucket}: create it (`nats kv add {bucket}`), or correct its name"
                        ),
                        None => format!(
                            "there is no stream {name}: create it (`nats stream add {name}`), or correct its name"
                        ),
                    });
                }
            }
            return;
        }
        Err(error) => {
            findings.fact(format!("stream   {name}, {verb} by {node}: cannot be looked at"));
            return findings.unasked(error);
        }
    };
    let words = if known { "the same stream".to_owned() } else { described(told) };
    findings.fact(format!("stream   {name}, {verb} by {node}: {words}"));
    let config = &told.info.config;
    keeping(config, findings);
    if let (Some(markers), Access::Write { create, .. }) = (&looked.markers, access) {
        let lacks = lacks(config, markers, create.is_none());
        if !lacks.is_empty() {
            findings.error(format!(
                "effectively-once needs {}: change the stream, or let the sink do what can be done (`create`)",
                lacks.join(", ")
            ));
        }
        for words in forgets(config) {
            findings.warning(words);
        }
    }
    match access {
        Access::Read { subjects, shared, .. } => {
            reading(&told.info, subjects, *shared, findings);
            consumer(looked, findings);
        }
        // What a stream does not take is added to it at the first start.
        Access::Write { extend: true, dedup, .. } => writing(config, None, *dedup, findings),
        Access::Write { subjects, dedup, .. } => writing(config, subjects.as_deref(), *dedup, findings),
        _ => {}
    }
}

/// A stream's settings that matter, on one line.
fn described(told: &Told) -> String {
    let config = &told.info.config;
    let retention = match config.retention {
        Retention::Limits => "limits",
        Retention::Interest => "interest",
        Retention::WorkQueue => "work queue",
    };
    let discard = match config.discard {
        Discard::Old => "old",
        Discard::New => "new",
    };
    let storage = match config.storage {
        Storage::File => "on disk",
        Storage::Memory => "in memory",
    };
    let nanos = |nanos: u64| span(Duration::from_nanos(nanos));
    let mut limits = Vec::new();
    if config.max_age > 0 {
        limits.push(nanos(config.max_age));
    }
    if let Some(most) = u64::try_from(config.max_msgs).ok().filter(|most| *most > 0) {
        limits.push(format!("{} messages", count(most)));
    }
    if let Some(most) = u64::try_from(config.max_bytes).ok().filter(|most| *most > 0) {
        limits.push(bytes(most));
    }
    if let Some(most) = u64::try_from(config.max_msgs_per_subject).ok().filter(|most| *most > 0) {
        limits.push(format!("{} a subject", count(most)));
    }
    let limits = if limits.is_empty() { "none".to_owned() } else { limits.join(" or ") };
    let yes = |yes| if yes { "yes" } else { "no" };
    format!(
        "{} messages, {}; R{} {storage}, retention {retention}, limits {limits}, discards {discard}, duplicate window {}, fast ingest {}, atomic batches {}, message TTL {}, persist mode {}",
        count(told.info.state.messages),
        bytes(told.info.state.bytes),
        config.num_replicas,
        nanos(config.duplicate_window),
        yes(config.allow_batched),
        yes(config.allow_atomic),
        yes(config.allow_msg_ttl),
        text(config, "persist_mode").unwrap_or("default"),
    )
}

fn text<'c>(config: &'c StreamConfig, key: &str) -> Option<&'c str> {
    config.rest.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn is_set(config: &StreamConfig, key: &str) -> bool {
    config.rest.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// How well a stream keeps what it confirmed.
fn keeping(config: &StreamConfig, findings: &mut Findings) {
    if config.storage == Storage::Memory {
        findings.warning("it is kept in memory: a restart of its servers loses it; use file storage");
    } else if config.num_replicas < 2 {
        findings.warning("it has one copy: use three replicas in production");
    }
    if text(config, "persist_mode") == Some("async") {
        findings.warning("persist mode async confirms messages before they are written: a crash of the server loses them; use the default");
    }
}

fn reading(info: &StreamInfo, subjects: &[String], shared: bool, findings: &mut Findings) {
    let config = &info.config;
    // A mirror or a stream that sources others has subjects from there.
    let whole =
        !config.subjects.is_empty() && !config.rest.contains_key("mirror") && !config.rest.contains_key("sources");
    for subject in subjects.iter().filter(|_| whole) {
        if !config.subjects.iter().any(|all| overlaps(all, subject)) {
            findings.error(format!(
                "nothing of it is on {subject}: it has {}; correct `subjects`",
                config.subjects.join(", ")
            ));
        }
    }
    if config.retention == Retention::WorkQueue && !shared {
        findings.error("it is a work queue, which takes an acknowledgement for each message: share it (`share = true`, in Rust `.shared()`), or let a stream of limits retention source it, and read that one");
    }
    // Whoever shares keeps no position to go back to.
    if config.retention == Retention::Interest && !shared {
        findings.warning("its messages go when they are acknowledged: an older checkpoint cannot be gone back to");
    }
    if config.discard == Discard::Old && (config.max_age > 0 || config.max_msgs > 0 || config.max_bytes > 0) {
        findings.warning("its limits discard old messages, read or not: a pipeline that is down for longer stops with what is missing; make them longer than any outage");
    }
    if config.max_msgs_per_subject > 0 {
        findings.warning(
            "max_msgs_per_subject discards older messages of a subject, which cannot be noticed: raise it, or mean it",
        );
    }
    if config.allow_msg_ttl {
        findings.warning("messages may expire by their own time to live, which cannot be noticed");
    }
    let removals = removals(config);
    if !removals.is_empty() {
        findings.warning(format!("{}: forbid it, unless it is meant", removals.join("; ")));
    }
}

fn consumer(looked: &Looked, findings: &mut Findings) {
    match &looked.consumer {
        None => {}
        Some(Ok(None)) => findings.fact("         its consumer is made at the first start"),
        Some(Ok(Some(info))) => findings.fact(format!(
            "         consumer {}: acknowledged up to {}, {} delivered and not in a checkpoint, {} to come",
            info.name,
            count(info.ack_floor.stream_seq),
            count(info.num_ack_pending),
            count(info.num_pending)
        )),
        Some(Err(error)) => findings.unasked(error),
    }
}

fn writing(config: &StreamConfig, subjects: Option<&[String]>, dedup: bool, findings: &mut Findings) {
    for subject in subjects.into_iter().flatten() {
        if !config.subjects.iter().any(|all| overlaps(all, subject)) {
            let all = if config.subjects.is_empty() { "none".to_owned() } else { config.subjects.join(", ") };
            findings
                .error(format!("it takes nothing on {subject}: its subjects are {all}; add it, or correct `subject`"));
        }
    }
    if is_set(config, "no_ack") {
        findings.error("it confirms nothing (no_ack), and every checkpoint waits for confirmations: turn it off");
    }
    if is_set(config, "sealed") {
        findings.error("it is sealed and takes nothing any more: write to another");
    }
    if config.discard == Discard::New && (config.max_msgs > 0 || config.max_bytes > 0) {
        findings.warning("it refuses messages when it is full: the pipeline waits until there is room");
    }
    if dedup && config.duplicate_window == 0 {
        findings.warning("message ids are set (dedup), but it has no duplicate window, so repeats stay: set one");
    }
}
