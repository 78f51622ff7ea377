//! [`Faults`]: what becomes of messages between the processes and the broker.
//!
//! It only decides about messages. What befalls the broker as a whole is a [`Deed`], which the [nemesis](super::nemesis) does:
//! a hook must not call the broker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::time::Duration;

use millstream::broker::{Embedded, Fate, Hook, Incoming, Outgoing};
use tokio::sync::Notify;

use super::reached::{Cell, Reached};
use super::scenario::{AIMS, Strike, What};
use super::witness::Witness;
use crate::support::Dice;

/// Under this number waits what the server does not take or give.
pub(super) const SERVER: u64 = 0;
/// Under this number and more, by process, waits what lets other tasks go first.
pub(super) const HELD_BACK: u64 = 1 << 32;
// One message of so many begins such a wait.
const HOLDS_ONE_OF: u64 = 24;

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
    /// When strikes were armed, and at how many messages from then on there could be one.
    armed: u64,
    troubled: u64,
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
    reached: Reached,
    /// The processes that are within a batch of outputs, and those that said a piece of state last.
    in_batch: BTreeSet<u64>,
    in_state: BTreeSet<u64>,
    /// Where answers to checkpoints go.
    awaited: BTreeSet<String>,
    /// The last message of the stream of events that was delivered.
    read: u64,
    /// Now and then what a process says and hears waits until other tasks have come by.
    holding: Option<Dice>,
    held_back: BTreeSet<u64>,
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
    LetPass { client: u64, after: u64 },
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
        state.armed = passed;
        state.strikes =
            strikes.iter().map(|strike| Strike { at: strike.at.saturating_add(passed), ..*strike }).collect();
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

    /// Messages of processes are held back now and then, as the dice say.
    pub(super) fn hold_back(&self, dice: Dice) {
        self.state.lock().unwrap().holding = Some(dice);
    }

    /// What was held back of this process goes on; whether something was.
    pub(super) fn let_pass(&self, client: u64) -> bool {
        self.state.lock().unwrap().held_back.remove(&client)
    }

    /// Takes note of what else happened.
    pub(super) fn note(&self, happened: bool, cell: Cell) {
        self.state.lock().unwrap().reached.note_if(happened, cell);
    }

    /// What happened.
    pub(super) fn reached(&self) -> Reached {
        self.state.lock().unwrap().reached
    }

    /// The process of this number is gone: nothing of it passes any more.
    pub(super) fn is_gone(&self, client: u64) {
        let mut state = self.state.lock().unwrap();
        (state.crash_at, state.crash_behind) = (None, None);
        state.dead.push(client);
        _ = (state.in_batch.remove(&client), state.in_state.remove(&client));
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
        state.troubled = state.passed - state.armed;
        state.crash_behind = None;
        (state.crash_at, state.losing_publishes, state.losing_deliveries, state.repeating) = (None, 0, 0, 0);
        (state.delaying, state.holding) = ((0, 0), None);
    }

    /// At how many messages something could strike.
    pub(super) fn troubled(&self) -> u64 {
        self.state.lock().unwrap().troubled
    }

    /// How many messages there were, a digest of them all in their order, and how often something struck.
    pub(super) fn trace(&self) -> (u64, u64, u64) {
        let state = self.state.lock().unwrap();
        (state.passed, state.trace.finish(), state.struck)
    }
}

impl State {
    fn freeze(&mut self, client: u64, during: Duration) {
        self.reached.note(Cell::Froze);
        *self.frozen.entry(client).or_default() += 1;
        self.deeds.push_back(Deed::LetGoOn { client, after: during });
    }

