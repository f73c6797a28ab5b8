//! Which of the 16,384 hash slots a key belongs to.

use crc16::{State, XMODEM};

/// Hash slots of a Redis Cluster (Redis Cluster specification, "Key distribution model").
pub const SLOTS: usize = 16_384;

/// Keys of at most so many bytes are looked through byte by byte.
const SHORT_KEY: usize = 32;

/// A hash slot. Invariant: below [`SLOTS`].
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Slot(u16);

impl Slot {
    /// The slot that `key` hashes to: CRC16 of its hash tag where it has one, else of all of it.
    pub fn of(key: &[u8]) -> Self {
        Self(State::<XMODEM>::calculate(hash_tag(key)) % SLOTS as u16)
    }

    /// The slot of this number, if there is one.
    pub fn new(number: u16) -> Option<Self> {
        (usize::from(number) < SLOTS).then_some(Self(number))
    }

    /// 0 to 16,383.
    pub fn number(self) -> u16 {
        self.0
    }
}

/// The bytes that are hashed: those between the first `{` and the first `}` after it, if there are
/// any (Redis Cluster specification, "Hash tags").
#[inline]
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = find(b'{', key) else { return key };
    let after = key.get(open + 1..).unwrap_or_default();
    match find(b'}', after) {
        Some(length) if length > 0 => after.get(..length).unwrap_or(key),
        _ => key,
    }
}

/// Where a byte stands first.
#[inline]
fn find(wanted: u8, bytes: &[u8]) -> Option<usize> {
    // Most keys are so short that to begin with memchr takes longer than to look.
    match bytes.len() {
        ..=SHORT_KEY => bytes.iter().position(|byte| *byte == wanted),
        _ => memchr::memchr(wanted, bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_key_of_the_specification_has_its_slot() {
        assert_eq!(Slot::of(b"123456789").number(), 0x31c3);
    }

    #[test]
    fn only_a_filled_first_tag_is_hashed() {
        assert_eq!(Slot::of(b"{user1000}.following"), Slot::of(b"user1000"));
        assert_eq!(hash_tag(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(hash_tag(b"foo{{bar}}zap"), b"{bar");
        assert_eq!(hash_tag(b"foo{bar}{zap}"), b"bar");
        assert_eq!(hash_tag(b"foo{bar"), b"foo{bar");
        assert_eq!(hash_tag(b"foo}bar{"), b"foo}bar{");
    }
}
