//! Writes copied to a mirror.

use std::io::Write;

use anyhow::{Result, ensure};

use super::monitor::{Executed, Monitor};
use super::{COPY_DEADLINE, KEYS, RedisCli, heading, passed};
use crate::process;

/// What the values written here begin with.
const PREFIX: &str = "mirrored-";

/// Writes and reads through `proxy`, which mirrors to `mirror` with `exclude_read_commands`; shows
/// by the mirror's MONITOR that it got every write, in order, and no read. The mirror is one
/// server.
///
/// # Errors
/// A command is answered by an error, a write did not reach the mirror, or a read did.
pub fn mirroring(proxy: &RedisCli, mirror: &RedisCli, out: &mut impl Write) -> Result<()> {
    heading(out, "Mirror the writes (request_mirror_policy, exclude_read_commands: true)")?;
    let mut monitor = Monitor::start(mirror)?;
    passed(out, "the mirror, a standalone Redis, runs MONITOR")?;

    // The last one is a write, and one client's copies follow each other: what the mirror is to get
    // of all these, it has got once it has that one.
    let value = |key| format!("{PREFIX}{key}");
    let pairs = KEYS.map(|key| [format!("GET {key}"), format!("SET {key} {}", value(key))]);
    let commands = pairs.as_flattened();
    let answers = proxy.session(commands, out)?;
    for (command, answer) in commands.iter().zip(&answers) {
        let right = if command.starts_with("SET") { answer == "OK" } else { is_value(answer) };
        ensure!(right, "{command} answered {answer:?}");
    }

    heading(out, "What the mirror's own MONITOR told meanwhile")?;
    let last = KEYS[KEYS.len() - 1];
    let is_last = |executed: &Executed| executed.is(&["SET", last, &value(last)]);
    let heard = monitor.read_until("the mirror to get the last SET", COPY_DEADLINE, is_last)?;
    writeln!(out, "  $ {}", process::show(&mirror.command(&["MONITOR"])?))?;
    for executed in &heard {
        writeln!(out, "  {}", executed.line)?;
    }
    let reads: Vec<&str> =
        heard.iter().filter(|executed| is_read(executed)).map(|one| one.line.as_str()).collect();
    ensure!(reads.is_empty(), "the mirror got reads: {reads:?}");
    let mut writes = heard.iter().filter(|executed| is_ours(executed));
    for key in KEYS {
        let write = writes.next().map(|executed| executed.words.join(" ")).unwrap_or_default();
        let wanted = format!("SET {key} {}", value(key));
        ensure!(write == wanted, "the mirror got {write:?} instead of {wanted:?}");
    }
    ensure!(writes.next().is_none(), "the mirror got more than {} SETs", KEYS.len());
    passed(out, &format!("it executed all {} SETs, in order", KEYS.len()))?;
    passed(out, "it executed no GET")?;
    let answer = mirror.show(&[&["MGET"][..], &KEYS].concat(), out)?;
    ensure!(answer.lines().eq(KEYS.map(value)), "the mirror holds {answer:?}");
    passed(out, "it holds what was written")
}

/// Whether it is a write of this step; copies of writes before it may still have been under way.
fn is_ours(executed: &Executed) -> bool {
    executed.words.get(2).is_some_and(|value| value.starts_with(PREFIX))
}

fn is_read(executed: &Executed) -> bool {
    executed.name().eq_ignore_ascii_case("GET")
}

/// Whether an answer is a value, not an error or nothing: all values here are in lower case,
/// and an error's first word never is.
fn is_value(answer: &str) -> bool {
    answer.starts_with(|char: char| char.is_ascii_lowercase())
}
