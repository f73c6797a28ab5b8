//! Connections that are long in coming. An address that is gone does not even refuse, so what waits
//! for it must be able to leave: nothing of it has been written.

use std::time::Duration;

use crate::exchange::Exchange;
use crate::upstream::Dial;

/// Commands wait for a connection for so long before anybody looks after them.
const PATIENCE: Duration = Duration::from_millis(100);

impl Exchange {
    /// A command waits for a connection to be established.
    pub(super) fn note_waiting_for_dial(&mut self) {
        self.next_dial_check.get_or_insert(self.now + PATIENCE);
    }

    /// Looks after commands that wait for a connection: perhaps their slot has another owner by
    /// now.
    pub(crate) fn check_dials(&mut self) {
        let now = self.now;
        self.next_dial_check = None;
        for dial in self.upstream.dials(now) {
            if dial.age >= PATIENCE && (dial.is_replaced || self.belongs_elsewhere(&dial)) {
                let reason = format!("it was not established within {:?}", dial.age);
                self.upstream.give_up(dial.connection, &reason, now);
                continue;
            }
            if dial.age >= PATIENCE {
                self.upstream.hurry_for_waiting(dial.cluster, now);
                self.upstream.ask_replicas_of(dial.connection, now);
            }
            self.note_waiting_for_dial();
        }
    }

    /// Whether any command on a connection would go to another node now.
    fn belongs_elsewhere(&self, dial: &Dial) -> bool {
        let Some(node) = dial.node else { return false };
        dial.parts.iter().any(|part| {
            let target = self.flight.part(*part).map(|part| part.target);
            target.is_some_and(|target| {
                self.upstream.belongs_elsewhere(dial.cluster, node, target, self.now)
            })
        })
    }
}
