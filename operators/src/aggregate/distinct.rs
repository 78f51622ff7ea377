//! How many different values there are: [`count_distinct`] exactly, [`approx_distinct`] nearly.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Aggregate;
use crate::{Key, KeyWriter, StateKey, Timestamp};

/// How many different values there are; see [`count_distinct`].
#[derive(Clone, Copy)]
pub struct CountDistinct<F>(F);

/// Nearly how many different values there are; see [`approx_distinct`].
#[derive(Clone, Copy)]
pub struct ApproxDistinct<F>(F);

/// How many different values `of` gives for the rows. All of them are state.
pub fn count_distinct<F>(of: F) -> CountDistinct<F> {
    CountDistinct(of)
}

/// Nearly how many different values `of` gives for the rows, in 4 KiB at most: off by 1.6 % as a rule, and exact below a
/// few hundred. By HyperLogLog (Flajolet, Fusy, Gandouet and Meunier, 2007).
pub fn approx_distinct<F>(of: F) -> ApproxDistinct<F> {
    ApproxDistinct(of)
}

impl<T, V: StateKey, F: Fn(&T) -> V + Send + Sync + 'static> Aggregate<T> for CountDistinct<F> {
    type State = BTreeSet<V>;
    type Out = u64;

    fn start(&self) -> BTreeSet<V> {
        BTreeSet::new()
    }

    fn add(&self, values: &mut BTreeSet<V>, row: &T, _: Timestamp) {
        values.insert((self.0)(row));
    }

    fn merge(&self, values: &mut BTreeSet<V>, other: &BTreeSet<V>) {
        values.extend(other.iter().cloned());
    }

    fn result(&self, values: &BTreeSet<V>) -> u64 {
        values.len() as u64
    }
}

/// Hashes while they are few, and then the registers of HyperLogLog.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Sketch {
    /// All hashes.
    Few(BTreeSet<u64>),
    /// The highest rank seen in each register.
    Many(Vec<u8>),
}

// 4,096 registers: an error of 1.04 / sqrt(4096).
const BITS: u32 = 12;
const REGISTERS: usize = 1 << BITS;
const FEW: usize = 256;

impl Sketch {
    fn take(&mut self, hash: u64) {
        match self {
            Sketch::Few(hashes) => {
                hashes.insert(hash);
                if hashes.len() > FEW {
                    let hashes = std::mem::take(hashes);
                    *self = Sketch::Many(vec![0; REGISTERS]);
                    hashes.into_iter().for_each(|hash| self.take(hash));
                }
            }
            Sketch::Many(registers) => {
                let register = (hash >> (64 - BITS)) as usize;
                let rank = u8::try_from((hash << BITS | 1 << (BITS - 1)).leading_zeros() + 1).unwrap_or(u8::MAX);
                if let Some(highest) = registers.get_mut(register) {
                    *highest = (*highest).max(rank);
                }
            }
        }
    }

    fn merge(&mut self, other: &Sketch) {
        match (self, other) {
            (sketch, Sketch::Few(hashes)) => hashes.iter().for_each(|hash| sketch.take(*hash)),
            (Sketch::Many(ours), Sketch::Many(theirs)) => {
                ours.iter_mut().zip(theirs).for_each(|(ours, theirs)| *ours = (*ours).max(*theirs));
            }
            (sketch, many) => {
                let few = std::mem::replace(sketch, many.clone());
                sketch.merge(&few);
            }
        }
    }

    fn estimate(&self) -> u64 {
        let registers = match self {
            Sketch::Few(hashes) => return hashes.len() as u64,
            Sketch::Many(registers) => registers,
        };
        let count = REGISTERS as f64;
        let harmonic: f64 = registers.iter().map(|rank| 0.5f64.powi(i32::from(*rank))).sum();
        let raw = 0.7213 / (1.0 + 1.079 / count) * count * count / harmonic;
        let empty = registers.iter().filter(|rank| **rank == 0).count();
        // Where many registers are empty, counting those is nearer.
        let estimate = if raw <= 2.5 * count && empty > 0 { count * (count / empty as f64).ln() } else { raw };
        estimate.round() as u64
    }
}

/// The 64-bit FNV-1a hash with the finalizer of MurmurHash3, as FNV alone leaves the high bits of short keys alike.
struct Hash64(u64);

impl KeyWriter for Hash64 {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    }
}

fn hash(key: &impl Key) -> u64 {
    let mut fnv = Hash64(0xcbf2_9ce4_8422_2325);
    key.write_to(&mut fnv);
    let mut hash = fnv.0;
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

impl<T, V: Key, F: Fn(&T) -> V + Send + Sync + 'static> Aggregate<T> for ApproxDistinct<F> {
    type State = Sketch;
    type Out = u64;

    fn start(&self) -> Sketch {
        Sketch::Few(BTreeSet::new())
    }

    fn add(&self, sketch: &mut Sketch, row: &T, _: Timestamp) {
        sketch.take(hash(&(self.0)(row)));
    }

    fn merge(&self, sketch: &mut Sketch, other: &Sketch) {
        sketch.merge(other);
    }

    fn result(&self, sketch: &Sketch) -> u64 {
        sketch.estimate()
    }
}

impl<F> fmt::Debug for CountDistinct<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountDistinct")
    }
}

impl<F> fmt::Debug for ApproxDistinct<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApproxDistinct")
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::of;
    use super::*;

    #[test]
    fn counts_values_once() {
        assert_eq!(of(&count_distinct(|n: &u64| *n), &[1, 2, 1, 3, 2]), 3);
        assert_eq!(of(&approx_distinct(|n: &u64| *n), &[1, 2, 1, 3, 2]), 3);
    }

    #[test]
    fn the_estimate_is_within_five_percent_from_hundreds_to_a_million() {
        for values in [300u64, 5_000, 100_000, 1_000_000] {
            let mut sketch = Sketch::Few(BTreeSet::new());
            (0..values).for_each(|n| sketch.take(hash(&n)));
            let error = (sketch.estimate() as f64 - values as f64).abs() / values as f64;
            assert!(error < 0.05, "{values}: {}", sketch.estimate());
        }
    }

    #[test]
    fn sketches_of_any_size_can_be_put_together() {
        let sketch = |range: std::ops::Range<u64>| {
            let mut sketch = Sketch::Few(BTreeSet::new());
            range.for_each(|n| sketch.take(hash(&n)));
            sketch
        };
        let whole = sketch(0..2_000).estimate();
        for at in [0, 10, 1_000, 1_990, 2_000] {
            let mut parts = sketch(0..at);
            parts.merge(&sketch(at..2_000));
            assert_eq!(parts.estimate(), whole, "parted at {at}");
        }
    }
}
