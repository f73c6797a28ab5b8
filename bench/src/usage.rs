//! What a process has used, from /proc.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time of all threads that a process has now. The scheduler counts it in nanoseconds, which
/// `/proc/<pid>/stat` rounds to hundredths of a second.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        nanoseconds += on_cpu(&text).context("schedstat has another form than expected")?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Bytes of memory that are a process's own and resident: its code is not among them.
pub(crate) fn memory(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kilobytes.context("status has no RssAnon")? * 1024)
}

/// The first number of schedstat: nanoseconds on a CPU (Documentation/scheduler/sched-stats.rst).
fn on_cpu(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_cpu_time_and_memory() {
        let pid = std::process::id();
        let before = cpu_time(pid).unwrap();
        let mut number = 1_u64;
        while cpu_time(pid).unwrap() < before + Duration::from_millis(10) {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        assert!(memory(pid).unwrap() > 100_000);
    }
}
