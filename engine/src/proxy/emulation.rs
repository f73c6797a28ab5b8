//! CLUSTER: by default the answer of a standalone server; with `cluster_emulation`, that of a cluster of
//! one node that owns every slot, at the address the client has connected to. So cluster-aware clients
//! work through the proxy too, and all they ever know of is the proxy.

use std::net::SocketAddr;

use sha1_smol::Sha1;

use super::Proxy;
use super::client::write_text;
use super::command::Command;
use crate::cluster::Slot;
use crate::command::{CommandSpec, Reason};
use crate::config::ReadPolicy;
use crate::request::{Owner, Part, State, SubRequestId, Way};
use crate::resp::{Protocol, RequestFrame, encode, parse_decimal};
use crate::session::SessionId;
use crate::time::Instant;

const DISABLED: &str = "ERR This instance has cluster support disabled";
const LAST_SLOT: i64 = 16_383;

/// The one node, as clients see it.
struct SelfPortrait {
    address: SocketAddr,
    /// 40 hexadecimal digits, the same for the same address.
    id: String,
}

impl Proxy {
    /// Whether it plays a cluster to its clients, so that it has to know where they connect to.
    #[must_use]
    pub fn emulates_a_cluster(&self) -> bool {
        self.config.cluster_emulation
    }

    /// ASKING, READONLY and READWRITE: of no use where every slot is served.
    pub(super) fn check_cluster_mode(&self) -> Result<(), String> {
        if self.config.cluster_emulation { Ok(()) } else { Err(DISABLED.to_owned()) }
    }

    /// Any CLUSTER subcommand.
    pub(super) fn answer_cluster(
        &mut self,
        id: SessionId,
        spec: &'static CommandSpec,
        frame: &RequestFrame<'_>,
        len: usize,
        now: Instant,
    ) -> Result<(), String> {
        self.check_cluster_mode()?;
        let Some(session) = self.sessions.get(id) else { return Ok(()) };
        let protocol = session.protocol;
        let address =
            session.local.ok_or("ERR the proxy does not know this connection's address")?;
        let node = SelfPortrait::at(address);
        let argument = frame.arg(2).unwrap_or_default();
        match spec.name {
            "cluster|slots" => self.answer(id, |out| node.write_slots(protocol, out)),
            "cluster|shards" => self.answer(id, |out| node.write_shards(protocol, out)),
            "cluster|nodes" => {
                let text = node.line();
                self.answer(id, |out| write_text(out, protocol, &text));
            }
            "cluster|info" => self.answer(id, |out| write_text(out, protocol, INFO)),
            "cluster|myid" => self.answer(id, |out| encode::bulk(out, node.id.as_bytes())),
            "cluster|myshardid" => {
                let shard = Sha1::from(&node.id).digest().to_string();
                self.answer(id, |out| encode::bulk(out, shard.as_bytes()));
            }
            "cluster|keyslot" => {
                let slot = Slot::of(argument).number();
                self.answer(id, |out| encode::integer(out, slot.into()));
            }
            "cluster|links" => self.answer(id, |out| encode::array_header(out, 0)),
            "cluster|replicas" | "cluster|slaves" => {
                node.check_id(argument)?;
                self.answer(id, |out| encode::array_header(out, 0));
            }
            "cluster|count-failure-reports" => {
                node.check_id(argument)?;
                self.answer(id, |out| encode::integer(out, 0));
            }
            "cluster|countkeysinslot" | "cluster|getkeysinslot" => {
                let number =
                    parse_decimal(argument).ok_or("ERR value is not an integer or out of range")?;
                let slot = u16::try_from(number).ok().and_then(Slot::new);
                let slot = slot.ok_or(match spec.name {
                    "cluster|countkeysinslot" => "ERR Invalid slot",
                    _ => "ERR Invalid slot or number of keys",
                })?;
                self.ask_owner(id, slot, spec, frame, len, now);
            }
            _ => return Err(Reason::Topology.text().to_owned()),
        }
        Ok(())
    }

    /// Sends a command about a slot to the node that has its keys.
    fn ask_owner(
        &mut self,
        id: SessionId,
        slot: Slot,
        spec: &'static CommandSpec,
        frame: &RequestFrame<'_>,
        len: usize,
        now: Instant,
    ) {
        let cluster = self.default_cluster;
        let part = Part::new(cluster, Some(slot), ReadPolicy::Master);
        let command = Command { len, ..Command::unit(spec, frame.bytes(), Way::Shared) };
        let request = self.begin(Owner::Session(id), &command, State::Whole(part), now);
        if let Some(request) = request {
            self.send(SubRequestId { request, part: 0 }, frame.bytes(), now);
        }
    }
}

impl SelfPortrait {
    fn at(address: SocketAddr) -> Self {
        Self { address, id: Sha1::from(address.to_string()).digest().to_string() }
    }

    fn check_id(&self, id: &[u8]) -> Result<(), String> {
        if self.id.as_bytes().eq_ignore_ascii_case(id) {
            return Ok(());
        }
        Err(format!("ERR Unknown node {}", String::from_utf8_lossy(id)))
    }

    fn write_slots(&self, protocol: Protocol, out: &mut Vec<u8>) {
        encode::array_header(out, 1);
        encode::array_header(out, 3);
        encode::integer(out, 0);
        encode::integer(out, LAST_SLOT);
        encode::array_header(out, 4);
        encode::bulk(out, self.address.ip().to_string().as_bytes());
        encode::integer(out, self.address.port().into());
        encode::bulk(out, self.id.as_bytes());
        encode::map_header(out, protocol, 0);
    }

    fn write_shards(&self, protocol: Protocol, out: &mut Vec<u8>) {
        let ip = self.address.ip().to_string();
        encode::array_header(out, 1);
        encode::map_header(out, protocol, 2);
        encode::bulk(out, b"slots");
        encode::array_header(out, 2);
        encode::integer(out, 0);
        encode::integer(out, LAST_SLOT);
        encode::bulk(out, b"nodes");
        encode::array_header(out, 1);
        encode::map_header(out, protocol, 7);
        for (name, value) in [
            ("id", self.id.as_str()),
            ("endpoint", &ip),
            ("ip", &ip),
            ("role", "master"),
            ("health", "online"),
        ] {
            encode::bulk(out, name.as_bytes());
            encode::bulk(out, value.as_bytes());
        }
        encode::bulk(out, b"port");
        encode::integer(out, self.address.port().into());
        encode::bulk(out, b"replication-offset");
        encode::integer(out, 0);
    }

    /// The line of CLUSTER NODES; there is no cluster bus, whose port would be the second.
    fn line(&self) -> String {
        let (id, ip, port) = (&self.id, self.address.ip(), self.address.port());
        format!("{id} {ip}:{port}@0 myself,master - 0 0 1 connected 0-{LAST_SLOT}\n")
    }
}

/// What CLUSTER INFO says of a cluster in good order.
const INFO: &str = "cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:16384\r\n\
                    cluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:1\r\n\
                    cluster_size:1\r\ncluster_current_epoch:1\r\ncluster_my_epoch:1\r\n\
                    cluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
                    total_cluster_links_buffer_limit_exceeded:0\r\n";
