//! [`Delivery`]: what the acknowledgement subject of a delivered message tells.

use crate::broker::{Incoming, Subject};

/// The tokens of `$JS.ACK.…` that a reader needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// How often the message was delivered, this time included.
    pub(super) times: u64,
    /// The message's sequence in its stream.
    pub(super) stream_seq: u64,
    /// The number of this delivery by its consumer, from 1.
    pub(super) consumer_seq: u64,
    /// When the message was stored, in nanoseconds since the epoch.
    pub(super) stored_at: i64,
    /// How many messages wait behind it.
    pub(super) pending: u64,
}

impl Delivery {
    /// What the message was delivered as, and where it is acknowledged, which is taken out of it; nothing if no consumer
    /// delivered it.
    pub(super) fn of(message: &mut Incoming) -> Option<(Subject, Delivery)> {
        let delivery = Delivery::parse(message.reply.as_ref()?)?;
        Some((message.reply.take()?, delivery))
    }

    /// Reads both forms: `$JS.ACK.<stream>.<consumer>.<times>.<sseq>.<cseq>.<time>.<pending>`, and the one with
    /// `<domain>.<account>` before the stream and possibly a token behind (nats-server ADR-15).
    pub(super) fn parse(subject: &str) -> Option<Delivery> {
        let rest = subject.strip_prefix("$JS.ACK.")?;
        let count = rest.bytes().filter(|byte| *byte == b'.').count() + 1;
        let mut tokens = rest.split('.').skip(match count {
            7 => 2,
            9.. => 4,
            _ => return None,
        });
        let mut number = || tokens.next()?.parse::<u64>().ok();
        let times = number()?;
        let (stream_seq, consumer_seq) = (number()?, number()?);
        let stored_at = i64::try_from(number()?).ok()?;
        Some(Delivery { times, stream_seq, consumer_seq, stored_at, pending: number()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_nothing_else() {
        let expected = Delivery { times: 1, stream_seq: 7, consumer_seq: 8, stored_at: 9, pending: 10 };
        assert_eq!(Delivery::parse("$JS.ACK.S.c.1.7.8.9.10"), Some(expected));
        assert_eq!(Delivery::parse("$JS.ACK._.hash.S.c.1.7.8.9.10"), Some(expected));
        assert_eq!(Delivery::parse("$JS.ACK._.hash.S.c.1.7.8.9.10.token"), Some(expected));
        for other in ["", "reply", "$JS.ACK.S.c.1.7.8", "$JS.ACK.S.c.1.x.8.9.10"] {
            assert_eq!(Delivery::parse(other), None, "{other}");
        }
    }
}
