//! [`Fast`]: the protocol of fast ingest, as a publisher sees it. No I/O and no clock.
//!
//! A batch is a row of messages whose place stands in the reply subject:
//! `<inbox>.<batch>.<flow>.<fail|ok>.<number>.<operation>.$FI`. The stream stores each as it comes and says at every
//! multiple of the flow that all up to there is stored. With `fail`, it ends the batch at the first message that did not
//! come, so that nothing behind a gap is stored before what is missing. What lies behind the last multiple is confirmed
//! by the batch's end alone; its answer has the count.

use bytes::{Bytes, BytesMut};

use super::answer::Answer;
use crate::broker::codes;

/// The most messages to an acknowledgement that a server allows.
const MOST_FLOW: u64 = 500;

/// The batches of a sink, one after another.
#[derive(Debug)]
pub(super) struct Fast {
    inbox: String,
    // Batch ids are this and a number: a stream knows batches by id, whoever sends them.
    name: String,
    batches: u64,
    batch: Option<Batch>,
    room: BytesMut,
}

#[derive(Debug)]
struct Batch {
    id: String,
    // All of the reply subject that is the same for its messages.
    head: String,
    // The number, in the window, of the message before its first.
    before: u64,
    sent: u64,
    // Up to where the stream says that all is stored, and after how many more it says so again.
    acked: u64,
    every: u64,
    // Whether the stream has said anything yet.
    heard: bool,
    // Whether its end was sent.
    ending: bool,
    // The first of its messages that is known not to be stored.
    broken: Option<u64>,
}

/// What an answer means for the batch under way; numbers are those of the window.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Everything up to here is stored.
    pub(super) upto: Option<u64>,
    /// Whether it is a word of the batch under way.
    pub(super) counts: bool,
    /// The first message that is not stored, if the answer says that one is not.
    pub(super) broken: Option<u64>,
}

impl Fast {
    /// Batches whose answers come to subjects below `inbox`.
    pub(super) fn new(inbox: &str) -> Self {
        let name = inbox.rsplit('.').next().unwrap_or_default().to_owned();
        Fast { inbox: inbox.to_owned(), name, batches: 0, batch: None, room: BytesMut::new() }
    }

    /// The reply subject of the next message, number `number` of the window; begins a batch if none is open, with an
    /// acknowledgement at least every `flow` messages.
    pub(super) fn reply(&mut self, number: u64, flow: u64) -> Bytes {
        let place = self.batch.as_ref().map_or(1, |batch| batch.sent + 1);
        if self.batch.is_none() {
            self.batches += 1;
            let (flow, id) = (flow.clamp(1, MOST_FLOW), format!("{}-{}", self.name, self.batches));
            self.batch = Some(Batch {
                head: format!("{}.{id}.{flow}.fail.", self.inbox),
                id,
                before: number - 1,
                sent: 0,
                acked: 0,
                every: flow,
                heard: false,
                ending: false,
                broken: None,
            });
        }
        self.subject(place, if place == 1 { b'0' } else { b'1' })
    }

    /// That message was sent.
    pub(super) fn sent(&mut self) {
        if let Some(batch) = &mut self.batch {
            batch.sent += 1;
        }
    }

    /// The reply subject of the end of the batch, if one is open.
    pub(super) fn end(&mut self) -> Option<Bytes> {
        let place = self.batch.as_ref().filter(|batch| batch.sent > 0 && !batch.ending)?.sent + 1;
        Some(self.subject(place, b'3'))
    }

    /// The end was sent.
    pub(super) fn ended(&mut self) {
        if let Some(batch) = &mut self.batch {
            batch.ending = true;
        }
    }

    fn subject(&mut self, place: u64, operation: u8) -> Bytes {
        let Some(batch) = &self.batch else { return Bytes::new() };
        // One piece of memory serves many subjects.
        let longest = batch.head.len() + 32;
        if self.room.capacity() < longest {
            self.room = BytesMut::with_capacity(longest * 256);
        }
        self.room.extend_from_slice(batch.head.as_bytes());
        put_decimal(&mut self.room, place);
        self.room.extend_from_slice(&[b'.', operation]);
        self.room.extend_from_slice(b".$FI");
        self.room.split().freeze()
    }

    /// Whether messages may be sent: not between the end of a batch and its answer, so that the next batch cannot be
    /// stored before what is missing of this one.
    pub(super) fn may_send(&self) -> bool {
        self.batch.as_ref().is_none_or(|batch| !batch.ending)
    }

