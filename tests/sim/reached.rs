//! [`Reached`]: what befell simulations, and what they came to. What none of many comes to is not tried, whatever passes.

use std::fmt;

/// What happened in a simulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached(u64);

impl Reached {
    /// Takes note of something.
    pub(super) fn note(&mut self, cell: Cell) {
        self.0 |= 1 << cell as u64;
    }

    /// Takes note of something that happened if it did.
    pub(super) fn note_if(&mut self, happened: bool, cell: Cell) {
        if happened {
            self.note(cell);
        }
    }

    /// All that happened here or there.
    #[must_use]
    pub(super) fn and(self, other: Reached) -> Self {
        Reached(self.0 | other.0)
    }

    /// Whether this happened.
    pub fn has(self, cell: Cell) -> bool {
        self.0 & (1 << cell as u64) != 0
    }
}

/// In how many simulations each thing happened.
#[derive(Clone, Debug)]
pub struct Table([u64; Cell::ALL.len()]);

impl Default for Table {
    fn default() -> Self {
        Table([0; Cell::ALL.len()])
    }
}

impl Table {
    /// One more simulation.
    pub fn count(&mut self, reached: Reached) {
        for (count, cell) in self.0.iter_mut().zip(Cell::ALL) {
            *count += u64::from(reached.has(cell));
        }
    }

    /// What never happened.
    pub fn missing(&self) -> Vec<Cell> {
        self.0.iter().zip(Cell::ALL).filter(|(count, _)| **count == 0).map(|(_, cell)| cell).collect()
    }
}

impl fmt::Display for Table {
    /// Two things a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (count, cell)) in self.0.iter().zip(Cell::ALL).enumerate() {
            match place.is_multiple_of(2) {
                true if place + 1 < Cell::ALL.len() => write!(f, "{count:>8} {:<52}", cell.to_string())?,
                _ => writeln!(f, "{count:>8} {cell}")?,
            }
        }
        Ok(())
    }
}

macro_rules! cells {
    ($($cell:ident: $words:literal,)*) => {
        /// Something that may happen in a simulation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Cell {
            $(#[doc = $words] $cell,)*
        }

        impl Cell {
            /// All of them.
            pub const ALL: [Cell; [$($words),*].len()] = [$(Cell::$cell),*];
        }

        impl fmt::Display for Cell {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Cell::$cell => $words,)* })
            }
        }
    };
}

cells! {
    // Pipelines.
    Once: "each output once",
    Least: "each output at least once",
    Stateless: "no state",
    Mixed: "no state, now with checkpoints and now without",
    SmallBatches: "batches of few rows",
    SmallChannels: "channels with little room",
    // Messages.
    LostPublish: "a message to the server is lost",
    LostAnswer: "what became of a publish is not told",
    LostDelivery: "a delivery is lost",
    Late: "a message to the server comes late",
    Repeated: "a delivery comes twice",
    HeldBack: "messages of a process wait for other tasks",
    Reread: "a message is delivered to a later run again",
    Fenced: "the server refuses a stale write",
    Refused: "a full stream refuses a dead letter",
    Cut: "links are cut",
    // The server.
    Killed: "the server is killed",
    KilledInBatch: "the server is killed within a batch of outputs",
    KilledAtCheckpoint: "the server is killed at a checkpoint",
    ForgotAcks: "the killed server forgets acknowledgements",
    KeptWords: "what is said while it is away waits for it",
    Stopped: "the server stands still",
    // Processes.
    Crashed: "a process crashes at some message",
    CrashedInBatch: "a process crashes within a batch of outputs",
    BehindCheckpoint: "a process crashes right behind a checkpoint",
    BehindPiece: "a process crashes right behind a piece of one",
    BehindAck: "a process crashes right behind an acknowledgement",
    BehindMarker: "a process crashes right behind a marker",
    BehindOutput: "a process crashes right behind an output",
    BehindLetter: "a process crashes right behind a dead letter",
    TornState: "state is half stored when all stops",
    Froze: "a process stands still",
    Drained: "a process drains",
    FencedTwin: "a twin ends as it is fenced",
    FencedSleeper: "a process that stood still ends as it is fenced",
    FencedLast: "the last run is taken over and begins again",
    TwinAtEnd: "at the end a twin has taken over",
    StartedAgain: "a run starts again after a fault",
    WentOn: "a run goes on from a checkpoint",
    ScaledUp: "a run goes on with more subtasks",
    ScaledDown: "a run goes on with fewer subtasks",
    FourOwners: "keys are shared out among four subtasks",
    // Rows.
    LateRow: "a row comes too late for its window",
    GivenAgain: "a window gives more than one result",
    FarRow: "a row is far ahead of all others",
    FarLetter: "a row is far ahead of when it was stored",
    Idle: "an input is idle where two meet",
    Back: "an input that was idle is so again",
    LateBeside: "a row comes too late from an input that was idle",
    Pair: "rows meet",
    Alone: "a row meets none",
    DeadLetter: "a payload is a dead letter",
    ManyRows: "an event gives more rows than a batch takes",
    LongState: "state is stored in pieces of its own",
    Probed: "what was counted shows in a last row of each key",
    Purged: "input is lost before it is read",
    Recreated: "the stream of input is another",
    PurgedUnder: "input is lost under a run that reads it",
    RecreatedUnder: "the stream of input is another under a run that reads it",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_is_missing_and_all_have_a_place() {
        assert!(Cell::ALL.len() <= 64);
        let (mut one, mut table) = (Reached::default(), Table::default());
        one.note(Cell::Once);
        one.note_if(false, Cell::Least);
        table.count(one);
        table.count(one.and(one));
        assert_eq!(table.missing().len(), Cell::ALL.len() - 1);
        assert!(table.to_string().starts_with("       2 each output once "), "{table}");
    }
}
