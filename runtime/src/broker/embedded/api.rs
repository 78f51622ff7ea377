//! The JetStream API: requests on `$JS.API.>`, answered in JSON.

use serde_json::{Value, json};

use super::api_stream::is_empty;
use super::jetstream::JetStream;
use super::refusal::{no_consumer, no_stream, refusal};
use super::stream::Stream;
use super::turn::Turn;
use crate::broker::{ApiError, Outgoing};

/// What a call gives: the fields of the answer, or a refusal.
pub(super) type Answer = Result<Value, ApiError>;

impl JetStream {
    /// Answers a call; false if nobody is there to hear it.
    pub(super) fn call(&mut self, call: &str, message: &Outgoing, turn: &mut Turn<'_>) -> bool {
        let body: &[u8] = &message.payload;
        let (name, answer) = if let Some(target) = call.strip_prefix("CONSUMER.MSG.NEXT.") {
            return self.pull(target, message, turn);
        } else if call == "INFO" {
            ("account_info", Ok(self.account()))
        } else if let Some(call) = call.strip_prefix("STREAM.") {
            match self.stream_call(call, body, turn) {
                Some(answer) => answer,
                // The server hears all of `$JS.API.>`, and does not answer what it does not know.
                None => return true,
            }
        } else if let Some(call) = call.strip_prefix("CONSUMER.") {
            match self.consumer_call(call, body, turn) {
                Some(answer) => answer,
                None => return true,
            }
        } else {
            return true;
        };
        if let Some(reply) = &message.reply {
            let mut fields = answer.unwrap_or_else(|error| json!({ "error": error }));
            if let Some(fields) = fields.as_object_mut() {
                fields.insert("type".into(), format!("io.nats.jetstream.api.v1.{name}_response").into());
            }
            turn.send(reply, fields.to_string());
        }
        true
    }

    fn account(&self) -> Value {
        let consumers: usize = self.streams.values().map(|stream| stream.consumers.len()).sum();
        let (memory, files) =
            self.streams.values().fold((0, 0), |(memory, files), stream| match stream.config.storage {
                crate::broker::Storage::Memory => (memory + stream.log.bytes(), files),
                crate::broker::Storage::File => (memory, files + stream.log.bytes()),
            });
        json!({
            "memory": memory,
            "storage": files,
            "streams": self.streams.len(),
            "consumers": consumers,
            "limits": { "max_memory": -1, "max_storage": -1, "max_streams": -1, "max_consumers": -1 },
            "api": { "level": self.api_level, "total": 0, "errors": 0 },
        })
    }

    pub(super) fn stream(&mut self, name: &str) -> Result<&mut Stream, ApiError> {
        self.streams.get_mut(name).ok_or_else(no_stream)
    }

    fn pull(&mut self, target: &str, message: &Outgoing, turn: &mut Turn<'_>) -> bool {
        let Some((stream, consumer)) = target.split_once('.') else { return false };
        let Some(stream) = self.streams.get_mut(stream) else { return false };
        let Some(consumer) = stream.consumers.get_mut(consumer) else { return false };
        if let Some(reply) = &message.reply {
            consumer.on_pull(reply, &message.payload, &stream.log, turn);
            stream.settle(turn);
        }
        true
    }

    fn consumer_call(&mut self, call: &str, body: &[u8], turn: &mut Turn<'_>) -> Option<(&'static str, Answer)> {
        let (verb, target) = call.split_once('.')?;
        Some(match verb {
            "CREATE" => ("consumer_create", self.create_consumer(target, body, turn)),
            "DURABLE" => {
                let target = target.strip_prefix("CREATE.")?;
                ("consumer_create", self.create_consumer(target, body, turn))
            }
            "INFO" => ("consumer_info", self.consumer_info(target, turn)),
            "DELETE" => ("consumer_delete", self.delete_consumer(target, body, turn)),
            "RESET" => {
                let (stream, name) = target.split_once('.')?;
                self.streams.get(stream)?.consumers.get(name)?;
                ("consumer_reset", self.reset_consumer(target, body, turn))
            }
            "NAMES" => ("consumer_names", self.consumer_names(target)),
            _ => return None,
        })
    }

    fn consumer_names(&mut self, stream: &str) -> Answer {
        let names: Vec<&str> = self.stream(stream)?.consumers.keys().map(|name| &**name).collect();
        Ok(json!({ "total": names.len(), "offset": 0, "limit": 1024, "consumers": names }))
    }

    fn consumer_info(&mut self, target: &str, turn: &mut Turn<'_>) -> Answer {
        let (stream, name) = target.split_once('.').unwrap_or((target, ""));
        let stream = self.stream(stream)?;
        let consumer = stream.consumers.get_mut(name).ok_or_else(no_consumer)?;
        Ok(consumer.describe(&stream.log, turn))
    }

    fn delete_consumer(&mut self, target: &str, body: &[u8], turn: &mut Turn<'_>) -> Answer {
        if !is_empty(body) {
            return Err(refusal(400, 10038, "expected an empty request payload"));
        }
        let (stream, name) = target.split_once('.').unwrap_or((target, ""));
        if self.stream(stream)?.delete_consumer(name, turn) {
            Ok(json!({ "success": true }))
        } else {
            Err(no_consumer())
        }
    }
}
