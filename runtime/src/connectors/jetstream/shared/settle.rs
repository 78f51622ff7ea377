//! [`Settlements`]: what the shared sources of a pipeline have in hand, and what shall become of it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::broker::{Outgoing, Subject};

/// What shall become of messages of shared sources in place of an acknowledgement, said by whoever worked on them. Nodes
/// find it among their resources, by type; clones are the same.
///
/// A message is settled when the checkpoint behind it is complete, so what is said before the barrier holds: a dead
/// letter that was written first is confirmed first.
#[derive(Clone, Debug, Default)]
pub struct Settlements(Arc<Mutex<BTreeMap<String, Arc<Mutex<Hand>>>>>);

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// It comes again after a while.
    Again(Duration),
    /// It does not come again.
    Never(String),
}

/// What one source has given and the server does not know to be settled, oldest first.
#[derive(Debug, Default)]
pub(super) struct Hand {
    taken: VecDeque<Taken>,
    // How many messages were taken before the first of these.
    settled: u64,
    verdicts: HashMap<u64, Verdict>,
}

#[derive(Debug)]
struct Taken {
    sequence: u64,
    reply: Subject,
    // When the server last heard of it.
    touched: Instant,
}

// A reason is for people who read advisories.
const LONGEST_REASON: usize = 512;

impl Settlements {
    /// The message with this stream sequence that the source `node` gave comes again, after `delay`, to whichever
    /// process asks first; nothing changes if anybody said so before. False if it is not in hand here.
    pub fn retry(&self, node: &str, sequence: u64, delay: Duration) -> bool {
        self.say(node, sequence, Verdict::Again(delay))
    }

    /// The message does not come again; a work queue forgets it, so keep it elsewhere first. A retry that anybody asked
    /// for goes before. The server publishes the reason as an advisory. False if it is not in hand here.
    pub fn give_up(&self, node: &str, sequence: u64, reason: &str) -> bool {
        let reason = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_REASON).collect();
        self.say(node, sequence, Verdict::Never(reason))
    }

    fn say(&self, node: &str, sequence: u64, verdict: Verdict) -> bool {
        let hand = lock(&self.0).get(node).map(Arc::clone);
        hand.is_some_and(|hand| lock(&hand).say(sequence, verdict))
    }

    /// What the source `node` has in hand: still there when a run after a fault opens it again.
    pub(super) fn hand(&self, node: &str) -> Arc<Mutex<Hand>> {
        Arc::clone(lock(&self.0).entry(node.to_owned()).or_default())
    }
}

