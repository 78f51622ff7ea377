//! [`Log`]: the messages of one stream by sequence, and where each subject's messages are.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasherDefault;

use bytes::Bytes;
use millstream_operators::Headers;

use super::filter::{Filter, is_pattern};
use crate::broker::message::headers_len;
use crate::broker::{Subject, matches};

/// A message in a stream.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) subject: Subject,
    pub(super) headers: Headers,
    pub(super) payload: Bytes,
    /// When it was stored, in nanoseconds since the epoch.
    pub(super) at: i64,
    /// When it goes by its own time to live; `i64::MAX` for never, even if the stream has a greatest age.
    pub(super) expires: Option<i64>,
}

/// Messages by sequence. Appending, finding by sequence and by literal subject cost no more with more messages.
#[derive(Debug, Default)]
pub(super) struct Log {
    messages: BTreeMap<u64, Stored>,
    /// The sequences of each subject, ascending. The hasher is fixed, so that runs are alike.
    subjects: HashMap<Subject, VecDeque<u64>, BuildHasherDefault<DefaultHasher>>,
    /// The first sequence while there are no messages.
    empty_first: u64,
    last: u64,
    last_at: Option<i64>,
    bytes: u64,
    /// Whether sizes are those of the server's memory store; else of its file store.
    in_memory: bool,
}

impl Log {
    pub(super) fn new(in_memory: bool) -> Self {
        Log { in_memory, ..Log::default() }
    }

    /// What the server counts for such a message.
    pub(super) fn size_of(&self, subject: &str, headers: &Headers, payload: &Bytes) -> u64 {
        let headers = headers_len(headers);
        let record = match (self.in_memory, headers) {
            (true, _) => 16,
            (false, 0) => 30,
            (false, _) => 34,
        };
        (subject.len() + headers + payload.len() + record) as u64
    }

    pub(super) fn len(&self) -> u64 {
        self.messages.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The sequence of the first message; one beyond the last if there is none, and 0 before the first ever.
    pub(super) fn first(&self) -> u64 {
        self.messages.first_key_value().map_or(self.empty_first, |(seq, _)| *seq)
    }

    /// The sequence of the last message there ever was.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// When the last message came.
    pub(super) fn last_at(&self) -> Option<i64> {
        self.last_at
    }

    pub(super) fn subject_count(&self) -> u64 {
        self.subjects.len() as u64
    }

    pub(super) fn get(&self, seq: u64) -> Option<&Stored> {
        self.messages.get(&seq)
    }

    /// All messages from `seq` on.
    pub(super) fn from(&self, seq: u64) -> impl Iterator<Item = (u64, &Stored)> {
        self.messages.range(seq..).map(|(seq, message)| (*seq, message))
    }

    /// The first message at or after `seq` that `filter` wants.
    pub(super) fn next(&self, seq: u64, filter: &Filter) -> Option<(u64, &Stored)> {
        if let Some(subject) = filter.literal() {
            let sequences = self.subjects.get(subject)?;
            let found = *sequences.get(sequences.partition_point(|s| *s < seq))?;
            return Some((found, self.messages.get(&found)?));
        }
        self.from(seq).find(|(_, message)| filter.matches(&message.subject))
    }

    /// The last sequence of a subject or pattern.
    pub(super) fn last_of(&self, subject: &str) -> Option<u64> {
        if subject == ">" {
            return self.messages.last_key_value().map(|(seq, _)| *seq);
        }
        self.of(subject).filter_map(|(_, sequences)| sequences.back().copied()).max()
    }

    /// How many messages of a literal subject there are, and the first of them.
    pub(super) fn count_of(&self, subject: &str) -> (u64, Option<u64>) {
        self.subjects.get(subject).map_or((0, None), |all| (all.len() as u64, all.front().copied()))
    }

    /// How many messages at or after `seq` there are that `filter` wants.
    pub(super) fn count(&self, seq: u64, filter: &Filter) -> u64 {
        if filter.is_all() {
            if seq <= self.first() {
                return self.len();
            }
            return self.messages.range(seq..).count() as u64;
        }
        let wanted = self.subjects.iter().filter(|(subject, _)| filter.matches(subject));
        wanted.map(|(_, all)| (all.len() - all.partition_point(|s| *s < seq)) as u64).sum()
    }

    /// The last sequence of each subject that `filter` wants, ascending.
    pub(super) fn lasts(&self, filter: &Filter) -> Vec<u64> {
        let wanted = self.subjects.iter().filter(|(subject, _)| filter.matches(subject));
        let mut lasts: Vec<u64> = wanted.filter_map(|(_, all)| all.back().copied()).collect();
        lasts.sort_unstable();
        lasts
    }

    /// The sequences of a subject or pattern, ascending.
    pub(super) fn sequences(&self, subject: &str) -> Vec<u64> {
        if subject == ">" {
            return self.messages.keys().copied().collect();
        }
        let mut sequences: Vec<u64> = self.of(subject).flat_map(|(_, all)| all.iter().copied()).collect();
        sequences.sort_unstable();
        sequences
    }

    /// How many messages each subject that fits the pattern has, by name.
    pub(super) fn totals(&self, pattern: &str) -> BTreeMap<String, u64> {
        self.of(pattern).map(|(subject, all)| (subject.to_string(), all.len() as u64)).collect()
    }

    fn of<'a>(&'a self, subject: &'a str) -> impl Iterator<Item = (&'a Subject, &'a VecDeque<u64>)> {
        let pattern = is_pattern(subject);
        let literal = (!pattern).then(|| self.subjects.get_key_value(subject)).flatten();
        let wild = self.subjects.iter().filter(move |(name, _)| pattern && matches(subject, name));
        literal.into_iter().chain(wild)
    }

