//! [`Ingest`]: which reply subject each message gets, and what the answers mean. No I/O and no clock.

use bytes::Bytes;
use millstream_operators::{Fault, FaultKind, Result};

use super::answer::Answer;
use super::fast::{Fast, is_unwanted};
use super::groups::Groups;
use crate::broker::{Incoming, Subject};

/// Publishes ahead by fast ingest where the stream allows it, else by group replies; after any doubt it sends one message
/// in the plain way first and goes on when that one is stored.
///
/// The one message is the cheapest way to learn that a full stream has room again, and the only answer that names the
/// stream that takes it.
#[derive(Debug)]
pub(super) struct Ingest {
    inbox: String,
    stream: String,
    fast: Option<Fast>,
    groups: Groups,
    phase: Phase,
    // The reply subject of the group under way.
    group: Option<(u64, Bytes)>,
    // How the last confirmation that was read with care began: most are told by that.
    plain: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Flow,
    Probe,
    // The one message was sent.
    Probing,
}

/// What an answer means to the sink.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Everything up to this message is stored.
    pub(super) upto: Option<u64>,
    /// Whether the first message that waits came nearer to its confirmation.
    pub(super) moved: bool,
    /// Why messages must be sent again, and the first of them if that is known.
    pub(super) doubt: Option<(String, Option<u64>)>,
}

impl Ingest {
    /// A way into `stream`, whose answers come to subjects below `inbox`.
    pub(super) fn new(stream: &str, inbox: &str, fast: bool) -> Self {
        Ingest {
            inbox: inbox.to_owned(),
            stream: stream.to_owned(),
            fast: fast.then(|| Fast::new(inbox)),
            groups: Groups::default(),
            phase: Phase::Flow,
            group: None,
            plain: Vec::new(),
        }
    }

    /// Begins again behind the last confirmed message, with one message alone.
    pub(super) fn begin_again(&mut self) {
        self.forget();
        self.groups.begin_small();
        self.phase = Phase::Probe;
    }

    /// Forgets what is under way: nothing is in flight, and what comes goes by a new batch or group.
    pub(super) fn forget(&mut self) {
        self.groups.forget();
        self.group = None;
        if let Some(fast) = &mut self.fast {
            fast.forget();
        }
    }

    /// Whether fast ingest is in use.
    pub(super) fn is_fast(&self) -> bool {
        self.fast.is_some()
    }

    fn flowing(&self) -> Option<&Fast> {
        self.fast.as_ref().filter(|_| self.phase == Phase::Flow)
    }

    /// Whether another message may be sent.
    pub(super) fn may_send(&self) -> bool {
        self.phase != Phase::Probing && self.flowing().is_none_or(Fast::may_send)
    }

    /// The reply subject of message number `number`, which is to be sent next; an answer shall come at least every
    /// `flow` messages.
    pub(super) fn reply(&mut self, number: u64, flow: u64) -> Result<Subject> {
        let bytes = match &mut self.fast {
            Some(fast) if self.phase == Phase::Flow => fast.reply(number, flow),
            _ => {
                let id = self.groups.next();
                match &self.group {
                    Some((group, reply)) if *group == id => reply.clone(),
                    _ => self.group.insert((id, format!("{}.{id}", self.inbox).into())).1.clone(),
                }
            }
        };
        as_subject(bytes)
    }

    /// That message was sent.
    pub(super) fn sent(&mut self, number: u64) {
        match &mut self.fast {
            Some(fast) if self.phase == Phase::Flow => fast.sent(),
            _ => {
                self.groups.sent(number);
                if self.phase == Phase::Probe {
                    self.phase = Phase::Probing;
                }
            }
        }
    }

    /// Whether an answer is due. Without one, something is wrong.
    pub(super) fn expects(&self) -> bool {
        self.flowing().map_or_else(|| self.groups.expects(), Fast::expects)
    }

    /// Whether a batch is open that can be ended.
    pub(super) fn is_open(&self) -> bool {
        self.flowing().is_some_and(Fast::is_open)
    }

