//! How a tunnel, where it runs in the router's VM, knows whose stream it has.

use crate::id_map::IdMap;

/// By a ticket, sent as a header of the stream, a tunnel learns which of this VM's connections it
/// carries: what the node sends then goes straight to the router.
pub(crate) struct Tickets<S> {
    last: u32,
    /// Streams whose tunnel has not been seen yet, by the number of their ticket.
    issued: IdMap<Issued<S>>,
}

struct Issued<S> {
    /// Without it, a ticket of another VM could be taken for one of this VM.
    random: u64,
    stream: S,
}

impl<S> Default for Tickets<S> {
    fn default() -> Self {
        Self { last: 0, issued: IdMap::default() }
    }
}

impl<S> Tickets<S> {
    /// A ticket for `stream`. Nobody must be able to guess `random`.
    pub(crate) fn issue(&mut self, stream: S, random: u64) -> String {
        self.last = self.last.wrapping_add(1);
        self.issued.insert(self.last, Issued { random, stream });
        format!("{random:016x}{:08x}", self.last)
    }

    /// The stream that the ticket was for; `None` if this VM has not issued it, or it has been
    /// used.
    pub(crate) fn redeem(&mut self, ticket: &[u8]) -> Option<S> {
        let (random, number) = std::str::from_utf8(ticket).ok()?.split_at_checked(16)?;
        let random = u64::from_str_radix(random, 16).ok()?;
        let number = u32::from_str_radix(number, 16).ok()?;
        self.issued.get(&number).filter(|issued| issued.random == random)?;
        Some(self.issued.remove(&number)?.stream)
    }

    /// Takes back the tickets of streams that have gone, or never came, before their tunnel was
    /// seen.
    pub(crate) fn revoke(&mut self, mut is_gone: impl FnMut(&S) -> bool) {
        self.issued.retain(|_, issued| !is_gone(&issued.stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_redeemed_once() {
        let mut tickets = Tickets::default();
        let ticket = tickets.issue("stream", 7);
        assert_eq!(tickets.redeem(ticket.as_bytes()), Some("stream"));
        assert_eq!(tickets.redeem(ticket.as_bytes()), None);
    }

    #[test]
    fn each_ticket_is_for_its_own_stream() {
        let mut tickets = Tickets::default();
        let first = tickets.issue("first", 7);
        let second = tickets.issue("second", 7);
        assert_eq!(tickets.redeem(second.as_bytes()), Some("second"));
        assert_eq!(tickets.redeem(first.as_bytes()), Some("first"));
    }

    #[test]
    fn a_ticket_of_another_vm_is_refused_and_leaves_the_own_one_valid() {
        let (mut here, mut elsewhere) = (Tickets::default(), Tickets::default());
        let own = here.issue("here", 7);
        let foreign = elsewhere.issue("elsewhere", 8);
        assert_eq!(here.redeem(foreign.as_bytes()), None);
        assert_eq!(here.redeem(own.as_bytes()), Some("here"));
    }

    #[test]
    fn what_is_no_ticket_is_refused() {
        let mut tickets = Tickets::default();
        let ticket = tickets.issue("stream", 7);
        for text in
            ["", "x", &ticket[..16], &ticket[1..], &format!("{ticket}0"), "ä".repeat(12).as_str()]
        {
            assert_eq!(tickets.redeem(text.as_bytes()), None, "{text}");
        }
        assert_eq!(tickets.redeem(&[0xff; 24]), None);
    }

    #[test]
    fn a_revoked_ticket_is_refused() {
        let mut tickets = Tickets::default();
        let gone = tickets.issue("gone", 7);
        let kept = tickets.issue("kept", 7);
        tickets.revoke(|stream| *stream == "gone");
        assert_eq!(tickets.redeem(gone.as_bytes()), None);
        assert_eq!(tickets.redeem(kept.as_bytes()), Some("kept"));
    }
}
