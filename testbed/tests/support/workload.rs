//! Mixed commands of one client on keys of its own, with the reply that each must get.

use std::collections::HashMap;

use super::{Client, command};

/// Keys of one client.
const KEYS: usize = 240;

/// A command and its reply.
pub(crate) struct Exchange {
    /// The command's bytes.
    pub(crate) command: Vec<u8>,
    /// The one right reply's bytes.
    pub(crate) reply: Vec<u8>,
}

/// Pipelines all exchanges and checks every reply in its place.
pub(crate) fn exchange(client: &mut Client, exchanges: &[Exchange]) {
    let commands: Vec<Vec<u8>> = exchanges.iter().map(|one| one.command.clone()).collect();
    client.pipeline(&commands, |number, reply| {
        let Exchange { command, reply: expected } = &exchanges[number];
        let [command, got, wanted] = [command, &reply, expected].map(|bytes| beginning(bytes));
        assert!(reply == *expected, "command {number} {command}: {got} instead of {wanted}");
    });
}

/// What is shown of bytes that may be many.
fn beginning(bytes: &[u8]) -> String {
    bytes.get(..200).unwrap_or(bytes).escape_ascii().to_string()
}

/// What a client wrote so far, from which the replies follow.
pub(crate) struct Workload {
    client: usize,
    /// So many keys with numbers that follow each other share a slot.
    keys_per_slot: usize,
    random: Random,
    written: u64,
    strings: HashMap<usize, String>,
    counters: HashMap<usize, i64>,
    lists: HashMap<usize, Vec<String>>,
    hashes: HashMap<usize, String>,
}

impl Workload {
    /// The traffic of client number `client`; the same for the same number.
    pub(crate) fn new(client: usize) -> Self {
        Self::with_keys_per_slot(client, 3)
    }

    /// Traffic in which each key has a slot of its own, so that no command has two keys in one.
    pub(crate) fn of_lone_keys(client: usize) -> Self {
        Self::with_keys_per_slot(client, 1)
    }

    fn with_keys_per_slot(client: usize, keys_per_slot: usize) -> Self {
        Self {
            client,
            keys_per_slot,
            random: Random(client as u64 + 1),
            written: 0,
            strings: HashMap::new(),
            counters: HashMap::new(),
            lists: HashMap::new(),
            hashes: HashMap::new(),
        }
    }

    /// All keys this client uses.
    pub(crate) fn keys(&self) -> impl Iterator<Item = String> {
        (0..KEYS).map(|index| self.key(index))
    }

    /// Commands that together use each key once, in random order.
    ///
    /// Several rounds in one pipeline have commands that depend on commands before them.
    pub(crate) fn round(&mut self) -> Vec<Exchange> {
        let mut deck: Vec<usize> = (0..KEYS).collect();
        self.random.shuffle(&mut deck);
        let mut exchanges = Vec::new();
        while let Some(index) = deck.pop() {
            let exchange = match index % 10 {
                0 => self.counter(index),
                1 => self.list(index),
                2 => self.hash(index),
                // Strings; several at once now and then.
                _ => match self.random.below(3) {
                    0 => self.strings_with(index, &mut deck),
                    _ => self.string(index),
                },
            };
            exchanges.push(exchange);
            if self.random.below(20) == 0 {
                exchanges.push(self.keyless());
            }
        }
        exchanges
    }

    fn counter(&mut self, index: usize) -> Exchange {
        let by = self.random.below(1000) as i64 - 500;
        let counter = self.counters.entry(index).or_default();
        *counter += by;
        let reply = integer(*counter);
        one(&["INCRBY", &self.key(index), &by.to_string()], reply)
    }

    fn list(&mut self, index: usize) -> Exchange {
        let (key, value) = (self.key(index), self.value());
        let list = self.lists.entry(index).or_default();
        match list.len() {
            20.. => {
                let first = list.remove(0);
                one(&["LPOP", &key], bulk(Some(&first)))
            }
            length if length % 3 == 2 && self.random.below(2) == 0 => {
                let elements: Vec<String> = list.iter().map(|value| bulk(Some(value))).collect();
                one(&["LRANGE", &key, "0", "-1"], array(&elements))
            }
            _ => {
                list.push(value.clone());
                let reply = integer(list.len() as i64);
                one(&["RPUSH", &key, &value], reply)
            }
        }
    }

