//! Connections that are long in coming. An address that is gone does not even refuse, so what waits
//! for it must be able to leave: nothing of it has been written.

use std::time::Duration;

use super::Proxy;
use crate::config::ReadPolicy;
use crate::time::Instant;
use crate::upstream::{Connection, ConnectionId, Expect, Purpose};

/// Commands wait for a connection for so long before anybody wonders.
const PATIENCE: Duration = Duration::from_millis(100);

impl Proxy {
    /// A command waits for a connection to be established.
    pub(super) fn note_waiting_for_dial(&mut self, now: Instant) {
        self.next_dial_check.get_or_insert(now + PATIENCE);
    }

    /// Looks after commands that wait for a connection: perhaps their slot has another owner by now.
    pub(super) fn check_dials(&mut self, now: Instant) {
        self.next_dial_check = None;
        let waited = |connection: &Connection| {
            !connection.open
                && connection.pipeline.expectations().any(|it| matches!(it, Expect::Request(_)))
        };
        let waiting: Vec<_> =
            self.connections.iter().filter(|(_, it)| waited(it)).map(|(id, _)| id).collect();
        for id in waiting {
            let Some(connection) = self.connections.get(id) else { continue };
            let age = now.saturating_duration_since(connection.silent_since);
            if age >= PATIENCE && self.belongs_elsewhere(id, now) {
                self.give_up(id, &format!("it was not established within {age:?}"), now);
                continue;
            }
            if age >= PATIENCE {
                if let Some(cluster) = self.cluster_of(id) {
                    cluster.refresh.hurry_for_waiting(now);
                }
                self.ask_heirs_of(id, now);
            }
            self.note_waiting_for_dial(now);
        }
    }

    /// Whether any command on a connection would go to another node now.
    fn belongs_elsewhere(&self, id: ConnectionId, now: Instant) -> bool {
        let Some(connection) = self.connections.get(id) else { return false };
        let (Purpose::Shared(node, _) | Purpose::Dedicated(node, _)) = connection.purpose else {
            return false;
        };
        let Some(cluster) = self.clusters.get(connection.cluster) else { return false };
        let is_away = cluster.node(node).is_none_or(|node| node.is_away());
        connection.pipeline.expectations().any(|expect| {
            let Expect::Request(sub_request) = expect else { return false };
            let request = self.requests.get(sub_request.request);
            let Some(part) = request.and_then(|request| request.part(sub_request.part)) else {
                return false;
            };
            let Some(slot) = part.slot else { return false };
            // Readers take turns: that another one is next says nothing about this one.
            let may_leave = part.policy == ReadPolicy::Master || is_away;
            let zone = self.zone.as_deref();
            may_leave && cluster.node_for(slot, part.policy, zone, now) != Some(node)
        })
    }
}