    /// The reply subject of the batch's end, if one is open.
    pub(super) fn end(&mut self) -> Result<Option<Subject>> {
        let fast = self.fast.as_mut().filter(|_| self.phase == Phase::Flow);
        fast.and_then(Fast::end).map(as_subject).transpose()
    }

    /// The end was sent.
    pub(super) fn ended(&mut self) {
        if let Some(fast) = &mut self.fast {
            fast.ended();
        }
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// A setup fault when another stream takes the messages.
    pub(super) fn hear(&mut self, message: &Incoming) -> Result<Told> {
        let Some(rest) = message.subject.get(self.inbox.len() + 1..) else { return Ok(Told::default()) };
        let group = rest.parse().ok();
        if let Some(id) = group
            && message.status.is_none()
            && self.is_plain(&message.payload)
        {
            return Ok(self.acked(id));
        }
        let answer = Answer::of(message);
        if let Answer::Stored { stream, .. } = &answer
            && *stream != self.stream
        {
            let words = format!(
                "stream {stream} took a message that was meant for stream {}: its subject belongs to the former; correct `stream` or `subject`",
                self.stream
            );
            return Err(Fault::new(FaultKind::Setup, words));
        }
        match group {
            Some(id) => Ok(self.hear_of_group(id, &answer, &message.payload)),
            None => Ok(self.hear_of_batch(rest, &answer)),
        }
    }

    /// Whether it is a confirmation like the last one, with nothing but another number in it.
    fn is_plain(&self, payload: &[u8]) -> bool {
        let number = payload.strip_prefix(self.plain.as_slice()).and_then(|rest| rest.strip_suffix(b"}"));
        !self.plain.is_empty() && number.is_some_and(|number| number.iter().all(u8::is_ascii_digit) && number != b"0")
    }

    fn acked(&mut self, id: u64) -> Told {
        let Some(acked) = self.groups.ack(id) else { return Told::default() };
        if acked.upto.is_some() && self.phase == Phase::Probing {
            self.phase = Phase::Flow;
        }
        Told { upto: acked.upto, moved: acked.of_first, doubt: None }
    }

    fn hear_of_group(&mut self, id: u64, answer: &Answer, payload: &[u8]) -> Told {
        if let Answer::Stored { .. } = answer {
            if let Some(at) = payload.windows(SEQUENCE.len()).position(|part| part == SEQUENCE) {
                self.plain = payload.get(..at + SEQUENCE.len()).unwrap_or_default().to_vec();
            }
            return self.acked(id);
        }
        match self.groups.is_under_way(id) {
            true => Told { doubt: Some((self.words(answer), None)), ..Told::default() },
            false => Told::default(),
        }
    }

    fn hear_of_batch(&mut self, rest: &str, answer: &Answer) -> Told {
        let Some(fast) = self.fast.as_mut().filter(|_| self.phase == Phase::Flow) else { return Told::default() };
        let heard = fast.hear(rest, answer);
        if !heard.counts {
            return Told::default();
        }
        let mut told = Told { upto: heard.upto, moved: true, doubt: None };
        if let Some(at) = heard.broken {
            told.doubt = Some((self.words(answer), Some(at)));
            if is_unwanted(answer) {
                self.fast = None;
            }
        }
        told
    }

    fn words(&self, answer: &Answer) -> String {
        let stream = &self.stream;
        match answer {
            Answer::Nobody => format!("no stream takes what is published (is stream {stream} missing?)"),
            Answer::Refused(error) => format!("stream {stream} refuses: {}", error.description),
            Answer::Gap { .. } | Answer::Stored { count: Some(_), .. } => "messages were lost on the way".to_owned(),
            Answer::Stored { .. } => "this server does not know fast ingest".to_owned(),
            Answer::Flow { .. } | Answer::Nonsense => "an answer makes no sense".to_owned(),
        }
    }
}

/// Behind this there is nothing in a confirmation but a number.
const SEQUENCE: &[u8] = br#""seq":"#;

fn as_subject(bytes: Bytes) -> Result<Subject> {
    Subject::try_from(bytes).map_err(|_| Fault::bug("an inbox is no text"))
}

#[cfg(test)]
mod tests {
    use super::super::answer::tests::message;
    use super::*;

