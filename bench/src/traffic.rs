//! The bytes of a load: commands, and the one right reply to each.

use std::io::Write;

use crate::load::{Load, Mix};

/// Writes commands of one kind and the replies that they must get.
///
/// A key always has the same value, made of its number, so every reply is known beforehand, whoever
/// wrote last and whichever node answers, and a reply to another command than the client's own does
/// not pass.
pub(crate) struct Traffic {
    mix: Mix,
    keys: usize,
    filling: String,
    random: Random,
}

/// splitmix64: every run sends the same.
struct Random(u64);

impl Traffic {
    pub(crate) fn new(load: &Load) -> Self {
        let filling = "x".repeat(load.value.saturating_sub(DIGITS));
        Self { mix: load.mix, keys: load.keys, filling, random: Random(1) }
    }

    /// Appends the next command and its reply.
    pub(crate) fn next(&mut self, command: &mut Vec<u8>, reply: &mut Vec<u8>) {
        match self.mix {
            Mix::Get => self.get(command, reply),
            Mix::Set => self.set(command, reply),
            Mix::GetAndSet if self.random.below(5) == 0 => self.set(command, reply),
            Mix::GetAndSet => self.get(command, reply),
            Mix::Mget(count) => {
                header(command, b'*', count + 1);
                bulk(command, b"MGET");
                header(reply, b'*', count);
                for _ in 0..count {
                    let key = self.random.below(self.keys);
                    name(command, key);
                    self.value(reply, key);
                }
            }
            Mix::Mset(count) => {
                header(command, b'*', 2 * count + 1);
                bulk(command, b"MSET");
                for _ in 0..count {
                    let key = self.random.below(self.keys);
                    name(command, key);
                    self.value(command, key);
                }
                reply.extend_from_slice(OK);
            }
        }
    }

    /// Appends the SET of one key, for filling the cluster before a load, and its reply.
    pub(crate) fn fill(&self, key: usize, command: &mut Vec<u8>, reply: &mut Vec<u8>) {
        header(command, b'*', 3);
        bulk(command, b"SET");
        name(command, key);
        self.value(command, key);
        reply.extend_from_slice(OK);
    }

    fn get(&mut self, command: &mut Vec<u8>, reply: &mut Vec<u8>) {
        let key = self.random.below(self.keys);
        header(command, b'*', 2);
        bulk(command, b"GET");
        name(command, key);
        self.value(reply, key);
    }

    fn set(&mut self, command: &mut Vec<u8>, reply: &mut Vec<u8>) {
        let key = self.random.below(self.keys);
        self.fill(key, command, reply);
    }

    /// Appends a key's value as a bulk string.
    fn value(&self, out: &mut Vec<u8>, key: usize) {
        header(out, b'$', DIGITS + self.filling.len());
        number(out, key);
        out.extend_from_slice(self.filling.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

const OK: &[u8] = b"+OK\r\n";

/// Digits of a key's number at the start of its value.
const DIGITS: usize = 8;

/// Appends a key as a bulk string.
fn name(out: &mut Vec<u8>, key: usize) {
    const PREFIX: &[u8] = b"key:";
    header(out, b'$', PREFIX.len() + DIGITS);
    out.extend_from_slice(PREFIX);
    number(out, key);
    out.extend_from_slice(b"\r\n");
}

fn number(out: &mut Vec<u8>, number: usize) {
    let _ = write!(out, "{number:0DIGITS$}"); // A vector takes everything.
}

fn header(out: &mut Vec<u8>, kind: u8, count: usize) {
    out.push(kind);
    let _ = write!(out, "{count}\r\n"); // A vector takes everything.
}

fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load;

    #[test]
    fn a_value_has_the_length_that_its_load_says() {
        for load in load::all() {
            let (mut command, mut reply) = (Vec::new(), Vec::new());
            Traffic::new(&load).fill(7, &mut command, &mut reply);
            let length = format!("\r\n${}\r\n00000007", load.value);
            assert!(String::from_utf8(command).unwrap().contains(&length), "{}", load.name);
        }
    }

    #[test]
    fn a_get_expects_the_value_that_was_set() {
        let load = load::all()[0];
        let (mut command, mut reply) = (Vec::new(), Vec::new());
        Traffic::new(&load).next(&mut command, &mut reply);
        let command = String::from_utf8(command).unwrap();
        let key = command.rsplit("key:").next().unwrap().trim();
        assert!(reply.starts_with(format!("$64\r\n{key}xxx").as_bytes()), "{command}");
    }
}
