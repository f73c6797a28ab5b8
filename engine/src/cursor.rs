//! The cursor of a SCAN over all primaries of a cluster.
//!
//! Any client may bring it to any proxy at any time, so it tells everything itself:
//!
//! ```text
//!  63             22 21         14 13      0
//! [ node's own cursor | fingerprint | slot  ]
//! ```
//!
//! The slot is the lowest of a shard. Shards are scanned in the order of these slots; when a node's
//! own cursor is back at 0, the next shard's turn has come. The fingerprint is that of the node
//! which gave its cursor: after a failover another one owns the slot, to which that cursor says
//! nothing, and the shard is scanned from its beginning. So keys may come twice, as SCAN says they
//! may, but none is missed because of a failover.

use crc16::{State, XMODEM};

use crate::cluster::{Address, Slot};
use crate::errors;
use crate::resp::{Reply, RequestFrame, encode};

const SLOT_BITS: u32 = 14;
const PRINT_BITS: u32 = 8;
/// A node's cursor has to be below; then ours fits into the signed numbers of some clients.
const LIMIT: u64 = 1 << (63 - SLOT_BITS - PRINT_BITS);

/// Where a SCAN has come to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Cursor {
    /// The node's own cursor; 0: at its beginning.
    at: u64,
    /// Of the node that gave it.
    print: u8,
    /// The lowest slot of the shard.
    slot: Slot,
}

/// One call of SCAN, and what its reply will mean.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// What the node is asked.
    here: Cursor,
    /// The lowest slot of the shard after this one.
    next: Option<Slot>,
}

impl Cursor {
    /// Reads what a client sent.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let number: u64 = std::str::from_utf8(text).ok()?.parse().ok()?;
        let slot = u16::try_from(number & ((1 << SLOT_BITS) - 1)).ok()?;
        let print = u8::try_from(number >> SLOT_BITS & ((1 << PRINT_BITS) - 1)).ok()?;
        Some(Self { at: number >> (SLOT_BITS + PRINT_BITS), print, slot: Slot::new(slot)? })
    }

    /// A slot of the shard that it is in.
    pub(crate) fn slot(self) -> Slot {
        self.slot
    }

    /// `None` if the node's cursor is too great.
    fn number(self) -> Option<u64> {
        let Self { at, print, slot } = self;
        let low = u64::from(print) << SLOT_BITS | u64::from(slot.number());
        (at < LIMIT).then_some(at << (SLOT_BITS + PRINT_BITS) | low)
    }
}

impl Step {
    /// The step that `cursor` asks for, given the node that owns its slot and the lowest slot of
    /// each shard, in ascending order.
    pub(crate) fn new(cursor: Cursor, owner: Option<&Address>, lowest_slots: &[Slot]) -> Self {
        let print = owner.map_or(0, fingerprint);
        let at = if cursor.print == print { cursor.at } else { 0 };
        let next = lowest_slots.iter().copied().find(|lowest| *lowest > cursor.slot);
        Self { here: Cursor { at, print, ..cursor }, next }
    }

    /// A slot of the node that is asked.
    pub(crate) fn slot(self) -> Slot {
        self.here.slot
    }

    /// Writes the command with the node's own cursor.
    pub(crate) fn write_command(self, frame: &RequestFrame<'_>, out: &mut Vec<u8>) {
        encode::array_header(out, frame.len());
        out.extend_from_slice(frame.raw(0).unwrap_or_default());
        encode::bulk(out, self.here.at.to_string().as_bytes());
        for index in 2..frame.len() {
            out.extend_from_slice(frame.raw(index).unwrap_or_default());
        }
    }

    /// Writes the node's reply with our cursor.
    pub(crate) fn write_reply(self, reply: &[u8], out: &mut Vec<u8>) {
        let mut elements = Reply::new(reply).elements();
        let (Some(cursor), Some(keys)) = (elements.next(), elements.next()) else {
            return out.extend_from_slice(reply);
        };
        let Some(cursor) = self.after(Reply::new(cursor)) else {
            return encode::error(out, errors::CURSOR_OVERFLOW.as_bytes());
        };
        encode::array_header(out, 2);
        encode::bulk(out, cursor.to_string().as_bytes());
        out.extend_from_slice(keys);
    }

    /// Our cursor where the node's reads `cursor`.
    fn after(self, cursor: Reply<'_>) -> Option<u64> {
        let at = std::str::from_utf8(cursor.bulk()?).ok()?.parse().ok()?;
        match (at, self.next) {
            (0, None) => Some(0),
            (0, Some(slot)) => Cursor { at, print: 0, slot }.number(),
            _ => Cursor { at, ..self.here }.number(),
        }
    }
}

/// A number by which nodes are told apart.
fn fingerprint(address: &Address) -> u8 {
    let [_, low] = State::<XMODEM>::calculate(address.to_string().as_bytes()).to_be_bytes();
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(at: u64, print: u8, slot: u16) -> Cursor {
        Cursor { at, print, slot: Slot::new(slot).unwrap() }
    }

    #[test]
    fn a_cursor_survives_the_way_to_the_client_and_back() {
        for cursor in [cursor(0, 0, 0), cursor(1, 255, 16_383), cursor(LIMIT - 1, 7, 1)] {
            let number = cursor.number().unwrap();
            assert!(i64::try_from(number).is_ok());
            assert_eq!(Cursor::parse(number.to_string().as_bytes()), Some(cursor));
        }
        assert_eq!(cursor(LIMIT, 0, 0).number(), None);
    }

    #[test]
    fn what_is_no_number_is_no_cursor() {
        for text in ["", "x", "-1", "1x", " 1", "18446744073709551616"] {
            assert_eq!(Cursor::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_cursor_that_is_too_great_is_an_error() {
        let step = Step { here: cursor(0, 0, 0), next: None };
        let mut reply = Vec::new();
        step.write_reply(format!("*2\r\n$13\r\n{}\r\n*0\r\n", LIMIT).as_bytes(), &mut reply);
        assert!(reply.starts_with(b"-ERR the node's cursor"), "{}", reply.escape_ascii());
    }
}
