//! What a family of seeds is about.

use std::time::Duration;

/// The proxy's `op_timeout`.
pub const OP_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a reply takes at most while nodes are restarted in an orderly manner.
pub const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Which faults happen, and under which configuration.
pub struct Profile {
    pub read_policy: &'static str,
    /// A standalone server gets a copy of every write.
    pub mirror: bool,
    /// How many pipelines each client sends.
    pub batches: usize,
    /// Of a hundred pieces of bytes, so many are torn once more.
    pub torn: u8,
    /// Nodes are restarted one after the other, in an orderly manner.
    pub rolling: bool,
    /// Nodes that have been away come back at another address.
    pub new_addresses: bool,
    /// Nobody refuses connections to an address that is gone.
    pub silent_addresses: bool,
    /// Others get the addresses that are free. Nodes tell their ids; else some clusters do.
    pub strangers: bool,
    /// Weights of the faults; 0: never.
    pub cut: u32,
    pub reshard: u32,
    pub fail_over: u32,
    pub silence: u32,
    pub refuse: u32,
    pub session_requests: usize,
    pub session_bytes: usize,
    pub connection_bytes: usize,
    pub held_bytes: usize,
    pub subscriber_bytes: usize,
    pub mirror_bytes: usize,
    /// Replies of more bytes are handed on as they come.
    pub reply_bytes: usize,
    pub waiting_reply_bytes: usize,
}

/// Nothing goes wrong.
pub const PEACEFUL: Profile = Profile {
    read_policy: "MASTER",
    mirror: false,
    batches: 40,
    torn: 20,
    rolling: false,
    new_addresses: false,
    silent_addresses: false,
    strangers: false,
    cut: 0,
    reshard: 0,
    fail_over: 0,
    silence: 0,
    refuse: 0,
    session_requests: 1000,
    session_bytes: 1 << 20,
    connection_bytes: 1 << 20,
    held_bytes: 1 << 20,
    subscriber_bytes: 1 << 20,
    mirror_bytes: 1 << 20,
    reply_bytes: 1 << 20,
    waiting_reply_bytes: 1 << 20,
};

/// Nothing goes wrong, but all nodes are restarted and come back elsewhere.
pub const ORDERLY: Profile = Profile {
    batches: 100,
    rolling: true,
    new_addresses: true,
    silent_addresses: true,
    ..PEACEFUL
};

impl Profile {
    pub fn reads_from_replicas(&self) -> bool {
        self.read_policy != "MASTER"
    }

    pub fn is_peaceful(&self) -> bool {
        self.weights() == [0; 5] && !self.rolling
    }

    pub fn weights(&self) -> [u32; 5] {
        [self.cut, self.reshard, self.fail_over, self.silence, self.refuse]
    }
}
