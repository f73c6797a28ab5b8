//! What a client has queued between MULTI and EXEC, and what becomes of it.
//!
//! Redis queues commands on the connection; here they are queued in the proxy, and EXEC sends all
//! of them at once, with MULTI before and EXEC behind. Nothing comes in between on the connection,
//! so it may be one that many clients share. Without a WATCH that is the same as if the client had
//! a connection of its own.

use crate::command::CommandSpec;
use crate::ids::{ConnectionId, RouteId};
use crate::resp::{Reply, encode};
use crate::route::Place;

pub(crate) const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
pub(crate) const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";

/// The queue of one client.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// MULTI and what the node is to execute.
    unit: Vec<u8>,
    /// How many commands the node is to execute.
    remote: usize,
    /// Commands that the proxy answers, each with its position among all.
    local: Vec<(usize, Vec<u8>)>,
    pub(crate) target: Target,
    /// A command was refused: EXEC will be too.
    pub(crate) aborted: bool,
    /// It brings scripts.
    pub(crate) shows_scripts: bool,
}

/// Whom a transaction concerns.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Where all its keys live; `None` without any.
    pub(crate) place: Option<Place>,
    /// The first key, by which mirrors draw, and the route that it takes.
    pub(crate) first_key: Option<(Box<[u8]>, RouteId)>,
    /// None of its commands can write.
    pub(crate) read_only: bool,
}

/// A transaction on its way.
#[derive(Debug)]
pub(crate) struct Exec {
    /// Replies of the node to all of the unit.
    pub(crate) replies: u32,
    /// What the proxy answered itself, each with its position among all.
    local: Vec<(usize, Vec<u8>)>,
    /// The first error that the node had for a command it was to queue.
    error: Option<Vec<u8>>,
    pub(crate) target: Target,
    /// The connection by which the node has watched the client's keys.
    pub(crate) watched_by: Option<ConnectionId>,
    /// EXEC, as what it is counted.
    pub(crate) spec: &'static CommandSpec,
}

impl Transaction {
    pub(crate) fn new() -> Self {
        Self {
            unit: MULTI.to_vec(),
            remote: 0,
            local: Vec::new(),
            target: Target { place: None, first_key: None, read_only: true },
            aborted: false,
            shows_scripts: false,
        }
    }

    /// Bytes it keeps.
    pub(crate) fn bytes(&self) -> usize {
        self.unit.len() + self.local.iter().map(|(_, command)| command.len()).sum::<usize>()
    }

    /// Queues a command for the node.
    pub(crate) fn push(&mut self, command: &[u8], read_only: bool) {
        self.unit.extend_from_slice(command);
        self.remote += 1;
        self.target.read_only &= read_only;
    }

    /// Queues a command that the proxy answers.
    pub(crate) fn push_local(&mut self, command: &[u8]) {
        self.local.push((self.remote + self.local.len(), command.to_vec()));
    }

    /// Whether the node has something to execute.
    pub(crate) fn is_remote(&self) -> bool {
        self.remote > 0
    }

    /// The commands that the proxy answers, in their order.
    pub(crate) fn local_commands(&self) -> impl Iterator<Item = &[u8]> {
        self.local.iter().map(|(_, command)| &command[..])
    }

    /// Splits it into what is to be sent and what to do with the replies. `answers` are the proxy's
    /// own replies to [`Self::local_commands`].
    pub(crate) fn execute(
        mut self,
        spec: &'static CommandSpec,
        answers: Vec<Vec<u8>>,
    ) -> (Vec<u8>, Exec) {
        self.unit.extend_from_slice(EXEC);
        let positions = self.local.iter().map(|(position, _)| *position);
        let exec = Exec {
            replies: u32::try_from(self.remote + 2).unwrap_or(u32::MAX),
            local: positions.zip(answers).collect(),
            error: None,
            target: self.target,
            watched_by: None,
            spec,
        };
        (self.unit, exec)
    }
}

impl Exec {
    /// What a mirror's copy expects.
    pub(crate) fn copy(&self) -> Self {
        Self {
            replies: self.replies,
            local: Vec::new(),
            error: None,
            watched_by: None,
            target: self.target.clone(),
            spec: self.spec,
        }
    }

    /// Takes in a reply to MULTI or to a command that was to be queued.
    pub(crate) fn note_queued(&mut self, reply: &[u8]) {
        if reply.first() == Some(&b'-') {
            self.error.get_or_insert_with(|| reply.to_vec());
        }
    }

    /// The error by which the node refused the transaction as a whole, or else its reply to EXEC.
    /// Forgets the former: the next try may do better.
    pub(crate) fn take_verdict(&mut self, reply: &[u8]) -> Option<Vec<u8>> {
        self.error.take().filter(|_| reply.starts_with(b"-EXECABORT"))
    }

    /// Writes the client's reply, given the node's to EXEC: its elements, with the proxy's own in
    /// their places.
    pub(crate) fn write_reply(&self, reply: &[u8], out: &mut Vec<u8>) {
        if self.local.is_empty() || reply.first() != Some(&b'*') || Reply::new(reply).is_null() {
            return out.extend_from_slice(reply);
        }
        let mut remote = Reply::new(reply).elements();
        let mut local = self.local.iter().peekable();
        let count = (self.replies as usize).saturating_sub(2) + self.local.len();
        encode::array_header(out, count);
        for position in 0..count {
            match local.next_if(|(at, _)| *at == position) {
                Some((_, reply)) => out.extend_from_slice(reply),
                None => out.extend_from_slice(remote.next().unwrap_or(b"_\r\n")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::UNKNOWN;

    #[test]
    fn the_proxy_s_replies_stand_among_the_node_s_in_the_order_of_the_commands() {
        let mut transaction = Transaction::new();
        transaction.push_local(b"a");
        transaction.push(b"get", true);
        transaction.push(b"set", false);
        transaction.push_local(b"b");
        transaction.push(b"get", true);
        let answers = transaction.local_commands().map(|command| [b"+", command, b"\r\n"].concat());
        let answers = answers.collect();
        let (unit, exec) = transaction.execute(&UNKNOWN, answers);
        assert_eq!(unit, [MULTI, b"getsetget", EXEC].concat());
        assert_eq!(exec.replies, 5);
        let written = |reply: &[u8]| {
            let mut out = Vec::new();
            exec.write_reply(reply, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(b"*3\r\n:1\r\n+OK\r\n:2\r\n"), "*5\r\n+a\r\n:1\r\n+OK\r\n+b\r\n:2\r\n");
        assert_eq!(written(b"*-1\r\n"), "*-1\r\n");
        assert_eq!(written(b"-EXECABORT x\r\n"), "-EXECABORT x\r\n");
    }

    #[test]
    fn what_the_node_refused_to_queue_is_why_it_aborted() {
        let (_, mut exec) = Transaction::new().execute(&UNKNOWN, Vec::new());
        exec.note_queued(b"+QUEUED\r\n");
        exec.note_queued(b"-MOVED 1 a:1\r\n");
        exec.note_queued(b"-ERR later\r\n");
        assert_eq!(exec.take_verdict(b"-EXECABORT x\r\n").unwrap(), b"-MOVED 1 a:1\r\n");
        assert_eq!(exec.take_verdict(b"-EXECABORT x\r\n"), None);
        assert_eq!(exec.take_verdict(b"-MOVED 2 b:1\r\n"), None);
    }
}
