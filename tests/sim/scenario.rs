//! [`Scenario`]: all that happens in one simulation, drawn from a seed.

use super::beside::Beside;
use super::oracle::{Event, LATE, START, WINDOW};
use super::reached::{Cell, Reached};
use super::steps::Origin;
use crate::support::Dice;

/// What is fed, how the pipeline runs and ends and runs again, and what goes wrong on the way.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where it comes from.
    pub origin: Origin,
    /// Whether each output must be there once.
    pub once: bool,
    /// Whether the pipeline keeps no state, so that positions are stored beside the outputs.
    pub stateless: bool,
    /// Whether every other run of such a pipeline has a step with which outputs wait for checkpoints.
    pub mixed: bool,
    /// How often checkpoints are made, in milliseconds.
    pub interval: u64,
    /// How many rows a batch has at most, and how many rows and bytes a channel.
    pub bounds: (usize, usize, usize),
    /// What decides in which order tasks go on, and whose messages are held back for others meanwhile.
    pub order: u64,
    /// What is fed, in order.
    pub events: Vec<Event>,
    /// How many of the events are there before the first run; the others come one by one.
    pub fed_before: usize,
    /// How many of the events, the last ones, come when nothing goes wrong any more.
    pub probes: usize,
    /// The runs but for the last, which has no faults and ends when all is done: with how many subtasks, and how they end.
    pub runs: Vec<(u32, Ending)>,
    /// Whether rows of a key stay together where each gives one.
    pub keyed: bool,
    /// How long windows take rows that come behind their end, in milliseconds.
    pub allowed: u64,
    /// What is fed to a second stream, if there is one.
    pub beside: Option<Beside>,
    /// What happens to the stream of events at the end, before the last run or under it.
    pub loss: Option<Loss>,
    /// The number of subtasks of the last run.
    pub last: u32,
    /// What goes wrong, and when.
    pub strikes: Vec<Strike>,
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As if killed, when so many messages have passed since it began: from then on none of its messages arrives.
    Crash(u64),
    /// As if killed right behind its so many'th message to a subject that begins so.
    CrashBehind(&'static str, u64),
    /// Asked to drain after so many milliseconds.
    Drain(u64),
    /// It does not: after so many milliseconds the next begins beside it.
    Twin(u64),
    /// After so many milliseconds it stands still for so many, and the next begins in its place; then it goes on.
    Frozen(u64, u64),
}

const PIECES: &str = "$O.mill_sim.";

/// What crashes come right behind of: checkpoints, their pieces, acknowledgements, markers and outputs begin so.
pub(super) const AIMS: [(&str, Cell); 6] = [
    ("$KV.mill_sim.", Cell::BehindCheckpoint),
    (PIECES, Cell::BehindPiece),
    ("$JS.ACK.IN.", Cell::BehindAck),
    ("mill.txn.", Cell::BehindMarker),
    ("totals.", Cell::BehindOutput),
    ("mill.dlq.", Cell::BehindLetter),
];

/// How the stream of events comes not to have any more what was not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It is purged ahead of the reader.
    Purged,
    /// It is deleted, and created again with as many messages.
    Recreated,
    /// It is purged while a run reads it, ahead of what that has asked for.
    PurgedUnder,
    /// It is deleted while a run reads it, and created again with more messages.
    RecreatedUnder,
}

/// Something that goes wrong when so many messages have passed since the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// When.
    pub at: u64,
    /// What.
    pub what: What,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The next so many messages to the broker are lost, in silence.
    LosePublishes(u64),
    /// The next so many messages from the broker are lost, in silence.
    LoseDeliveries(u64),
    /// The next so many messages to the broker come so many milliseconds later.
    Delay(u64, u64),
    /// All links are cut and made anew.
    Cut,
    /// The next so many deliveries come twice.
    Repeat(u64),
    /// The server is killed, and is there again after so many milliseconds, with what it had written down.
    Kill {
        /// How long it is away.
        millis: u64,
        /// Whether what clients say while they know that it is away waits for it, or is lost.
        keeps: bool,
        /// Whether it had not written down any acknowledgement.
        forgets_acks: bool,
    },
    /// The server stands still for so many milliseconds.
    Stop(u64),
    /// The process of which a message passes then stands still for so many milliseconds: what it says comes late, and it
    /// hears late.
    Freeze(u64),
    /// The stream of dead letters takes none for so many milliseconds.
    RefuseDeadLetters(u64),
}

