//! The results as tables in Markdown.

use std::fmt::Write;

use crate::memory::{CLIENTS, Footprint};
use crate::summary::{Outcome, Ratio, Row};

/// All measurements.
pub(crate) fn measurements(rows: &[Row]) -> String {
    let mut out = String::from(
        "| load | proxy | requests/s | p50 µs | p99 µs | p99.9 µs | CPU µs/request | memory MiB \
         | requests/s to native | CPU to native |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for row in rows {
        let median = &row.median;
        let memory = median.memory_bytes.map(|bytes| bytes as f64 / 1024.0 / 1024.0);
        let _ = writeln!(
            out,
            "| {} | {} | {:.0} | {} | {} | {} | {} | {} | {} | {} |",
            row.load,
            row.contender,
            median.requests_per_second,
            median.p50_us,
            median.p99_us,
            median.p999_us,
            or_dash(median.cpu_us, 2, ""),
            or_dash(memory, 1, ""),
            or_dash(row.ratios.map(|ratios| ratios.rate.median), 2, "x"),
            or_dash(row.ratios.and_then(|ratios| ratios.cpu).map(|cpu| cpu.median), 2, "x"),
        );
    }
    out
}

/// The targets, and whether they are met.
pub(crate) fn targets(rows: &[Row]) -> String {
    let mut out = String::from(
        "Ratios to redis_proxy: the median of the rounds, and in brackets the middle half of them. A target that \
         a quarter of the rounds meets is missed within noise.\n\n\
         | load | requests/s | at least | | CPU | at most | |\n\
         |---|--:|--:|---|--:|--:|---|\n",
    );
    for row in rows {
        let (Some(verdict), Some(ratios)) = (row.verdict, row.ratios) else { continue };
        let _ = writeln!(
            out,
            "| {} | {} | {}x | {} | {} | {}x | {} |",
            row.load,
            with_spread(ratios.rate),
            verdict.rate_target,
            in_words(verdict.rate),
            ratios.cpu.map_or_else(|| "-".to_owned(), with_spread),
            verdict.cpu_target,
            in_words(verdict.cpu),
        );
    }
    out
}

/// Memory of proxies that wait for work.
pub(crate) fn memory(rows: &[Footprint]) -> String {
    let mut out = format!(
        "Memory of each proxy's own, in MiB, before the loads: with no client, and with {CLIENTS} clients that have \
         all had a reply.\n\n\
         | proxy | no client | {CLIENTS} clients | KiB for a client |\n|---|--:|--:|--:|\n",
    );
    for Footprint { contender, idle, with_clients } in rows {
        let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
        let each = with_clients.saturating_sub(*idle) as f64 / 1024.0 / CLIENTS as f64;
        let (idle, with_clients) = (mib(*idle), mib(*with_clients));
        let _ = writeln!(out, "| {contender} | {idle:.1} | {with_clients:.1} | {each:.1} |");
    }
    out
}

fn with_spread(ratio: Ratio) -> String {
    let Ratio { median, lower_quartile, upper_quartile } = ratio;
    format!("{median:.2}x ({lower_quartile:.2}-{upper_quartile:.2})")
}

fn in_words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Met => "met",
        Outcome::MissedWithinNoise => "missed, within noise",
        Outcome::Missed => "**missed**",
    }
}

fn or_dash(value: Option<f64>, digits: usize, unit: &str) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}{unit}"))
}
