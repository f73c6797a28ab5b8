//! What an error reply says about where a command should have gone, or when.

use super::{Address, Slot};

/// An error reply, as far as it concerns the way of the command. Every kind but `Final` means
/// that the command was not executed (Redis Cluster specification, "MOVED Redirection", "ASK
/// Redirection"; redis `processCommand`, which refuses before it runs).
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum ErrorReply {
    /// The slot lives elsewhere for good.
    Moved(Redirection),
    /// This one command is to be tried elsewhere, behind ASKING.
    Ask(Redirection),
    /// Its keys are at two nodes, but soon will not be: TRYAGAIN.
    NotNow,
    /// The node is in no state to serve it, but it may soon be, or a replica in its place:
    /// CLUSTERDOWN, LOADING, MASTERDOWN, READONLY.
    Unable,
    /// An answer for the client.
    Final,
}

/// The operands of MOVED and ASK.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Redirection {
    pub(crate) slot: Slot,
    /// `None`: the same host as the node that answered, at this port.
    pub(crate) host: Option<Box<str>>,
    pub(crate) port: u16,
}

impl ErrorReply {
    /// Classifies an error's text: what follows `-`, without CRLF. A redirection that cannot be
    /// read is an answer for the client.
    pub(crate) fn of(text: &[u8]) -> Self {
        let (code, rest) = match memchr::memchr(b' ', text) {
            Some(space) => text.split_at(space),
            None => (text, &b""[..]),
        };
        match code {
            b"MOVED" => Redirection::parse(rest).map_or(Self::Final, Self::Moved),
            b"ASK" => Redirection::parse(rest).map_or(Self::Final, Self::Ask),
            b"TRYAGAIN" => Self::NotNow,
            b"CLUSTERDOWN" | b"LOADING" | b"MASTERDOWN" | b"READONLY" => Self::Unable,
            // Its node is a primary no more. (CLIENT UNBLOCK gives other words behind this code.)
            b"UNBLOCKED" if rest.starts_with(b" force unblock") => Self::Unable,
            _ => Self::Final,
        }
    }
}

impl Redirection {
    /// Reads ` 3999 127.0.0.1:6381`. The host may be missing or `?`: then it is that of the node
    /// that answered (`cluster-preferred-endpoint-type`).
    fn parse(operands: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(operands).ok()?.split_ascii_whitespace();
        let slot = Slot::new(words.next()?.parse().ok()?)?;
        let (host, port) = words.next()?.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let host = (!host.is_empty() && host != "?").then(|| host.into());
        Some(Self { slot, host, port })
    }

    /// Where to go, given who answered.
    pub(crate) fn target(&self, answered: &Address) -> Option<Address> {
        Address::new(self.host.as_deref().unwrap_or_else(|| answered.host()), self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Option<String> {
        let from = Address::parse("10.0.0.9:7000").unwrap();
        match ErrorReply::of(text.as_bytes()) {
            ErrorReply::Moved(to) | ErrorReply::Ask(to) => Some(to.target(&from)?.to_string()),
            _ => None,
        }
    }

    #[test]
    fn redirections_name_a_slot_and_an_address() {
        assert_eq!(target("MOVED 3999 127.0.0.1:6381").unwrap(), "127.0.0.1:6381");
        assert_eq!(target("ASK 0 redis-1.redis:6379").unwrap(), "redis-1.redis:6379");
        assert_eq!(target("MOVED 1 ::1:6379").unwrap(), "[::1]:6379");
        let moved = ErrorReply::of(b"MOVED 3999 127.0.0.1:6381");
        assert!(
            matches!(moved, ErrorReply::Moved(Redirection { slot, .. }) if slot.number() == 3999)
        );
    }

    #[test]
    fn an_unknown_host_is_the_one_that_answered() {
        assert_eq!(target("MOVED 3999 :6381").unwrap(), "10.0.0.9:6381");
        assert_eq!(target("MOVED 3999 ?:6381").unwrap(), "10.0.0.9:6381");
    }

    #[test]
    fn a_redirection_that_cannot_be_read_goes_to_the_client() {
        for text in ["MOVED", "MOVED 1", "MOVED 16384 h:1", "MOVED x h:1", "ASK 1 h", "ASK 1 h:0"] {
            assert_eq!(ErrorReply::of(text.as_bytes()), ErrorReply::Final, "{text}");
        }
    }

    #[test]
    fn refusals_for_the_moment_are_told_from_answers() {
        let try_again = b"TRYAGAIN Multiple keys request during rehashing of slot";
        assert_eq!(ErrorReply::of(try_again), ErrorReply::NotNow);
        for text in [
            "CLUSTERDOWN Hash slot not served",
            "LOADING Redis is loading the dataset in memory",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "READONLY You can't write against a read only replica.",
        ] {
            assert_eq!(ErrorReply::of(text.as_bytes()), ErrorReply::Unable);
        }
        for text in ["ERR x", "WRONGTYPE x", "BUSY x", "CROSSSLOT x", "MOVEDX 1 h:1", ""] {
            assert_eq!(ErrorReply::of(text.as_bytes()), ErrorReply::Final);
        }
    }
}
