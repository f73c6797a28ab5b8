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

use commands::{Commands, Row};
pub use counters::Stats;
pub(crate) use counters::{DownstreamCounters, UpstreamCounters};
pub use report::{Change, Metric, MetricId, MetricKind, documented};
pub(crate) use report::{ClusterGauges, DownstreamGauges, NodeGauges, report};
use report::{Nodes, Reported};

use crate::command::{CommandError, CommandSpec};
use crate::config::FaultKind;
use crate::ids::ClusterId;
use crate::time::Instant;

/// Time from the first change to the report of all that have come by then.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// In nanoseconds: one division of 64 bits, where [`Duration`] would take several, of 128 bits too.
const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;

/// What is counted of clients and their commands.
#[derive(Debug)]
pub(crate) struct ClientStats {
    /// The time of the event that is being handled.
    now: Instant,
    /// Something has changed that is to be reported.
    changed: bool,
    /// Nanoseconds in the unit of latencies.
    latency_unit: u64,
    counters: DownstreamCounters,
    gauges: DownstreamGauges,
    reported: Reported,
    commands: Commands,
}

/// What is counted of clusters and their nodes.
#[derive(Debug)]
pub(crate) struct NodeStats {
    /// The time of the event that is being handled.
    now: Instant,
    /// Something has changed that is to be reported.
    changed: bool,
    clusters: Vec<ClusterStats>,
    /// Where the counts of a cluster go that is not there, which does not happen.
    no_cluster: UpstreamCounters,
}

/// When changes are reported.
#[derive(Debug, Default)]
pub(crate) struct ReportTimer {
    /// `None`: there are no changes.
    due: Option<Instant>,
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

impl ReportTimer {
    /// Something has changed: it is to be reported in a while.
    #[inline]
    pub(crate) fn start(&mut self, now: Instant) {
        if self.due.is_none() {
            self.due = Some(now + REPORT_INTERVAL);
        }
    }

    /// When changes are to be reported.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Whether changes are to be reported now. Says so once.
    pub(crate) fn take_due(&mut self, now: Instant) -> bool {
        self.due.take_if(|at| *at <= now).is_some()
    }

    /// All changes are being reported.
    pub(crate) fn stop(&mut self) {
        self.due = None;
    }
}

impl ClientStats {
    pub(crate) fn new(latency_in_micros: bool) -> Self {
        Self {
            now: Instant::default(),
            changed: false,
            latency_unit: if latency_in_micros { MICROSECOND } else { MILLISECOND },
            counters: DownstreamCounters::default(),
            gauges: DownstreamGauges::default(),
            reported: Reported::default(),
            commands: Commands::default(),
        }
    }

    /// Sets the time of what is counted from here on.
    #[inline]
    pub(crate) fn set_time(&mut self, now: Instant) {
        self.now = now;
    }

    /// Whether something has changed since this was asked last.
    #[inline]
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// A gauge has changed.
    pub(crate) fn touch(&mut self) {
        self.changed = true;
    }

    /// The counters, to count something.
    #[inline]
    pub(crate) fn count(&mut self) -> &mut DownstreamCounters {
        self.changed = true;
        &mut self.counters
    }

    /// Counts a command that no Redis would run.
    pub(crate) fn count_invalid(&mut self, error: CommandError) {
        match error {
            CommandError::Arity(_) => self.count().splitter_invalid_request += 1,
            CommandError::UnknownCommand | CommandError::UnknownSubcommand(_) => {
                self.count().splitter_unsupported_command += 1;
            }
        }
    }

    /// A client's command begins to wait for its reply.
    #[inline]
    pub(crate) fn begin(&mut self, spec: &CommandSpec) -> Tally {
        let tally = self.tally(spec);
        if let Some(command) = self.commands.entry(tally.row) {
            command.total += 1;
        }
        self.changed = true;
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
        self.changed = true;
    }

    /// What a command counts as that no client waits for.
    pub(crate) fn tally(&self, spec: &CommandSpec) -> Tally {
        Tally { row: Row::of(spec), started: self.now }
    }

    /// A client's command has its reply.
    #[inline]
    pub(crate) fn finish(&mut self, tally: Option<Tally>, reply: &[u8]) {
        let Some(Tally { row, started }) = tally else { return };
        let latency = nanos_between(started, self.now) / self.latency_unit;
        if let Some(command) = self.commands.entry(row) {
            command.note_reply(reply, latency);
        }
        self.changed = true;
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
        self.changed = true;
    }

    /// Adds what has been counted.
    pub(crate) fn add_to(&self, stats: &mut Stats) {
        self.counters.add_to(stats);
    }
}

impl NodeStats {
    pub(crate) fn new(clusters: usize) -> Self {
        Self {
            now: Instant::default(),
            changed: false,
            clusters: (0..clusters).map(|_| ClusterStats::default()).collect(),
            no_cluster: UpstreamCounters::default(),
        }
    }

    /// Sets the time of what is counted from here on.
    #[inline]
    pub(crate) fn set_time(&mut self, now: Instant) {
        self.now = now;
    }

    /// Whether something has changed since this was asked last.
    #[inline]
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// A gauge has changed.
    pub(crate) fn touch(&mut self) {
        self.changed = true;
    }

    /// The counters of a cluster, to count something.
    #[inline]
    pub(crate) fn count(&mut self, cluster: ClusterId) -> &mut UpstreamCounters {
        self.changed = true;
        match self.clusters.get_mut(cluster.position()) {
            Some(cluster) => &mut cluster.counters,
            None => &mut self.no_cluster,
        }
    }

    /// A command is put on a connection to a node; counted by command.
    pub(crate) fn begin(&mut self, cluster: ClusterId, tally: Option<Tally>) -> Option<Tally> {
        let Tally { row, .. } = tally?;
        self.clusters.get_mut(cluster.position())?.commands.entry(row)?.total += 1;
        Some(Tally { row, started: self.now })
    }

    /// A node has answered, or has gone, for which `reply` is an error.
    pub(crate) fn finish(&mut self, cluster: ClusterId, tally: Tally, reply: &[u8]) {
        let Tally { row, started } = tally;
        let latency = nanos_between(started, self.now) / MICROSECOND;
        let cluster = self.clusters.get_mut(cluster.position());
        if let Some(command) = cluster.and_then(|cluster| cluster.commands.entry(row)) {
            command.note_reply(reply, latency);
        }
        self.changed = true;
    }

    /// Adds what has been counted of all clusters.
    pub(crate) fn add_to(&self, stats: &mut Stats) {
        for cluster in &self.clusters {
            cluster.counters.add_to(stats);
        }
    }
}

fn nanos_between(earlier: Instant, later: Instant) -> u64 {
    later.as_nanos().saturating_sub(earlier.as_nanos())
}
