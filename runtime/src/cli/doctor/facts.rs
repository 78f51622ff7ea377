//! [`Facts`]: what the server says, with everything that it would not say.

use chrono::DateTime;
use millstream_operators::{Headers, Timestamp};
use millstream_pipelines::graph::{Access, Graph, Guarantee, Protocol, Resources, protocol};
use serde_json::Value;
use std::time::Duration;

use crate::broker::{ApiError, BrokerError, ConsumerInfo, Js, StreamInfo, codes};
use crate::checkpoint::StoreError;
use crate::connectors::{consumer_name, marker_subjects};
use crate::engine::Clock;

/// What a server and the streams of a pipeline are like.
#[derive(Debug)]
pub(super) struct Facts {
    /// Where the server is.
    pub(super) place: String,
    /// Its version, as it says.
    pub(super) version: String,
    /// `$JS.API.INFO`.
    pub(super) account: Result<Value, BrokerError>,
    /// What each node does with its stream, and what that is like.
    pub(super) streams: Vec<Looked>,
    /// How outputs are stored once, where that is promised.
    pub(super) protocol: Option<Protocol>,
    /// The bucket of the checkpoints, where they are kept on the server.
    pub(super) bucket: Option<Bucket>,
    /// Where checkpoints are kept, where that is not the server, and whether there is one.
    pub(super) kept: Option<(String, Result<bool, StoreError>)>,
}

/// A stream that a node uses.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) node: String,
    pub(super) access: Access,
    /// The subjects of the markers of a sink that stores each row once.
    pub(super) markers: Option<String>,
    /// `None` if there is no such stream.
    pub(super) stream: Result<Option<Told>, BrokerError>,
    /// The node's consumer; `None` if it was not made yet.
    pub(super) consumer: Option<Result<Option<ConsumerInfo>, BrokerError>>,
}

/// The bucket of the checkpoints.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) name: String,
    /// How many copies of it are wanted.
    pub(super) replicas: usize,
    pub(super) stream: Result<Option<Told>, BrokerError>,
}

/// A stream, and how far its server's clock is ahead of ours: in microseconds, and give or take so many.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) info: StreamInfo,
    pub(super) ahead: Option<(i64, i64)>,
}

impl Facts {
    /// Asks for everything.
    pub(super) async fn ask(
        js: &Js,
        graph: Option<&Graph>,
        place: String,
        replicas: usize,
        checkpoints_on_server: bool,
    ) -> Facts {
        let account = call(js, "INFO").await;
        let mut streams = Vec::new();
        for node in graph.into_iter().flat_map(|graph| &graph.nodes) {
            for access in &node.access {
                let stream = stream(js, access.stream()).await;
                let consumer = match (access, &stream, graph) {
                    (Access::Read { stream, .. }, Ok(Some(_)), Some(graph)) => {
                        Some(consumer(js, stream, &consumer_name(&graph.name, &node.name)).await)
                    }
                    _ => None,
                };
                let once = graph.filter(|graph| graph.settings.guarantee == Guarantee::EffectivelyOnce);
                let markers = match access {
                    Access::Write { .. } => once.map(|graph| marker_subjects(&graph.name, &node.name)),
                    _ => None,
                };
                streams.push(Looked { node: node.name.clone(), access: access.clone(), markers, stream, consumer });
            }
        }
        let bucket = match graph.filter(|_| checkpoints_on_server) {
            Some(graph) => {
                let name = format!("mill_{}", graph.name);
                let stream = stream(js, &format!("KV_{name}")).await;
                Some(Bucket { name, replicas, stream })
            }
            None => None,
        };
        let version = js.connection().server_version();
        let protocol = graph.and_then(|graph| protocol(graph, &Resources::on_paper()));
        Facts { place, version, account, streams, protocol, bucket, kept: None }
    }

    /// How far the server's clock is ahead of ours, from the quickest answer.
    pub(super) fn ahead(&self) -> Option<(i64, i64)> {
        let told =
            self.streams.iter().map(|looked| &looked.stream).chain(self.bucket.iter().map(|bucket| &bucket.stream));
        told.filter_map(|told| told.as_ref().ok()?.as_ref()?.ahead).min_by_key(|(_, within)| *within)
    }
}

/// One call of the API; the answer as it came.
async fn call(js: &Js, call: &str) -> Result<Value, BrokerError> {
    let subject = js.subject(call);
    let reply = js.connection().request(subject.clone(), Headers::NONE, "", Duration::from_secs(5)).await?;
    let protocol =
        |error: serde_json::Error| BrokerError::Protocol { subject: subject.clone(), what: error.to_string() };
    let answer: Value = serde_json::from_slice(&reply.payload).map_err(protocol)?;
    match answer.get("error") {
        None => Ok(answer),
        Some(error) => {
            let error: ApiError = serde_json::from_value(error.clone()).map_err(protocol)?;
            Err(BrokerError::Api { subject, error })
        }
    }
}

async fn stream(js: &Js, name: &str) -> Result<Option<Told>, BrokerError> {
    let clock = Clock::system();
    let asked = clock.now();
    let answer = match call(js, &format!("STREAM.INFO.{name}")).await {
        Ok(answer) => answer,
        Err(error) if error.api_code() == Some(codes::STREAM_NOT_FOUND) => return Ok(None),
        Err(error) => return Err(error),
    };
    let ahead = answer.get("ts").and_then(Value::as_str).and_then(|ts| ahead(asked, clock.now(), ts));
    let info = serde_json::from_value(answer).map_err(|error| BrokerError::Protocol {
        subject: js.subject(&format!("STREAM.INFO.{name}")),
        what: error.to_string(),
    })?;
    Ok(Some(Told { info, ahead }))
}

async fn consumer(js: &Js, stream: &str, name: &str) -> Result<Option<ConsumerInfo>, BrokerError> {
    match js.consumer(stream, name).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.api_code() == Some(codes::CONSUMER_NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How far a server that said `ts` between two moments is ahead: against the middle, give or take half of the way.
fn ahead(asked: Timestamp, answered: Timestamp, ts: &str) -> Option<(i64, i64)> {
    let theirs = DateTime::parse_from_rfc3339(ts).ok()?.timestamp_micros();
    let (asked, answered) = (asked.as_micros(), answered.as_micros());
    let within = (answered - asked) / 2;
    Some((theirs - asked - within, within))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_compared_with_the_middle_of_the_question() {
        let at = Timestamp::from_millis;
        assert_eq!(ahead(at(1_000), at(1_010), "1970-01-01T00:00:03.005Z"), Some((2_000_000, 5_000)));
        assert_eq!(ahead(at(1_000), at(1_000), "1970-01-01T00:00:00Z"), Some((-1_000_000, 0)));
        assert_eq!(ahead(at(0), at(0), "noon"), None);
    }
}
