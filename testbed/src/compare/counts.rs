//! What servers themselves have counted of the commands they were sent.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::RedisServer;

/// Counts of one command.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    /// Executed, also for a primary or a script.
    pub(super) calls: u64,
    /// Answered with a redirection or another error before execution.
    pub(super) rejected: u64,
}

/// Begins to count anew.
pub(super) fn reset<'a>(servers: impl IntoIterator<Item = &'a RedisServer>) -> Result<()> {
    servers.into_iter().try_for_each(|server| server.cli(&["CONFIG", "RESETSTAT"]).map(drop))
}

/// What `servers` have counted together since, by the command's name.
pub(super) fn of<'a>(
    servers: impl IntoIterator<Item = &'a RedisServer>,
) -> Result<BTreeMap<String, Count>> {
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    for server in servers {
        let info = server.cli(&["INFO", "commandstats"])?;
        let lines = info.lines().filter_map(|line| line.strip_prefix("cmdstat_"));
        for (name, fields) in lines.filter_map(|line| line.split_once(':')) {
            let count = counts.entry(name.to_owned()).or_default();
            for (field, value) in fields.split(',').filter_map(|field| field.split_once('=')) {
                let value = || value.trim_end().parse::<u64>();
                match field {
                    "calls" => count.calls += value()?,
                    "rejected_calls" => count.rejected += value()?,
                    _ => {}
                }
            }
        }
    }
    Ok(counts)
}
