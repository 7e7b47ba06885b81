//! Numbers in no order, for offsets and for what files hold.

/// A row of them (xorshift), from a seed that is not 0.
pub struct Random(pub u64);

impl Random {
    /// The next one, less than `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
