//! `CLIENT UNBLOCK`: the node that keeps a client's command waiting is asked to let go of it.
//!
//! Only the node knows whether it has just found something for the client, so it decides, and it
//! answers both: the one that waits and the one that asks.

use super::Proxy;
use super::command::Command;
use crate::cluster::NodeIndex;
use crate::command::Merge;
use crate::config::ReadPolicy;
use crate::request::{Leave, Owner, Part, State, SubRequestId};
use crate::resp::{RequestFrame, encode, parse_decimal};
use crate::session::SessionId;
use crate::split::Split;
use crate::time::Instant;
use crate::upstream::Purpose;

/// A connection on which a node keeps a command waiting.
struct Blocked {
    cluster: usize,
    node: NodeIndex,
    /// What the node calls the connection.
    node_id: i64,
}

impl Proxy {
    /// `CLIENT UNBLOCK id [TIMEOUT|ERROR]`
    pub(super) fn client_unblock(&mut self, id: SessionId, command: &Command<'_>, now: Instant) {
        let blocked = match read(&command.frame) {
            Ok((client_id, _)) => self.blocked(id, client_id),
            Err(text) => {
                self.stats.fail(command.spec);
                return self.answer(id, |out| encode::error(out, text.as_bytes()));
            }
        };
        if blocked.is_empty() {
            self.stats.finish_at_once(command.spec, true);
            return self.answer(id, |out| encode::integer(out, 0));
        }
        let parts =
            blocked.iter().map(|blocked| Part::new(blocked.cluster, None, ReadPolicy::Master));
        // Several nodes keep a WAIT waiting, and each is asked.
        let state = State::Split(Box::new(Split::whole(Merge::First, 0, parts)));
        let Some(request) = self.begin(Owner::Session(id), command, state, now) else { return };
        let mut unblock = self.buffers.take();
        for (part, blocked) in (0..).zip(blocked) {
            unblock.clear();
            write_command(&command.frame, blocked.node_id, &mut unblock);
            let sub_request = SubRequestId { request, part };
            self.send_to(blocked.node, sub_request, &unblock, Leave::Owner, now);
        }
        self.buffers.recycle(unblock);
    }

    /// Where nodes keep a command of this client waiting.
    fn blocked(&self, id: SessionId, client_id: i64) -> Vec<Blocked> {
        let mut sessions = self.fellows(id).map(|(_, session)| session);
        let session = sessions.find(|session| i64::try_from(session.client_id) == Ok(client_id));
        let own = session.into_iter().flat_map(|session| &session.dedicated);
        let waiting = own.filter_map(|own| self.connections.get(*own));
        let waiting = waiting.filter(|connection| self.is_blocked(connection));
        let blocked = waiting.filter_map(|connection| {
            let Purpose::Dedicated(node, _) = connection.purpose else { return None };
            Some(Blocked { cluster: connection.cluster, node, node_id: connection.node_id? })
        });
        blocked.collect()
    }
}

/// The client's id, and the reason; errors are redis-server's.
fn read<'a>(frame: &RequestFrame<'a>) -> Result<(i64, &'a [u8]), &'static str> {
    let reason = frame.arg(3).unwrap_or(b"TIMEOUT");
    if !reason.eq_ignore_ascii_case(b"TIMEOUT") && !reason.eq_ignore_ascii_case(b"ERROR") {
        return Err("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
    }
    let client_id = parse_decimal(frame.arg(2).unwrap_or_default());
    Ok((client_id.ok_or("ERR value is not an integer or out of range")?, reason))
}

fn write_command(frame: &RequestFrame<'_>, node_id: i64, out: &mut Vec<u8>) {
    let Ok((_, reason)) = read(frame) else { return };
    encode::command(out, &[b"CLIENT", b"UNBLOCK", node_id.to_string().as_bytes(), reason]);
}
