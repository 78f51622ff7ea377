//! [`Window`]: the messages that a sink has taken over and that are not confirmed yet.

use std::collections::VecDeque;

use bytes::Bytes;
use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{Headers, Record};

use crate::broker::{Outgoing, Subject};

/// A message on its way; all of it is shared, so that sending it copies nothing.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) subject: Subject,
    pub(super) headers: Headers,
    pub(super) payload: Bytes,
}

impl Waiting {
    /// The record that it would be again.
    pub(super) fn into_record(self) -> Record {
        let Waiting { subject, headers, payload } = self;
        Record { subject: subject.into_bytes(), headers, payload }
    }

    /// What counts against the server's `max_payload`, and against the window's bound.
    pub(super) fn size(&self) -> usize {
        self.headers.wire_len() + self.payload.len()
    }

    /// The message to publish.
    pub(super) fn outgoing(&self, reply: Subject) -> Outgoing {
        let Waiting { subject, headers, payload } = self.clone();
        Outgoing { subject, reply: Some(reply), headers, payload }
    }
}

/// Messages in order, numbered from 1 over the life of the sink, within bounds of messages and bytes. First come those
/// that are sent and not confirmed, then those that are not sent.
#[derive(Debug, Default)]
pub(super) struct Window {
    messages: VecDeque<Waiting>,
    bytes: usize,
    // The number of the last message that is confirmed, and how many behind it are sent.
    confirmed: u64,
    sent: usize,
}

const MOST_MESSAGES: usize = 4_096;
const MOST_BYTES: usize = 8 << 20;

impl Window {
    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many messages are sent and not confirmed.
    pub(super) fn in_flight(&self) -> usize {
        self.sent
    }

    /// Whether a message of this size may be added; one over the bounds may be there alone.
    pub(super) fn has_room(&self, size: usize) -> bool {
        self.is_empty() || (self.messages.len() < MOST_MESSAGES && self.bytes + size <= MOST_BYTES)
    }

    /// How many messages like those that wait fill half of it.
    pub(super) fn half(&self) -> u64 {
        let mean = self.bytes / self.messages.len().max(1);
        (MOST_BYTES / 2 / mean.max(1)).clamp(1, MOST_MESSAGES / 2) as u64
    }

    /// Adds a message.
    pub(super) fn push(&mut self, message: Waiting) {
        self.bytes += message.size();
        self.messages.push_back(message);
    }

    /// The first message that is not sent, and its number.
    pub(super) fn unsent(&self) -> Option<(u64, &Waiting)> {
        Some((self.confirmed + self.sent as u64 + 1, self.messages.get(self.sent)?))
    }

    /// The first unsent message was sent.
    pub(super) fn sent_one(&mut self) {
        self.sent = (self.sent + 1).min(self.messages.len());
    }

    /// Everything sent up to message number `upto` is stored. Whether that is news.
    pub(super) fn confirm(&mut self, upto: u64) -> bool {
        let before = self.confirmed;
        while self.confirmed < upto
            && self.sent > 0
            && let Some(message) = self.messages.pop_front()
        {
            self.confirmed += 1;
            self.sent -= 1;
            self.bytes -= message.size();
        }
        self.confirmed > before
    }

    /// Everything not confirmed counts as unsent.
    pub(super) fn again(&mut self) {
        if planted(Bug::UnorderedRetry) {
            self.messages.make_contiguous().reverse();
        }
        self.sent = 0;
    }

    /// The first message that is not confirmed.
    pub(super) fn first(&self) -> Option<&Waiting> {
        self.messages.front()
    }

    /// The last message that was sent and is not confirmed.
    pub(super) fn last_sent(&self) -> Option<&Waiting> {
        self.messages.get(self.sent.checked_sub(1)?)
    }

    /// The message of this number, if it is not confirmed.
    pub(super) fn get(&self, number: u64) -> Option<&Waiting> {
        self.messages.get(usize::try_from(number.checked_sub(self.confirmed + 1)?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(size: usize) -> Waiting {
        Waiting { subject: "s".into(), headers: Headers::NONE, payload: vec![b'x'; size].into() }
    }

    fn filled(messages: usize) -> Window {
        let mut window = Window::default();
        (0..messages).for_each(|_| window.push(message(1)));
        window
    }

    #[test]
    fn what_is_confirmed_goes_and_what_is_not_sent_cannot_be_confirmed() {
        let mut window = filled(3);
        window.sent_one();
        window.sent_one();
        assert!(window.confirm(1) && !window.confirm(1));
        assert_eq!((window.in_flight(), window.unsent().unwrap().0), (1, 3));
        assert!(window.confirm(9));
        assert_eq!((window.in_flight(), window.unsent().unwrap().0), (0, 3), "the third was not sent");
    }

    #[test]
    fn what_is_sent_again_keeps_its_number_and_order() {
        let mut window = filled(3);
        (0..3).for_each(|_| window.sent_one());
        window.confirm(1);
        window.again();
        assert_eq!((window.in_flight(), window.unsent().unwrap().0), (0, 2));
        assert!(window.get(1).is_none() && window.get(2).is_some() && window.get(4).is_none());
    }

    #[test]
    fn it_is_bounded_in_messages_and_bytes_but_takes_one_message_of_any_size() {
        let mut window = Window::default();
        assert!(window.has_room(MOST_BYTES * 2));
        window.push(message(1));
        assert!(window.has_room(MOST_BYTES - 1) && !window.has_room(MOST_BYTES));
        assert!(!filled(MOST_MESSAGES).has_room(1));
    }

    #[test]
    fn half_of_it_is_counted_in_messages_like_those_that_wait() {
        assert_eq!(filled(10).half(), MOST_MESSAGES as u64 / 2);
        let mut window = Window::default();
        window.push(message(MOST_BYTES / 4));
        assert_eq!(window.half(), 2);
        window.push(message(MOST_BYTES * 4));
        assert_eq!(window.half(), 1);
    }
}
