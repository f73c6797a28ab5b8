//! Redirections reach the client: by default all of them, and where nodes go by host names even
//! when they are to be followed.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::contender::Setup;
use super::{Look, Sight};
use crate::wait::{Probe, until};
use crate::{Member, RedisServer};

const KEY: &str = "moving";

/// Time for nodes to tell each other their names, or the proxy.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn probe(look: &Look<'_>) -> Result<Vec<Sight>> {
    let plain = redirect(look, json!({"op_timeout": "5s"}))?;
    look.announce("localhost", "hostname")?;
    let named = redirect(look, json!({"op_timeout": "5s", "enable_redirection": true}));
    look.announce("", "ip")?;
    let named = named?;
    let sight = |asked: &str, seen: String| Sight::exactly(asked, "`+OK`", format!("`{seen}`"));
    Ok(vec![
        sight("settings with op_timeout only: SET of a key whose slot is moving", plain.0),
        sight("the same of a key whose slot has moved", plain.1),
        sight("enable_redirection, nodes with host names, no DNS cache: SET while moving", named.0),
        sight("the same, moved", named.1),
    ])
}

/// What a client gets while a slot moves, and when it has moved.
fn redirect(look: &Look<'_>, settings: Value) -> Result<(String, String)> {
    let cluster = look.cluster();
    let proxy = look.start(&Setup::new(settings, cluster))?;
    let mut session = proxy.connect()?;
    // The proxy knows the topology, and has its connections.
    for tag in look.tags()? {
        until("the proxy to serve", PATIENCE, || {
            let reply = session.ask(&format!("SET {{{tag}}} 1"))?;
            Ok(if reply == "+OK" { Probe::Ready(()) } else { Probe::NotYet(reply) })
        })?;
    }
    session.ask(&format!("DEL {KEY}"))?;

    let slot = cluster.nodes()[0].cli(&["CLUSTER", "KEYSLOT", KEY])?.trim().to_owned();
    let from = cluster.owner(slot.parse()?)?;
    let primaries = cluster.primaries()?;
    let to = primaries.iter().find(|node| node.addr() != from.addr()).context("one primary")?;
    let (from_id, to_id) = (id(from)?, id(to)?);
    to.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id])?;
    from.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id])?;
    let moving = session.ask(&format!("SET {KEY} 1"))?;
    to.cli(&["DEL", KEY])?;
    for node in [to, &from] {
        node.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id])?;
    }
    let moved = session.ask(&format!("SET {KEY} 1"))?;

    to.cli(&["DEL", KEY])?;
    from.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &to_id])?;
    to.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &from_id])?;
    for node in [&from, to] {
        node.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &from_id])?;
    }
    cluster.wait_until_ready()?;
    Ok((moving, moved))
}

fn id(node: &RedisServer) -> Result<String> {
    let members = Member::parse_all(&node.cli(&["CLUSTER", "NODES"])?)?;
    let myself = members.into_iter().find(|member| member.myself);
    Ok(myself.context("a node that does not know itself")?.id)
}

impl Look<'_> {
    /// Has all nodes go by `name`, and waits until all of them say so of each other.
    fn announce(&self, name: &str, endpoint: &str) -> Result<()> {
        for node in self.cluster().nodes() {
            node.cli(&["CONFIG", "SET", "cluster-announce-hostname", name])?;
            node.cli(&["CONFIG", "SET", "cluster-preferred-endpoint-type", endpoint])?;
        }
        let wanted = if name.is_empty() { "127.0.0.1" } else { name };
        until("nodes to know each other's names", PATIENCE, || {
            for node in self.cluster().nodes() {
                let slots = node.cli(&["CLUSTER", "SLOTS"])?;
                let named = slots.lines().filter(|line| line.trim() == wanted).count();
                let count = self.cluster().nodes().len();
                if named < count {
                    let text = format!("{} names {named} of {count}", node.addr());
                    return Ok(Probe::NotYet(text));
                }
            }
            Ok(Probe::Ready(()))
        })
    }
}
