//! Numbers that look random, always the same for a seed.

/// 2^64 divided by the golden ratio: an odd number whose bits are well mixed.
pub const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads the bits: one multiplication is enough for a stream that nobody gambles with.
pub fn mixed(value: u64) -> u64 {
    (value ^ value >> 32).wrapping_mul(GOLDEN)
}

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        let value = mixed(mixed(self.0));
        value ^ value >> 29
    }

    /// Below the bound, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        (u128::from(self.next()) * u128::from(bound) >> 64) as u64
    }
}
