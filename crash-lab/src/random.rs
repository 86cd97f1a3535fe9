//! Numbers that are the same in every run with the same seed.

use xxhash_rust::xxh3::xxh3_64;

pub struct Random(u64);

impl Random {
    /// Each `purpose` has its own, independent sequence.
    pub fn new(seed: u64, purpose: &str) -> Self {
        Random(seed ^ xxh3_64(purpose.as_bytes()))
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(1);
        (xxh3_64(&self.0.to_le_bytes()) % limit as u64) as usize
    }

    pub fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end + 1));
        }
    }
}
