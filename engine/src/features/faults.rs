//! Fault injection: errors and delays, for trying out what clients make of them (Envoy:
//! `RedisFault`).

use crate::config::{Config, Fault, FaultKind};
use crate::resp::RequestFrame;
use crate::rng::Rng;

/// The fault that a command is to meet, if any: the first in the configuration that applies to it.
#[inline]
pub(crate) fn draw(config: &Config, rng: &mut Rng, frame: &RequestFrame<'_>) -> Option<FaultKind> {
    if config.faults.is_empty() {
        return None;
    }
    let name = frame.arg(0).unwrap_or_default();
    let mut faults = config.faults.iter();
    let fault = faults.find(|fault| concerns(fault, name) && fault.fraction.contains(rng.next()));
    fault.map(|fault| fault.kind)
}

/// Whether the command of this name may meet the fault.
fn concerns(fault: &Fault, name: &[u8]) -> bool {
    let is = |command: &str| name.eq_ignore_ascii_case(command.as_bytes());
    match &fault.commands[..] {
        [] => !is("auth") && !is("ping"),
        commands => commands.iter().any(|command| is(command)),
    }
}
