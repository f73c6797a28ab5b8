//! Scripts that clients have shown, for nodes that do not know them: a replica that has been promoted,
//! or a node that has just come.

use std::collections::{HashMap, VecDeque};

use sha1_smol::Sha1;

/// The digest by which EVALSHA names a script.
type Digest = [u8; 20];

/// The scripts seen last, within a bound.
#[derive(Debug)]
pub(crate) struct Scripts {
    bodies: HashMap<Digest, Box<[u8]>>,
    /// The oldest first.
    order: VecDeque<Digest>,
    bytes: usize,
    max_bytes: usize,
}

impl Scripts {
    /// Keeps no more than `max_bytes` of scripts.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { bodies: HashMap::new(), order: VecDeque::new(), bytes: 0, max_bytes }
    }

    /// Keeps a script, for which the oldest ones may have to go.
    pub(crate) fn note(&mut self, body: &[u8]) {
        let newest = self.order.back().and_then(|newest| self.bodies.get(newest));
        if newest.is_some_and(|newest| **newest == *body) || body.len() > self.max_bytes {
            return;
        }
        let digest = Sha1::from(body).digest().bytes();
        if self.bodies.contains_key(&digest) {
            return;
        }
        while self.bytes.saturating_add(body.len()) > self.max_bytes {
            let Some(oldest) = self.order.pop_front() else { break };
            let len = self.bodies.remove(&oldest).map_or(0, |body| body.len());
            self.bytes = self.bytes.saturating_sub(len);
        }
        self.bytes = self.bytes.saturating_add(body.len());
        self.bodies.insert(digest, body.into());
        self.order.push_back(digest);
    }

    /// The script that EVALSHA calls `name`: its digest in hexadecimal, in any case.
    pub(crate) fn find(&self, name: &[u8]) -> Option<&[u8]> {
        let mut digest = Digest::default();
        if name.len() != 2 * digest.len() {
            return None;
        }
        for (byte, digits) in digest.iter_mut().zip(name.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        self.bodies.get(&digest).map(|body| &**body)
    }

    /// Bytes of all scripts.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn forget_all(&mut self) {
        *self = Self::new(self.max_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `return 1`, as SCRIPT LOAD answers.
    const RETURN_1: &[u8] = b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db";

    #[test]
    fn a_script_is_found_by_the_name_that_redis_gives_it() {
        let mut scripts = Scripts::new(100);
        assert_eq!(scripts.find(RETURN_1), None);
        scripts.note(b"return 1");
        assert_eq!(scripts.find(RETURN_1), Some(&b"return 1"[..]));
        assert_eq!(scripts.find(&RETURN_1.to_ascii_uppercase()), Some(&b"return 1"[..]));
        for name in [&b""[..], &RETURN_1[1..], &[b'x'; 40], &[0xff; 40]] {
            assert_eq!(scripts.find(name), None);
        }
        scripts.forget_all();
        assert_eq!(scripts.find(RETURN_1), None);
    }

    #[test]
    fn the_oldest_make_room_for_the_newest() {
        let mut scripts = Scripts::new(30);
        scripts.note(b"return 1");
        for _ in 0..10 {
            scripts.note(b"return 222");
            scripts.note(b"return 33333");
        }
        assert!(scripts.find(RETURN_1).is_some());
        scripts.note(b"return 4");
        assert_eq!(scripts.find(RETURN_1), None);
        assert_eq!(scripts.bytes, scripts.bodies.values().map(|body| body.len()).sum::<usize>());
        scripts.note(&[b'-'; 31]);
        assert_eq!(scripts.order.len(), 3, "what fits nowhere drives nobody out");
    }
}
