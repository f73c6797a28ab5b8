//! What the proxy counts, in plain fields, and how the changes are reported now and then.
//!
//! A command costs a few additions here: no name is looked at and nothing is hashed. Names come
//! into play when changes are reported, once in [`REPORT_INTERVAL`] at most, and not at all while
//! there are none.

mod commands;
mod counters;
mod histogram;
mod report;

use std::time::Duration;

use commands::Commands;
pub(crate) use commands::Row;
pub use counters::Stats;
pub(crate) use counters::{DownstreamCounters, UpstreamCounters};
pub use report::{Change, Metric, MetricId, MetricKind, documented};
pub(crate) use report::{ClusterGauges, DownstreamGauges, NodeGauges};
use report::{Nodes, Reported};

use crate::command::CommandSpec;
use crate::config::FaultKind;
use crate::time::Instant;

/// Time from the first change to the report of all that have come by then.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// In nanoseconds: one division of 64 bits, where [`Duration`] would take several, of 128 bits too.
const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;

/// The counts of one proxy.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// The time of the event that is being handled.
    now: Instant,
    /// When changes are to be reported; `None`: there are none.
    report_at: Option<Instant>,
    /// Nanoseconds in the unit of latencies.
    latency_unit: u64,
    downstream: DownstreamCounters,
    downstream_gauges: DownstreamGauges,
    downstream_reported: Reported,
    commands: Commands,
    clusters: Vec<ClusterStats>,
    /// Where the counts of a cluster go that is not there, which does not happen.
    no_cluster: UpstreamCounters,
}

/// The counts of one cluster.
#[derive(Debug, Default)]
struct ClusterStats {
    counters: UpstreamCounters,
    gauges: ClusterGauges,
    reported: Reported,
    /// By command, if that is wanted.
    commands: Commands,
    nodes: Nodes,
}

/// What a command is counted as, and since when it is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    row: Row,
    started: Instant,
}

impl Recorder {
    pub(crate) fn new(clusters: usize, latency_in_micros: bool) -> Self {
        Self {
            now: Instant::default(),
            report_at: None,
            latency_unit: if latency_in_micros { MICROSECOND } else { MILLISECOND },
            downstream: DownstreamCounters::default(),
            downstream_gauges: DownstreamGauges::default(),
            downstream_reported: Reported::default(),
            commands: Commands::default(),
            clusters: (0..clusters).map(|_| ClusterStats::default()).collect(),
            no_cluster: UpstreamCounters::default(),
        }
    }

    /// Sets the time of what is counted from here on.
    pub(crate) fn set_time(&mut self, now: Instant) {
        self.now = now;
    }

    /// Something has changed that is to be reported.
    pub(crate) fn touch(&mut self) {
        if self.report_at.is_none() {
            self.report_at = Some(self.now + REPORT_INTERVAL);
        }
    }

    /// When changes are to be reported.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.report_at
    }

    /// Whether changes are to be reported now. Says so once.
    pub(crate) fn take_due(&mut self, now: Instant) -> bool {
        self.report_at.take_if(|at| *at <= now).is_some()
    }

    /// The counters of clients, to count something.
    pub(crate) fn downstream(&mut self) -> &mut DownstreamCounters {
        self.touch();
        &mut self.downstream
    }

    /// The counters of the cluster of this index, to count something.
    pub(crate) fn upstream(&mut self, cluster: usize) -> &mut UpstreamCounters {
        self.touch();
        match self.clusters.get_mut(cluster) {
            Some(cluster) => &mut cluster.counters,
            None => &mut self.no_cluster,
        }
    }

    /// A client's command begins to wait for its reply.
    pub(crate) fn begin(&mut self, spec: &CommandSpec) -> Tally {
        let tally = self.tally(spec);
        if let Some(command) = self.commands.entry(tally.row) {
            command.total += 1;
        }
        self.touch();
        tally
    }

    /// A client's command meets a fault; one that is not executed counts as nothing else.
    pub(crate) fn note_fault(&mut self, spec: &CommandSpec, fault: FaultKind) {
        let Some(command) = self.commands.entry(Row::of(spec)) else { return };
        let (is_error, delay) = match fault {
            FaultKind::Error(delay) => (true, delay),
            FaultKind::Delay(delay) => (false, delay),
        };
        // One that is answered later has begun, and counts then.
        command.total += u64::from(is_error && delay.is_zero());
        command.error_fault += u64::from(is_error);
        command.delay_fault += u64::from(!delay.is_zero());
        self.touch();
    }

    /// What a command counts as that no client waits for.
    pub(crate) fn tally(&self, spec: &CommandSpec) -> Tally {
        Tally { row: Row::of(spec), started: self.now }
    }

    /// A client's command has its reply.
    pub(crate) fn finish(&mut self, tally: Option<Tally>, reply: &[u8]) {
        let Some(Tally { row, started }) = tally else { return };
        let latency = self.nanos_since(started) / self.latency_unit;
        if let Some(command) = self.commands.entry(row) {
            command.note_reply(reply, latency);
        }
        self.touch();
    }

    /// A client's command is answered without having begun.
    pub(crate) fn finish_at_once(&mut self, spec: &CommandSpec, success: bool) {
        if success {
            let tally = self.begin(spec);
            self.finish(Some(tally), b"+");
        } else {
            self.fail(spec);
        }
    }

    /// A client's command is answered with an error without having begun.
    pub(crate) fn fail(&mut self, spec: &CommandSpec) {
        if let Some(command) = self.commands.entry(Row::of(spec)) {
            command.total += 1;
            command.error += 1;
        }
        self.touch();
    }

    /// A command is put on a connection to a node; counted by command.
    pub(crate) fn begin_upstream(&mut self, cluster: usize, tally: Option<Tally>) -> Option<Tally> {
        let Tally { row, .. } = tally?;
        self.clusters.get_mut(cluster)?.commands.entry(row)?.total += 1;
        Some(Tally { row, started: self.now })
    }

    /// A node has answered, or has gone, for which `reply` is an error.
    pub(crate) fn finish_upstream(&mut self, cluster: usize, tally: Option<Tally>, reply: &[u8]) {
        let Some(Tally { row, started }) = tally else { return };
        let latency = self.nanos_since(started) / MICROSECOND;
        let cluster = self.clusters.get_mut(cluster);
        if let Some(command) = cluster.and_then(|cluster| cluster.commands.entry(row)) {
            command.note_reply(reply, latency);
        }
        self.touch();
    }

    fn nanos_since(&self, earlier: Instant) -> u64 {
        self.now.as_nanos().saturating_sub(earlier.as_nanos())
    }

    /// All counts that are kept for the proxy as a whole, those of its clusters added up.
    pub(crate) fn totals(&self) -> Stats {
        let mut stats = Stats::default();
        self.downstream.add_to(&mut stats);
        for cluster in &self.clusters {
            cluster.counters.add_to(&mut stats);
        }
        stats
    }
}
