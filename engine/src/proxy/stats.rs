//! What the proxy has counted, and how things stand, for whoever shows it.

use super::Proxy;
use crate::command::CommandError;
use crate::request::SubRequestId;
use crate::stats::{Change, ClusterGauges, DownstreamGauges, Metric, NodeGauges, Stats};
use crate::upstream::{Connection, ConnectionId, Purpose};

impl Proxy {
    /// What has been counted so far.
    pub fn stats(&self) -> Stats {
        self.stats.totals()
    }

    /// Offers every change of a metric to `take`, which says whether it took it; one that it did
    /// not take comes again with the next [`Output::ReportStats`](crate::Output::ReportStats).
    pub fn report_stats(&mut self, take: impl FnMut(&Metric<'_>, Change) -> bool) {
        self.measure();
        let names = self.clusters.iter().map(|cluster| cluster.config.name.as_str());
        self.stats.report(&self.config.stat_prefix, names, take);
    }

    /// The same for the last time: all gauges go down to zero, because what they tell of ends with
    /// the proxy.
    pub fn report_last_stats(&mut self, take: impl FnMut(&Metric<'_>, Change) -> bool) {
        self.stats.set_downstream_gauges(DownstreamGauges::default());
        for index in 0..self.clusters.len() {
            self.stats.set_cluster_gauges(index, ClusterGauges::default());
        }
        let names = self.clusters.iter().map(|cluster| cluster.config.name.as_str());
        self.stats.report(&self.config.stat_prefix, names, take);
    }

    /// Sets the gauges.
    fn measure(&mut self) {
        self.stats.set_downstream_gauges(DownstreamGauges {
            downstream_cx_active: self.sessions.len(),
            downstream_cx_rx_bytes_buffered: self.input_bytes,
            downstream_rq_active: self.sessions.iter().map(|(_, s)| s.pending.len()).sum(),
        });
        for (index, cluster) in self.clusters.iter().enumerate() {
            let (nodes, shards) = cluster.size();
            let gauges = ClusterGauges { nodes, shards, ..ClusterGauges::default() };
            self.stats.set_cluster_gauges(index, gauges);
        }
        for (_, connection) in self.connections.iter() {
            let Connection { cluster, address, .. } = connection;
            let in_flight = connection.pipeline.len();
            if let Some(gauges) = self.stats.cluster_gauges(*cluster) {
                gauges.upstream_cx_active += 1;
                gauges.upstream_rq_active += in_flight;
            }
            if connection.purpose != Purpose::Refresh
                && let Some(NodeGauges { upstream_cx_active, upstream_rq_active }) =
                    self.stats.node_gauges(*cluster, address)
            {
                *upstream_cx_active += usize::from(connection.open);
                *upstream_rq_active += in_flight;
            }
        }
    }

    /// Counts a command that no Redis would run.
    pub(super) fn count_invalid(&mut self, error: CommandError) {
        let counters = self.stats.downstream();
        match error {
            CommandError::Arity(_) => counters.splitter_invalid_request += 1,
            CommandError::UnknownCommand | CommandError::UnknownSubcommand(_) => {
                counters.splitter_unsupported_command += 1;
            }
        }
    }

    /// Counts, by command, that one has been put on a connection.
    pub(super) fn note_sent(&mut self, id: ConnectionId, sub_request: SubRequestId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let tally = self.requests.get(sub_request.request).and_then(|request| request.tally);
        let tally = self.stats.begin_upstream(connection.cluster, tally);
        connection.tallies.push_back(tally);
    }

    /// Counts, by command, that the oldest one on a connection has been answered.
    pub(super) fn note_reply(&mut self, id: ConnectionId, reply: &[u8]) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if let Some(tally) = connection.tallies.pop_front() {
            self.stats.finish_upstream(connection.cluster, tally, reply);
        }
    }

    /// Counts, by command, that those left on a connection will not be answered.
    pub(super) fn note_lost(&mut self, connection: &mut Connection) {
        for tally in connection.tallies.drain(..) {
            self.stats.finish_upstream(connection.cluster, tally, b"-");
        }
    }
}
