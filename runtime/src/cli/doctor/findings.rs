//! [`judge`]: what the facts mean for a pipeline, each with a way out. Pure.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;

use super::facts::{Bucket, Facts};
use super::streams;
use crate::broker::{BrokerError, parse_version};
use crate::checkpoint::StoreError;
use crate::cli::check::plural;
use crate::cli::output::{bytes, count, span};

/// Something to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) grade: Grade,
    pub(super) text: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grade {
    /// It is so.
    Fact,
    /// It works, and may lose data or surprise.
    Warning,
    /// It will not work.
    Error,
}

/// Findings in the order that they are printed: a fact, and what is wrong with it below.
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn fact(&mut self, text: impl Into<String>) {
        self.0.push(Finding { grade: Grade::Fact, text: text.into() });
    }

    pub(super) fn warning(&mut self, text: impl Into<String>) {
        self.0.push(Finding { grade: Grade::Warning, text: text.into() });
    }

    pub(super) fn error(&mut self, text: impl Into<String>) {
        self.0.push(Finding { grade: Grade::Error, text: text.into() });
    }

    /// What could not be asked, as far as the pipeline needs the same answer.
    pub(super) fn unasked(&mut self, error: &BrokerError) {
        let hint = match error {
            BrokerError::Permission { .. } => "; `millstream permissions` prints all that the pipeline needs",
            _ => "",
        };
        self.error(format!("{error}{hint}"));
    }
}

/// What the facts mean.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    server(facts, &mut findings);
    // Several nodes may use one stream: what is said of it once is not said again.
    let mut said: HashSet<(String, String)> = HashSet::new();
    for looked in &facts.streams {
        let stream = looked.access.stream();
        let known = said.iter().any(|(of, _)| of == stream);
        let mut found = Findings(Vec::new());
        streams::judge(looked, known, &mut found);
        found.0.retain(|finding| said.insert((stream.to_owned(), finding.text.clone())));
        findings.0.append(&mut found.0);
    }
    if let Some(protocol) = &facts.protocol {
        findings.fact(format!("once     {protocol}"));
    }
    facts.bucket.iter().for_each(|bucket| checkpoints(bucket, &mut findings));
    facts.kept.iter().for_each(|(place, found)| kept(place, found, &mut findings));
    findings.0
}

// A clock that is off by more shows in latencies and in windows of wall-clock time.
const CLOCK: i64 = 1_000_000;

fn server(facts: &Facts, findings: &mut Findings) {
    let level = facts.account.as_ref().ok().and_then(|info| info.pointer("/api/level")?.as_u64());
    let level = level.map_or_else(|| "API level unknown".to_owned(), |level| format!("API level {level}"));
    findings.fact(format!("server   nats-server {} at {}, {level}", facts.version, facts.place));
    if facts.streams.iter().any(|looked| looked.markers.is_some())
        && parse_version(&facts.version).is_some_and(|version| version < (2, 12, 0))
    {
        findings.error("it is older than 2.12, and effectively-once needs its atomic batches: use 2.14 or newer");
    }
    match parse_version(&facts.version) {
        Some(version) if version < (2, 10, 0) => findings.error(
            "it is older than 2.10, which a consumer of several subjects needs: use 2.14 or newer",
        ),
        Some(version) if version < (2, 14, 0) => findings.warning(
            "it is older than 2.14: consumers are deleted and made again where a newer server resets them, and fast ingest is missing; use 2.14 or newer",
        ),
        _ => {}
    }
    match facts.ahead() {
        Some((ahead, within)) => {
            let side = if ahead < 0 { "behind" } else { "ahead of" };
            let micros = |micros: i64| span(Duration::from_micros(micros.unsigned_abs()));
            findings.fact(format!(
                "clock    the server's is {} {side} ours, give or take {}",
                micros(ahead),
                micros(within)
            ));
            if ahead.abs() - within > CLOCK {
                findings.warning("latencies and times of arrival will be off by that: run NTP on both machines");
            }
        }
        None => findings.fact("clock    unknown: no stream was there to ask for the time"),
    }
    match &facts.account {
        Ok(info) => account(info, findings),
        Err(error @ BrokerError::NoResponders { .. }) => findings.error(format!("JetStream does not answer: {error}")),
        Err(error) if error.api_code() == Some(10039) => findings.error(
            "JetStream is not enabled for this account: add `jetstream: enabled` to the account in the server's configuration",
        ),
        Err(error) => findings.unasked(error),
    }
    findings.fact("disk     how often the server syncs is not told over NATS (2 min unless `sync_interval` says otherwise): until then a loss of power takes confirmed messages with it; use three replicas, or `sync_interval: always`");
}

