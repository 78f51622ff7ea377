//! The calls of the JetStream API that concern streams and their messages.

use millstream_operators::Headers;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Answer;
use super::clock::{parse_rfc3339, rfc3339};
use super::filter::Filter;
use super::jetstream::JetStream;
use super::log::Stored;
use super::refusal::{bad_json, bad_request, name_mismatch, no_message, no_stream, refusal};
use super::stream::Stream;
use super::stream_config::{check_update, complete, parse};
use super::turn::Turn;
use crate::broker::api::base64;
use crate::broker::{ApiError, Purge, Storage, StreamConfig, codes, overlaps};

/// Which message is asked for.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Get {
    seq: u64,
    last_by_subj: String,
    next_by_subj: String,
    start_time: Option<String>,
    no_hdr: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    seq: u64,
    #[serde(default, rename = "no_erase")]
    _no_erase: bool,
}

impl JetStream {
    pub(super) fn stream_call(
        &mut self,
        call: &str,
        body: &[u8],
        turn: &mut Turn<'_>,
    ) -> Option<(&'static str, Answer)> {
        if call == "NAMES" {
            return Some(("stream_names", self.stream_names(body)));
        }
        if call == "LIST" {
            return Some(("stream_list", self.stream_list(body, turn.now)));
        }
        if let Some(name) = call.strip_prefix("MSG.GET.") {
            return Some(("stream_msg_get", self.get_message(name, body)));
        }
        if let Some(name) = call.strip_prefix("MSG.DELETE.") {
            return Some(("stream_msg_delete", self.delete_message(name, body, turn)));
        }
        let (verb, name) = call.split_once('.')?;
        Some(match verb {
            "CREATE" => ("stream_create", self.create_stream(name, body, turn)),
            "UPDATE" => ("stream_update", self.update_stream(name, body, turn)),
            "INFO" => ("stream_info", self.stream_info(name, body, turn.now)),
            "DELETE" => ("stream_delete", self.delete_stream(name, body, turn)),
            "PURGE" => ("stream_purge", self.purge_stream(name, body, turn)),
            _ => return None,
        })
    }

    fn create_stream(&mut self, name: &str, body: &[u8], turn: &mut Turn<'_>) -> Answer {
        let config = parse(body)?;
        if config.name != name {
            return Err(name_mismatch());
        }
        let config = complete(config)?;
        if let Some(stream) = self.streams.get(name) {
            if stream.config != config {
                let why = "stream name already in use with a different configuration";
                return Err(refusal(400, codes::STREAM_NAME_IN_USE, why));
            }
        } else {
            self.check_overlap(&config)?;
            self.streams.insert(name.into(), Stream::new(config, turn.now));
        }
        let mut answer = self.stream(name)?.describe(turn.now);
        if let Some(answer) = answer.as_object_mut() {
            // The server says so of a stream that was there already, too.
            answer.insert("did_create".into(), true.into());
        }
        Ok(answer)
    }

    fn update_stream(&mut self, name: &str, body: &[u8], turn: &mut Turn<'_>) -> Answer {
        let config = parse(body)?;
        if config.name != name {
            return Err(name_mismatch());
        }
        let old = &self.streams.get(name).ok_or_else(no_stream)?.config;
        let config = complete(config)?;
        check_update(old, &config)?;
        self.check_overlap(&config)?;
        let stream = self.stream(name)?;
        stream.configure(config, turn);
        Ok(stream.describe(turn.now))
    }

    fn check_overlap(&self, config: &StreamConfig) -> Result<(), ApiError> {
        let others = self.streams.values().filter(|other| other.config.name != config.name);
        for theirs in others.flat_map(|other| &other.config.subjects) {
            if config.subjects.iter().any(|ours| overlaps(ours, theirs)) {
                return Err(refusal(400, codes::SUBJECTS_OVERLAP, "subjects overlap with an existing stream"));
            }
        }
        Ok(())
    }

    fn stream_info(&mut self, name: &str, body: &[u8], now: i64) -> Answer {
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Request {
            subjects_filter: String,
            deleted_details: bool,
            offset: u64,
        }
        let Request { subjects_filter, deleted_details, offset: _ } = read(body)?;
        let stream = self.stream(name)?;
        let mut answer = stream.describe(now);
        if let Some(state) = answer.get_mut("state").and_then(Value::as_object_mut) {
            if !subjects_filter.is_empty() {
                state.insert("subjects".into(), json!(stream.log.totals(&subjects_filter)));
            }
            if deleted_details {
                let range = stream.log.first().max(1)..=stream.log.last();
                let deleted: Vec<u64> = range.filter(|seq| stream.log.get(*seq).is_none()).collect();
                if !deleted.is_empty() {
                    state.insert("deleted".into(), json!(deleted));
                }
            }
        }
        Ok(answer)
    }

    fn delete_stream(&mut self, name: &str, body: &[u8], turn: &mut Turn<'_>) -> Answer {
        if !is_empty(body) {
            return Err(refusal(400, 10038, "expected an empty request payload"));
        }
        let mut stream = self.streams.remove(name).ok_or_else(no_stream)?;
        for consumer in stream.consumers.values_mut() {
            consumer.on_deleted(turn);
        }
        Ok(json!({ "success": true }))
    }

