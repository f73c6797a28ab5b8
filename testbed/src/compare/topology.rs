//! The real topology shows through, and what clients of a cluster say when they connect is refused.

use anyhow::Result;

use super::{Look, Sight};

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

pub(super) fn probe(look: &Look<'_>) -> Result<Vec<Sight>> {
    let ports: Vec<String> =
        look.cluster().nodes().iter().map(|node| node.addr().port().to_string()).collect();
    let mut sights = Vec::new();
    for words in ["CLUSTER SLOTS", "CLUSTER SHARDS", "CLUSTER NODES"] {
        let reply = String::from_utf8_lossy(&look.connect()?.bytes(words)?).into_owned();
        let shows = ports.iter().any(|port| reply.contains(port.as_str()));
        let seen = match (reply.starts_with('-'), shows) {
            (true, _) => "refused",
            (false, true) => "the nodes",
            (false, false) => "the proxy alone",
        };
        sights.push(Sight::exactly(words, "the proxy alone", seen));
    }
    let mut refused = Vec::new();
    for words in CONNECTION {
        if look.connect()?.ask(words)?.starts_with('-') {
            refused.push(words);
        }
    }
    let refused = if refused.is_empty() { "none".to_owned() } else { refused.join(", ") };
    let asked = CONNECTION.join(", ");
    sights.push(Sight::exactly(&asked, "refused: none", format!("refused: {refused}")));
    Ok(sights)
}
