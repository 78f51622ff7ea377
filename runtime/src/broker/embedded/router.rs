//! [`Router`]: which subscriptions a message goes to.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::hook::{Fate, Hook};
use crate::broker::{Incoming, Subject, matches};

/// One subscription.
pub(super) struct Listener {
    id: u64,
    client: u64,
    pattern: Subject,
    group: Option<Box<str>>,
    sender: mpsc::Sender<Incoming>,
    dropped: Arc<AtomicU64>,
}

// In each run in the same order: whose request is forgotten first wakes first.
type Alike = BuildHasherDefault<DefaultHasher>;

/// The subscriptions of all links, and the requests that wait for an answer.
#[derive(Default)]
pub(super) struct Router {
    literal: HashMap<Subject, Vec<Listener>, Alike>,
    patterns: Vec<Listener>,
    requests: HashMap<Subject, (u64, oneshot::Sender<Incoming>), Alike>,
    last_id: u64,
    /// Turns through the members of queue groups.
    turn: usize,
    hook: Option<Arc<dyn Hook>>,
    /// What waits on its way to clients, in order: under which number, and where it goes.
    held: Vec<(u64, Subject, Incoming)>,
}

impl Router {
    pub(super) fn new(hook: Option<Arc<dyn Hook>>) -> Self {
        Router { hook, ..Router::default() }
    }

    pub(super) fn subscribe(
        &mut self,
        client: u64,
        pattern: Subject,
        group: Option<&str>,
        sender: mpsc::Sender<Incoming>,
        dropped: Arc<AtomicU64>,
    ) {
        self.last_id += 1;
        let listener = Listener { id: self.last_id, client, group: group.map(Into::into), sender, dropped, pattern };
        if listener.pattern.split('.').any(|token| token == "*" || token == ">") {
            self.patterns.push(listener);
        } else {
            self.literal.entry(listener.pattern.clone()).or_default().push(listener);
        }
        // New ones are a good moment to forget those that nobody reads any more.
        self.patterns.retain(|l| !l.sender.is_closed());
        if self.last_id.is_multiple_of(64) {
            self.literal.retain(|_, listeners| {
                listeners.retain(|l| !l.sender.is_closed());
                !listeners.is_empty()
            });
        }
    }

    /// Expects the answer of a request on `reply`.
    pub(super) fn expect(&mut self, client: u64, reply: Subject, sender: oneshot::Sender<Incoming>) {
        if self.requests.len() > 1024 {
            self.requests.retain(|_, (_, sender)| !sender.is_closed());
        }
        self.requests.insert(reply, (client, sender));
    }

    /// Whether anybody listens on `subject`.
    pub(super) fn hears(&self, subject: &str) -> bool {
        self.requests.get(subject).is_some_and(|(_, sender)| !sender.is_closed())
            || self.literal.get(subject).is_some_and(|all| all.iter().any(|l| !l.sender.is_closed()))
            || self.patterns.iter().any(|l| !l.sender.is_closed() && matches(&l.pattern, subject))
    }

    /// Delivers a message to who listens on its subject; says whether anybody does.
    pub(super) fn deliver(&mut self, message: Incoming) -> bool {
        let to = message.subject.clone();
        self.deliver_to(&to, message)
    }

    /// Delivers a message to who listens on `to`: a consumer's delivery keeps the subject it was published to.
    pub(super) fn deliver_to(&mut self, to: &Subject, message: Incoming) -> bool {
        if let Some(hook) = &self.hook {
            match hook.on_deliver_to(self.client_at(to), &message) {
                Fate::Pass | Fate::Delay(_) => {}
                Fate::Lose => return true,
                Fate::Repeat => _ = self.hand_over(to, message.clone()),
                Fate::Hold(number) => {
                    self.held.push((number, to.clone(), message));
                    return true;
                }
            }
        }
        self.hand_over(to, message)
    }

    /// Whose the first listener on a subject is.
    fn client_at(&self, to: &Subject) -> u64 {
        let asker = self.requests.get(to.as_str()).map(|(client, _)| *client);
        let listener = || self.literal.get(to.as_str())?.iter().find(|l| !l.sender.is_closed());
        let wild = || self.patterns.iter().find(|l| !l.sender.is_closed() && matches(&l.pattern, to));
        asker.or_else(|| Some(listener().or_else(wild)?.client)).unwrap_or(0)
    }

    /// Lets what waits under this number go on to clients.
    pub(super) fn release(&mut self, number: u64) {
        for (_, to, message) in self.held.extract_if(.., |(held, ..)| *held == number).collect::<Vec<_>>() {
            self.hand_over(&to, message);
        }
    }

    fn hand_over(&mut self, to: &Subject, message: Incoming) -> bool {
        let message = match self.requests.remove(to.as_str()) {
            Some((_, sender)) => match sender.send(message) {
                Ok(()) => return true,
                Err(message) => message,
            },
            None => message,
        };
        let literal = self.literal.get(to.as_str()).map_or(&[][..], Vec::as_slice);
        let wild = self.patterns.iter().filter(|l| matches(&l.pattern, to));
        let mut heard = false;
        let mut groups: Vec<(&str, Vec<&Listener>)> = Vec::new();
        // The last one gets the message itself; the others, which are rare, a copy.
        let mut last: Option<&Listener> = None;
        for listener in literal.iter().chain(wild).filter(|l| !l.sender.is_closed()) {
            heard = true;
            if let Some(group) = listener.group.as_deref() {
                match groups.iter_mut().find(|(name, _)| *name == group) {
                    Some((_, members)) => members.push(listener),
                    None => groups.push((group, vec![listener])),
                }
            } else if let Some(earlier) = last.replace(listener) {
                earlier.send(message.clone());
            }
        }
        for (_, members) in groups {
            self.turn = self.turn.wrapping_add(1);
            if let Some(member) = members.get(self.turn % members.len().max(1))
                && let Some(earlier) = last.replace(*member)
            {
                earlier.send(message.clone());
            }
        }
        if let Some(listener) = last {
            listener.send(message);
        }
        heard
    }

    /// Forgets every request: their answers are lost.
    pub(super) fn forget_requests(&mut self) {
        self.requests.clear();
    }
}

impl Listener {
    fn send(&self, message: Incoming) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.sender.try_send(message) {
            tracing::debug!(pattern = %self.pattern, id = self.id, "a subscription is full; a message was dropped");
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
