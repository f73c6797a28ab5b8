//! The picture that one node has of its cluster, read from CLUSTER SLOTS.

use std::fmt;
use std::ops::RangeInclusive;

use super::{Address, NodeId, SLOTS};
use crate::resp::Reply;
use crate::sort::sort_by_key;

/// A node's view of its cluster: which shard owns which slots.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Topology {
    pub(crate) ranges: Vec<SlotRange>,
    /// Slots of primaries whose address the node does not know: each one's id, slots and replicas.
    unplaced: Vec<(NodeId, RangeInclusive<u16>, Vec<Member>)>,
    /// The cluster's epoch as the node knows it: a node that is behind has a lower one.
    pub(crate) epoch: u64,
}

/// Consecutive slots of one shard.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct SlotRange {
    /// Both ends are below [`SLOTS`].
    pub(crate) slots: RangeInclusive<u16>,
    pub(crate) primary: Member,
    pub(crate) replicas: Vec<Member>,
}

/// A node as a topology names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Member {
    pub(crate) address: Address,
    /// What it calls itself, if the topology says so.
    pub(crate) id: Option<NodeId>,
}

/// Why a reply to CLUSTER SLOTS is no topology.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum TopologyError {
    /// The node answered with an error of its own.
    Refused(String),
    /// It does not have the shape that Redis documents.
    Malformed,
    /// The node belongs to no cluster, or to one that serves nothing.
    NoSlots,
}

impl Topology {
    /// One server that owns every slot.
    pub(crate) fn standalone(server: &Address) -> Self {
        let slots = 0..=(SLOTS - 1) as u16;
        let primary = Member { address: server.clone(), id: None };
        Self::new(vec![SlotRange { slots, primary, replicas: Vec::new() }], 0)
    }

    /// Reads the reply to CLUSTER SLOTS that the node at `asked`, which knows of `epoch`, gave.
    pub(crate) fn parse(
        reply: Reply<'_>,
        asked: &Address,
        epoch: u64,
    ) -> Result<Self, TopologyError> {
        if let Some(error) = reply.error_line() {
            return Err(TopologyError::Refused(String::from_utf8_lossy(error).into_owned()));
        }
        let mut topology = Self::new(Vec::new(), epoch);
        for range in reply.elements() {
            topology.parse_range(Reply::new(range), asked).ok_or(TopologyError::Malformed)?;
        }
        if topology.ranges.is_empty() && topology.unplaced.is_empty() {
            return Err(TopologyError::NoSlots);
        }
        topology.sort();
        Ok(topology)
    }

    /// Nodes that own these slots, as a node knows them that has heard of this epoch.
    pub(crate) fn new(ranges: Vec<SlotRange>, epoch: u64) -> Self {
        Self { ranges, unplaced: Vec::new(), epoch }
    }

    /// Puts primaries whose address the node does not know where they were, as far as `address_of`
    /// knows.
    pub(crate) fn place(&mut self, address_of: impl Fn(&NodeId) -> Option<Address>) {
        for (id, slots, replicas) in std::mem::take(&mut self.unplaced) {
            if let Some(address) = address_of(&id) {
                let primary = Member { address, id: Some(id) };
                self.ranges.push(SlotRange { slots, primary, replicas });
            }
        }
        self.sort();
    }

    /// Every node has an order of its own.
    fn sort(&mut self) {
        sort_by_key(&mut self.ranges, |range| *range.slots.start());
    }

    /// Reads `[start, end, primary, replica, ...]`; `None` if it is something else.
    fn parse_range(&mut self, range: Reply<'_>, asked: &Address) -> Option<()> {
        let mut fields = range.elements().map(Reply::new);
        let mut bound = || u16::try_from(fields.next()?.integer()?).ok();
        let (start, end) = (bound()?, bound()?);
        if start > end || usize::from(end) >= SLOTS {
            return None;
        }
        let (slots, primary) = (start..=end, fields.next()?);
        // A replica whose address is not known yet is no reason to refuse the shard.
        let replicas = fields.filter_map(|node| parse_node(node, asked)).collect();
        if is_placeless(primary) {
            let id = primary.elements().nth(2).and_then(|id| NodeId::parse(Reply::new(id).bulk()?));
            self.unplaced.extend(id.map(|id| (id, slots, replicas)));
        } else {
            let primary = parse_node(primary, asked)?;
            self.ranges.push(SlotRange { slots, primary, replicas });
        }
        Some(())
    }

