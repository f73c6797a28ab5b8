//! Changes since the last report, with the names by which the host shows them.

use std::collections::BTreeMap;
use std::fmt;

use super::commands::{CommandStats, Commands};
use super::{ClientStats, DownstreamCounters, NodeStats, UpstreamCounters};
use crate::cluster::Address;
use crate::ids::ClusterId;

/// Nodes of one cluster with gauges of their own: the host never forgets a metric, so nodes beyond
/// so many, gone ones included, are counted in their cluster's gauges only.
const NODES: usize = 128;

/// Names one metric as long as its proxy lives: a key for the driver's own table.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct MetricId {
    scope: Scope,
    stat: u8,
}

/// What a metric is about: clusters by their index, commands and nodes in the order in which they
/// were first counted.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Scope {
    Downstream,
    Command(u16),
    Cluster(u16),
    UpstreamCommand(u16, u16),
    Node(u16, u16),
}

/// A metric that has changed. Its name is what [`fmt::Display`] writes.
#[derive(Clone, Copy, Debug)]
pub struct Metric<'a> {
    id: MetricId,
    kind: MetricKind,
    stat_prefix: &'a str,
    path: Path<'a>,
    stat: &'static str,
}

/// The middle of a metric's name.
#[derive(Clone, Copy, Debug)]
enum Path<'a> {
    Downstream,
    Command(&'static str),
    Cluster(&'a str),
    UpstreamCommand(&'a str, &'static str),
    Node(&'a str, &'a Address),
}

/// How a metric's values are to be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Values of which quantiles are taken.
    Histogram,
}

/// How a metric has changed since it was last taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// A counter has grown by this much.
    Count(u64),
    /// A gauge has gone up or down; several workers' gauges add up.
    Shift(i64),
    /// A histogram has this value, one of at most 32 that stand for all since.
    Record(u64),
}

/// Values as they were when they were last taken, by position in the list of their names.
#[derive(Debug, Default)]
pub(super) struct Reported {
    counters: Vec<u64>,
    gauges: Vec<u64>,
}

/// Nodes that have gauges, by address; never more than [`NODES`].
#[derive(Debug, Default)]
pub(super) struct Nodes {
    by_address: BTreeMap<Address, Node>,
}

#[derive(Debug)]
struct Node {
    number: u16,
    gauges: NodeGauges,
    reported: Reported,
}