    fn purge_stream(&mut self, name: &str, body: &[u8], turn: &mut Turn<'_>) -> Answer {
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Request {
            filter: Option<String>,
            seq: u64,
            keep: u64,
        }
        // Anything but JSON is taken for nothing.
        let body = if body.trim_ascii().starts_with(b"{") { body } else { b"" };
        let Request { filter, seq, keep } = read(body)?;
        let purge = Purge { filter, seq, keep };
        if purge.seq > 0 && purge.keep > 0 {
            return Err(bad_request());
        }
        let stream = self.stream(name)?;
        if stream.config.deny_purge {
            return Err(refusal(500, 10110, "stream purge not permitted"));
        }
        let purged = stream.purge(&purge, turn);
        Ok(json!({ "success": true, "purged": purged }))
    }

    fn stream_names(&mut self, body: &[u8]) -> Answer {
        let names: Vec<&str> = self.matching(body)?.iter().map(|stream| stream.config.name.as_str()).collect();
        Ok(json!({ "total": names.len(), "offset": 0, "limit": 1024, "streams": names }))
    }

    fn stream_list(&mut self, body: &[u8], now: i64) -> Answer {
        let streams: Vec<Value> = self.matching(body)?.iter().map(|stream| stream.describe(now)).collect();
        Ok(json!({ "total": streams.len(), "offset": 0, "limit": 256, "streams": streams }))
    }

    fn matching(&self, body: &[u8]) -> Result<Vec<&Stream>, ApiError> {
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Request {
            subject: String,
            offset: usize,
        }
        let Request { subject, offset } = read(body)?;
        let matches = |s: &&Stream| subject.is_empty() || s.config.subjects.iter().any(|own| overlaps(own, &subject));
        Ok(self.streams.values().filter(matches).skip(offset).collect())
    }

    fn get_message(&mut self, name: &str, body: &[u8]) -> Answer {
        if is_empty(body) {
            return Err(bad_request());
        }
        let get: Get = read(body)?;
        let (by_seq, by_last, by_next) = (get.seq > 0, !get.last_by_subj.is_empty(), !get.next_by_subj.is_empty());
        let by_time = get.start_time.is_some();
        if (by_seq && (by_last || by_time))
            || (by_last && (by_next || by_time))
            || !(by_seq || by_last || by_next || by_time)
        {
            return Err(bad_request());
        }
        let log = &self.stream(name)?.log;
        let seq = match get.start_time.as_deref() {
            Some(time) => log.first_at(parse_rfc3339(time).ok_or_else(|| bad_json("bad time"))?),
            None => get.seq,
        };
        let found = if by_next {
            log.next(seq, &Filter::new([get.next_by_subj]))
        } else {
            let seq = if by_last { log.last_of(&get.last_by_subj).unwrap_or(0) } else { seq };
            log.get(seq).map(|message| (seq, message))
        };
        let (seq, message) = found.ok_or_else(no_message)?;
        Ok(json!({ "message": tell(seq, message, get.no_hdr) }))
    }

    fn delete_message(&mut self, name: &str, body: &[u8], turn: &mut Turn<'_>) -> Answer {
        if is_empty(body) {
            return Err(bad_request());
        }
        let Delete { seq, .. } = serde_json::from_slice(body).map_err(bad_json)?;
        let stream = self.stream(name)?;
        if stream.config.deny_delete {
            return Err(refusal(500, 10057, "message delete not permitted"));
        }
        let in_files = stream.config.storage == Storage::File;
        if in_files && seq == 0 {
            return Err(refusal(500, 10057, "no message found"));
        }
        if in_files && seq > stream.log.last() {
            return Err(refusal(500, 10057, "stream store EOF"));
        }
        if !stream.remove(seq, turn) {
            return Err(refusal(400, 10043, format!("sequence {seq} not found")));
        }
        Ok(json!({ "success": true }))
    }
}

/// Whether a request has no content.
pub(super) fn is_empty(body: &[u8]) -> bool {
    let body = body.trim_ascii();
    body.is_empty() || serde_json::from_slice::<Value>(body).is_ok_and(|body| body == json!({}))
}

/// Reads the body of a request; an empty one is that of defaults.
pub(super) fn read<T: Default + for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, ApiError> {
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(bad_json)
}

/// A message as the API tells it.
fn tell(seq: u64, message: &Stored, no_headers: bool) -> Value {
    let mut told = json!({
        "subject": message.subject.as_str(),
        "seq": seq,
        "data": base64::encode(&message.payload),
        "time": rfc3339(message.at),
    });
    if let Some(told) = told.as_object_mut()
        && !no_headers
        && !message.headers.is_empty()
    {
        told.insert("hdrs".into(), base64::encode(on_wire(&message.headers).as_bytes()).into());
    }
    told
}

/// Headers as they are on the wire.
fn on_wire(headers: &Headers) -> String {
    let mut text = "NATS/1.0\r\n".to_owned();
    for (name, value) in headers.iter() {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text + "\r\n"
}
