//! [`Faults`]: what becomes of messages between the processes and the broker.
//!
//! It only decides about messages. What befalls the broker as a whole is a [`Deed`], which the [nemesis](super::nemesis) does:
//! a hook must not call the broker.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::time::Duration;

use millstream::broker::{Embedded, Fate, Hook, Incoming, Outgoing};
use tokio::sync::Notify;

use super::scenario::{Strike, What};
use super::witness::Witness;

/// Under this number waits what the server does not take or give.
pub(super) const SERVER: u64 = 0;

/// Counts all messages, and strikes where the scenario says so.
#[derive(Default)]
pub(super) struct Faults {
    state: Mutex<State>,
    pub(super) crashed: Notify,
    pub(super) called: Notify,
}

#[derive(Default)]
struct State {
    passed: u64,
    strikes: Vec<Strike>,
    struck: u64,
    losing_publishes: u64,
    losing_deliveries: u64,
    repeating: u64,
    delaying: (u64, u64),
    /// Which process crashes when so many messages have passed, and those that did.
    crash_at: Option<(u64, u64)>,
    /// Which process crashes behind messages to such a subject, and behind how many more.
    crash_behind: Option<(u64, &'static str, u64)>,
    dead: Vec<u64>,
    /// Processes that stand still, and how often each was stopped and not yet let go on.
    frozen: BTreeMap<u64, u32>,
    server: Server,
    deeds: VecDeque<Deed>,
    trace: DefaultHasher,
    witness: Option<Witness>,
}

/// How the server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Server {
    #[default]
    Up,
    /// It was killed, and clients do not know it yet: what they say is lost.
    Killed,
    /// It is away, and clients know it: what they say waits, or is lost.
    Away { keeps: bool },
    /// It stands still, and all waits.
    Stopped,
}

/// What is to be done to the broker now.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deed {
    Cut,
    Restart { after: Duration, keeps: bool, forgets_acks: bool },
    LetServerGoOn { after: Duration },
    LetGoOn { client: u64, after: Duration },
    RefuseDeadLetters { during: Duration },
}

impl Faults {
    /// Looks from now on at what processes say, against what stands in the broker.
    pub(super) fn watch(&self, broker: &Embedded, witness: impl FnOnce(Embedded) -> Witness) {
        self.state.lock().unwrap().witness = Some(witness(broker.clone()));
    }

    /// Looks no more, and lets go of the broker, which has the faults itself. What the witness says.
    pub(super) fn dismiss(&self) -> Option<Witness> {
        self.state.lock().unwrap().witness.take()
    }

    /// A look at what stands in the broker at a moment when nothing is asked of it.
    pub(super) fn look(&self) {
        if let Some(witness) = &mut self.state.lock().unwrap().witness {
            witness.look();
        }
    }

    /// Up to which message of the stream the newest checkpoint goes, if there is one.
    pub(super) fn kept(&self) -> Option<u64> {
        self.state.lock().unwrap().witness.as_mut().and_then(Witness::kept)
    }

    /// From now on it strikes.
    pub(super) fn arm(&self, strikes: &[Strike]) {
        let mut state = self.state.lock().unwrap();
        let passed = state.passed;
        state.strikes = strikes.iter().map(|strike| Strike { at: strike.at + passed, ..*strike }).collect();
        // The next is the last.
        state.strikes.sort_by_key(|strike| std::cmp::Reverse(strike.at));
    }

    /// The process of this number crashes when so many messages have passed from now on.
    pub(super) fn crash_after(&self, client: u64, messages: u64) {
        let mut state = self.state.lock().unwrap();
        state.crash_at = Some((client, state.passed.saturating_add(messages)));
    }

    /// The process of this number crashes right behind its so many'th message to a subject that begins so.
    pub(super) fn crash_behind(&self, client: u64, aim: &'static str, messages: u64) {
        self.state.lock().unwrap().crash_behind = Some((client, aim, messages));
    }

    /// The process of this number is gone: nothing of it passes any more.
    pub(super) fn is_gone(&self, client: u64) {
        let mut state = self.state.lock().unwrap();
        (state.crash_at, state.crash_behind) = (None, None);
        state.dead.push(client);
    }

    /// The process of this number stands still for so long.
    pub(super) fn freeze(&self, client: u64, during: Duration) {
        self.state.lock().unwrap().freeze(client, during);
        self.called.notify_one();
    }

    /// The process of this number goes on, if nothing else keeps it; whether it does.
    pub(super) fn thaw(&self, client: u64) -> bool {
        let mut state = self.state.lock().unwrap();
        match state.frozen.get_mut(&client) {
            Some(times) if *times > 1 => {
                *times -= 1;
                false
            }
            _ => {
                state.frozen.remove(&client);
                true
            }
        }
    }

    /// How the server is now.
    pub(super) fn set_server(&self, server: Server) {
        self.state.lock().unwrap().server = server;
    }

    /// The next thing to be done to the broker.
    pub(super) fn next_deed(&self) -> Option<Deed> {
        self.state.lock().unwrap().deeds.pop_front()
    }

