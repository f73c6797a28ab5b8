//! What nodes have executed, and what was lost with them.

use std::collections::{BTreeSet, HashMap};

/// The truth that clients' histories are held against.
#[derive(Default)]
pub struct Journal {
    /// When each written text was executed, in numbers that count up.
    executions: HashMap<Vec<u8>, Vec<u64>>,
    count: u64,
    /// Keys of which a failover has lost a write.
    lost: BTreeSet<Vec<u8>>,
}

impl Journal {
    pub fn note(&mut self, token: &[u8]) {
        self.count += 1;
        self.executions.entry(token.to_vec()).or_default().push(self.count);
    }

    pub fn note_lost(&mut self, key: &[u8]) {
        self.lost.insert(key.to_vec());
    }

    pub fn executions(&self, token: &[u8]) -> &[u64] {
        self.executions.get(token).map_or(&[], |times| times)
    }

    pub fn has_lost(&self, key: &[u8]) -> bool {
        self.lost.contains(key)
    }

    pub fn has_lost_any(&self) -> bool {
        !self.lost.is_empty()
    }
}