fn account(info: &Value, findings: &mut Findings) {
    let number = |pointer: &str| info.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    // Limits may be given by tier (R1, R3) in place of the account as a whole; those of the whole are then absent.
    let limit = |limit: i64, shown: fn(u64) -> String| match u64::try_from(limit) {
        Ok(limit) if limit > 0 => format!("at most {}", shown(limit)),
        _ => "no limit".to_owned(),
    };
    let positive = |number: i64| u64::try_from(number).unwrap_or(0);
    let many = |pointer: &str, word| plural(usize::try_from(number(pointer)).unwrap_or(0), word);
    findings.fact(format!(
        "account  {} on disk ({}), {} in memory ({}), {} ({}), {} ({})",
        bytes(positive(number("/storage"))),
        limit(number("/limits/max_storage"), bytes),
        bytes(positive(number("/memory"))),
        limit(number("/limits/max_memory"), bytes),
        many("/streams", "stream"),
        limit(number("/limits/max_streams"), count),
        many("/consumers", "consumer"),
        limit(number("/limits/max_consumers"), count),
    ));
    for (what, used, most) in [
        ("storage", "/storage", "/limits/max_storage"),
        ("streams", "/streams", "/limits/max_streams"),
        ("consumers", "/consumers", "/limits/max_consumers"),
    ] {
        let (used, most) = (number(used), number(most));
        if most > 0 && used >= most {
            findings.error(format!("the account's limit of {what} is reached: raise it, or remove what is not needed"));
        } else if most > 0 && used > most / 10 * 9 {
            findings.warning(format!("more than nine tenths of the account's limit of {what} are used: raise it"));
        }
    }
}

fn kept(place: &str, found: &Result<bool, StoreError>, findings: &mut Findings) {
    let there = match found {
        Ok(true) => "there are some",
        Ok(false) => "will begin at the first start",
        Err(StoreError::Failed(fault) | StoreError::Unknown(fault)) => return findings.error(fault.chain()),
        Err(error @ StoreError::Fenced) => return findings.error(error.to_string()),
    };
    findings.fact(format!("place    {place}, for checkpoints: {there}"));
}

fn checkpoints(bucket: &Bucket, findings: &mut Findings) {
    let name = &bucket.name;
    match &bucket.stream {
        Ok(None) => findings
            .fact(format!("bucket   {name}, for checkpoints: will be made at the first start, R{}", bucket.replicas)),
        Ok(Some(told)) => {
            let copies = told.info.config.num_replicas;
            findings.fact(format!("bucket   {name}, for checkpoints: {}, R{copies}", bytes(told.info.state.bytes)));
            if copies < bucket.replicas {
                findings.warning(format!(
                    "it has fewer copies than the {} that are wanted: `nats stream edit KV_{name} --replicas {}`",
                    bucket.replicas, bucket.replicas
                ));
            } else if copies < 2 {
                findings.warning("it has one copy, and without it the pipeline begins anew: use three replicas in production (--replicas 3)");
            }
        }
        // A run needs other rights on it than to look at it.
        Err(error @ BrokerError::Permission { .. }) => {
            findings.fact(format!("bucket   {name}, for checkpoints: {error}, to have it looked at"));
        }
        Err(error) => findings.unasked(error),
    }
}

#[cfg(test)]
mod tests {
    use millstream_pipelines::graph::Access;
    use serde_json::json;

