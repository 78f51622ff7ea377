//! [`Alignment`]: waits for a barrier on every live input.

use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{Barrier, Epoch, Fault, Result};

/// Which inputs the barrier has come in on. An input that has closed is aligned.
#[derive(Debug)]
pub(crate) struct Alignment {
    inputs: Vec<Input>,
    waiting_for: Option<Barrier>,
    passed: Option<Epoch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Live,
    Blocked,
    Closed,
}

impl Alignment {
    pub(crate) fn new(inputs: usize) -> Self {
        Alignment { inputs: vec![Input::Live; inputs], waiting_for: None, passed: None }
    }

    /// Whether what comes from this input must wait until the barrier is through.
    pub(crate) fn is_blocked(&self, input: usize) -> bool {
        self.inputs.get(input) == Some(&Input::Blocked) && !planted(Bug::NoAlignment)
    }

    /// A barrier has come in; gives it when it is through on all live inputs, and unblocks them.
    ///
    /// # Errors
    /// When barriers come out of order, which would mean that the engine is wrong.
    pub(crate) fn barrier(&mut self, input: usize, barrier: Barrier) -> Result<Option<Barrier>> {
        let expected = self.waiting_for.map_or(barrier, |first| first);
        let forward = self.passed.is_none_or(|passed| barrier.epoch > passed);
        match self.inputs.get_mut(input) {
            Some(slot @ Input::Live) if expected == barrier && forward => *slot = Input::Blocked,
            state => {
                return Err(Fault::bug(format!("barrier {barrier:?} on an input that is {state:?}, at {expected:?}")));
            }
        }
        self.waiting_for = Some(barrier);
        Ok(self.through())
    }

    /// The input has ended; gives the barrier that was waiting for nobody else.
    pub(crate) fn close(&mut self, input: usize) -> Option<Barrier> {
        *self.inputs.get_mut(input)? = Input::Closed;
        self.through()
    }

    /// Whether all inputs have ended.
    pub(crate) fn all_closed(&self) -> bool {
        self.inputs.iter().all(|input| *input == Input::Closed)
    }

    fn through(&mut self) -> Option<Barrier> {
        if self.inputs.contains(&Input::Live) {
            return None;
        }
        let barrier = self.waiting_for.take()?;
        self.passed = Some(barrier.epoch);
        for input in &mut self.inputs {
            if *input == Input::Blocked {
                *input = Input::Live;
            }
        }
        Some(barrier)
    }
}

#[cfg(test)]
mod tests {
    use millstream_operators::Then;
    use proptest::prelude::*;

    use super::*;

    fn epoch(n: u64) -> Barrier {
        Barrier { epoch: Epoch(n), then: Then::GoOn }
    }

    #[test]
    fn a_barrier_is_through_when_all_inputs_have_it() {
        let mut alignment = Alignment::new(2);
        assert_eq!(alignment.barrier(0, epoch(1)).unwrap(), None);
        assert!(alignment.is_blocked(0) && !alignment.is_blocked(1));
        assert_eq!(alignment.barrier(1, epoch(1)).unwrap(), Some(epoch(1)));
        assert!(!alignment.is_blocked(0));
    }

    #[test]
    fn a_closed_input_is_aligned() {
        let mut alignment = Alignment::new(3);
        alignment.close(2);
        assert_eq!(alignment.barrier(0, epoch(1)).unwrap(), None);
        assert_eq!(alignment.close(1), Some(epoch(1)));
        assert_eq!(alignment.barrier(0, epoch(2)).unwrap(), Some(epoch(2)));
    }

    #[test]
    fn barriers_out_of_order_are_refused() {
        let mut alignment = Alignment::new(2);
        alignment.barrier(0, epoch(1)).unwrap();
        assert!(alignment.barrier(1, epoch(2)).is_err());
        let mut alignment = Alignment::new(1);
        alignment.barrier(0, epoch(2)).unwrap();
        assert!(alignment.barrier(0, epoch(1)).is_err());
    }

    proptest! {
        /// Whatever the interleaving, every epoch comes through once, in order, and only after all live inputs had it.
        #[test]
        fn each_epoch_comes_through_once_and_in_order(
            picks in proptest::collection::vec(0usize..4, 1..200),
            ends in proptest::collection::vec(0u64..6, 4),
        ) {
            let mut alignment = Alignment::new(4);
            let mut sent = [0u64; 4];
            let mut closed = [false; 4];
            let mut through = Vec::new();
            for input in picks {
                if alignment.is_blocked(input) || closed[input] { continue }
                let passed = if sent[input] == ends[input] {
                    closed[input] = true;
                    alignment.close(input)
                } else {
                    sent[input] += 1;
                    alignment.barrier(input, epoch(sent[input])).unwrap()
                };
                if let Some(barrier) = passed {
                    prop_assert!((0..4).all(|i| closed[i] || sent[i] >= barrier.epoch.0));
                    through.push(barrier.epoch.0);
                }
            }
            let expected: Vec<u64> = (1..=through.len() as u64).collect();
            prop_assert_eq!(through, expected);
        }
    }
}
