//! Numbers in no order, and in the same one each time.

/// A row of them (xorshift), from a seed that is not 0.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next one, less than `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}
