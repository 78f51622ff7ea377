//! [`Window`]: what was published and is not confirmed yet, in groups with a reply subject each.

use std::collections::VecDeque;

use crate::broker::Outgoing;

/// Messages that are confirmed together. A reply subject of its own makes a lost publish visible: acknowledgements of
/// other groups cannot stand in for it.
#[derive(Debug)]
pub(super) struct Group {
    /// The number in its reply subject; a group that is sent again gets another.
    pub(super) id: u64,
    pub(super) messages: Vec<Outgoing>,
    pub(super) bytes: usize,
    pub(super) acked: usize,
}

/// The groups that are under way, oldest first, within bounds of messages and bytes.
#[derive(Debug, Default)]
pub(super) struct Window {
    groups: VecDeque<Group>,
    messages: usize,
    bytes: usize,
    next_id: u64,
}

pub(super) const GROUP: usize = 256;
const MOST_MESSAGES: usize = 4_096;
const MOST_BYTES: usize = 8 << 20;

impl Window {
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.messages
    }

    /// Whether another group may be sent; a group over the bounds may go alone.
    pub(super) fn has_room(&self, messages: usize, bytes: usize) -> bool {
        self.groups.is_empty() || (self.messages + messages <= MOST_MESSAGES && self.bytes + bytes <= MOST_BYTES)
    }

    /// Adds a group; gives its number.
    pub(super) fn push(&mut self, messages: Vec<Outgoing>) -> u64 {
        let (id, bytes) = (self.next_id, messages.iter().map(Outgoing::size).sum());
        self.next_id += 1;
        self.messages += messages.len();
        self.bytes += bytes;
        self.groups.push_back(Group { id, messages, bytes, acked: 0 });
        id
    }

    /// Counts an acknowledgement; those of groups that are not under way mean nothing. Groups that are complete go.
    pub(super) fn ack(&mut self, id: u64) -> bool {
        let Some(group) = self.groups.iter_mut().find(|group| group.id == id) else { return false };
        group.acked += 1;
        while let Some(first) = self.groups.front()
            && first.acked >= first.messages.len()
        {
            self.messages -= first.messages.len();
            self.bytes -= first.bytes;
            self.groups.pop_front();
        }
        true
    }

    /// Everything not confirmed, in order and under new numbers: to be sent again.
    pub(super) fn again(&mut self) -> impl Iterator<Item = &Group> {
        for group in &mut self.groups {
            group.id = self.next_id;
            group.acked = 0;
            self.next_id += 1;
        }
        self.groups.iter()
    }

    /// The first message that is not confirmed.
    pub(super) fn first(&self) -> Option<&Outgoing> {
        self.groups.front()?.messages.first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(n: usize) -> Vec<Outgoing> {
        (0..n).map(|_| Outgoing::new("s", "x")).collect()
    }

    #[test]
    fn a_group_goes_when_all_its_messages_are_confirmed_and_none_before_it_waits() {
        let mut window = Window::default();
        let (first, second) = (window.push(group(2)), window.push(group(1)));
        window.ack(second);
        assert_eq!(window.len(), 3, "the first still waits");
        window.ack(first);
        window.ack(first);
        assert!(window.is_empty());
    }

    #[test]
    fn what_is_sent_again_does_not_count_old_acknowledgements() {
        let mut window = Window::default();
        let old = window.push(group(1));
        let new = window.again().map(|group| group.id).next().unwrap();
        assert!(!window.ack(old) && !window.is_empty());
        assert!(window.ack(new) && window.is_empty());
    }

    #[test]
    fn the_window_is_bounded_but_takes_one_group_of_any_size() {
        let mut window = Window::default();
        assert!(window.has_room(1, MOST_BYTES * 2));
        window.push(group(1));
        assert!(!window.has_room(1, MOST_BYTES));
        assert!(!window.has_room(MOST_MESSAGES, 1));
    }
}
