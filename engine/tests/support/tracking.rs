//! What a model of a Redis Cluster knows of client-side caching.

use std::collections::BTreeSet;

use slotmesh_engine::resp::{Protocol, RequestFrame, encode};

/// What a node tracks by one connection.
#[derive(Default)]
pub struct Tracker {
    /// What the node calls the connection.
    pub id: i64,
    on: bool,
    broadcast: bool,
    prefixes: Vec<Vec<u8>>,
    opt_in: bool,
    no_loop: bool,
    caching: bool,
    redirect: Option<i64>,
    read: BTreeSet<Vec<u8>>,
}

/// A change at a node: of a key, or of all.
#[derive(Clone, Debug)]
pub struct Change(pub Option<Vec<u8>>);

impl Tracker {
    /// Takes a CLIENT command.
    pub fn obey(&mut self, frame: &RequestFrame<'_>, out: &mut Vec<u8>) {
        let words: Vec<_> = frame.args().collect();
        match &words[1..] {
            [b"TRACKING", b"ON", options @ ..] => {
                *self = Self { id: self.id, on: true, ..Self::default() };
                let mut options = options.iter();
                while let Some(option) = options.next() {
                    match *option {
                        b"BCAST" => self.broadcast = true,
                        b"OPTIN" => self.opt_in = true,
                        b"NOLOOP" => self.no_loop = true,
                        b"PREFIX" => self.prefixes.push(options.next().unwrap().to_vec()),
                        b"REDIRECT" => {
                            let id = String::from_utf8_lossy(options.next().unwrap()).into_owned();
                            self.redirect = Some(id.parse().unwrap());
                        }
                        _ => panic!("{}", option.escape_ascii()),
                    }
                }
            }
            [b"CACHING", b"YES"] => self.caching = true,
            _ => return encode::error(out, b"ERR the fake node does not know this subcommand"),
        }
        encode::simple(out, b"OK");
    }

    /// A command has been executed on the connection.
    pub fn note_read(&mut self, keys: impl Iterator<Item = Vec<u8>>) {
        if self.on && !self.broadcast && (!self.opt_in || self.caching) {
            self.read.extend(keys);
        }
    }

    /// CLIENT CACHING speaks of one command.
    pub fn note_command(&mut self) {
        self.caching = false;
    }

    /// What is to be pushed because of a change, and to which connection. `own`: it was this
    /// connection that made it.
    pub fn hear(&mut self, change: &Change, own: bool) -> Option<(i64, Vec<u8>)> {
        if !self.on || (own && self.no_loop) {
            return None;
        }
        let mut push = Vec::new();
        encode::push_header(&mut push, Protocol::Resp3, 2);
        encode::bulk(&mut push, b"invalidate");
        match &change.0 {
            None => {
                self.read.clear();
                encode::null(&mut push, Protocol::Resp3);
            }
            Some(key) => {
                let fits = |prefix: &Vec<u8>| key.starts_with(prefix);
                let wanted = match self.broadcast {
                    true => self.prefixes.is_empty() || self.prefixes.iter().any(fits),
                    false => self.read.remove(key),
                };
                if !wanted {
                    return None;
                }
                encode::array_header(&mut push, 1);
                encode::bulk(&mut push, key);
            }
        }
        Some((self.redirect.unwrap_or(self.id), push))
    }
}
