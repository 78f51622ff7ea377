//! What a stream must be like so that outputs can be stored in it once.

use std::time::Duration;

use millstream_operators::{Fault, FaultKind, Result};
use serde_json::Value;

use crate::broker::{ApiLevel, Discard, Js, Retention, StreamConfig, matches};
use crate::connectors::jetstream::JetStreamWrite;
use crate::connectors::jetstream::stream::{find_or_make, level_of};
use crate::connectors::{fault, stream_fault};

/// A marker is rewritten four times within `max_age`: where that is shorter, it goes while an answer is waited for.
const SHORTEST_AGE: Duration = Duration::from_secs(1);
/// A batch has a marker and an output at least.
const FEWEST: i64 = 2;
/// Where messages that come later push a marker out, it is rewritten so often.
const PUSHED: Duration = Duration::from_secs(10);

/// What a stream lacks, one phrase each; nothing where it will do. Without `changes`, what a sink that may can change is
/// left out. The server's JetStream must be new enough as well.
pub(crate) fn lacks(config: &StreamConfig, markers: &str, changes: bool) -> Vec<String> {
    let is_set =
        |key: &str| config.rest.get(key).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)));
    let mut lacks = if changes { settings_that_lack(config, markers) } else { Vec::new() };
    let mut lack = |is_so: bool, words: &str| is_so.then(|| lacks.push(words.to_owned()));
    lack(
        config.retention != Retention::Limits,
        "retention limits (others let go of the marker that fences it; let a work queue source this stream)",
    );
    lack(
        config.discard == Discard::New && config.discard_new_per_subject,
        "discard_new_per_subject off (it refuses a new marker while the old one is there)",
    );
    lack(is_set("mirror"), "being no mirror");
    lack(
        config.rest.get("persist_mode").and_then(Value::as_str) == Some("async"),
        "persist_mode default (asynchronous streams take no batches)",
    );
    lack(
        config.max_age > 0 && age(config) < SHORTEST_AGE,
        "max_age of a second at least (the marker that fences it is rewritten four times within that, and goes where one answer takes longer)",
    );
    lack(
        config.discard == Discard::Old && (1..FEWEST).contains(&config.max_msgs),
        "max_msgs above 1 (an output pushes out its own marker, and then no start goes on from it)",
    );
    lacks
}

/// How many messages it holds, where more of them push out the first.
pub(super) fn holds(config: &StreamConfig) -> usize {
    let most = usize::try_from(config.max_msgs).ok().filter(|most| *most > 0 && config.discard == Discard::Old);
    most.unwrap_or(usize::MAX)
}

fn age(config: &StreamConfig) -> Duration {
    Duration::from_nanos(config.max_age)
}

/// How often the marker is rewritten where nothing else is stored; `None` where no limit lets go of it. A limit for each
/// subject does not: the marker is the newest of its own.
pub(super) fn renewal(config: &StreamConfig) -> Option<Duration> {
    let by_age = (config.max_age > 0).then(|| age(config) / 4);
    let pushed = config.discard == Discard::Old && (config.max_msgs > 0 || config.max_bytes > 0);
    by_age.into_iter().chain(pushed.then_some(PUSHED)).min()
}

/// Which limits of a stream let go of the marker while nobody rewrites it, and what follows, a sentence each.
pub(crate) fn forgets(config: &StreamConfig) -> Vec<String> {
    let Some(renewal) = renewal(config) else { return Vec::new() };
    let name = &config.name;
    let follows = "then a pipeline without state, and one that was ended before it was known that its last outputs were published, starts with --rewind only, which may store its last outputs twice";
    let mut forgets = Vec::new();
    if config.max_age > 0 {
        let age = age(config);
        forgets.push(format!(
            "max_age of stream {name} lets go of the marker that says how far its outputs are when it is {age:?} old: a run rewrites it every {renewal:?}, but nobody does while the pipeline is down, or cut off from its servers. Where that lasts as long, {follows}. Make max_age longer than any outage"
        ));
    }
    for (limit, most) in [("max_msgs", config.max_msgs), ("max_bytes", config.max_bytes)] {
        if config.discard == Discard::Old && most > 0 {
            forgets.push(format!(
                "{limit} of stream {name} ({most}) lets messages that come later push out the marker that says how far its outputs are: a run rewrites it every {renewal:?}, but what others store there within that, or while the pipeline is down, may be more. Where it is, {follows}. Raise it, discard new messages in place of old ones, or give these outputs a stream of their own"
            ));
        }
    }
    forgets
}

/// What it lacks that can be changed.
fn settings_that_lack(config: &StreamConfig, markers: &str) -> Vec<String> {
    let mut lacks = Vec::new();
    let mut lack = |is_so: bool, words: String| is_so.then(|| lacks.push(words));
    lack(!config.allow_atomic, "allow_atomic".to_owned());
    lack(!config.allow_rollup_hdrs, "allow_rollup_hdrs".to_owned());
    let takes = config.subjects.iter().any(|subject| matches(subject, markers));
    lack(!takes, format!("the subject {markers}"));
    lacks
}

