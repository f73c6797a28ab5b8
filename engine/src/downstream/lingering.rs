//! Closing a client that goes on to send: a connection that is closed with bytes of its peer unread
//! is reset, and the peer may never see why.

use std::time::Duration;

use crate::downstream::{Downstream, Queued};
use crate::ids::SessionId;
use crate::time::Instant;

/// A client that has sent nothing for so long is closed.
const QUIET: Duration = Duration::from_millis(200);
/// A client that goes on to send is closed after so long.
const LONGEST: Duration = Duration::from_secs(10);

/// What is known of a client that is closed once it has ceased to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linger {
    /// When it was to be closed; `None`: it is still owed replies.
    since: Option<Instant>,
    /// It has sent bytes since that was looked at.
    has_sent: bool,
}

/// When to look at which client.
#[derive(Debug)]
pub(super) struct Look {
    at: Instant,
    client: SessionId,
}

impl Downstream {
    /// The client goes on to send what nobody wants: when it has been answered it is closed once it
    /// has ceased to.
    pub(crate) fn set_lingering(&mut self, id: SessionId) {
        if let Some(client) = self.clients.get_mut(id) {
            client.lingers = Some(Linger { since: None, has_sent: false });
        }
    }

    /// The client that is to be closed has sent bytes.
    pub(super) fn note_dropped(&mut self, id: SessionId) {
        let client = self.clients.get_mut(id);
        if let Some(linger) = client.and_then(|client| client.lingers.as_mut()) {
            linger.has_sent = true;
        }
    }

    /// Puts off the close of a client that lingers. Returns whether it does.
    pub(super) fn linger(&mut self, id: SessionId, now: Instant) -> bool {
        let client = self.clients.get_mut(id);
        let Some(linger) = client.and_then(|client| client.lingers.as_mut()) else { return false };
        if linger.since.is_none() {
            linger.since = Some(now);
            self.lingering.push_back(Look { at: now + QUIET, client: id });
        }
        true
    }

    /// When [`Self::close_quiet`] has something to do.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.lingering.front().map(|look| look.at)
    }

    /// Closes clients that have ceased to send, or that do so for too long.
    pub(crate) fn close_quiet(&mut self, now: Instant) {
        while self.next_timeout().is_some_and(|at| at <= now) {
            let Some(look) = self.lingering.pop_front() else { return };
            let client = self.clients.get_mut(look.client);
            let Some(linger) = client.and_then(|client| client.lingers.as_mut()) else { continue };
            let is_late = linger.since.is_some_and(|since| now >= since + LONGEST);
            if std::mem::take(&mut linger.has_sent) && !is_late {
                self.lingering.push_back(Look { at: now + QUIET, client: look.client });
            } else {
                self.outputs.push_back(Queued::Close(look.client));
            }
        }
    }
}
