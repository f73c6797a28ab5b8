//! Made-up errors and delays, for trying out what clients make of them (Envoy: `RedisFault`).

use super::Proxy;
use crate::config::{Fault, FaultKind};
use crate::request::RequestId;
use crate::resp::RequestFrame;
use crate::time::Instant;

/// Envoy's text, behind the code word that clients expect.
pub(super) const INJECTED: &[u8] = b"ERR Fault Injected: Error";

/// A reply that is held back.
#[derive(Debug)]
pub(super) struct Delayed {
    until: Instant,
    request: RequestId,
    reply: Vec<u8>,
}

impl Proxy {
    /// The fault that a command is to meet, if any: the first in the configuration that befalls it.
    pub(super) fn draw_fault(&mut self, frame: &RequestFrame<'_>) -> Option<FaultKind> {
        let Self { config, rng, .. } = self;
        let name = frame.arg(0).unwrap_or_default();
        let mut faults = config.faults.iter();
        faults
            .find(|fault| fault.concerns(name) && fault.fraction.contains(rng.next()))
            .map(|f| f.kind)
    }

    /// Hands a request's reply over at `until`; its time cannot be up before.
    pub(super) fn delay(&mut self, request: RequestId, reply: &[u8], until: Instant) {
        let session = self.requests.get(request).and_then(|request| request.session());
        if let Some(session) = session.and_then(|session| self.sessions.get_mut(session)) {
            session.untimed = true;
        }
        self.requests.set_delayed(request);
        self.delayed.push(Delayed { until, request, reply: reply.to_vec() });
    }

    /// When the next held back reply is due.
    pub(super) fn next_delayed(&self) -> Option<Instant> {
        self.delayed.iter().map(|delayed| delayed.until).min()
    }

    /// Hands over the replies that have been held back long enough, those first that are due first.
    pub(super) fn release_delayed(&mut self, now: Instant) {
        self.delayed.sort_by_key(|delayed| delayed.until);
        let due = self.delayed.partition_point(|delayed| delayed.until <= now);
        let due: Vec<_> = self.delayed.drain(..due).collect();
        for Delayed { request, reply, .. } in due {
            self.hand_over(request, &reply);
        }
    }
}

impl Fault {
    /// Whether the command of this name may meet the fault.
    fn concerns(&self, name: &[u8]) -> bool {
        let is = |command: &str| name.eq_ignore_ascii_case(command.as_bytes());
        if self.commands.is_empty() {
            return !is("auth") && !is("ping");
        }
        self.commands.iter().any(|command| is(command))
    }
}
