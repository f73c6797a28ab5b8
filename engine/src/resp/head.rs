//! How a command begins: most of a client's begin like the one before.

use super::ArgRange;

/// Bytes that are compared: enough for a name of twelve letters, and of more in a short command.
const LEN: usize = 24;
const WORDS: usize = LEN / 8;

/// The first bytes of a frame, up to the end of its name, and what they say.
#[derive(Debug, Default)]
pub(super) struct Head {
    words: [u64; WORDS],
    /// Which bits of `words` count.
    mask: [u64; WORDS],
    /// How many bytes it is; 0: it is none.
    pub(super) len: usize,
    pub(super) name: ArgRange,
    /// Arguments behind the name.
    pub(super) arguments: usize,
}

impl Head {
    /// That of a frame with so many arguments behind its name.
    pub(super) fn of(frame: &[u8], name: ArgRange, arguments: usize) -> Self {
        let len = name.end() + 2;
        let mut bytes = [0; LEN];
        let (Some(copy), Some(head)) = (bytes.get_mut(..len), frame.get(..len)) else {
            return Self::default();
        };
        copy.copy_from_slice(head);
        let mut mask = [0; LEN];
        mask.iter_mut().take(len).for_each(|byte| *byte = u8::MAX);
        Self { words: words(&bytes), mask: words(&mask), len, name, arguments }
    }

    /// Whether `bytes` begin with it. Bytes that are too few to tell at a glance do not.
    #[inline]
    pub(super) fn begins(&self, bytes: &[u8]) -> bool {
        let Some(bytes) = bytes.first_chunk::<LEN>().filter(|_| self.len > 0) else { return false };
        let found = words(bytes);
        let [a, b, c] = std::array::from_fn(|word| {
            let bits = |words: &[u64; WORDS]| words.get(word).copied().unwrap_or_default();
            (bits(&found) ^ bits(&self.words)) & bits(&self.mask)
        });
        a | b | c == 0
    }
}

#[inline]
fn words(bytes: &[u8; LEN]) -> [u64; WORDS] {
    let (chunks, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|word| chunks.get(word).map_or(0, |chunk| u64::from_le_bytes(*chunk)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_compared_to_its_end_and_no_further() {
        let frame = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n";
        let head = Head::of(frame, ArgRange { start: 8, len: 3 }, 1);
        assert_eq!(head.len, 13);
        let begins = |bytes: &[u8]| head.begins(&[bytes, &[b'x'; LEN]].concat());
        assert!(begins(b"*2\r\n$3\r\nGET\r\n"));
        assert!(begins(b"*2\r\n$3\r\nGET\r\n$5\r\nother\r\n"));
        for other in [&b"*3\r\n$3\r\nGET\r\n"[..], b"*2\r\n$3\r\nSET\r\n", b"*2\r\n$3\r\nGET\n\n"] {
            assert!(!begins(other), "{}", other.escape_ascii());
        }
        assert!(!head.begins(&frame[..20]), "too few to tell");
    }

    #[test]
    fn a_name_that_is_too_long_makes_no_head() {
        let frame = b"*1\r\n$15\r\nabcdefghijklmno\r\n_____________";
        let head = Head::of(frame, ArgRange { start: 9, len: 15 }, 0);
        assert_eq!(head.len, 0);
        assert!(!head.begins(frame));
        assert!(!Head::default().begins(frame));
    }
}