    /// Whether the slots have the same owners. Replicas come and go, and nodes see that at
    /// different times.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        let same = |(left, right): (&SlotRange, &SlotRange)| {
            left.slots == right.slots && left.primary == right.primary
        };
        self.ranges.len() == other.ranges.len() && self.ranges.iter().zip(&other.ranges).all(same)
    }

    /// All nodes that it names; one of several ranges is named as often.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.ranges.iter().flat_map(|range| [&range.primary].into_iter().chain(&range.replicas))
    }

    /// How many slots have an owner.
    pub(crate) fn slots(&self) -> usize {
        self.ranges.iter().map(|range| range.slots.len()).sum()
    }
}

/// Whether a node's address is not known (`noaddr`): another one answers there, or nobody, and no
/// replica has taken its place.
fn is_placeless(node: Reply<'_>) -> bool {
    node.elements().nth(1).and_then(|port| Reply::new(port).integer()) == Some(0)
}

/// The epoch that a reply to CLUSTER INFO tells of; 0 if it tells of none.
pub(crate) fn parse_epoch(info: Reply<'_>) -> u64 {
    info_field(info, "cluster_current_epoch:").and_then(|epoch| epoch.parse().ok()).unwrap_or(0)
}

/// The zone that a reply to INFO tells of (Valkey 8).
pub(crate) fn parse_zone(info: Reply<'_>) -> Option<Box<str>> {
    info_field(info, "availability_zone:").filter(|zone| !zone.is_empty()).map(Into::into)
}

fn info_field<'a>(info: Reply<'a>, name: &str) -> Option<&'a str> {
    let info = std::str::from_utf8(info.bulk()?).ok()?;
    info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Reads `[host, port, id, [metadata]]`. The last two may be missing. A null or empty host means
/// the one that was asked; `?`, an unknown hostname, is replaced by the IP address in the metadata
/// where there is one.
fn parse_node(node: Reply<'_>, asked: &Address) -> Option<Member> {
    let mut fields = node.elements().map(Reply::new);
    let host = fields.next()?;
    let port = u16::try_from(fields.next()?.integer()?).ok()?;
    let id = fields.next().and_then(|id| NodeId::parse(id.bulk()?));
    let host = match host.bulk() {
        None | Some(b"") => asked.host(),
        Some(b"?") => fields.next().and_then(metadata_ip).unwrap_or_else(|| asked.host()),
        Some(host) => std::str::from_utf8(host).ok()?,
    };
    Some(Member { address: Address::new(host, port)?, id })
}