    use super::*;
    use crate::broker::{DeniedAction, Discard, Retention, StreamConfig, StreamInfo};
    use crate::cli::doctor::facts::{Looked, Told};

    fn read(subjects: &[&str]) -> Access {
        access(crate::connectors::jetstream("S").subjects(subjects.iter().copied()))
    }

    fn access(from: crate::connectors::JetStreamFrom) -> Access {
        let pipeline = millstream_pipelines::dsl::Pipeline::new("p");
        let from = from.text().ignore_rejected();
        let to = crate::connectors::jetstream_to("T").text().subject("s.out").stop_on_rejected();
        pipeline.source("in", from).sink("out", to);
        pipeline.build().unwrap().nodes.remove(0).access.remove(0)
    }

    fn looked(access: Access, config: StreamConfig) -> Looked {
        let stream =
            Ok(Some(Told { info: StreamInfo { config, ..StreamInfo::default() }, ahead: Some((5_000_000, 10)) }));
        Looked { node: "n".to_owned(), access, markers: None, stream, consumer: None }
    }

    fn judged(version: &str, streams: Vec<Looked>) -> Vec<(Grade, String)> {
        let account = Ok(json!({ "api": { "level": 4 }, "storage": 95, "limits": { "max_storage": 100 } }));
        let facts = Facts {
            place: "here".to_owned(),
            version: version.to_owned(),
            account,
            streams,
            protocol: None,
            bucket: None,
            kept: None,
        };
        judge(&facts).into_iter().map(|finding| (finding.grade, finding.text)).collect()
    }

    fn has(findings: &[(Grade, String)], grade: Grade, part: &str) -> bool {
        findings.iter().any(|(found, text)| *found == grade && text.contains(part))
    }

    #[test]
    fn what_effectively_once_needs_is_said_unless_the_sink_sees_to_it() {
        let write = |create: Option<Vec<String>>| Access::Write {
            stream: "S".to_owned(),
            subjects: None,
            create,
            extend: false,
            dedup: false,
        };
        let once = |create, config| Looked {
            markers: Some("mill.txn.p.n.*".to_owned()),
            ..looked(write(create), StreamConfig { num_replicas: 3, ..config })
        };
        let errors = |looked: Looked, version| {
            let all = judged(version, vec![looked]);
            all.into_iter().filter(|(grade, _)| *grade == Grade::Error).map(|(_, text)| text).collect::<Vec<_>>()
        };
        let plain = || StreamConfig::new("S", ["s.*"]);
        let found = errors(once(None, plain()), "2.15.1");
        assert!(
            found.len() == 1 && found[0].contains("allow_atomic, allow_rollup_hdrs, the subject mill.txn.p.n.*"),
            "{found:?}"
        );
        assert_eq!(errors(once(Some(vec!["s.*".to_owned()]), plain()), "2.15.1"), [""; 0]);
        let queue = StreamConfig { retention: Retention::WorkQueue, ..plain() };
        assert!(errors(once(Some(vec!["s.*".to_owned()]), queue), "2.15.1")[0].contains("retention limits"));
        assert!(errors(once(Some(vec![]), plain()), "2.11.4")[0].contains("older than 2.12"));
    }

    #[test]
    fn limits_that_let_go_of_the_marker_are_said_and_those_that_leave_it_no_time_are_errors() {
        let access =
            Access::Write { stream: "S".to_owned(), subjects: None, create: Some(vec![]), extend: false, dedup: false };
        let once = |config| {
            let once = Looked { markers: Some("mill.txn.p.n.*".to_owned()), ..looked(access.clone(), config) };
            judged("2.15.1", vec![once])
        };
        let plain = || StreamConfig::new("S", ["s.*"]);
        assert!(!has(&once(plain()), Grade::Warning, "lets go of the marker"));
        let found = once(StreamConfig { max_age: 43_200_000_000_000, discard: Discard::New, ..plain() });
        assert!(has(&found, Grade::Warning, "max_age of stream S lets go of the marker"), "{found:#?}");
        assert!(has(&found, Grade::Warning, "--rewind only"), "{found:#?}");
        let found = once(StreamConfig { max_msgs: 1_000_000, ..plain() });
        assert!(has(&found, Grade::Warning, "max_msgs of stream S (1000000)"), "{found:#?}");
        for config in [StreamConfig { max_age: 500_000_000, ..plain() }, StreamConfig { max_msgs: 1, ..plain() }] {
            let found = once(config);
            assert!(has(&found, Grade::Error, "effectively-once needs max_"), "{found:#?}");
        }
    }