impl Scenario {
    /// The scenario of a seed.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        // Dice of seeds that are near each other begin alike.
        (0..8).for_each(|_| _ = dice.below(2));
        let events = Event::some(&mut dice);
        // Each seed has some kinds of faults only: together they would hide each other.
        let (crashes, twins, delays) = (dice.below(4) > 0, dice.below(2) == 0, dice.below(2) == 0);
        let (losses, cuts) = (dice.below(2) == 0, dice.below(3) == 0);
        let (kills, stops, refusals) = (dice.below(2) == 0, dice.below(3) == 0, dice.below(4) == 0);
        let mut runs = Vec::new();
        for _ in 0..dice.below(5) {
            let ending = match dice.below(3) {
                0 if twins && stops => Ending::Frozen(dice.below(400), up_to(&mut dice, 13)),
                0 if twins => Ending::Twin(dice.below(400)),
                1 => Ending::Drain(dice.below(400)),
                _ if crashes && dice.below(2) == 0 => {
                    // Where state is stored in pieces, often behind one of them.
                    let is_long = events.first().is_some_and(|event| event.long);
                    let aim = match is_long && dice.below(2) == 0 {
                        true => PIECES,
                        false => AIMS[below(&mut dice, AIMS.len() as u64) as usize].0,
                    };
                    Ending::CrashBehind(aim, 1 + up_to(&mut dice, 4))
                }
                _ if crashes => Ending::Crash(1 + up_to(&mut dice, 11)),
                _ => Ending::Drain(dice.below(100)),
            };
            runs.push((1 + below(&mut dice, 4), ending));
        }
        let mut strikes = Vec::new();
        for _ in 0..dice.below(10) {
            let what = match dice.below(9) {
                0 if losses => What::LosePublishes(1 + dice.below(3)),
                1 if losses => What::LoseDeliveries(1 + dice.below(3)),
                2 if losses => What::Repeat(1 + dice.below(3)),
                3 if cuts => What::Cut,
                4 if delays => What::Delay(1 + up_to(&mut dice, 5), up_to(&mut dice, 13)),
                5 | 6 if kills => {
                    let (keeps, forgets_acks) = (dice.below(2) == 0, dice.below(2) == 0);
                    What::Kill { millis: up_to(&mut dice, 13), keeps, forgets_acks }
                }
                7 if stops && dice.below(2) == 0 => What::Freeze(up_to(&mut dice, 14)),
                7 if stops => What::Stop(up_to(&mut dice, 14)),
                8 if refusals => What::RefuseDeadLetters(up_to(&mut dice, 13)),
                _ => continue,
            };
            strikes.push(Strike { at: up_to(&mut dice, 12), what });
        }
        strikes.sort_by_key(|strike| strike.at);
        let mut events = events;
        let fed_before = below(&mut dice, events.len() as u64 + 1) as usize;
        let (once, interval) = (dice.below(3) > 0, [10, 20, 50, 200][below(&mut dice, 4) as usize]);
        let last = 1 + below(&mut dice, 4);
        let stateless = dice.below(3) == 0;
        let mixed = stateless && dice.below(3) == 0;
        let contested = runs.iter().any(|(_, ending)| matches!(ending, Ending::Twin(_) | Ending::Frozen(..)));
        let loss = match dice.below(24) {
            0 if !contested => Some(Loss::Purged),
            1 if !contested => Some(Loss::Recreated),
            2 if !contested => Some(Loss::PurgedUnder),
            3 if !contested => Some(Loss::RecreatedUnder),
            _ => None,
        };
        let mut probes = 0;
        if loss.is_none() && dice.below(2) == 0 {
            let last = Event::probes(&events);
            probes = last.len();
            events.extend(last);
        }
        let once = once || stateless;
        let pick = |sizes: [usize; 6], which: u32| sizes[which as usize];
        let bounds = (
            pick([1_024, 1_024, 1_024, 64, 7, 1], below(&mut dice, 6)),
            pick([8_192, 8_192, 8_192, 64, 5, 1], below(&mut dice, 6)),
            pick([8 << 20, 8 << 20, 8 << 20, 8 << 20, 2_048, 64], below(&mut dice, 6)),
        );
        let is_new = dice.below(4) > 0;
        if is_new {
            Event::are_new(&mut events);
        }
        Event::some_far(&mut dice, &mut events, probes);
        let beside = (!stateless && loss.is_none() && dice.below(3) == 0).then(|| Beside::of(&mut dice, &events));
        if beside.is_some() {
            // Time goes on with them.
            let first = events.len() - probes;
            events.iter_mut().skip(first).for_each(|event| event.at += 2 * WINDOW);
        }
        let keyed = dice.below(2) == 0;
        let (origin, order) = (Origin::Seed(seed), dice.below(u64::MAX));
        // Within the longer of these none is too late.
        let allowed = [0, 0, 2 * WINDOW, 3 * WINDOW + 2 * LATE][below(&mut dice, 4) as usize];
        Scenario {
            origin,
            once,
            stateless,
            mixed,
            interval,
            bounds,
            order,
            events,
            fed_before,
            probes,
            runs,
            keyed,
            allowed,
            beside,
            loss,
            last,
            strikes,
        }
    }

    /// The events that are fed while things may go wrong, and those that come later.
    pub(super) fn parts(&self) -> (&[Event], &[Event]) {
        self.events.split_at(self.events.len().saturating_sub(self.probes))
    }

    /// What is fed to the second stream.
    pub(super) fn side(&self) -> &[Event] {
        self.beside.as_ref().map_or(&[], |beside| &beside.events)
    }

    /// What there is by itself.
    pub(super) fn reached(&self) -> Reached {
        let mut reached = Reached::default();
        reached.note(match (self.stateless, self.once) {
            (true, _) => Cell::Stateless,
            (_, true) => Cell::Once,
            (_, false) => Cell::Least,
        });
        reached.note_if(self.mixed && self.runs.len() > 1, Cell::Mixed);
        let (rows, channel_rows, channel_bytes) = self.bounds;
        reached.note_if(rows < 10, Cell::SmallBatches);
        reached.note_if(channel_rows < 10 || channel_bytes < 100, Cell::SmallChannels);
        reached.note_if(self.probes > 0, Cell::Probed);
        let is_far = |event: &Event| !self.stateless && event.far;
        reached.note_if(self.events.iter().any(|event| is_far(event) && event.at < START), Cell::FarRow);
        reached.note_if(self.events.iter().any(|event| is_far(event) && event.is_refused()), Cell::FarLetter);
        reached
    }

    /// Whether messages are lost or late, also to an instance that lives.
    pub(super) fn is_troubled(&self) -> bool {
        let troubles = |ending: &Ending| !matches!(ending, Ending::Drain(_) | Ending::Twin(_));
        !self.strikes.is_empty() || self.runs.iter().any(|(_, ending)| troubles(ending))
    }

    /// Whether messages may arrive behind what was said after them.
    pub(super) fn is_late(&self) -> bool {
        let late = |strike: &Strike| matches!(strike.what, What::Delay(..) | What::Freeze(_));
        self.is_contested() || self.strikes.iter().any(late)
    }

    /// Whether each output must be there exactly once: where that is promised, and where runs are only asked to drain.
    pub(super) fn stores_once(&self) -> bool {
        self.once || !self.is_troubled() && !self.is_contested()
    }

    /// Whether rows come out in the order of the events: nowhere are they spread.
    pub(super) fn is_ordered(&self) -> bool {
        self.stateless && self.last == 1 && self.runs.iter().all(|(subtasks, _)| *subtasks == 1)
    }

    /// Whether instances run beside each other: of two that start at one moment, either may take over.
    pub(super) fn is_contested(&self) -> bool {
        self.runs.iter().any(|(_, ending)| matches!(ending, Ending::Twin(_) | Ending::Frozen(..)))
    }
}

/// Often little, and up to so many bits.
fn up_to(dice: &mut Dice, bits: u64) -> u64 {
    let bits = dice.below(bits) + 1;
    dice.below(1 << bits)
}

fn below(dice: &mut Dice, bound: u64) -> u32 {
    u32::try_from(dice.below(bound)).unwrap_or(0)
}
