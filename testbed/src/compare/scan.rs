//! SCAN cannot be iterated: its reply holds a cursor for each node.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Result;

use super::session::{Session, show};
use super::{Look, Sight};

const KEYS: usize = 30;

/// More rounds than any SCAN over so few keys takes.
const ROUNDS: usize = 1000;

pub(super) fn probe(look: &Look<'_>) -> Result<Vec<Sight>> {
    Ok(vec![look.like_redis("SCAN over 30 keys, until the cursor is 0", iterate)?])
}

fn iterate(addr: SocketAddr) -> Result<String> {
    let mut session = Session::connect(addr)?;
    for number in 0..KEYS {
        session.ask(&format!("SET key:{number} value"))?;
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut cursor = "0".to_owned();
    for _ in 0..ROUNDS {
        let reply = session.bytes(&format!("SCAN {cursor}"))?;
        let Ok(value) = redis::parse_redis_value(&reply) else {
            return Ok(format!("`{}`", show(&reply)));
        };
        let elements = if let redis::Value::Array(elements) = &value { elements.len() } else { 0 };
        let Ok((next, keys)) = redis::from_redis_value::<(String, Vec<String>)>(value) else {
            return Ok(match elements {
                0 => format!("`{}`", show(&reply)),
                _ => format!("an array of {elements} instead of a cursor and keys"),
            });
        };
        for key in keys {
            *seen.entry(key).or_default() += 1;
        }
        if next == "0" {
            let twice = seen.values().filter(|count| **count > 1).count();
            return Ok(format!("{} keys, {twice} of them twice", seen.len()));
        }
        cursor = next;
    }
    Ok("it never ends".to_owned())
}
