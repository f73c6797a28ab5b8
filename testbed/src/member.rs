//! The members of a cluster, as one of them tells them.

use std::ops::RangeInclusive;

use anyhow::{Context, Result};

/// One line of `CLUSTER NODES`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Its id: 40 hexadecimal digits.
    pub id: String,
    /// Its address for clients, as `host:port`.
    pub addr: String,
    /// Whether it is the one that told.
    pub myself: bool,
    /// Whether the one that told suspects or knows that it has failed.
    pub failed: bool,
    /// Primary or replica.
    pub role: Role,
    /// The slots it owns; none for a replica.
    pub slots: Vec<RangeInclusive<u16>>,
}

/// What a member does in its shard.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Role {
    /// Owns slots and takes writes.
    Primary,
    /// Copies the primary with the id `of`.
    Replica {
        /// The primary's id.
        of: String,
    },
}

impl Member {
    /// Reads the reply to `CLUSTER NODES`
    /// (<https://redis.io/docs/latest/commands/cluster-nodes/>).
    ///
    /// # Errors
    /// A line does not have that form.
    pub fn parse_all(reply: &str) -> Result<Vec<Self>> {
        let lines = reply.lines().filter(|line| !line.trim().is_empty());
        lines
            .map(|line| {
                Self::parse(line).with_context(|| format!("not a CLUSTER NODES line: {line}"))
            })
            .collect()
    }

    /// Whether it owns `slot`.
    pub fn owns(&self, slot: u16) -> bool {
        self.slots.iter().any(|range| range.contains(&slot))
    }

    /// Whether it is a primary.
    pub fn is_primary(&self) -> bool {
        self.role == Role::Primary
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let id = fields.next()?.to_owned();
        // host:port@bus-port[,hostname[,auxiliary=field...]]
        let (addr, _) = fields.next()?.split_once('@')?;
        let flags: Vec<&str> = fields.next()?.split(',').collect();
        let primary = fields.next()?;
        let role = if flags.contains(&"slave") {
            Role::Replica { of: primary.to_owned() }
        } else {
            Role::Primary
        };
        // ping-sent, pong-received, epoch and link state stand between; [...] is a slot in
        // migration.
        let slots = fields.skip(4).filter(|field| !field.starts_with('['));
        Some(Self {
            id,
            addr: addr.to_owned(),
            myself: flags.contains(&"myself"),
            failed: flags.iter().any(|flag| flag.starts_with("fail")),
            role,
            slots: slots.map(parse_range).collect::<Option<_>>()?,
        })
    }
}

fn parse_range(field: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = field.split_once('-').unwrap_or((field, field));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_with_single_migrating_and_ranged_slots_is_read() {
        let line = "e7d1 127.0.0.1:30001@31001,name myself,master - 0 0 1 connected 0-5460 7000 [93-<-ab12]";
        let members = Member::parse_all(line).unwrap();
        let expected = Member {
            id: "e7d1".to_owned(),
            addr: "127.0.0.1:30001".to_owned(),
            myself: true,
            failed: false,
            role: Role::Primary,
            slots: vec![0..=5460, 7000..=7000],
        };
        assert_eq!(members, [expected]);
        assert!(members[0].owns(7000) && !members[0].owns(93 + 6000));
    }

    #[test]
    fn a_failed_replica_is_read() {
        let line = "ab12 127.0.0.1:30004@31004 slave,fail? e7d1 0 1426238317239 4 connected\n";
        let members = Member::parse_all(line).unwrap();
        assert_eq!(members[0].role, Role::Replica { of: "e7d1".to_owned() });
        assert!(members[0].failed && members[0].slots.is_empty());
    }

    #[test]
    fn another_text_is_refused() {
        let error = Member::parse_all("ERR This instance has cluster support disabled");
        assert!(error.unwrap_err().to_string().starts_with("not a CLUSTER NODES line: ERR"));
    }
}
