//! The results as tables in Markdown.

use std::fmt::Write;

use crate::summary::{Row, Verdict};

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
            or_dash(row.ratios.map(|ratios| ratios.rate), 2, "x"),
            or_dash(row.ratios.and_then(|ratios| ratios.cpu), 2, "x"),
        );
    }
    out
}

/// The targets, and whether they are met.
pub(crate) fn targets(rows: &[Row]) -> String {
    let mut out = String::from(
        "| load | requests/s to native | at least | | CPU to native | at most | |\n\
         |---|--:|--:|---|--:|--:|---|\n",
    );
    for row in rows {
        let (Some(verdict), Some(ratios)) = (row.verdict, row.ratios) else { continue };
        let Verdict { rate_target, rate_met, cpu_target, cpu_met } = verdict;
        let _ = writeln!(
            out,
            "| {} | {:.2}x | {rate_target}x | {} | {} | {cpu_target}x | {} |",
            row.load,
            ratios.rate,
            met(rate_met),
            or_dash(ratios.cpu, 2, "x"),
            met(cpu_met),
        );
    }
    out
}

fn met(met: bool) -> &'static str {
    if met { "met" } else { "**missed**" }
}

fn or_dash(value: Option<f64>, digits: usize, unit: &str) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}{unit}"))
}
