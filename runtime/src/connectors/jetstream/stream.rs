//! The stream that a sink writes to: found or created, and asked what it allows.

use std::time::Duration;

use millstream_operators::{Fault, FaultKind, Result};

use super::JetStreamWrite;
use crate::broker::{ApiLevel, BrokerError, Js, StreamConfig, StreamInfo, codes, matches, overlaps};
use crate::connectors::{fault, stream_fault};

/// Finds or creates the stream; whether fast ingest may be used.
///
/// An older server ignores what it does not know, in a stream's configuration as in a reply subject. So both the level of
/// its JetStream and the configuration that it gives back must say that there is fast ingest.
///
/// # Errors
/// JetStream does not answer, or refuses; there is no stream and none shall be created; it does not take what the sink needs
/// and shall not be changed; or it confirms nothing.
pub(super) async fn find_or_create(js: &Js, write: &JetStreamWrite) -> Result<bool> {
    let name = &write.stream;
    // Where it is not known, what needs no new server is used.
    let is_new = level_of(js, name).await?.unwrap_or_default() >= ApiLevel::FAST_INGEST;
    let info = find_or_make(js, write, |config| StreamConfig { allow_batched: is_new, ..config }).await?;
    match (is_new, info.config.allow_batched) {
        (true, true) => tracing::debug!(stream = name, "writing by fast ingest"),
        (true, false) => tracing::info!(
            stream = name,
            "writing by group replies; fast ingest would be quicker: set `allow_batched` on the stream"
        ),
        (false, _) => tracing::debug!(stream = name, "writing by group replies: the server does not know fast ingest"),
    }
    Ok(is_new && info.config.allow_batched)
}

/// How new the server's JetStream is; `None` if it may not be asked.
pub(super) async fn level_of(js: &Js, stream: &str) -> Result<Option<ApiLevel>> {
    match js.account().await {
        Ok(account) => Ok(Some(account.level)),
        Err(error @ BrokerError::Permission { .. }) => {
            tracing::info!(stream, "it is not known how new the server's JetStream is: {error}");
            Ok(None)
        }
        Err(error) => Err(fault(error)),
    }
}

/// Finds the stream, or makes it as `new` has it.
///
/// # Errors
/// As [`find_or_create`].
pub(super) async fn find_or_make(
    js: &Js,
    write: &JetStreamWrite,
    new: impl Fn(StreamConfig) -> StreamConfig,
) -> Result<StreamInfo> {
    let name = &write.stream;
    let info = match (js.find_stream(name).await.map_err(fault)?, &write.create) {
        (Some(info), _) => cover(js, write, info).await?,
        (None, Some(subjects)) => {
            let config = StreamConfig { num_replicas: write.replicas, ..StreamConfig::new(name, subjects.clone()) };
            let config = new(config);
            match js.create_stream(&config).await {
                Ok(info) => info,
                // Another pipeline was quicker, with other subjects.
                Err(error) if error.api_code() == Some(codes::STREAM_NAME_IN_USE) => {
                    let info = js.stream(name).await.map_err(fault)?;
                    cover(js, write, info).await?
                }
                Err(error) => return Err(stream_fault(error, name, subjects)),
            }
        }
        (None, None) => {
            let words = format!("there is no stream {name}: create it, or let the sink do it (`create`)");
            return Err(Fault::new(FaultKind::Setup, words));
        }
    };
    if info.config.rest.get("no_ack").and_then(serde_json::Value::as_bool) == Some(true) {
        let words =
            format!("stream {name} acknowledges nothing (`no_ack`), so no output could be confirmed: change it");
        return Err(Fault::new(FaultKind::Setup, words));
    }
    // The account may map subjects, so that this is no mistake for sure.
    for subject in
        write.publishes.iter().filter(|subject| !info.config.subjects.iter().any(|all| overlaps(all, subject)))
    {
        tracing::warn!(
            stream = name,
            "the stream takes nothing on {subject}: its subjects are {}; unless the account maps it, the output will wait: correct the sink's subject, or add it to the stream",
            join(&info.config.subjects)
        );
    }
    Ok(info)
}

// When several pipelines add their subjects to one stream, the last one's list counts: each looks again a moment later.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const LOOKS: u32 = 40;

/// Sees to it that the stream takes what the sink needs, by adding what it would be created with.
async fn cover(js: &Js, write: &JetStreamWrite, mut info: StreamInfo) -> Result<StreamInfo> {
    let (name, mut added) = (&write.stream, false);
    for _ in 0..LOOKS {
        let lacks: Vec<_> =
            write.needs.iter().filter(|need| !info.config.subjects.iter().any(|has| matches(has, need))).collect();
        if lacks.is_empty() {
            return Ok(info);
        }
        let Some(subjects) = &write.create else {
            let (lacks, has) = (join(lacks), join(&info.config.subjects));
            let words = format!("the stream {name} does not take {lacks}: add that to its subjects ({has})");
            return Err(Fault::new(FaultKind::Setup, words));
        };
        let mut config = info.config.clone();
        config.subjects.extend(subjects.iter().filter(|subject| !info.config.subjects.contains(subject)).cloned());
        js.update_stream(&config).await.map_err(|error| stream_fault(error, name, subjects))?;
        if !std::mem::replace(&mut added, true) {
            tracing::info!(stream = name, "the stream takes {} from now on", join(subjects));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        info = js.stream(name).await.map_err(fault)?;
    }
    let words = format!(
        "the subjects of the stream {name} are changed by others all the time: add {} to it yourself",
        join(&write.needs)
    );
    Err(Fault::new(FaultKind::Setup, words))
}

fn join<S: AsRef<str>>(all: impl IntoIterator<Item = S>) -> String {
    all.into_iter().map(|text| text.as_ref().to_owned()).collect::<Vec<_>>().join(", ")
}
