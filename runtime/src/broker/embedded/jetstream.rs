//! [`JetStream`]: all streams of the embedded broker, and the way of a message to one of them.

use std::collections::BTreeMap;

use super::ack::Delivery;
use super::stream::Stream;
use super::turn::Turn;
use crate::broker::{AckPolicy, Outgoing};

/// The streams, by name.
#[derive(Default)]
pub(super) struct JetStream {
    pub(super) streams: BTreeMap<Box<str>, Stream>,
    /// Numbers consumers that nobody named.
    pub(super) last_name: u64,
    /// How new it says that it is.
    pub(super) api_level: u64,
}

impl JetStream {
    /// Takes a client's message if it is for JetStream; false if not.
    pub(super) fn take(&mut self, message: &Outgoing, turn: &mut Turn<'_>) -> bool {
        if let Some(rest) = message.subject.strip_prefix("$JS.") {
            if let Some(call) = rest.strip_prefix("API.") {
                return self.call(call, message, turn);
            }
            if let Some(delivery) = rest.strip_prefix("ACK.") {
                return self.acknowledge(delivery, message, turn);
            }
        }
        match self.streams.values_mut().find(|stream| stream.captures(&message.subject)) {
            Some(stream) => {
                stream.take(message, turn);
                true
            }
            None => false,
        }
    }

    fn acknowledge(&mut self, delivery: &str, message: &Outgoing, turn: &mut Turn<'_>) -> bool {
        let mut tokens = delivery.split('.');
        let (Some(stream), Some(consumer)) = (tokens.next(), tokens.next()) else { return false };
        let Some(stream) = self.streams.get_mut(stream) else { return false };
        let Some(reader) = stream.consumers.get_mut(consumer) else { return false };
        if reader.config.ack_policy == AckPolicy::None {
            return false;
        }
        let mut place = [""; 5];
        for slot in &mut place {
            let Some(token) = tokens.next() else { return false };
            *slot = token;
        }
        let (Some(delivery), None) = (Delivery::parse(&place), tokens.next()) else { return false };
        reader.on_ack(delivery, message, &stream.log, turn);
        stream.settle(turn);
        true
    }

    /// Does what is due.
    pub(super) fn on_time(&mut self, turn: &mut Turn<'_>) {
        for stream in self.streams.values_mut() {
            stream.on_time(turn);
        }
    }
}
