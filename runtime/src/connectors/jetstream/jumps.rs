//! [`Jumps`]: what it means that deliveries leave out sequences of their stream.

use super::delivery::Delivery;
use crate::broker::{Discard, StreamConfig};

/// What a source can know of messages that go before it has read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Jumps {
    /// Every sequence is a message to read, and none is ever deleted alone: what is left out is lost.
    Losses,
    /// Every sequence was a message to read, and single ones may be deleted: what is left out is lost if the stream
    /// begins behind it.
    Holes,
    /// As `Holes`, and later messages of a subject push out earlier ones: a beginning behind what was left out may mean
    /// nothing worse. It is said, and no fault.
    Compacted,
    /// Some subjects are read. Whether messages of theirs went, the number of those that wait tells.
    Counted,
    /// Nothing can be known.
    Untold,
}

impl Jumps {
    /// What can be known of a stream that is read whole, or in part.
    pub(super) fn of(config: &StreamConfig, in_part: bool) -> Jumps {
        let refuses = config.discard == Discard::New && config.discard_new_per_subject;
        let compacts = config.max_msgs_per_subject > 0 && !refuses;
        let thins = compacts || config.allow_msg_ttl || config.allow_rollup_hdrs || !config.deny_delete;
        match (in_part, compacts) {
            (true, true) => Jumps::Untold,
            (true, false) => Jumps::Counted,
            (false, true) => Jumps::Compacted,
            (false, false) if thins => Jumps::Holes,
            (false, false) => Jumps::Losses,
        }
    }

    /// Whether it is of a source that reads some subjects.
    pub(super) fn is_in_part(self) -> bool {
        matches!(self, Jumps::Counted | Jumps::Untold)
    }

    /// Whether messages between the one at `sequence`, behind which `waiting` others waited, and this delivery may be
    /// lost.
    pub(super) fn doubts(self, sequence: u64, waiting: u64, delivery: &Delivery) -> bool {
        match self {
            Jumps::Losses | Jumps::Holes | Jumps::Compacted => delivery.stream_seq != sequence + 1,
            Jumps::Counted => delivery.pending + 1 < waiting,
            Jumps::Untold => false,
        }
    }

    /// How many messages are known to have gone, where the sequences do not tell.
    pub(super) fn least(self, waiting: u64, left: u64) -> Option<u64> {
        (self == Jumps::Counted).then(|| waiting.saturating_sub(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(stream_seq: u64, pending: u64) -> Delivery {
        Delivery { times: 1, stream_seq, consumer_seq: 1, stored_at: 0, pending }
    }

    #[test]
    fn a_stream_read_whole_is_doubted_at_a_jump_and_one_read_in_part_when_fewer_wait_than_should() {
        for jumps in [Jumps::Losses, Jumps::Holes, Jumps::Compacted] {
            assert!(!jumps.doubts(4, 100, &delivery(5, 3)) && jumps.doubts(4, 100, &delivery(7, 99)));
        }
        assert!(!Jumps::Counted.doubts(4, 10, &delivery(70, 9)), "others are between");
        assert!(!Jumps::Counted.doubts(4, 10, &delivery(70, 12)), "more have come");
        assert!(!Jumps::Counted.doubts(4, 0, &delivery(70, 0)), "it was not known that one waits");
        assert!(Jumps::Counted.doubts(4, 10, &delivery(70, 3)));
        assert_eq!((Jumps::Counted.least(9, 3), Jumps::Holes.least(9, 3)), (Some(6), None));
        assert!(!Jumps::Untold.doubts(4, 10, &delivery(70, 3)));
    }

    #[test]
    fn what_can_be_known_is_in_the_streams_settings() {
        let safe = StreamConfig { deny_delete: true, ..StreamConfig::new("S", ["s"]) };
        assert_eq!(Jumps::of(&safe, false), Jumps::Losses);
        assert_eq!(Jumps::of(&StreamConfig::new("S", ["s"]), false), Jumps::Holes);
        assert_eq!(Jumps::of(&StreamConfig { allow_rollup_hdrs: true, ..safe.clone() }, false), Jumps::Holes);
        let compacted = StreamConfig { max_msgs_per_subject: 1, ..safe.clone() };
        assert_eq!((Jumps::of(&compacted, false), Jumps::of(&compacted, true)), (Jumps::Compacted, Jumps::Untold));
        let refuses = StreamConfig { discard: Discard::New, discard_new_per_subject: true, ..compacted };
        assert_eq!((Jumps::of(&refuses, false), Jumps::of(&safe, true)), (Jumps::Losses, Jumps::Counted));
    }
}