    /// Nothing more goes wrong; what has begun takes its time.
    pub(super) fn end(&self) {
        let mut state = self.state.lock().unwrap();
        state.strikes.clear();
        state.crash_behind = None;
        (state.crash_at, state.losing_publishes, state.losing_deliveries, state.repeating) = (None, 0, 0, 0);
        state.delaying = (0, 0);
    }

    /// How many messages there were, a digest of them all in their order, and how often something struck.
    pub(super) fn trace(&self) -> (u64, u64, u64) {
        let state = self.state.lock().unwrap();
        (state.passed, state.trace.finish(), state.struck)
    }
}

impl State {
    fn freeze(&mut self, client: u64, during: Duration) {
        *self.frozen.entry(client).or_default() += 1;
        self.deeds.push_back(Deed::LetGoOn { client, after: during });
    }

    /// What happens now, at a message of this process. Whether the broker is to be told.
    fn strike(&mut self, client: u64) -> bool {
        let (passed, deeds) = (self.passed, self.deeds.len());
        while let Some(strike) = self.strikes.pop_if(|strike| strike.at <= passed) {
            self.struck += 1;
            let up = self.server == Server::Up;
            match strike.what {
                What::LosePublishes(count) => self.losing_publishes += count,
                What::LoseDeliveries(count) => self.losing_deliveries += count,
                What::Repeat(count) => self.repeating += count,
                What::Delay(count, millis) => self.delaying = (count, millis),
                What::Cut => self.deeds.push_back(Deed::Cut),
                What::Kill { millis, keeps, forgets_acks } if up => {
                    self.server = Server::Killed;
                    let after = Duration::from_millis(millis);
                    self.deeds.push_back(Deed::Restart { after, keeps, forgets_acks });
                }
                What::Stop(millis) if up => {
                    self.server = Server::Stopped;
                    self.deeds.push_back(Deed::LetServerGoOn { after: Duration::from_millis(millis) });
                }
                What::Freeze(millis) => self.freeze(client, Duration::from_millis(millis)),
                What::RefuseDeadLetters(millis) => {
                    self.deeds.push_back(Deed::RefuseDeadLetters { during: Duration::from_millis(millis) });
                }
                What::Kill { .. } | What::Stop(_) => {}
            }
        }
        self.deeds.len() > deeds
    }

    fn fate(&mut self, client: u64, comes_from_client: bool, is_delivery: bool) -> Fate {
        match self.server {
            Server::Up => {}
            Server::Away { keeps: true } if comes_from_client => return Fate::Hold(SERVER),
            Server::Killed | Server::Away { .. } => return Fate::Lose,
            Server::Stopped => return Fate::Hold(SERVER),
        }
        if self.frozen.contains_key(&client) {
            return Fate::Hold(client);
        }
        let losing = if comes_from_client { &mut self.losing_publishes } else { &mut self.losing_deliveries };
        if let Some(left) = losing.checked_sub(1) {
            *losing = left;
            return Fate::Lose;
        }
        if comes_from_client && self.delaying.0 > 0 {
            self.delaying.0 -= 1;
            return Fate::Delay(Duration::from_millis(self.delaying.1));
        }
        if is_delivery && self.repeating > 0 {
            self.repeating -= 1;
            return Fate::Repeat;
        }
        Fate::Pass
    }
}

impl Faults {
    fn judge(&self, client: u64, comes_from_client: bool, is_delivery: bool, words: (&str, &[u8])) -> Fate {
        let mut state = self.state.lock().unwrap();
        state.passed += 1;
        (client, comes_from_client, words).hash(&mut state.trace);
        if state.dead.contains(&client) {
            return Fate::Lose;
        }
        if let Some((doomed, at)) = state.crash_at
            && state.passed >= at
        {
            state.crash_at = None;
            state.dead.push(doomed);
            self.crashed.notify_one();
            if doomed == client {
                return Fate::Lose;
            }
        }
        if state.strike(client) {
            self.called.notify_one();
        }
        if comes_from_client && let Some(witness) = &mut state.witness {
            let (subject, payload) = words;
            witness.hear(subject, payload);
        }
        let fate = state.fate(client, comes_from_client, is_delivery);
        if let Some((doomed, aim, left)) = &mut state.crash_behind
            && comes_from_client
            && *doomed == client
            && words.0.starts_with(*aim)
        {
            *left -= 1;
            if *left == 0 {
                state.crash_behind = None;
                state.dead.push(client);
                self.crashed.notify_one();
            }
        }
        fate
    }
}

impl Hook for Faults {
    fn on_publish_by(&self, client: u64, message: &Outgoing) -> Fate {
        // The world's own: what is fed, and what is looked at.
        if client == 0 {
            return Fate::Pass;
        }
        self.judge(client, true, false, (&message.subject, &message.payload))
    }

    fn on_deliver_to(&self, client: u64, message: &Incoming) -> Fate {
        if client == 0 {
            return Fate::Pass;
        }
        let is_delivery = message.reply.as_ref().is_some_and(|reply| reply.starts_with("$JS.ACK."));
        self.judge(client, false, is_delivery, (&message.subject, &message.payload))
    }
}