    /// What happens now, at a message of this process to this subject.
    fn strike(&mut self, client: u64, words: &str) {
        let passed = self.passed;
        while let Some(strike) = self.strikes.pop_if(|strike| strike.at <= passed) {
            self.struck += 1;
            let up = self.server == Server::Up;
            match strike.what {
                What::LosePublishes(count) => self.losing_publishes += count,
                What::LoseDeliveries(count) => self.losing_deliveries += count,
                What::Repeat(count) => self.repeating += count,
                What::Delay(count, millis) => self.delaying = (count, millis),
                What::Cut => {
                    self.reached.note(Cell::Cut);
                    self.deeds.push_back(Deed::Cut);
                }
                What::Kill { millis, keeps, forgets_acks } if up => {
                    self.server = Server::Killed;
                    self.reached.note(Cell::Killed);
                    self.reached.note_if(!self.in_batch.is_empty(), Cell::KilledInBatch);
                    self.reached.note_if(!self.in_state.is_empty(), Cell::TornState);
                    let at_checkpoint = words.starts_with("$KV.mill_sim.") || self.awaited.contains(words);
                    self.reached.note_if(at_checkpoint, Cell::KilledAtCheckpoint);
                    self.reached.note_if(forgets_acks, Cell::ForgotAcks);
                    let after = Duration::from_millis(millis);
                    self.deeds.push_back(Deed::Restart { after, keeps, forgets_acks });
                }
                What::Stop(millis) if up => {
                    self.server = Server::Stopped;
                    self.reached.note(Cell::Stopped);
                    self.deeds.push_back(Deed::LetServerGoOn { after: Duration::from_millis(millis) });
                }
                What::Freeze(millis) => self.freeze(client, Duration::from_millis(millis)),
                What::RefuseDeadLetters(millis) => {
                    self.deeds.push_back(Deed::RefuseDeadLetters { during: Duration::from_millis(millis) });
                }
                What::Kill { .. } | What::Stop(_) => {}
            }
        }
    }

    fn fate(&mut self, (client, comes_from_client, is_delivery): (u64, bool, bool), payload: &[u8]) -> Fate {
        match self.server {
            Server::Up => {}
            Server::Away { keeps: true } if comes_from_client => {
                self.reached.note(Cell::KeptWords);
                return Fate::Hold(SERVER);
            }
            Server::Killed | Server::Away { .. } => return Fate::Lose,
            Server::Stopped => return Fate::Hold(SERVER),
        }
        if self.frozen.contains_key(&client) {
            return Fate::Hold(client);
        }
        let losing = if comes_from_client { &mut self.losing_publishes } else { &mut self.losing_deliveries };
        if let Some(left) = losing.checked_sub(1) {
            *losing = left;
            let cell = match (comes_from_client, is_delivery) {
                (true, _) => Some(Cell::LostPublish),
                (_, true) => Some(Cell::LostDelivery),
                _ => is_answer_to_publish(payload).then_some(Cell::LostAnswer),
            };
            cell.into_iter().for_each(|cell| self.reached.note(cell));
            return Fate::Lose;
        }
        if comes_from_client && self.delaying.0 > 0 {
            self.delaying.0 -= 1;
            self.reached.note(Cell::Late);
            return Fate::Delay(Duration::from_millis(self.delaying.1));
        }
        if is_delivery && self.repeating > 0 {
            self.repeating -= 1;
            self.reached.note(Cell::Repeated);
            return Fate::Repeat;
        }
        self.may_hold_back(client)
    }

    /// All of a process waits, in order: in time nothing is late, but other tasks go first.
    fn may_hold_back(&mut self, client: u64) -> Fate {
        if self.held_back.contains(&client) {
            return Fate::Hold(HELD_BACK + client);
        }
        let Some(dice) = &mut self.holding else { return Fate::Pass };
        if dice.below(HOLDS_ONE_OF) > 0 {
            return Fate::Pass;
        }
        let after = 1 + dice.below(20);
        self.held_back.insert(client);
        self.reached.note(Cell::HeldBack);
        self.deeds.push_back(Deed::LetPass { client, after });
        Fate::Hold(HELD_BACK + client)
    }

