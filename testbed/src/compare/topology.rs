//! The real topology shows through, and what clients of a cluster say when they connect is refused.

use anyhow::Result;

use super::{Look, Session, Sight};
use crate::RedisServer;

const CONNECTION: [&str; 10] = [
    "CLUSTER MYID",
    "CLUSTER COUNTKEYSINSLOT 0",
    "READONLY",
    "READWRITE",
    "ASKING",
    "COMMAND COUNT",
    "CLIENT ID",
    "CLIENT GETNAME",
    "CLIENT LIST",
    "RESET",
];

/// A Redis alone has no topology to show, and refuses some of these as well.
pub(super) fn probe(look: &Look<'_>) -> Result<Vec<Sight>> {
    let alone = RedisServer::start(&[])?;
    let ports: Vec<String> =
        look.cluster().nodes().iter().map(|node| node.addr().port().to_string()).collect();
    let mut sights = Vec::new();
    for words in ["CLUSTER SLOTS", "CLUSTER SHARDS", "CLUSTER NODES"] {
        let wanted = format!("`{}`", Session::connect(alone.addr())?.ask(words)?);
        let reply = look.connect()?.bytes(words)?;
        let text = String::from_utf8_lossy(&reply);
        let seen = match ports.iter().any(|port| text.contains(port.as_str())) {
            true => "the nodes".to_owned(),
            false => format!("`{}`", look.connect()?.ask(words)?),
        };
        sights.push(Sight::exactly(words, &wanted, seen));
    }
    let mut refused = Vec::new();
    for words in CONNECTION {
        let is_refused = look.connect()?.ask(words)?.starts_with('-');
        if is_refused && !Session::connect(alone.addr())?.ask(words)?.starts_with('-') {
            refused.push(words);
        }
    }
    let refused = if refused.is_empty() { "none".to_owned() } else { refused.join(", ") };
    let asked = CONNECTION.join(", ");
    sights.push(Sight::exactly(
        &asked,
        "refused though a Redis alone does not: none",
        format!("refused though a Redis alone does not: {refused}"),
    ));
    Ok(sights)
}