    /// Whether a batch is open that can be ended.
    pub(super) fn is_open(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| batch.sent > 0 && !batch.ending)
    }

    /// Whether an answer is due.
    pub(super) fn expects(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| {
            batch.sent > 0 && (!batch.heard || batch.ending || batch.sent >= batch.acked + batch.every)
        })
    }

    /// Takes an answer that came to `rest` below the inbox.
    pub(super) fn hear(&mut self, rest: &str, answer: &Answer) -> Heard {
        let Some((id, number)) = place(rest) else { return Heard::default() };
        let Some(batch) = self.batch.as_mut().filter(|batch| batch.id == id) else { return Heard::default() };
        batch.heard = true;
        let (stored, broken) = match answer {
            Answer::Flow { upto, every } => {
                batch.every = *every;
                (*upto, None)
            }
            Answer::Stored { count: Some(count), .. } => (*count, (*count < batch.sent).then_some(count + 1)),
            Answer::Gap { missing } => (0, Some(*missing)),
            // An ordinary confirmation: this server does not know of batches.
            Answer::Stored { count: None, .. } | Answer::Refused(_) | Answer::Nobody | Answer::Nonsense => {
                (0, Some(number))
            }
        };
        // A message that could not be stored does not stop the words about those behind it: none of them counts.
        if let Some(at) = broken {
            batch.broken = Some(batch.broken.map_or(at, |other| other.min(at)));
        }
        let stored = stored.min(batch.broken.map_or(u64::MAX, |at| at.saturating_sub(1))).min(batch.sent);
        let news = stored > batch.acked;
        batch.acked = batch.acked.max(stored);
        let heard = Heard {
            upto: news.then_some(batch.before + stored),
            counts: true,
            broken: broken.map(|at| batch.before + at),
        };
        if matches!(answer, Answer::Stored { count: Some(_), .. }) && batch.broken.is_none() {
            self.batch = None;
        }
        heard
    }

    /// Forgets the batch: what is not confirmed of it is sent again in another.
    pub(super) fn forget(&mut self) {
        self.batch = None;
    }
}

/// Whether a refusal says that there is no fast ingest here, now or ever.
pub(super) fn is_unwanted(answer: &Answer) -> bool {
    match answer {
        Answer::Refused(error) => matches!(error.err_code, codes::FAST_DISABLED | codes::FAST_PATTERN | codes::FAST_ID),
        Answer::Stored { count: None, .. } => true,
        _ => false,
    }
}

/// The batch and the number in `<batch>.<flow>.fail.<number>.<operation>.$FI`.
fn place(rest: &str) -> Option<(&str, u64)> {
    let mut tokens = rest.split('.');
    let id = tokens.next()?;
    Some((id, tokens.nth(2)?.parse().ok()?))
}

