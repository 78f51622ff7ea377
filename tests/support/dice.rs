//! [`Dice`]: numbers that look like chance and are the same for the same seed.

/// Marsaglia's xorshift64* (Journal of Statistical Software 8/14, 2003; Vigna, 2016).
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall alike for the same seed.
    pub fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % bound.max(1)
    }
}