    fn hash(&mut self, index: usize) -> Exchange {
        let (key, value) = (self.key(index), self.value());
        if self.random.below(2) == 0 {
            return one(&["HGET", &key, "f"], bulk(self.hashes.get(&index)));
        }
        let added = self.hashes.insert(index, value.clone()).is_none();
        one(&["HSET", &key, "f", &value], integer(added.into()))
    }

    fn string(&mut self, index: usize) -> Exchange {
        let (key, value) = (self.key(index), self.value());
        match self.random.below(7) {
            0 | 1 => {
                self.strings.insert(index, value.clone());
                one(&["SET", &key, &value], "+OK\r\n".to_owned())
            }
            2 => {
                let string = self.strings.entry(index).or_default();
                string.push_str("+more");
                let reply = integer(string.len() as i64);
                one(&["APPEND", &key, "+more"], reply)
            }
            3 => {
                let length = self.strings.get(&index).map_or(0, String::len);
                one(&["STRLEN", &key], integer(length as i64))
            }
            // Redis' own errors keep their place among the replies, too.
            4 if self.strings.contains_key(&index) => {
                let reply =
                    "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
                one(&["LPUSH", &key, "x"], reply.to_owned())
            }
            _ => one(&["GET", &key], bulk(self.strings.get(&index))),
        }
    }

    /// One command on `first` and up to four more string keys of the deck.
    fn strings_with(&mut self, first: usize, deck: &mut Vec<usize>) -> Exchange {
        let mut chosen = vec![first];
        while chosen.len() < 5 && deck.last().is_some_and(|index| index % 10 > 2) {
            chosen.extend(deck.pop());
        }
        let keys: Vec<String> = chosen.iter().map(|index| self.key(*index)).collect();
        let present = chosen.iter().filter(|index| self.strings.contains_key(index)).count() as i64;
        match self.random.below(6) {
            0 => {
                let mut args = vec!["MSET".to_owned()];
                for (index, key) in chosen.iter().zip(keys) {
                    let value = self.value();
                    args.extend([key, value.clone()]);
                    self.strings.insert(*index, value);
                }
                Exchange { command: command(&args), reply: b"+OK\r\n".to_vec() }
            }
            1 => {
                let name = if self.random.below(2) == 0 { "DEL" } else { "UNLINK" };
                for index in &chosen {
                    self.strings.remove(index);
                }
                on_keys(name, &keys, integer(present))
            }
            2 => on_keys("EXISTS", &keys, integer(present)),
            3 => on_keys("TOUCH", &keys, integer(present)),
            _ => {
                let values = chosen.iter().map(|index| bulk(self.strings.get(index)));
                let reply = array(&values.collect::<Vec<String>>());
                on_keys("MGET", &keys, reply)
            }
        }
    }

    fn keyless(&mut self) -> Exchange {
        let text = self.value();
        match self.random.below(3) {
            0 => one(&["PING"], "+PONG\r\n".to_owned()),
            1 => one(&["PING", &text], bulk(Some(&text))),
            _ => one(&["ECHO", &text], bulk(Some(&text))),
        }
    }

    fn key(&self, index: usize) -> String {
        format!("{{client:{}:{}}}:{index}", self.client, index / self.keys_per_slot)
    }

    /// A value written never before, now and then long, and with what RESP puts between values.
    fn value(&mut self) -> String {
        self.written += 1;
        let filling = match self.random.below(50) {
            0 => 20_000,
            1..10 => 300,
            _ => 0,
        };
        format!("{}:{}\r\n$-1\r\n{}", self.client, self.written, "x".repeat(filling))
    }
}

fn one(args: &[&str], reply: String) -> Exchange {
    Exchange { command: command(args), reply: reply.into_bytes() }
}

fn on_keys(name: &str, keys: &[String], reply: String) -> Exchange {
    let args: Vec<&str> = std::iter::once(name).chain(keys.iter().map(String::as_str)).collect();
    one(&args, reply)
}

fn integer(value: i64) -> String {
    format!(":{value}\r\n")
}

fn bulk(value: Option<&String>) -> String {
    match value {
        Some(value) => format!("${}\r\n{value}\r\n", value.len()),
        None => "$-1\r\n".to_owned(),
    }
}

fn array(elements: &[String]) -> String {
    format!("*{}\r\n{}", elements.len(), elements.concat())
}

/// splitmix64: a test that failed fails again.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn shuffle(&mut self, items: &mut [usize]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}
