//! Strangers: each gets an address that a node has had, answers there as another Redis does, and
//! must never see a command of a client.

use std::time::Duration;

use slotmesh_engine::resp::{Protocol, encode};
use slotmesh_engine::{Instant, SLOTS};

use super::chaos::Change;
use super::cluster::{Cluster, Health, LinkId};
use super::node::take_command;
use super::world::World;

/// A node at whose address somebody else has answered for so long knows that it is not there.
const NOTICED: Duration = Duration::from_secs(1);

/// Another Redis, at an address that was a node's.
pub struct Stranger {
    address: String,
    kind: Kind,
    since: Instant,
}

/// What it is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A Redis that is no cluster.
    Standalone,
    /// A node of another cluster. It owns all slots there, or half of them.
    OtherCluster { all: bool },
    /// A node that has lost its nodes.conf: it has a new id, no data, and knows nobody.
    Forgetful,
}

/// A stranger's end of a connection.
pub struct Guest {
    address: String,
    input: Vec<u8>,
    protocol: Protocol,
}

impl Cluster {
    /// Whether somebody else than a node is at an address.
    pub fn is_strange(&self, address: &str) -> bool {
        self.strangers.iter().any(|stranger| stranger.address == address)
    }

    /// The same, and nodes have noticed.
    pub fn is_noticed(&self, address: &str, now: Instant) -> bool {
        let noticed = |stranger: &&Stranger| {
            let there = now.saturating_duration_since(stranger.since);
            !matches!(stranger.kind, Kind::Standalone) && there >= NOTICED
        };
        self.strangers.iter().filter(noticed).any(|stranger| stranger.address == address)
    }

    /// A connection to a stranger is accepted.
    pub fn receive(&mut self, link: LinkId, address: &str) {
        let (address, input) = (address.to_owned(), Vec::new());
        self.guests.insert(link, Guest { address, input, protocol: Protocol::Resp2 });
    }

    /// A stranger answers what it may hear, and panics at the rest.
    pub fn answer_as_stranger(&mut self, link: LinkId, bytes: &[u8]) {
        let Some(guest) = self.guests.get_mut(&link) else { return };
        let host = self.strangers.iter().find(|stranger| stranger.address == guest.address);
        let Some(Stranger { address, kind, .. }) = host else { return };
        guest.input.extend_from_slice(bytes);
        let mut out = Vec::new();
        while let Some(command) = take_command(&mut guest.input) {
            let words: Vec<_> = command.iter().map(Vec::as_slice).collect();
            let of_cluster = !matches!(kind, Kind::Standalone);
            match words[..] {
                [b"HELLO", version] => {
                    let is_new = version == b"3";
                    guest.protocol = if is_new { Protocol::Resp3 } else { Protocol::Resp2 };
                    encode::map_header(&mut out, guest.protocol, 1);
                    encode::bulk(&mut out, b"proto");
                    encode::integer(&mut out, if is_new { 3 } else { 2 });
                }
                [b"CLUSTER", ..] if !of_cluster => {
                    encode::error(&mut out, b"ERR This instance has cluster support disabled");
                }
                [b"CLUSTER", b"MYID"] => encode::bulk(&mut out, kind.id().as_bytes()),
                [b"CLUSTER", b"INFO"] => encode::bulk(&mut out, b"cluster_current_epoch:9\r\n"),
                [b"CLUSTER", b"SLOTS"] => kind.write_slots(address, &mut out),
                [b"READONLY"] if of_cluster => encode::simple(&mut out, b"OK"),
                [b"READONLY"] => {
                    encode::error(&mut out, b"ERR This instance has cluster support disabled");
                }
                [b"CLIENT", b"ID"] => encode::integer(&mut out, 1),
                [b"PING"] => encode::simple(&mut out, b"PONG"),
                _ => {
                    let command = words.join(&b' ');
                    panic!("{kind:?} at {address} has got {}", command.escape_ascii())
                }
            }
        }
        if !out.is_empty() {
            self.outbox.push((link, out));
        }
    }
}

impl Kind {
    const ALL: [Self; 4] = [
        Self::Standalone,
        Self::OtherCluster { all: true },
        Self::OtherCluster { all: false },
        Self::Forgetful,
    ];

    fn id(self) -> String {
        format!("{:0>40}", if matches!(self, Self::Forgetful) { "e" } else { "f" })
    }

    fn write_slots(self, address: &str, out: &mut Vec<u8>) {
        let Self::OtherCluster { all } = self else { return encode::array_header(out, 0) };
        let half = SLOTS as i64 / 2;
        let own = (0, if all { SLOTS as i64 - 1 } else { half - 1 }, address, self.id());
        let other = (half, SLOTS as i64 - 1, "elsewhere:6379", format!("{:0>40}", "d"));
        let ranges = if all { vec![own] } else { vec![own, other] };
        encode::array_header(out, ranges.len());
        for (start, end, address, id) in ranges {
            let (host, port) = address.rsplit_once(':').unwrap();
            encode::array_header(out, 3);
            encode::integer(out, start);
            encode::integer(out, end);
            encode::array_header(out, 3);
            encode::bulk(out, host.as_bytes());
            encode::integer(out, port.parse().unwrap());
            encode::bulk(out, id.as_bytes());
        }
    }
}

impl World {
    /// An address is free: somebody else may get it, now or later, for a while or for good.
    pub fn vacate(&mut self, address: &str) {
        if !self.profile.strangers || self.rng.u8(..4) == 0 {
            return;
        }
        let kind = self.rng.choice(Kind::ALL).unwrap_or(Kind::Standalone);
        let most = if self.rng.bool() { 5 } else { 1000 };
        let from = self.rng.u64(..most);
        self.later(from..from + 1, Change::MoveIn(address.to_owned(), kind));
        if self.rng.bool() {
            self.later(from + 1..from + 3000, Change::MoveOut(address.to_owned()));
        }
    }

    /// A stranger gets an address, unless somebody has it.
    pub fn move_in(&mut self, address: String, kind: Kind) {
        let is_free = |at: usize| self.cluster.nodes[at].health == Health::Dead;
        if self.cluster.is_strange(&address) || !self.cluster.at(&address).is_none_or(is_free) {
            return;
        }
        self.cluster.strangers.push(Stranger { address, kind, since: self.now });
    }

    /// A stranger goes, and all that it was connected to notice.
    pub fn move_out(&mut self, address: &str) {
        self.cluster.strangers.retain(|stranger| stranger.address != address);
        let guests = self.cluster.guests.iter();
        let theirs = guests.filter(|(_, guest)| guest.address == address).map(|(link, _)| *link);
        for link in theirs.collect::<Vec<_>>() {
            self.cut(link, true);
        }
    }
}
