//! What there is to see of the proxy from outside: what it counts, and how much it keeps.

use super::Proxy;
use crate::config::Attribute;
use crate::stats::{Change, DownstreamGauges, Metric, Stats, report};

/// What the proxy keeps at the moment, under the names of the limits that bound it: see
/// [`Limits`](crate::config::Limits).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Kept {
    /// Unanswered commands of the client that has most.
    pub session_requests: usize,
    /// Bytes of unanswered commands of the client that has most; the last of them may be over the
    /// limit.
    pub session_bytes: usize,
    /// Bytes of all clients' commands that are unfinished or wait unread.
    pub input_bytes: usize,
    /// Bytes that the parts have taken together beyond their reserves.
    pub memory_bytes: usize,
    /// Bytes of commands that clients have queued since MULTI.
    pub transaction_bytes: usize,
    /// Bytes of unanswered commands on the connection that has most, with the few bytes that the
    /// proxy puts before some of them. Connections that carry subscriptions count by themselves.
    pub connection_bytes: usize,
    /// Bytes of all clients' replies that wait for those before them or for their other parts.
    pub waiting_reply_bytes: usize,
    /// Bytes of commands that wait for a node or a topology.
    pub held_bytes: usize,
    /// Bytes of copies that wait for the mirror that has most.
    pub mirror_bytes: usize,
    /// Bytes of all clients' subscriptions.
    pub subscription_bytes: usize,
    /// Bytes of unanswered commands on the connection that has most, of those that carry
    /// subscriptions.
    pub subscriber_bytes: usize,
    /// Bytes of scripts that are remembered.
    pub script_bytes: usize,
}

impl Proxy {
    /// What keys are made of beside themselves: see [`Self::handle_downstream_attributes`].
    pub fn attributes(&self) -> &[Attribute] {
        &self.x.config.attributes
    }

    /// Clients connected at the moment.
    pub fn sessions(&self) -> usize {
        self.x.downstream.len()
    }

    /// Client commands that wait for a reply or for their turn to be answered.
    pub fn requests(&self) -> usize {
        self.x.flight.len()
    }

    /// Connections to nodes, of all kinds.
    pub fn connections(&self) -> usize {
        self.x.upstream.connections()
    }

    /// What the proxy keeps at the moment.
    #[must_use]
    pub fn kept(&self) -> Kept {
        let x = &self.x;
        let (session_requests, session_bytes) = x.flight.most_pending();
        let (subscriber_bytes, connection_bytes) = x.upstream.most_unanswered();
        Kept {
            session_requests,
            session_bytes,
            input_bytes: x.downstream.input_bytes(),
            memory_bytes: self.memory.taken(),
            transaction_bytes: self.transactions.bytes(),
            connection_bytes,
            waiting_reply_bytes: x.flight.reply_bytes(),
            held_bytes: x.flight.held_bytes(),
            mirror_bytes: x.mirror_bytes(),
            subscription_bytes: self.pubsub.bytes(),
            subscriber_bytes,
            script_bytes: x.scripts.bytes(),
        }
    }

    /// What has been counted so far.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.x.downstream.stats().add_to(&mut stats);
        self.x.upstream.stats().add_to(&mut stats);
        stats
    }

    /// Offers every change of a metric to `take`, which says whether it took it; one that it did
    /// not take comes again with the next [`Output::ReportStats`](crate::Output::ReportStats).
    pub fn report_stats(&mut self, take: impl FnMut(&Metric<'_>, Change) -> bool) {
        let commands = self.x.flight.all_pending();
        self.x.downstream.measure(commands);
        self.x.upstream.measure();
        self.report(take);
    }

    /// The same for the last time: all gauges go down to zero, because what they tell of ends with
    /// the proxy.
    pub fn report_last_stats(&mut self, take: impl FnMut(&Metric<'_>, Change) -> bool) {
        self.x.downstream.stats_mut().set_gauges(DownstreamGauges::default());
        self.x.upstream.stats_mut().clear_gauges();
        self.report(take);
    }

    fn report(&mut self, take: impl FnMut(&Metric<'_>, Change) -> bool) {
        let names: Vec<String> = self.x.upstream.cluster_names().map(str::to_owned).collect();
        let names = names.iter().map(String::as_str);
        let x = &mut self.x;
        let (clients, nodes) = (x.downstream.stats_mut(), x.upstream.stats_mut());
        let all_taken = report(clients, nodes, &x.config.stat_prefix, names, take);
        self.report_timer.stop();
        if !all_taken {
            self.report_timer.start(x.now());
        }
    }
}
