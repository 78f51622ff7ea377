//! What a stream must be like so that outputs can be stored in it once.

use millstream_operators::{Fault, FaultKind, Result};
use serde_json::Value;

use crate::broker::{ApiLevel, Discard, Js, Retention, StreamConfig, matches};
use crate::connectors::jetstream::JetStreamWrite;
use crate::connectors::jetstream::stream::{find_or_make, level_of};
use crate::connectors::{fault, stream_fault};

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
    lacks
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
        true => Ok(info.config),
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
            (StreamConfig { rest: rest("mirror", json!({"name": "T"})), ..good() }, "being no mirror"),
            (StreamConfig { rest: rest("persist_mode", json!("async")), ..good() }, "persist_mode default"),
        ] {
            let lacks = lacks(&config, MARKERS, true);
            assert!(lacks.len() == 1 && lacks[0].contains(words), "{lacks:?}");
        }
    }
}
