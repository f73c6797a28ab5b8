//! Bytes that change hands without a copy.
//!
//! The driver may let the engine have the buffer of an event. Whoever would copy bytes out of it
//! claims them instead. It gets them, or the buffer itself, once nobody reads from that any more,
//! which is still within the event.

use std::ops::Range;

/// The buffer of the event that is being handled.
#[derive(Debug, Default)]
pub(crate) struct Offer {
    /// Where its bytes begin, as a number: to recognise them by.
    address: usize,
    /// How many they are.
    len: usize,
    /// Fewer bytes are copied at less cost; 0: nothing is offered.
    least: usize,
}

impl Offer {
    /// Lets others claim these bytes, until [`Self::withdraw`], but not less than so many.
    pub(crate) fn make(&mut self, bytes: &[u8], least: usize) {
        *self = Self { address: bytes.as_ptr().addr(), len: bytes.len(), least: least.max(1) };
    }

    /// Where these bytes are in the buffer, if they are some of those offered.
    #[inline]
    pub(crate) fn find(&self, bytes: &[u8]) -> Option<Range<usize>> {
        if bytes.len() < self.least || self.least == 0 {
            return None;
        }
        let start = bytes.as_ptr().addr().checked_sub(self.address)?;
        let end = start.checked_add(bytes.len())?;
        (end <= self.len).then_some(start..end)
    }

    /// Whether these bytes are all of those offered.
    #[inline]
    pub(crate) fn is_all(&self, bytes: &[u8]) -> bool {
        self.find(bytes).is_some_and(|found| found == (0..self.len))
    }

    /// From now on nothing is offered.
    pub(crate) fn withdraw(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_the_buffer_are_found_and_no_others() {
        let (bytes, others) = (b"0123456789".to_vec(), b"0123456789".to_vec());
        let mut offer = Offer::default();
        assert_eq!(offer.find(&bytes), None);
        offer.make(&bytes, 3);
        assert_eq!(offer.find(&bytes), Some(0..10));
        assert_eq!(offer.find(&bytes[2..5]), Some(2..5));
        assert_eq!(offer.find(&bytes[2..4]), None, "these are too few");
        assert_eq!(offer.find(&others), None);
        assert!(offer.is_all(&bytes));
        assert!(!offer.is_all(&bytes[..9]));
        assert!(!offer.is_all(&others));
    }

    #[test]
    fn no_bytes_and_what_is_withdrawn_are_not_found() {
        let bytes = b"0123456789".to_vec();
        let mut offer = Offer::default();
        assert_eq!(offer.find(b""), None);
        offer.make(&bytes, 0);
        assert_eq!(offer.find(&bytes[..0]), None);
        offer.withdraw();
        assert_eq!(offer.find(&bytes), None);
        assert!(!offer.is_all(&bytes));
    }
}
