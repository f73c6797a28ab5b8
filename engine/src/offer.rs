//! Bytes that change hands without a copy.
//!
//! The driver may let the engine have the buffer of an event. Whoever would copy all that is in it
//! claims it instead, and gets the buffer itself once nobody reads from it any more, which is still
//! within the event.

/// The buffer of the event that is being handled.
#[derive(Debug, Default)]
pub(crate) struct Offer {
    /// Where its bytes begin, as a number, and how many they are: to recognise them by.
    offered: Option<(usize, usize)>,
}

impl Offer {
    /// Lets others claim these bytes, until [`Self::withdraw`]. So few are copied at less cost.
    pub(crate) fn make(&mut self, bytes: &[u8], least: usize) {
        self.offered = (bytes.len() >= least.max(1)).then_some(identity(bytes));
    }

    /// Whether these bytes are all of those offered. They are offered once.
    #[inline]
    pub(crate) fn claim(&mut self, bytes: &[u8]) -> bool {
        let claimed = self.offered == Some(identity(bytes));
        if claimed {
            self.offered = None;
        }
        claimed
    }

    /// From now on nothing is offered.
    pub(crate) fn withdraw(&mut self) {
        self.offered = None;
    }
}

/// What no other bytes have that exist at the same time.
fn identity(bytes: &[u8]) -> (usize, usize) {
    (bytes.as_ptr().addr(), bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_all_of_the_bytes_can_be_claimed_and_only_once() {
        let (bytes, others) = (b"0123456789".to_vec(), b"0123456789".to_vec());
        let mut offer = Offer::default();
        assert!(!offer.claim(&bytes));
        offer.make(&bytes, 10);
        assert!(!offer.claim(&bytes[..9]));
        assert!(!offer.claim(&bytes[1..]));
        assert!(!offer.claim(&others));
        assert!(offer.claim(&bytes));
        assert!(!offer.claim(&bytes));
    }

    #[test]
    fn few_bytes_and_none_are_not_offered() {
        let mut offer = Offer::default();
        offer.make(b"0123456789", 11);
        assert!(!offer.claim(b"0123456789"));
        offer.make(b"", 0);
        assert!(!offer.claim(b""));
    }

    #[test]
    fn what_is_withdrawn_cannot_be_claimed() {
        let bytes = b"0123456789".to_vec();
        let mut offer = Offer::default();
        offer.make(&bytes, 1);
        offer.withdraw();
        assert!(!offer.claim(&bytes));
    }
}