fn metadata_ip(metadata: Reply<'_>) -> Option<&str> {
    let mut fields = metadata.elements().map(Reply::new);
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        if name.bulk() == Some(b"ip") {
            return std::str::from_utf8(value.bulk()?).ok();
        }
    }
    None
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "answered CLUSTER SLOTS with '{error}'"),
            Self::Malformed => f.write_str("answered CLUSTER SLOTS with something else"),
            Self::NoSlots => f.write_str("knows no slots: is the cluster created?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(reply: &str) -> Result<Topology, TopologyError> {
        let reply = reply.replace(' ', "\r\n");
        Topology::parse(Reply::new(reply.as_bytes()), &Address::parse("10.0.0.1:7000").unwrap(), 0)
    }

    fn primary(node: &str) -> Result<String, TopologyError> {
        let topology = parse(&format!("*1 *3 :0 :16383 {node}"))?;
        Ok(topology.ranges[0].primary.address.to_string())
    }

    #[test]
    fn primaries_and_replicas_are_read() {
        let topology = parse(
            "*2 *4 :0 :8191 *3 $9 127.0.0.1 :7000 $1 a *3 $9 127.0.0.1 :7003 $1 d \
             *3 :8192 :16383 *3 $9 127.0.0.1 :7001 $1 b ",
        )
        .unwrap();
        let [first, second] = &topology.ranges[..] else { panic!("two ranges") };
        assert_eq!(first.slots, 0..=8191);
        assert_eq!(first.primary.address.to_string(), "127.0.0.1:7000");
        assert_eq!(first.primary.id, NodeId::parse(b"a"));
        assert_eq!(first.replicas[0].address.to_string(), "127.0.0.1:7003");
        assert_eq!(second.slots, 8192..=16383);
        assert!(second.replicas.is_empty());
    }

    #[test]
    fn a_host_that_is_not_told_is_the_one_that_was_asked() {
        assert_eq!(primary("*3 $0  :7001 $1 a ").unwrap(), "10.0.0.1:7001");
        assert_eq!(primary("*3 $-1 :7001 $1 a ").unwrap(), "10.0.0.1:7001");
        assert_eq!(primary("*4 $1 ? :7001 $1 a *0 ").unwrap(), "10.0.0.1:7001");
        let with_ip = "*4 $1 ? :7001 $1 a *2 $2 ip $8 10.0.0.2 ";
        assert_eq!(primary(with_ip).unwrap(), "10.0.0.2:7001");
    }

    #[test]
    fn a_primary_whose_address_a_node_does_not_know_is_where_it_was() {
        let mut topology = parse(
            "*2 *4 :0 :8191 *3 $0  :0 $1 a *3 $9 127.0.0.1 :7003 $1 d \
             *3 :8192 :16383 *3 $9 127.0.0.1 :7001 $1 b ",
        )
        .unwrap();
        assert_eq!(topology.ranges.len(), 1);
        topology.place(|id| (*id == NodeId::parse(b"a")?).then(|| Address::parse("h:7")).flatten());
        let [first, second] = &topology.ranges[..] else { panic!("two ranges") };
        assert_eq!(first.primary.address, Address::parse("h:7").unwrap());
        assert_eq!((first.slots.clone(), first.replicas.len()), (0..=8191, 1));
        assert_eq!(second.slots, 8192..=16383);
        let mut unknown = parse("*1 *3 :0 :16383 *3 $0  :0 $1 a ").unwrap();
        unknown.place(|_| None);
        assert_eq!(unknown.slots(), 0);
    }

    #[test]
    fn the_epoch_is_read_where_it_is_told() {
        let info = "$57\r\ncluster_state:ok\r\ncluster_current_epoch:17\r\ncluster_my_e:1\r\n\r\n";
        assert_eq!(parse_epoch(Reply::new(info.as_bytes())), 17);
        assert_eq!(parse_epoch(Reply::new(b"-ERR no\r\n")), 0);
        let info = "$39\r\n# Server\r\navailability_zone:eu-1a\r\nx:y\r\n\r\n";
        assert_eq!(parse_zone(Reply::new(info.as_bytes())).as_deref(), Some("eu-1a"));
        assert_eq!(parse_zone(Reply::new(b"$22\r\navailability_zone:\r\na:b\r\n")), None);
    }

    #[test]
    fn what_is_no_topology_says_why() {
        let refused = "ERR This instance has cluster support disabled";
        let reply = format!("-{refused}\r\n");
        let asked = Address::parse("h:1").unwrap();
        assert_eq!(
            Topology::parse(Reply::new(reply.as_bytes()), &asked, 0),
            Err(TopologyError::Refused(refused.to_owned()))
        );
        assert_eq!(parse("*0 "), Err(TopologyError::NoSlots));
        for reply in ["*1 *1 :0 ", "*1 *3 :5 :1 *2 $1 h :1 ", "*1 *3 :0 :16384 *2 $1 h :1 "] {
            assert_eq!(parse(reply), Err(TopologyError::Malformed), "{reply}");
        }
    }
}