fn put_decimal(to: &mut BytesMut, mut number: u64) {
    // The longest has 20 digits.
    let (mut digits, mut first) = ([0_u8; 20], 20_usize);
    loop {
        first = first.saturating_sub(1);
        if let Some(digit) = digits.get_mut(first) {
            *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        }
        number /= 10;
        if number == 0 {
            break;
        }
    }
    to.extend_from_slice(digits.get(first..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::ApiError;

    /// Sends `messages` numbered from `first`, and gives the reply subject of the last.
    fn send(fast: &mut Fast, first: u64, messages: u64, flow: u64) -> String {
        let mut last = Bytes::new();
        for number in first..first + messages {
            last = fast.reply(number, flow);
            fast.sent();
        }
        text(&last)
    }

    fn text(bytes: &Bytes) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn hear(fast: &mut Fast, reply: &str, answer: &Answer) -> Heard {
        fast.hear(reply.strip_prefix("_INBOX.n.").unwrap(), answer)
    }

    fn end(fast: &mut Fast) -> String {
        let end = text(&fast.end().unwrap());
        fast.ended();
        end
    }

    fn flow(upto: u64, every: u64) -> Answer {
        Answer::Flow { upto, every }
    }

    fn stored(count: u64) -> Answer {
        Answer::Stored { stream: "S".into(), count: Some(count) }
    }

    fn refused(err_code: u16) -> Answer {
        Answer::Refused(ApiError { code: 400, err_code, description: "no".into() })
    }

    #[test]
    fn the_place_of_every_message_stands_in_its_reply_subject() {
        let mut fast = Fast::new("_INBOX.n");
        assert_eq!(send(&mut fast, 1, 1, 900), "_INBOX.n.n-1.500.fail.1.0.$FI", "500 is the most that servers allow");
        assert_eq!(send(&mut fast, 2, 11, 900), "_INBOX.n.n-1.500.fail.12.1.$FI");
        assert_eq!(end(&mut fast), "_INBOX.n.n-1.500.fail.13.3.$FI");
        let mut digits = BytesMut::new();
        [0, 9, 10, u64::MAX].into_iter().for_each(|number| put_decimal(&mut digits, number));
        assert_eq!(digits, "091018446744073709551615");
    }

    #[test]
    fn multiples_of_the_flow_are_confirmed_and_the_rest_by_the_end() {
        let mut fast = Fast::new("_INBOX.n");
        let reply = send(&mut fast, 41, 7, 3);
        assert!(fast.expects(), "the first word");
        assert_eq!(hear(&mut fast, &reply, &flow(0, 3)).upto, None);
        assert!(fast.expects(), "the third message");
        assert_eq!(hear(&mut fast, &reply, &flow(6, 3)).upto, Some(46));
        assert!(!fast.expects(), "the seventh is no multiple: no word will come of it");
        let reply = end(&mut fast);
        assert!(fast.expects() && !fast.may_send() && fast.end().is_none());
        assert_eq!(hear(&mut fast, &reply, &stored(7)), Heard { upto: Some(47), counts: true, broken: None });
        assert!(fast.may_send() && !fast.expects() && !fast.is_open());
        assert_eq!(send(&mut fast, 48, 1, 3), "_INBOX.n.n-2.3.fail.1.0.$FI", "another batch, from 1");
    }

    #[test]
    fn words_of_an_earlier_batch_do_not_count() {
        let mut fast = Fast::new("_INBOX.n");
        let old = send(&mut fast, 1, 3, 3);
        fast.forget();
        let new = send(&mut fast, 1, 3, 3);
        assert_eq!(hear(&mut fast, &old, &flow(3, 3)), Heard::default());
        assert_eq!(hear(&mut fast, &old, &refused(codes::FAST_UNKNOWN_BATCH)), Heard::default());
        assert_eq!(hear(&mut fast, &new, &flow(3, 3)).upto, Some(3));
    }

    #[test]
    fn behind_a_message_that_is_not_stored_nothing_is_confirmed() {
        let mut fast = Fast::new("_INBOX.n");
        send(&mut fast, 1, 9, 3);
        hear(&mut fast, "_INBOX.n.n-1.3.fail.3.1.$FI", &flow(3, 3));
        // The stream was full for a moment: it stores the sixth and says so, and the fifth is missing for ever.
        let refused = hear(&mut fast, "_INBOX.n.n-1.3.fail.5.1.$FI", &refused(codes::STORE_FAILED));
        assert_eq!(refused, Heard { upto: None, counts: true, broken: Some(5) });
        assert_eq!(hear(&mut fast, "_INBOX.n.n-1.3.fail.6.1.$FI", &flow(6, 3)).upto, Some(4));
        assert_eq!(hear(&mut fast, "_INBOX.n.n-1.3.fail.9.1.$FI", &flow(9, 3)).upto, None);
    }

    #[test]
    fn a_gap_ends_the_batch_where_something_is_missing() {
        let mut fast = Fast::new("_INBOX.n");
        let reply = send(&mut fast, 11, 9, 500);
        assert_eq!(hear(&mut fast, &reply, &Answer::Gap { missing: 5 }).broken, Some(15));
        let heard = hear(&mut fast, &reply, &stored(4));
        assert_eq!((heard.upto, heard.broken), (Some(14), Some(15)));
        assert_eq!(hear(&mut fast, &reply, &refused(codes::FAST_UNKNOWN_BATCH)).upto, None);
    }

    #[test]
    fn an_end_that_counts_less_than_was_sent_says_what_is_missing() {
        let mut fast = Fast::new("_INBOX.n");
        send(&mut fast, 1, 9, 500);
        let reply = end(&mut fast);
        assert_eq!(hear(&mut fast, &reply, &stored(7)), Heard { upto: Some(7), counts: true, broken: Some(8) });
    }

    #[test]
    fn a_stream_or_server_without_fast_ingest_is_known_by_its_answer() {
        assert!(is_unwanted(&refused(codes::FAST_DISABLED)));
        assert!(is_unwanted(&Answer::Stored { stream: "S".into(), count: None }));
        for other in [refused(codes::FAST_UNKNOWN_BATCH), refused(codes::STORE_FAILED), stored(1), Answer::Nobody] {
            assert!(!is_unwanted(&other), "{other:?}");
        }
        let mut fast = Fast::new("_INBOX.n");
        let reply = send(&mut fast, 1, 1, 500);
        let ordinary = Answer::Stored { stream: "S".into(), count: None };
        assert_eq!(hear(&mut fast, &reply, &ordinary).broken, Some(1), "it is sent again, by group replies");
    }

    #[test]
    fn a_new_leader_that_takes_a_batch_over_may_speak_between_multiples() {
        let mut fast = Fast::new("_INBOX.n");
        let reply = send(&mut fast, 1, 9, 3);
        assert_eq!(hear(&mut fast, &reply, &flow(4, 1)).upto, Some(4));
        assert!(fast.expects());
        assert_eq!(hear(&mut fast, &reply, &flow(9, 2)).upto, Some(9));
        assert!(!fast.expects());
    }
}