/// Nothing that is done under these locks can stop half-way.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hand {
    /// How many messages are in hand.
    pub(super) fn len(&self) -> usize {
        self.taken.len()
    }

    /// How many messages were ever taken: the position behind the last.
    pub(super) fn total(&self) -> u64 {
        self.settled + self.taken.len() as u64
    }

    /// Takes a message in hand. False if it is already, and this is a repeat: then only its reply subject is new.
    pub(super) fn take(&mut self, sequence: u64, repeated: bool, reply: Subject, touched: Instant) -> bool {
        // Only a repeat is worth looking for.
        if repeated && let Some(taken) = self.taken.iter_mut().find(|taken| taken.sequence == sequence) {
            (taken.reply, taken.touched) = (reply, touched);
            return false;
        }
        self.taken.push_back(Taken { sequence, reply, touched });
        true
    }

    fn say(&mut self, sequence: u64, verdict: Verdict) -> bool {
        if !self.taken.iter().any(|taken| taken.sequence == sequence) {
            return false;
        }
        match self.verdicts.get(&sequence) {
            Some(Verdict::Again(_)) => {}
            _ => drop(self.verdicts.insert(sequence, verdict)),
        }
        true
    }

    /// What to say to the server of everything taken before message number `upto`.
    pub(super) fn words(&self, upto: u64) -> Vec<Outgoing> {
        let count = usize::try_from(upto.saturating_sub(self.settled)).unwrap_or(usize::MAX);
        self.taken.iter().take(count).map(|taken| self.word(taken)).collect()
    }

    fn word(&self, taken: &Taken) -> Outgoing {
        let verdict = (!self.verdicts.is_empty()).then(|| self.verdicts.get(&taken.sequence)).flatten();
        let word = match verdict {
            None => Bytes::from_static(b"+ACK"),
            Some(Verdict::Again(Duration::ZERO)) => Bytes::from_static(b"-NAK"),
            Some(Verdict::Again(delay)) => format!("-NAK {{\"delay\": {}}}", delay.as_nanos()).into(),
            Some(Verdict::Never(reason)) => format!("+TERM {reason}").into(),
        };
        Outgoing::new(taken.reply.clone(), word)
    }

    /// The server knows of the first `count` messages.
    pub(super) fn settle(&mut self, count: usize) {
        for taken in self.taken.drain(..count.min(self.taken.len())) {
            self.settled += 1;
            if !self.verdicts.is_empty() {
                self.verdicts.remove(&taken.sequence);
            }
        }
    }

    /// Gives everything up, as after a fault: what to say to the server.
    pub(super) fn drop_all(&mut self) -> Vec<Outgoing> {
        self.verdicts.clear();
        self.settled = 0;
        self.taken.drain(..).map(|taken| Outgoing::new(taken.reply, "-NAK")).collect()
    }

    /// The reply subjects of those that the server last heard of before `since`.
    pub(super) fn silent(&self, since: Instant) -> impl Iterator<Item = &Subject> {
        self.taken.iter().filter(move |taken| taken.touched < since).map(|taken| &taken.reply)
    }

    /// The server has heard at `now` of those of which it last heard before `since`.
    pub(super) fn touch(&mut self, since: Instant, now: Instant) {
        self.taken.iter_mut().filter(|taken| taken.touched < since).for_each(|taken| taken.touched = now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hand(sequences: &[u64]) -> Hand {
        let mut hand = Hand::default();
        for sequence in sequences {
            assert!(hand.take(*sequence, false, format!("ack.{sequence}").into(), Instant::now()));
        }
        hand
    }

    fn said(hand: &Hand, upto: u64) -> Vec<String> {
        let text = |message: &Outgoing| String::from_utf8(message.payload.to_vec()).unwrap();
        hand.words(upto).iter().map(|message| format!("{} {}", message.subject, text(message))).collect()
    }

    #[tokio::test]
    async fn only_what_a_checkpoint_covers_is_settled_and_only_once() {
        let mut hand = hand(&[5, 9, 7]);
        assert_eq!(said(&hand, 2), ["ack.5 +ACK", "ack.9 +ACK"]);
        hand.settle(2);
        assert_eq!((said(&hand, 2).len(), said(&hand, 3), hand.total()), (0, vec!["ack.7 +ACK".to_owned()], 3));
    }

    #[tokio::test]
    async fn a_retry_goes_before_giving_up_and_both_before_an_acknowledgement() {
        let settlements = Settlements::default();
        *lock(&settlements.hand("n")) = hand(&[1, 2, 3, 4]);
        assert!(settlements.give_up("n", 2, "bad schema\r\nfield x"));
        assert!(settlements.retry("n", 3, Duration::from_millis(1)) && settlements.give_up("n", 3, "no"));
        assert!(settlements.give_up("n", 4, "no") && settlements.retry("n", 4, Duration::ZERO));
        assert!(!settlements.retry("n", 9, Duration::ZERO) && !settlements.retry("other", 1, Duration::ZERO));
        let expected =
            ["ack.1 +ACK", "ack.2 +TERM bad schema  field x", "ack.3 -NAK {\"delay\": 1000000}", "ack.4 -NAK"];
        assert_eq!(said(&lock(&settlements.hand("n")), 4), expected);
        lock(&settlements.hand("n")).settle(4);
        assert!(lock(&settlements.hand("n")).verdicts.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeat_of_what_is_in_hand_is_not_taken_twice() {
        let mut hand = hand(&[1, 2]);
        tokio::time::advance(Duration::from_secs(1)).await;
        let now = Instant::now();
        assert!(!hand.take(1, true, "ack.again".into(), now));
        assert!(hand.take(3, true, "ack.3".into(), now), "a repeat of what another had");
        assert_eq!(said(&hand, 3), ["ack.again +ACK", "ack.2 +ACK", "ack.3 +ACK"]);
        assert_eq!(hand.silent(now).map(Subject::as_str).collect::<Vec<_>>(), ["ack.2"]);
        hand.touch(now, now);
        assert_eq!(hand.silent(now).count(), 0);
    }

    #[tokio::test]
    async fn what_is_left_of_a_run_that_failed_is_given_back() {
        let mut hand = hand(&[1, 2]);
        assert_eq!(hand.drop_all().len(), 2);
        assert_eq!((hand.len(), hand.total()), (0, 0));
    }
}
