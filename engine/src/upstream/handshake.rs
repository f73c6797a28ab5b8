//! What a node hears first on a new connection.
//!
//! No command of a client follows before all of it is answered: a node that is failing, is full, or
//! refuses the proxy has then not seen any, and each can safely be sent elsewhere.

use crate::cluster::{Address, Proof};
use crate::config::{ClusterConfig, Credentials, Secret};
use crate::resp::{Protocol, encode};
use crate::upstream::connection::Purpose;
use crate::upstream::identities::Login;
use crate::upstream::pipeline::{Expect, Pipeline};

/// What the handshake depends on.
pub(super) struct Handshake<'a> {
    pub(super) config: &'a ClusterConfig,
    pub(super) address: &'a Address,
    pub(super) purpose: Purpose,
    pub(super) login: Login,
    pub(super) database: i64,
    /// What the node has to answer, so that no other one at its address gets a command.
    pub(super) proof: Proof,
    /// Replicas are to answer reads.
    pub(super) read_only: bool,
}

impl Handshake<'_> {
    /// A pipeline that begins with the handshake. Nothing behind it is written before
    /// [`Pipeline::open_gate`].
    pub(super) fn start(self) -> Pipeline {
        let mut pipeline = Pipeline::default();
        let mut say = |expect, words: &[&[u8]]| {
            let mut command = Vec::new();
            encode::command(&mut command, words);
            pipeline.push(expect, &command);
        };
        if let Some(Credentials { username, password, .. }) = self.credentials() {
            match username.as_ref().map(Secret::reveal) {
                Some(username) => say(Expect::Login, &[b"AUTH", username, password.reveal()]),
                None => say(Expect::Login, &[b"AUTH", password.reveal()]),
            }
        }
        match self.proof {
            Proof::None => {}
            Proof::Id => say(Expect::NodeId, &[b"CLUSTER", b"MYID"]),
            Proof::Topology => say(Expect::Membership, &[b"CLUSTER", b"SLOTS"]),
        }
        match (self.purpose, self.purpose.profile().protocol) {
            // In RESP3, HELLO tells.
            (Purpose::Dedicated(..), Protocol::Resp2) => say(Expect::ClientId, &[b"CLIENT", b"ID"]),
            (Purpose::Refresh, _) => {
                say(Expect::Hello, &[b"HELLO", b"2"]);
                say(Expect::Epoch, &[b"CLUSTER", b"INFO"]);
                say(Expect::Topology, &[b"CLUSTER", b"SLOTS"]);
            }
            (Purpose::Shared(..) | Purpose::Subscriber, Protocol::Resp2) => {}
            (_, Protocol::Resp3) => say(Expect::Hello, &[b"HELLO", b"3"]),
        }
        if self.database != 0 {
            say(Expect::Database, &[b"SELECT", self.database.to_string().as_bytes()]);
        }
        let is_shared = matches!(self.purpose, Purpose::Shared(..));
        if is_shared && self.config.enable_zone_discovery {
            say(Expect::Zone, &[b"INFO", b"server"]);
        }
        if is_shared && self.read_only {
            say(Expect::Nothing, &[b"READONLY"]);
        }
        if pipeline.is_empty() {
            pipeline.push(Expect::Nothing, super::PING);
        }
        pipeline.close_gate();
        pipeline
    }

    fn credentials(&self) -> Option<Credentials> {
        let fits =
            |only: &&Credentials| only.address.as_ref().is_none_or(|only| only == self.address);
        match &self.login {
            Login::Configured => self.config.credentials.iter().find(fits).cloned(),
            Login::Nobody => None,
            Login::User { name, password } => Some(Credentials {
                address: None,
                username: name.clone(),
                password: password.clone(),
            }),
        }
    }
}
