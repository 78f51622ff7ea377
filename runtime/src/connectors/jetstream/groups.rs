//! [`Groups`]: messages that are confirmed together, by a reply subject of their own.

use std::collections::VecDeque;

/// Counts acknowledgements, group by group.
///
/// With one subject for all, a lost message would be made up for by the acknowledgement of another. With a subject for a
/// group, the group is confirmed when as many acknowledgements came to it as messages were sent.
#[derive(Debug)]
pub(super) struct Groups {
    groups: VecDeque<Group>,
    // The number of the first group; numbers are never used again.
    first: u64,
    // How many messages a group may have.
    most: u64,
}

#[derive(Debug)]
struct Group {
    sent: u64,
    acked: u64,
    // The number of its last message in the window.
    last: u64,
}

const MOST: u64 = 256;

impl Default for Groups {
    fn default() -> Self {
        Groups { groups: VecDeque::new(), first: 0, most: MOST }
    }
}

impl Groups {
    /// The number of the group that the next message belongs to.
    pub(super) fn next(&mut self) -> u64 {
        if self.groups.back().is_none_or(|group| group.sent >= self.most) {
            self.groups.push_back(Group { sent: 0, acked: 0, last: 0 });
        }
        self.first + self.groups.len() as u64 - 1
    }

    /// Message number `number` was sent, in the group that [`next`](Groups::next) has named.
    pub(super) fn sent(&mut self, number: u64) {
        if let Some(group) = self.groups.back_mut() {
            group.sent += 1;
            group.last = number;
        }
    }

    /// Whether acknowledgements are due.
    pub(super) fn expects(&self) -> bool {
        self.groups.iter().any(|group| group.acked < group.sent)
    }

    /// An acknowledgement came to group `id`. Up to which message everything is confirmed, if that is news. `None` for
    /// a group that is not under way.
    pub(super) fn ack(&mut self, id: u64) -> Option<Acked> {
        let place = usize::try_from(id.checked_sub(self.first)?).ok()?;
        self.groups.get_mut(place)?.acked += 1;
        let mut upto = None;
        while let Some(first) = self.groups.front()
            && first.sent > 0
            && first.acked >= first.sent
        {
            upto = Some(first.last);
            self.groups.pop_front();
            self.first += 1;
            self.most = (self.most * 2).min(MOST);
        }
        Some(Acked { upto, of_first: place == 0 })
    }

    /// Whether acknowledgements of group `id` are waited for.
    pub(super) fn is_under_way(&self, id: u64) -> bool {
        id.checked_sub(self.first).is_some_and(|place| place < self.groups.len() as u64)
    }

    /// Forgets all groups: what was sent in them is sent again in others.
    pub(super) fn forget(&mut self) {
        self.first += self.groups.len() as u64;
        self.groups.clear();
    }

    /// Groups begin with one message and double with each that is confirmed: where much is lost, small groups still
    /// get through.
    pub(super) fn begin_small(&mut self) {
        self.most = 1;
    }
}

/// What an acknowledgement brings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Acked {
    /// Everything up to this message is confirmed.
    pub(super) upto: Option<u64>,
    /// It belongs to the group that all others wait for.
    pub(super) of_first: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(groups: &mut Groups, numbers: std::ops::RangeInclusive<u64>) -> u64 {
        let mut id = 0;
        for number in numbers {
            id = groups.next();
            groups.sent(number);
        }
        id
    }

    fn upto(groups: &mut Groups, id: u64) -> Option<u64> {
        groups.ack(id).and_then(|acked| acked.upto)
    }

    #[test]
    fn a_group_is_confirmed_when_all_its_messages_are_and_none_before_it_waits() {
        let mut groups = Groups::default();
        let first = send(&mut groups, 1..=MOST);
        let second = send(&mut groups, MOST + 1..=MOST + 1);
        assert_eq!((first, second), (0, 1));
        assert_eq!(upto(&mut groups, second), None, "the first still waits");
        for _ in 1..MOST {
            assert_eq!(groups.ack(first), Some(Acked { upto: None, of_first: true }));
        }
        assert_eq!(upto(&mut groups, first), Some(MOST + 1));
        assert!(!groups.expects());
    }

    #[test]
    fn a_group_that_grows_is_confirmed_as_far_as_it_was_sent() {
        let mut groups = Groups::default();
        let id = send(&mut groups, 1..=2);
        groups.ack(id);
        assert_eq!(send(&mut groups, 3..=3), id);
        assert_eq!(upto(&mut groups, id), None);
        assert_eq!(upto(&mut groups, id), Some(3));
    }

    #[test]
    fn small_groups_double_as_they_are_confirmed() {
        let mut groups = Groups::default();
        groups.begin_small();
        let (first, second) = (send(&mut groups, 1..=1), send(&mut groups, 2..=2));
        assert_eq!((first, second), (0, 1));
        upto(&mut groups, first);
        assert_eq!(send(&mut groups, 3..=3), second, "two to a group now");
        assert_eq!(send(&mut groups, 4..=4), 2);
    }

    #[test]
    fn acknowledgements_of_what_was_sent_before_do_not_count() {
        let mut groups = Groups::default();
        let old = send(&mut groups, 1..=1);
        groups.forget();
        assert_eq!(groups.ack(old), None);
        let new = send(&mut groups, 1..=1);
        assert_ne!(old, new);
        assert_eq!(groups.ack(old), None);
        assert_eq!(upto(&mut groups, new), Some(1));
        assert_eq!(groups.ack(new), None, "nothing is left to confirm");
    }
}
