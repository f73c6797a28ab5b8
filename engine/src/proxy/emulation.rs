//! CLUSTER: by default the answer of a standalone server; with `cluster_emulation`, that of a
//! cluster of one node that owns every slot, at the address the client has connected to. So
//! cluster-aware clients work through the proxy too, and all they ever know of is the proxy.

use std::net::SocketAddr;

use sha1_smol::Sha1;

use super::Proxy;
use super::clients::write_text;
use crate::cluster::Slot;
use crate::command::Reason;
use crate::downstream::Caller;
use crate::errors::{self, ErrorText};
use crate::exchange::Command;
use crate::flight::{Completion, Part, State};
use crate::ids::PartId;
use crate::resp::{Protocol, encode, parse_decimal};
use crate::target::Target;

const LAST_SLOT: i64 = 16_383;

/// The one node, as clients see it.
struct EmulatedNode {
    address: SocketAddr,
    /// 40 hexadecimal digits, the same for the same address.
    id: String,
}

impl Proxy {
    /// Whether it plays a cluster to its clients, so that it has to know where they connect to.
    #[must_use]
    pub fn emulates_a_cluster(&self) -> bool {
        self.x.config.cluster_emulation
    }

    /// ASKING, READONLY and READWRITE: of no use where every slot is served.
    pub(super) fn check_cluster_mode(&self) -> Result<(), ErrorText> {
        match self.x.config.cluster_emulation {
            true => Ok(()),
            false => Err(errors::CLUSTER_DISABLED.into()),
        }
    }

    /// Any CLUSTER subcommand.
    pub(super) fn answer_cluster(
        &mut self,
        caller: &Caller,
        command: &Command<'_>,
    ) -> Result<(), ErrorText> {
        self.check_cluster_mode()?;
        let (id, protocol, name) = (caller.id, caller.protocol, command.spec.name);
        let local = self.x.downstream.profile(id).and_then(|profile| profile.local);
        let node = EmulatedNode::at(local.ok_or(errors::UNKNOWN_ADDRESS)?);
        let argument = command.frame.arg(2).unwrap_or_default();
        let x = &mut self.x;
        match name {
            "cluster|slots" => x.answer(id, |out| node.write_slots(protocol, out)),
            "cluster|shards" => x.answer(id, |out| node.write_shards(protocol, out)),
            "cluster|nodes" => x.answer(id, |out| write_text(out, protocol, &node.line())),
            "cluster|info" => x.answer(id, |out| write_text(out, protocol, INFO)),
            "cluster|myid" => x.answer(id, |out| encode::bulk(out, node.id.as_bytes())),
            "cluster|myshardid" => {
                let shard = Sha1::from(&node.id).digest().to_string();
                x.answer(id, |out| encode::bulk(out, shard.as_bytes()));
            }
            "cluster|keyslot" => {
                let slot = Slot::of(argument).number();
                x.answer(id, |out| encode::integer(out, slot.into()));
            }
            "cluster|links" => x.answer(id, |out| encode::array_header(out, 0)),
            "cluster|replicas" | "cluster|slaves" => {
                node.check_id(argument)?;
                x.answer(id, |out| encode::array_header(out, 0));
            }
            "cluster|count-failure-reports" => {
                node.check_id(argument)?;
                x.answer(id, |out| encode::integer(out, 0));
            }
            "cluster|countkeysinslot" | "cluster|getkeysinslot" => {
                let number = parse_decimal(argument).ok_or(errors::NOT_AN_INTEGER)?;
                let slot = u16::try_from(number).ok().and_then(Slot::new);
                let slot = slot.ok_or(match name {
                    "cluster|countkeysinslot" => errors::INVALID_SLOT,
                    _ => errors::INVALID_SLOT_OR_COUNT,
                })?;
                self.ask_owner(caller, command, slot);
            }
            _ => return Err(Reason::Topology.text().into()),
        }
        Ok(())
    }

    /// Sends a command about a slot to the node that has its keys.
    fn ask_owner(&mut self, caller: &Caller, command: &Command<'_>, slot: Slot) {
        let part = Part::new(self.x.default_cluster(), Target::Owner(slot));
        let state = State::Whole(part);
        let command = &Command { delay: None, ..*command };
        if let Some(id) = self.x.begin(caller, command, state, Completion::Deliver) {
            self.x.send(PartId::whole(id), command.frame.bytes());
        }
    }
}

impl EmulatedNode {
    fn at(address: SocketAddr) -> Self {
        Self { address, id: Sha1::from(address.to_string()).digest().to_string() }
    }

    fn check_id(&self, id: &[u8]) -> Result<(), ErrorText> {
        if self.id.as_bytes().eq_ignore_ascii_case(id) {
            return Ok(());
        }
        Err(format!("ERR Unknown node {}", String::from_utf8_lossy(id)).into())
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