    #[test]
    fn a_stream_that_cannot_be_read_is_an_error_and_one_that_may_lose_a_warning() {
        let queue = StreamConfig { retention: Retention::WorkQueue, ..StreamConfig::new("S", ["s.>"]) };
        let found = judged("2.15.1", vec![looked(read(&[]), queue.clone())]);
        assert!(has(&found, Grade::Error, "work queue") && has(&found, Grade::Error, "share = true"), "{found:#?}");
        let shared = access(crate::connectors::jetstream("S").shared());
        let found = judged("2.15.1", vec![looked(shared, queue)]);
        assert!(!found.iter().any(|(grade, _)| *grade == Grade::Error), "{found:#?}");
        let mut lossy = StreamConfig { max_age: 1, ..StreamConfig::new("S", ["s.>"]) };
        lossy.rest.insert("persist_mode".to_owned(), json!("async"));
        let found = judged("2.15.1", vec![looked(read(&["other.>"]), lossy)]);
        for (grade, part) in [
            (Grade::Warning, "one copy"),
            (Grade::Warning, "persist mode async"),
            (Grade::Warning, "limits discard"),
            (Grade::Warning, "deny_delete is off"),
            (Grade::Warning, "nine tenths"),
            (Grade::Warning, "NTP"),
            (Grade::Error, "nothing of it is on other.>"),
        ] {
            assert!(has(&found, grade, part), "{part} is not in {found:#?}");
        }
    }

    #[test]
    fn a_stream_that_is_not_there_is_an_error_unless_the_pipeline_makes_it() {
        let gone = |access| Looked { node: "n".to_owned(), access, markers: None, stream: Ok(None), consumer: None };
        assert!(has(&judged("2.15.1", vec![gone(read(&[]))]), Grade::Error, "nats stream add S"));
        let sink =
            millstream_pipelines::dsl::WriteTo::sink_node(crate::connectors::jetstream_to("S").create(["s.>"]), "out");
        let found = judged("2.15.1", vec![gone(sink.access[0].clone())]);
        assert!(has(&found, Grade::Fact, "will be made") && !found.iter().any(|(grade, _)| *grade == Grade::Error));
    }

    #[test]
    fn a_stream_that_two_nodes_use_is_described_once() {
        let one = || looked(read(&[]), StreamConfig::new("S", ["s.>"]));
        let found = judged("2.15.1", vec![one(), Looked { node: "other".to_owned(), ..one() }]);
        assert_eq!(found.iter().filter(|(_, text)| text.contains("one copy")).count(), 1, "{found:#?}");
        assert!(has(&found, Grade::Fact, "S, read by other: the same stream"), "{found:#?}");
    }

    #[test]
    fn a_denied_question_names_the_subject_and_the_way_out() {
        let subject = "$JS.API.STREAM.INFO.S".into();
        let denied = BrokerError::Permission { subject, action: DeniedAction::Publish };
        let looked =
            Looked { node: "n".to_owned(), access: read(&[]), markers: None, stream: Err(denied), consumer: None };
        let found = judged("2.15.1", vec![looked]);
        assert!(
            has(&found, Grade::Error, "$JS.API.STREAM.INFO.S") && has(&found, Grade::Error, "millstream permissions")
        );
    }

    #[test]
    fn an_old_server_is_told_with_what_it_lacks() {
        assert!(has(&judged("2.12.3", vec![]), Grade::Warning, "2.14"));
        assert!(has(&judged("2.9.10", vec![]), Grade::Error, "2.10"));
        assert!(!has(&judged("2.15.1", vec![]), Grade::Warning, "older"));
    }
}