    const STORED: &str = r#"{"stream":"S","seq":7}"#;
    const FULL: &str = r#"{"stream":"S","seq":0,"error":{"code":503,"err_code":10077,"description":"full"}}"#;

    fn send(ingest: &mut Ingest, numbers: std::ops::RangeInclusive<u64>) -> String {
        let mut last = String::new();
        for number in numbers {
            assert!(ingest.may_send());
            last = ingest.reply(number, 500).unwrap().as_str().to_owned();
            ingest.sent(number);
        }
        last
    }

    fn hear(ingest: &mut Ingest, reply: &str, payload: &str) -> Told {
        ingest.hear(&message(reply, payload)).unwrap()
    }

    #[test]
    fn group_replies_confirm_whole_groups_and_a_refusal_is_a_doubt() {
        let mut ingest = Ingest::new("S", "_INBOX.n", false);
        let reply = send(&mut ingest, 1..=2);
        assert_eq!(reply, "_INBOX.n.0");
        assert_eq!(hear(&mut ingest, &reply, STORED), Told { upto: None, moved: true, doubt: None });
        assert_eq!(hear(&mut ingest, &reply, r#"{"stream":"S","seq":8}"#).upto, Some(2), "by its beginning");
        let reply = send(&mut ingest, 3..=3);
        assert_eq!(hear(&mut ingest, &reply, FULL).doubt.unwrap().0, "stream S refuses: full", "it begins alike");
        assert!(!ingest.is_open() && ingest.end().unwrap().is_none());
    }

    #[test]
    fn after_a_doubt_one_message_goes_alone_and_the_rest_when_it_is_stored() {
        for fast in [true, false] {
            let mut ingest = Ingest::new("S", "_INBOX.n", fast);
            let before = send(&mut ingest, 1..=3);
            ingest.begin_again();
            let probe = send(&mut ingest, 1..=1);
            assert!(!ingest.may_send() && ingest.expects() && !ingest.is_open());
            assert_eq!(hear(&mut ingest, &before, STORED), Told::default());
            assert_eq!(hear(&mut ingest, &probe, STORED).upto, Some(1));
            assert!(ingest.may_send());
            assert_eq!(send(&mut ingest, 2..=3).ends_with(".$FI"), fast);
        }
    }

    #[test]
    fn a_stream_that_stops_fast_ingest_gets_group_replies() {
        let mut ingest = Ingest::new("S", "_INBOX.n", true);
        let reply = send(&mut ingest, 1..=3);
        let disabled = r#"{"stream":"S","seq":0,"error":{"code":400,"err_code":10205,"description":"disabled"}}"#;
        assert_eq!(hear(&mut ingest, &reply, disabled).doubt.unwrap().1, Some(3));
        assert!(!ingest.is_fast());
        ingest.begin_again();
        let probe = send(&mut ingest, 1..=1);
        hear(&mut ingest, &probe, STORED);
        assert_eq!(send(&mut ingest, 2..=3), "_INBOX.n.1");
    }

    #[test]
    fn a_full_stream_is_a_doubt_at_the_message_that_it_refused() {
        let mut ingest = Ingest::new("S", "_INBOX.n", true);
        let reply = send(&mut ingest, 1..=2);
        hear(&mut ingest, &reply, r#"{"type":"ack","seq":0,"msgs":500}"#);
        assert_eq!(hear(&mut ingest, &reply, FULL).doubt.unwrap(), ("stream S refuses: full".into(), Some(2)));
    }

    #[test]
    fn another_stream_that_takes_the_messages_is_a_mistake_of_setup() {
        for fast in [true, false] {
            let mut ingest = Ingest::new("S", "_INBOX.n", fast);
            let reply = send(&mut ingest, 1..=1);
            let other = r#"{"stream":"T","seq":7,"batch":"b","count":1}"#;
            let fault = ingest.hear(&message(&reply, other)).unwrap_err();
            assert_eq!(fault.kind(), FaultKind::Setup);
            assert!(fault.to_string().contains("stream T took a message"), "{fault}");
        }
    }
}