    /// The first sequence that was stored at or after a moment; one beyond the last if none was.
    pub(super) fn first_at(&self, moment: i64) -> u64 {
        // A rare question, asked when a consumer is created.
        self.messages.iter().find(|(_, message)| message.at >= moment).map_or(self.last + 1, |(seq, _)| *seq)
    }

    /// Appends a message.
    pub(super) fn push(&mut self, message: Stored) -> u64 {
        self.last += 1;
        self.last_at = Some(message.at);
        self.bytes += self.size_of(&message.subject, &message.headers, &message.payload);
        match self.subjects.get_mut(&message.subject) {
            Some(sequences) => sequences.push_back(self.last),
            None => {
                self.subjects.insert(message.subject.clone(), VecDeque::from([self.last]));
            }
        }
        self.messages.insert(self.last, message);
        self.last
    }

    /// Uses up a sequence without a message.
    pub(super) fn skip(&mut self) -> u64 {
        self.last += 1;
        if self.messages.is_empty() {
            self.empty_first = self.last + 1;
        }
        self.last
    }

    /// Takes a message out.
    pub(super) fn remove(&mut self, seq: u64) -> Option<Stored> {
        let message = self.messages.remove(&seq)?;
        self.bytes -= self.size_of(&message.subject, &message.headers, &message.payload);
        if let Some(sequences) = self.subjects.get_mut(&message.subject) {
            if sequences.front() == Some(&seq) {
                sequences.pop_front();
            } else if let Ok(place) = sequences.binary_search(&seq) {
                sequences.remove(place);
            }
            if sequences.is_empty() {
                self.subjects.remove(&message.subject);
            }
        }
        if self.messages.is_empty() {
            self.empty_first = self.last + 1;
        }
        Some(message)
    }

    /// Takes everything out; the next message will be at `next` if that is beyond the last.
    pub(super) fn clear(&mut self, next: u64) {
        self.messages.clear();
        self.subjects.clear();
        self.bytes = 0;
        self.last = self.last.max(next.saturating_sub(1));
        self.empty_first = self.last + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(subjects: &[&'static str]) -> Log {
        let mut log = Log::new(false);
        for subject in subjects {
            let (headers, payload) = (Headers::NONE, Bytes::from_static(b"x"));
            log.push(Stored { subject: (*subject).into(), headers, payload, at: 7, expires: None });
        }
        log
    }

    #[test]
    fn messages_are_found_by_sequence_and_subject() {
        let mut log = log(&["a", "b.1", "b.2", "a", "b.1"]);
        assert_eq!((log.len(), log.first(), log.last(), log.subject_count()), (5, 1, 5, 3));
        assert_eq!(log.last_of("a"), Some(4));
        assert_eq!(log.last_of("b.*"), Some(5));
        assert_eq!(log.next(2, &Filter::new(["a"])).unwrap().0, 4);
        assert_eq!(log.next(4, &Filter::new(["b.*"])).unwrap().0, 5);
        assert_eq!(log.count(3, &Filter::new(["b.*"])), 2);
        assert_eq!(log.lasts(&Filter::new(["b.*"])), [3, 5]);
        log.remove(1);
        assert_eq!((log.first(), log.count_of("a")), (2, (1, Some(4))));
        assert_eq!(log.sequences("b.1"), [2, 5]);
    }

    #[test]
    fn an_empty_log_goes_on_counting() {
        let mut log = log(&["a"]);
        log.remove(1);
        assert_eq!((log.first(), log.last(), log.bytes()), (2, 1, 0));
        log.clear(10);
        assert_eq!((log.first(), log.last()), (10, 9));
        assert_eq!(Log::new(true).first(), 0);
    }
}
