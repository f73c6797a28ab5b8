//! gRPC's framing of messages: 5 bytes precede each.

/// Length of what precedes a message: a flag (0: not compressed) and the message's length.
pub(crate) const HEADER_LEN: usize = 5;

/// What precedes a message of `len` bytes.
pub(crate) fn header(len: u32) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = len.to_be_bytes();
    [0, a, b, c, d]
}

/// The length that a whole header announces.
pub(crate) fn message_len(header: &[u8]) -> Option<usize> {
    let [_flag, a, b, c, d] = *header else { return None };
    usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()
}

/// Takes the headers out of bytes that may be cut anywhere.
#[derive(Default)]
pub(crate) struct Deframer {
    header: Vec<u8>,
    /// Bytes of the current message that are still to come.
    missing: usize,
}

impl Deframer {
    /// Appends what is not header to `payload`.
    pub(crate) fn deframe(&mut self, mut bytes: &[u8], payload: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let wanted =
                if self.missing > 0 { self.missing } else { HEADER_LEN - self.header.len() };
            let (taken, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if self.missing > 0 {
                payload.extend_from_slice(taken);
                self.missing -= taken.len();
            } else {
                self.header.extend_from_slice(taken);
                if let Some(len) = message_len(&self.header) {
                    self.missing = len;
                    self.header.clear();
                }
            }
        }
    }

    /// Whether the next byte begins a header.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.missing == 0 && self.header.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(messages: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            bytes.extend_from_slice(&header(message.len() as u32));
            bytes.extend_from_slice(message);
        }
        bytes
    }

    #[test]
    fn a_header_is_a_zero_flag_and_the_length_in_network_order() {
        assert_eq!(header(0x0102_0304), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_header_announces_the_length_it_was_made_for() {
        for len in [0, 1, 255, 65_536, u32::MAX] {
            assert_eq!(message_len(&header(len)), usize::try_from(len).ok());
        }
    }

    #[test]
    fn part_of_a_header_announces_nothing() {
        assert_eq!(message_len(&header(7)[..4]), None);
    }

    #[test]
    fn messages_come_out_whole_wherever_the_bytes_are_cut() {
        let bytes = frames(&[b"PING\r\n", b"", b"GET a\r\n", b"x"]);
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut deframer = Deframer::default();
                let mut payload = Vec::new();
                for piece in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    deframer.deframe(piece, &mut payload);
                }
                assert_eq!(payload, b"PING\r\nGET a\r\nx", "cut at {first} and {second}");
                assert!(deframer.is_between_messages(), "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_cut_message_is_passed_on_as_far_as_it_came() {
        let bytes = frames(&[b"GET a\r\n"]);
        let mut deframer = Deframer::default();
        let mut payload = Vec::new();
        deframer.deframe(&bytes[..HEADER_LEN + 3], &mut payload);
        assert_eq!(payload, b"GET");
        assert!(!deframer.is_between_messages());
    }

    #[test]
    fn a_cut_header_is_not_between_messages() {
        let mut deframer = Deframer::default();
        deframer.deframe(&[0], &mut Vec::new());
        assert!(!deframer.is_between_messages());
    }
}
