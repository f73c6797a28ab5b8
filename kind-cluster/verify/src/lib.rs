//! What the load in a pod tells to whoever started it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What happened so far; the load prints one as a line of JSON now and then, and one at its end.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Report {
    /// Right replies.
    pub replies: u64,
    /// For each client, the number of its last write that was acknowledged.
    pub acknowledged: Vec<u64>,
    /// Wrong replies and broken connections.
    pub errors: BTreeMap<String, Failure>,
    /// The longest that a client had no right reply, in milliseconds.
    pub longest_pause: u64,
    /// When that ended, in milliseconds since the load began.
    pub longest_pause_end: u64,
    /// Writes that were acknowledged and cannot be read at the end.
    pub lost: Vec<String>,
    /// Whether this is the last one.
    pub ended: bool,
}

/// An error and how often it was met.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Failure {
    /// How often.
    pub count: u64,
    /// When it was met first, in milliseconds since the load began.
    pub first: u64,
}

impl Report {
    /// All errors together.
    pub fn failures(&self) -> u64 {
        self.errors.values().map(|failure| failure.count).sum()
    }

    /// The longest that a client had no right reply.
    pub fn longest_pause(&self) -> Duration {
        Duration::from_millis(self.longest_pause)
    }
}

/// The key that a client of the load named `load` writes for the `number`th time.
pub fn key(load: &str, client: usize, number: u64) -> String {
    format!("{load}:{client}:{}", number % KEYS)
}

/// Keys of each client.
pub const KEYS: u64 = 100;
