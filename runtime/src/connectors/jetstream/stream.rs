//! The stream that a sink writes to: found or created, and asked what it allows.

use millstream_operators::{Fault, FaultKind, Result};

use super::JetStreamWrite;
use crate::broker::{ApiLevel, BrokerError, Js, StreamConfig};
use crate::connectors::fault;

/// Finds or creates the stream; whether fast ingest may be used.
///
/// An older server ignores what it does not know, in a stream's configuration as in a reply subject. So both the level of
/// its JetStream and the configuration that it gives back must say that there is fast ingest.
///
/// # Errors
/// JetStream does not answer; there is no stream and none shall be created; or the stream confirms nothing.
pub(super) async fn find_or_create(js: &Js, write: &JetStreamWrite) -> Result<bool> {
    let name = &write.stream;
    let level = match js.account().await {
        Ok(account) => account.level,
        // It may be forbidden to ask; then what needs no new server is used.
        Err(error @ BrokerError::Permission { .. }) => {
            tracing::info!(stream = name, "it is not known how new the server's JetStream is: {error}");
            ApiLevel::default()
        }
        Err(error) => return Err(fault(error)),
    };
    let is_new = level >= ApiLevel::FAST_INGEST;
    let info = match (js.find_stream(name).await.map_err(fault)?, &write.create) {
        (Some(info), _) => info,
        (None, Some(subjects)) => {
            let config = StreamConfig { allow_batched: is_new, ..StreamConfig::new(name, subjects.clone()) };
            js.create_stream(&config).await.map_err(fault)?
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