    /// Takes note of what a process is in the middle of.
    fn hear(&mut self, client: u64, message: &Outgoing) {
        if self.dead.contains(&client) {
            return;
        }
        if message.headers.get("Nats-Batch-Id").is_some() {
            match message.headers.get("Nats-Batch-Commit") {
                None => _ = self.in_batch.insert(client),
                Some(_) => _ = self.in_batch.remove(&client),
            }
        }
        match message.subject.strip_prefix("$O.mill_sim.") {
            Some(piece) if piece.starts_with("C.") => {
                self.reached.note(Cell::LongState);
                self.in_state.insert(client);
            }
            Some(_) => _ = self.in_state.remove(&client),
            None => {}
        }
        if message.subject.starts_with("$KV.mill_sim.")
            && let Some(reply) = &message.reply
        {
            self.awaited.insert(reply.to_string());
        }
    }

    /// Takes note of what the server tells a process.
    fn tell(&mut self, delivery: Option<&str>, payload: &[u8]) {
        if let Some(delivery) = delivery {
            let sequence = delivery.split('.').nth(2).and_then(|sequence| sequence.parse().ok()).unwrap_or(0);
            self.reached.note_if(sequence < self.read, Cell::Reread);
            self.read = self.read.max(sequence);
        } else if payload.starts_with(b"{\"") && payload.len() < 400 {
            let text = std::str::from_utf8(payload).unwrap_or_default();
            self.reached.note_if(text.contains("\"err_code\":10071"), Cell::Fenced);
            self.reached.note_if(text.contains("\"err_code\":10077"), Cell::Refused);
        }
    }

    /// The process of this number has just crashed.
    fn crashes(&mut self, client: u64) {
        self.dead.push(client);
        self.reached.note_if(self.in_batch.remove(&client), Cell::CrashedInBatch);
        self.reached.note_if(self.in_state.remove(&client), Cell::TornState);
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
            state.reached.note(Cell::Crashed);
            state.crashes(doomed);
            self.crashed.notify_one();
            if doomed == client {
                return Fate::Lose;
            }
        }
        let deeds = state.deeds.len();
        state.strike(client, words.0);
        if comes_from_client && let Some(witness) = &mut state.witness {
            let (subject, payload) = words;
            witness.hear(subject, payload);
        }
        let fate = state.fate((client, comes_from_client, is_delivery), words.1);
        if state.deeds.len() > deeds {
            self.called.notify_one();
        }
        if let Some((doomed, aim, left)) = &mut state.crash_behind
            && comes_from_client
            && *doomed == client
            && words.0.starts_with(*aim)
        {
            *left -= 1;
            if *left == 0 {
                let cell = AIMS.iter().find(|(known, _)| *known == *aim).map(|(_, cell)| *cell);
                state.crash_behind = None;
                cell.into_iter().for_each(|cell| state.reached.note(cell));
                state.crashes(client);
                self.crashed.notify_one();
            }
        }
        fate
    }
}

/// Whether this tells what became of a publish.
fn is_answer_to_publish(payload: &[u8]) -> bool {
    let text = std::str::from_utf8(payload).unwrap_or_default();
    text.len() < 200 && text.contains("\"seq\":") && text.contains("\"stream\":")
}

impl Hook for Faults {
    fn on_publish_by(&self, client: u64, message: &Outgoing) -> Fate {
        // The world's own: what is fed, and what is looked at.
        if client == 0 {
            return Fate::Pass;
        }
        self.state.lock().unwrap().hear(client, message);
        self.judge(client, true, false, (&message.subject, &message.payload))
    }

    fn on_deliver_to(&self, client: u64, message: &Incoming) -> Fate {
        if client == 0 {
            return Fate::Pass;
        }
        let delivery = message.reply.as_ref().and_then(|reply| reply.strip_prefix("$JS.ACK.IN."));
        let is_delivery = delivery.is_some();
        self.state.lock().unwrap().tell(delivery, &message.payload);
        self.judge(client, false, is_delivery, (&message.subject, &message.payload))
    }
}
