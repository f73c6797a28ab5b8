//! `CLIENT UNBLOCK`: the node that keeps a client's command waiting is asked to let go of it.
//!
//! Only the node knows whether it has just found something for the client, so it decides, and it
//! answers both: the one that waits and the one that asks.

use super::Proxy;
use crate::command::Merge;
use crate::downstream::Caller;
use crate::errors::{self, ErrorText};
use crate::exchange::Command;
use crate::flight::{Completion, Part, Split, State};
use crate::ids::{ClusterId, NodeIndex, PartId};
use crate::resp::{RequestFrame, encode, parse_decimal};
use crate::target::{SendMode, Target};

impl Proxy {
    /// `CLIENT UNBLOCK id [TIMEOUT|ERROR]`
    pub(super) fn client_unblock(&mut self, caller: &Caller, command: &Command<'_>) {
        let (client_id, reason) = match read(&command.frame) {
            Ok(read) => read,
            Err(text) => return self.x.answer_failure(caller, command, &text.to_string()),
        };
        let waits = self.waits_of(caller, client_id);
        if waits.is_empty() {
            self.x.downstream.stats_mut().finish_at_once(command.spec, true);
            return self.x.answer(caller.id, |out| encode::integer(out, 0));
        }
        let parts = waits.iter().map(|(cluster, node, _)| Part::new(*cluster, Target::Node(*node)));
        // Several nodes keep a WAIT waiting, and each is asked.
        let state = State::Split(Box::new(Split::whole(Merge::First, 0, parts)));
        let Some(request) = self.x.begin(caller, command, state, Completion::Deliver) else {
            return;
        };
        for (part, (_, node, node_id)) in (0..).zip(waits) {
            let mut unblock = Vec::new();
            let node_id = node_id.to_string();
            encode::command(&mut unblock, &[b"CLIENT", b"UNBLOCK", node_id.as_bytes(), reason]);
            self.x.send_to(node, PartId { request, part }, &unblock, SendMode::Plain);
        }
    }

    /// Where nodes keep a command of this client waiting, with what they call the connections.
    fn waits_of(&self, caller: &Caller, client_id: i64) -> Vec<(ClusterId, NodeIndex, i64)> {
        let mut clients = self.x.visible_to(caller.id);
        let found = clients.find(|(_, profile)| i64::try_from(profile.client_id) == Ok(client_id));
        found.map(|(id, _)| self.x.upstream.waits_of(id)).unwrap_or_default()
    }
}

/// The client's id, and the reason; errors are redis-server's.
fn read<'a>(frame: &RequestFrame<'a>) -> Result<(i64, &'a [u8]), ErrorText> {
    let reason = frame.arg(3).unwrap_or(b"TIMEOUT");
    if !reason.eq_ignore_ascii_case(b"TIMEOUT") && !reason.eq_ignore_ascii_case(b"ERROR") {
        return Err(errors::UNBLOCK_REASON.into());
    }
    let client_id = parse_decimal(frame.arg(2).unwrap_or_default());
    Ok((client_id.ok_or(errors::NOT_AN_INTEGER)?, reason))
}