/// Finds or makes the stream, and refuses one that outputs cannot be stored in once; how it is configured then. With `create`
/// it is given what it lacks, where that can be changed.
///
/// # Errors
/// The server does not answer, is too old, or refuses; or the stream will not do: then what it lacks is named.
pub(super) async fn prepare(js: &Js, write: &JetStreamWrite, markers: &str) -> Result<StreamConfig> {
    let name = &write.stream;
    let level = level_of(js, name).await?;
    if level < Some(ApiLevel::ATOMIC_BATCHES) {
        let why = match level {
            None => "it may not be asked how new the server is: let the user publish to $JS.API.INFO".to_owned(),
            Some(_) => "the server does not know atomic batches: use nats-server 2.12 or newer".to_owned(),
        };
        return Err(refused(name, &why));
    }
    let mut write = write.clone();
    if let Some(subjects) = &mut write.create {
        subjects.push(markers.to_owned());
    }
    let allow = |config: StreamConfig| StreamConfig { allow_atomic: true, allow_rollup_hdrs: true, ..config };
    let mut info = find_or_make(js, &write, allow).await?;
    if write.create.is_some() && !settings_that_lack(&info.config, markers).is_empty() {
        let mut config = allow(info.config.clone());
        if !config.subjects.iter().any(|subject| matches(subject, markers)) {
            config.subjects.push(markers.to_owned());
        }
        let lacked = settings_that_lack(&info.config, markers).join(", ");
        js.update_stream(&config).await.map_err(|error| stream_fault(error, name, &config.subjects))?;
        tracing::info!(stream = name, "the stream has {lacked} from now on");
        // Read back: an older server of a cluster leaves out what it does not know.
        info = js.stream(name).await.map_err(fault)?;
    }
    let lacks = lacks(&info.config, markers, true);
    match lacks.is_empty() {
        true => {
            for words in forgets(&info.config) {
                tracing::warn!("{words}");
            }
            Ok(info.config)
        }
        false => Err(refused(
            name,
            &format!("it needs {}: change the stream, or let the sink do it (`create`)", lacks.join(", ")),
        )),
    }
}

fn refused(stream: &str, why: &str) -> Fault {
    let words = format!("guarantee is effectively-once, and stream {stream} cannot give it: {why}");
    Fault::new(FaultKind::Setup, words)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MARKERS: &str = "mill.txn.p.out.*";

    fn good() -> StreamConfig {
        let config = StreamConfig::new("S", ["s.*", "mill.txn.p.>"]);
        StreamConfig { allow_atomic: true, allow_rollup_hdrs: true, ..config }
    }

    #[test]
    fn whatever_a_stream_lacks_is_named_and_nothing_else() {
        assert_eq!(lacks(&good(), MARKERS, true), [""; 0]);
        let rest = |key: &str, value| [(key.to_owned(), value)].into_iter().collect();
        for (config, words) in [
            (StreamConfig { allow_atomic: false, ..good() }, "allow_atomic"),
            (StreamConfig { allow_rollup_hdrs: false, ..good() }, "allow_rollup_hdrs"),
            (StreamConfig { subjects: vec!["s.*".into()], ..good() }, "the subject mill.txn.p.out.*"),
            (StreamConfig { retention: Retention::WorkQueue, ..good() }, "retention limits"),
            (StreamConfig { retention: Retention::Interest, ..good() }, "retention limits"),
            (StreamConfig { discard: Discard::New, discard_new_per_subject: true, ..good() }, "per_subject off"),
            (StreamConfig { max_age: 999_999_999, ..good() }, "max_age of a second"),
            (StreamConfig { max_msgs: 1, ..good() }, "max_msgs above"),
            (StreamConfig { rest: rest("mirror", json!({"name": "T"})), ..good() }, "being no mirror"),
            (StreamConfig { rest: rest("persist_mode", json!("async")), ..good() }, "persist_mode default"),
        ] {
            let lacks = lacks(&config, MARKERS, true);
            assert!(lacks.len() == 1 && lacks[0].contains(words), "{lacks:?}");
        }
    }

    #[test]
    fn whatever_lets_go_of_the_marker_is_named_and_it_is_rewritten_before() {
        let (second, new) = (Duration::from_secs(1), Discard::New);
        for (config, named, renewed) in [
            (good(), &[][..], None),
            (StreamConfig { max_msgs_per_subject: 1, ..good() }, &[], None),
            (StreamConfig { max_msgs: 9, max_bytes: 9, discard: new, ..good() }, &[], None),
            (StreamConfig { max_age: 20_000_000_000, ..good() }, &["max_age of stream S"], Some(second * 5)),
            (StreamConfig { max_age: 1_000_000_000, discard: new, ..good() }, &["is 1s old"], Some(second / 4)),
            (StreamConfig { max_msgs: 5_000, ..good() }, &["max_msgs of stream S (5000)"], Some(PUSHED)),
            (
                StreamConfig { max_age: 90_000_000_000, max_bytes: 9 << 20, ..good() },
                &["is 90s old", "max_bytes of stream S"],
                Some(PUSHED),
            ),
        ] {
            let said = forgets(&config);
            assert_eq!((said.len(), renewal(&config)), (named.len(), renewed), "{said:?}");
            let tells = |(said, named): (&String, &&str)| said.contains(named) && said.contains("--rewind");
            assert!(said.iter().zip(named).all(tells), "{said:?}");
        }
    }
}