/// Declares gauges: their meaning, their field, which is their name.
macro_rules! gauges {
    ($(#[$doc:meta])* $type:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(crate) struct $type {
            $($(#[$field_doc])* pub(crate) $field: usize,)*
        }

        impl $type {
            const NAMES: &[&'static str] = &[$(stringify!($field)),*];

            fn values(&self) -> [u64; Self::NAMES.len()] {
                [$(self.$field as u64),*]
            }
        }
    };
}

gauges! {
    /// How things stand with the clients.
    DownstreamGauges {
        /// Clients connected.
        downstream_cx_active,
        /// Bytes of commands that are unfinished, or wait unread for those before them.
        downstream_cx_rx_bytes_buffered,
        /// Commands that wait for their reply or for their turn to be answered.
        downstream_rq_active,
    }
}

gauges! {
    /// How things stand with one cluster.
    ClusterGauges {
        /// Connections to its nodes, of all kinds.
        upstream_cx_active,
        /// Commands on those connections whose reply is to come.
        upstream_rq_active,
        /// Nodes in its topology, or learnt from redirections since.
        nodes,
        /// Primaries that own slots, as far as is known.
        shards,
    }
}

gauges! {
    /// How things stand with one node.
    NodeGauges {
        /// Connections to it that clients share and that have been established.
        upstream_cx_active,
        /// Commands on those connections whose reply is to come.
        upstream_rq_active,
    }
}

/// Counters of each command, downstream and upstream; in the order of [`CommandStats::counters`].
const COMMAND_NAMES: [&str; 5] = ["total", "success", "error", "error_fault", "delay_fault"];
const UPSTREAM_COMMAND_NAMES: [&str; 3] = ["total", "success", "failure"];
const LATENCY: &str = "latency";

/// The name of every metric with a placeholder for what varies, and its kind: what
/// docs/statistics.md is checked against.
pub fn documented() -> Vec<(String, MetricKind)> {
    use MetricKind::{Counter, Gauge, Histogram};
    let groups: [(&str, &[&str], MetricKind); 9] = [
        ("", &DownstreamCounters::NAMES, Counter),
        ("", DownstreamGauges::NAMES, Gauge),
        ("command.<command>.", &COMMAND_NAMES, Counter),
        ("command.<command>.", &[LATENCY], Histogram),
        ("cluster.<cluster>.", &UpstreamCounters::NAMES, Counter),
        ("cluster.<cluster>.", ClusterGauges::NAMES, Gauge),
        ("cluster.<cluster>.upstream_commands.<command>.", &UPSTREAM_COMMAND_NAMES, Counter),
        ("cluster.<cluster>.upstream_commands.<command>.", &[LATENCY], Histogram),
        ("cluster.<cluster>.node.<address>.", NodeGauges::NAMES, Gauge),
    ];
    let names = groups.iter().flat_map(|(path, names, kind)| {
        names.iter().map(move |name| (format!("redis.<stat_prefix>.{path}{name}"), *kind))
    });
    names.collect()
}

impl ClientStats {
    pub(crate) fn set_gauges(&mut self, gauges: DownstreamGauges) {
        self.gauges = gauges;
    }
}

impl NodeStats {
    /// Sets a cluster's gauges, and those of its nodes to zero until [`Self::node_gauges`] is asked
    /// for them.
    pub(crate) fn set_cluster_gauges(&mut self, cluster: ClusterId, gauges: ClusterGauges) {
        let Some(cluster) = self.clusters.get_mut(cluster.position()) else { return };
        cluster.gauges = gauges;
        for node in cluster.nodes.by_address.values_mut() {
            node.gauges = NodeGauges::default();
        }
    }

    /// Sets all gauges to zero.
    pub(crate) fn clear_gauges(&mut self) {
        for cluster in (0..self.clusters.len()).map(ClusterId::new) {
            self.set_cluster_gauges(cluster, ClusterGauges::default());
        }
    }

    /// The gauges of a cluster.
    pub(crate) fn cluster_gauges(&mut self, cluster: ClusterId) -> Option<&mut ClusterGauges> {
        self.clusters.get_mut(cluster.position()).map(|cluster| &mut cluster.gauges)
    }

    /// The gauges of a node; `None` if too many nodes have some already.
    pub(crate) fn node_gauges(
        &mut self,
        cluster: ClusterId,
        address: &Address,
    ) -> Option<&mut NodeGauges> {
        let nodes = &mut self.clusters.get_mut(cluster.position())?.nodes.by_address;
        if !nodes.contains_key(address) {
            let number = nodes.len();
            if number >= NODES {
                return None;
            }
            let (gauges, reported) = (NodeGauges::default(), Reported::default());
            nodes.insert(address.clone(), Node { number: number as u16, gauges, reported });
        }
        nodes.get_mut(address).map(|node| &mut node.gauges)
    }
}

/// Offers every change since it was last taken to `take`, which says whether it took it. One that
/// it did not take comes again with the next report. Returns whether all were taken.
pub(crate) fn report<'a>(
    clients: &mut ClientStats,
    nodes: &mut NodeStats,
    stat_prefix: &'a str,
    names: impl Iterator<Item = &'a str>,
    take: impl FnMut(&Metric<'_>, Change) -> bool,
) -> bool {
    let mut offer = Offer { stat_prefix, take, refused: false };
    let ClientStats { counters, gauges, reported, commands, .. } = clients;
    let (scope, path) = (Scope::Downstream, Path::Downstream);
    let names_of_counters = &DownstreamCounters::NAMES;
    offer.counters(scope, path, names_of_counters, &counters.values(), reported);
    let base = names_of_counters.len();
    offer.gauges(scope, path, DownstreamGauges::NAMES, &gauges.values(), base, reported);
    offer.commands(commands, &COMMAND_NAMES, |number, name| {
        (Scope::Command(number), Path::Command(name))
    });
    for ((index, cluster), name) in (0..).zip(&mut nodes.clusters).zip(names) {
        let (scope, path) = (Scope::Cluster(index), Path::Cluster(name));
        let (counters, reported) = (&UpstreamCounters::NAMES, &mut cluster.reported);
        offer.counters(scope, path, counters, &cluster.counters.values(), reported);
        let (gauges, base) = (ClusterGauges::NAMES, counters.len());
        offer.gauges(scope, path, gauges, &cluster.gauges.values(), base, reported);
        offer.commands(&mut cluster.commands, &UPSTREAM_COMMAND_NAMES, |number, command| {
            (Scope::UpstreamCommand(index, number), Path::UpstreamCommand(name, command))
        });
        for (address, node) in &mut cluster.nodes.by_address {
            let (scope, path) = (Scope::Node(index, node.number), Path::Node(name, address));
            let (gauges, values) = (NodeGauges::NAMES, node.gauges.values());
            offer.gauges(scope, path, gauges, &values, 0, &mut node.reported);
        }
    }
    !offer.refused
}

/// Offers changes to whoever takes them.
struct Offer<'a, F> {
    stat_prefix: &'a str,
    take: F,
    /// Something was not taken.
    refused: bool,
}

impl<F: FnMut(&Metric<'_>, Change) -> bool> Offer<'_, F> {
    fn offer(
        &mut self,
        id: MetricId,
        kind: MetricKind,
        path: Path<'_>,
        stat: &'static str,
        change: Change,
    ) -> bool {
        let stat_prefix = self.stat_prefix;
        let taken = (self.take)(&Metric { id, kind, stat_prefix, path, stat }, change);
        self.refused |= !taken;
        taken
    }

    fn counters(
        &mut self,
        scope: Scope,
        path: Path<'_>,
        names: &[&'static str],
        values: &[u64],
        reported: &mut Reported,
    ) {
        reported.counters.resize(values.len(), 0);
        self.grown(scope, path, names, values, &mut reported.counters);
    }

    fn grown(
        &mut self,
        scope: Scope,
        path: Path<'_>,
        names: &[&'static str],
        values: &[u64],
        reported: &mut [u64],
    ) {
        for (((stat, name), value), reported) in (0..).zip(names).zip(values).zip(reported) {
            let grown = value.saturating_sub(*reported);
            let (id, change) = (MetricId { scope, stat }, Change::Count(grown));
            if grown > 0 && self.offer(id, MetricKind::Counter, path, name, change) {
                *reported = *value;
            }
        }
    }

    /// Gauges are numbered from `base`, after the counters of the same scope.
    fn gauges(
        &mut self,
        scope: Scope,
        path: Path<'_>,
        names: &[&'static str],
        values: &[u64],
        base: usize,
        reported: &mut Reported,
    ) {
        reported.gauges.resize(values.len(), 0);
        let gauges = (base as u8..).zip(names).zip(values).zip(&mut reported.gauges);
        for (((stat, name), value), reported) in gauges {
            let shift = value.wrapping_sub(*reported).cast_signed();
            let (id, change) = (MetricId { scope, stat }, Change::Shift(shift));
            if shift != 0 && self.offer(id, MetricKind::Gauge, path, name, change) {
                *reported = *value;
            }
        }
    }

    fn commands<'a>(
        &mut self,
        commands: &mut Commands,
        names: &[&'static str],
        place: impl Fn(u16, &'static str) -> (Scope, Path<'a>),
    ) {
        for (number, command) in (0..).zip(commands.entries_mut()) {
            let (scope, path) = place(number, command.name);
            let counters = command.counters();
            let CommandStats { latency, reported, .. } = command;
            self.grown(scope, path, names, &counters, reported);
            let id = MetricId { scope, stat: names.len() as u8 };
            let kind = MetricKind::Histogram;
            let taken = latency
                .samples()
                .all(|value| self.offer(id, kind, path, LATENCY, Change::Record(value)));
            if taken && !latency.is_empty() {
                latency.clear();
            }
        }
    }
}

impl Metric<'_> {
    /// The same for every change of this metric.
    pub fn id(&self) -> MetricId {
        self.id
    }

    /// How its values are to be read.
    pub fn kind(&self) -> MetricKind {
        self.kind
    }
}

impl fmt::Display for Metric<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stat_prefix, stat, .. } = self;
        write!(f, "redis.{}.", Word(stat_prefix.trim_end_matches('.')))?;
        match self.path {
            Path::Downstream => {}
            Path::Command(command) => write!(f, "command.{command}.")?,
            Path::Cluster(cluster) => write!(f, "cluster.{}.", Word(cluster))?,
            Path::UpstreamCommand(cluster, command) => {
                write!(f, "cluster.{}.upstream_commands.{command}.", Word(cluster))?;
            }
            Path::Node(cluster, address) => {
                write!(f, "cluster.{}.node.", Word(cluster))?;
                write!(f, "{}_{}.", Word(address.host()), address.port())?;
            }
        }
        f.write_str(stat)
    }
}

/// A part of a name, with `_` for a colon, which separates name and value in StatsD: as Envoy does
/// it to names of its own.
struct Word<'a>(&'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = self.0.split(':');
        f.write_str(parts.next().unwrap_or_default())?;
        parts.try_for_each(|part| write!(f, "_{part}"))
    }
}
