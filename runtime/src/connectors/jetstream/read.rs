//! [`JetStreamRead`] and [`Share`]: what a source reads, and how.

use std::time::Duration;

use millstream_operators::Problem;

use super::position::{OnGap, Start};

/// What a source reads, and how.
#[derive(Clone, Debug)]
pub struct JetStreamRead {
    /// The stream.
    pub stream: String,
    /// Which of its subjects; none for all.
    pub subjects: Vec<String>,
    /// Where to begin when there is no checkpoint; where sharing, when there is no consumer.
    pub start: Start,
    /// What happens when messages are gone that were not read yet. A shared source cannot know, and only warns of
    /// streams where it may happen.
    pub on_gap: OnGap,
    /// How many messages may be delivered and not yet part of a checkpoint; where sharing, to all processes together.
    pub max_ack_pending: u32,
    /// Whether other processes of the pipeline read with this one, and how.
    pub share: Option<Share>,
}

/// How a source shares a stream with other processes of its pipeline.
///
/// One durable consumer hands each message to one of them, in no order. It is acknowledged when the outputs of all that
/// came of it are confirmed; while a process works on it, it says so every third of `ack_wait`. What a process has when
/// it is killed comes again, to any of them, `ack_wait` later; what it has not begun when it is stopped, at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// How long the server waits for a sign of life before it gives a message to another process.
    pub ack_wait: Duration,
    /// How often a message is delivered at most; without it, until it is done. A message that is given up stays in the
    /// stream, and the log names it. Every restart of a process counts for all that it had in hand.
    pub max_deliver: Option<u32>,
    /// What to wait in place of `ack_wait` after the first, the second, ... delivery.
    pub backoff: Vec<Duration>,
    /// How many messages one process may have in hand. Set it low where each takes long: what one has, no other can do,
    /// and what is on its way through the pipeline is worked through before the process stops.
    pub prefetch: u32,
}

impl Default for Share {
    fn default() -> Self {
        Share { ack_wait: Duration::from_secs(30), max_deliver: None, backoff: Vec::new(), prefetch: 4_096 }
    }
}

// The server looks at what is overdue about once a second, and the signs of life must have time to arrive.
const SHORTEST: Duration = Duration::from_secs(1);

impl JetStreamRead {
    /// All subjects of a stream, from its first message.
    pub fn of(stream: impl Into<String>) -> Self {
        JetStreamRead {
            stream: stream.into(),
            subjects: Vec::new(),
            start: Start::default(),
            on_gap: OnGap::default(),
            max_ack_pending: 100_000,
            share: None,
        }
    }

    /// What is wrong with it as the settings of the node `node`.
    pub fn problems(&self, node: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut wrong = |setting: &str, what: String, help: &str| {
            problems.push(Problem::at(node, what).in_setting(setting).help(help));
        };
        if self.max_ack_pending == 0 {
            wrong("max_ack_pending", "with 0, nothing would ever be delivered".into(), "leave it out for 100000");
        }
        let Some(share) = &self.share else { return problems };
        if share.prefetch == 0 {
            wrong("prefetch", "with 0, nothing would ever be delivered".into(), "leave it out for 4096");
        }
        if share.ack_wait < SHORTEST {
            let what = format!("{:?} is too short: messages in hand would be given to others", share.ack_wait);
            wrong("ack_wait", what, "a second at least; 30 s where nothing speaks for less");
        }
        if let Some(short) = share.backoff.iter().find(|wait| **wait < SHORTEST) {
            let what = format!("{short:?} is too short: messages in hand would be given to others");
            wrong("backoff", what, "a second at least each");
        }
        match share.max_deliver {
            Some(0) => wrong("max_deliver", "with 0, nothing would ever be delivered".into(), "1 at least"),
            Some(most) if share.backoff.len() > most as usize => {
                let what = format!("{} waits for at most {most} deliveries", share.backoff.len());
                wrong("backoff", what, "as many waits as `max_deliver` at most");
            }
            _ => {}
        }
        problems
    }
}

impl Share {
    /// How often to show that a message in hand is worked on.
    pub(super) fn keep_every(&self) -> Duration {
        self.backoff.iter().copied().fold(self.ack_wait, Duration::min) / 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blamed(share: Share) -> Vec<String> {
        let read = JetStreamRead { share: Some(share), ..JetStreamRead::of("S") };
        read.problems("s").into_iter().filter_map(|problem| problem.setting).collect()
    }

    #[test]
    fn what_cannot_work_is_refused_by_setting() {
        let second = Duration::from_secs(1);
        assert_eq!(blamed(Share::default()), [""; 0]);
        assert_eq!(blamed(Share { ack_wait: second / 2, prefetch: 0, ..Share::default() }), ["prefetch", "ack_wait"]);
        assert_eq!(blamed(Share { max_deliver: Some(0), ..Share::default() }), ["max_deliver"]);
        let backoff = vec![second, second * 5, second / 2];
        assert_eq!(blamed(Share { max_deliver: Some(2), backoff, ..Share::default() }), ["backoff", "backoff"]);
        let read = JetStreamRead { max_ack_pending: 0, ..JetStreamRead::of("S") };
        assert_eq!(read.problems("s").len(), 1);
    }

    #[test]
    fn signs_of_life_come_three_times_in_the_shortest_wait() {
        let second = Duration::from_secs(1);
        assert_eq!(Share::default().keep_every(), second * 10);
        let backoff = vec![second * 3, second * 60];
        assert_eq!(Share { backoff, ..Share::default() }.keep_every(), second);
    }
}
