//! Scripts that clients have shown, for nodes that do not know them: one that no EVAL has come to
//! yet, a replica that has been promoted, or a node that has just come.

use std::collections::{HashMap, HashSet, VecDeque};

use sha1_smol::Sha1;

use crate::resp::{Limits, RequestFrame, RequestParser, encode};

/// The digest by which EVALSHA names a script.
pub(crate) type Digest = [u8; 20];

/// Scripts that are remembered of one connection, at most.
const MOST_SHOWN: usize = 1024;

/// The scripts seen last, within a bound.
#[derive(Debug)]
pub(crate) struct Scripts {
    bodies: HashMap<Digest, Box<[u8]>>,
    /// The oldest first.
    order: VecDeque<Digest>,
    bytes: usize,
    max_bytes: usize,
    /// How often all have been forgotten.
    flushes: u64,
}

/// Scripts that a node has seen on a connection. It knows them for as long as that lasts, unless
/// somebody lets it forget them.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    digests: HashSet<Digest>,
    /// What [`Scripts::flushes`] was.
    flushes: u64,
}

impl Shown {
    /// Notes that a script is shown. Returns whether it had been before.
    pub(crate) fn note(&mut self, digest: Digest, scripts: &Scripts) -> bool {
        if self.flushes != scripts.flushes || self.digests.len() >= MOST_SHOWN {
            self.forget_all();
            self.flushes = scripts.flushes;
        }
        !self.digests.insert(digest)
    }

    pub(crate) fn forget_all(&mut self) {
        self.digests.clear();
    }
}

impl Scripts {
    /// Keeps no more than `max_bytes` of scripts.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { bodies: HashMap::new(), order: VecDeque::new(), bytes: 0, max_bytes, flushes: 0 }
    }

    /// Keeps a script, for which the oldest ones may have to go. Returns its digest if it is kept.
    pub(crate) fn note(&mut self, body: &[u8]) -> Option<Digest> {
        let newest = self
            .order
            .back()
            .filter(|newest| self.bodies.get(*newest).is_some_and(|newest| **newest == *body));
        if newest.is_some() || body.len() > self.max_bytes {
            return newest.copied();
        }
        let digest = Sha1::from(body).digest().bytes();
        if self.bodies.contains_key(&digest) {
            return Some(digest);
        }
        while self.bytes.saturating_add(body.len()) > self.max_bytes {
            let Some(oldest) = self.order.pop_front() else { break };
            let len = self.bodies.remove(&oldest).map_or(0, |body| body.len());
            self.bytes = self.bytes.saturating_sub(len);
        }
        self.bytes = self.bytes.saturating_add(body.len());
        self.bodies.insert(digest, body.into());
        self.order.push_back(digest);
        Some(digest)
    }

    /// The script that EVALSHA calls `name`.
    pub(crate) fn find(&self, name: &[u8]) -> Option<&[u8]> {
        self.bodies.get(&parse(name)?).map(|body| &**body)
    }

    /// The digest that `name` is, if that script is known.
    pub(crate) fn find_digest(&self, name: &[u8]) -> Option<Digest> {
        parse(name).filter(|digest| self.bodies.contains_key(digest))
    }

    /// No node has kept it: it is no script.
    pub(crate) fn forget(&mut self, digest: Digest) {
        if let Some(body) = self.bodies.remove(&digest) {
            self.bytes = self.bytes.saturating_sub(body.len());
            self.order.retain(|other| *other != digest);
        }
    }

    /// Writes the EVAL for the bytes of an EVALSHA; `None` if they are none, or the script is not
    /// known.
    pub(crate) fn rewrite(&self, command: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let mut parser = RequestParser::new();
        parser.parse(command, &Limits::UNBOUNDED).ok()?;
        self.write_eval(&parser.frame(command), out)
    }

    /// Writes the EVAL for an EVALSHA of a script that is known; `None` if it is none.
    pub(crate) fn write_eval(&self, frame: &RequestFrame<'_>, out: &mut Vec<u8>) -> Option<()> {
        let name = match frame.arg(0)? {
            name if name.eq_ignore_ascii_case(b"EVALSHA") => b"EVAL".as_slice(),
            name if name.eq_ignore_ascii_case(b"EVALSHA_RO") => b"EVAL_RO",
            _ => return None,
        };
        let body = self.find(frame.arg(1)?)?;
        encode::array_header(out, frame.len());
        encode::bulk(out, name);
        encode::bulk(out, body);
        for index in 2..frame.len() {
            out.extend_from_slice(frame.raw(index)?);
        }
        Some(())
    }

    /// Bytes of all scripts.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn forget_all(&mut self) {
        *self = Self { flushes: self.flushes.wrapping_add(1), ..Self::new(self.max_bytes) };
    }
}

/// A digest in hexadecimal, in any case.
fn parse(name: &[u8]) -> Option<Digest> {
    let mut digest = Digest::default();
    if name.len() != 2 * digest.len() {
        return None;
    }
    for (byte, digits) in digest.iter_mut().zip(name.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(digest)
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
    fn a_node_has_seen_what_it_was_shown_since_the_last_flush() {
        let mut scripts = Scripts::new(100);
        let mut shown = Shown::default();
        let digest = scripts.note(b"return 1").unwrap();
        assert_eq!(scripts.note(b"return 1"), Some(digest));
        assert!(!shown.note(digest, &scripts));
        assert!(shown.note(digest, &scripts));
        scripts.forget_all();
        assert!(!shown.note(digest, &scripts));
        shown.forget_all();
        assert!(!shown.note(digest, &scripts));
        for number in 0..=MOST_SHOWN {
            shown.note(Sha1::from(number.to_string()).digest().bytes(), &scripts);
        }
        assert!(shown.digests.len() <= MOST_SHOWN);
    }

    #[test]
    fn what_was_no_script_is_forgotten_alone() {
        let mut scripts = Scripts::new(20);
        let digest = scripts.note(b"return (").unwrap();
        scripts.note(b"return 1");
        scripts.forget(digest);
        assert!(scripts.find(RETURN_1).is_some());
        assert_eq!((scripts.bytes, scripts.order.len()), (8, 1));
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
