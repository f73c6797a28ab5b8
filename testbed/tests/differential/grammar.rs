//! What clients may say: commands drawn by chance from templates.

use slotmesh_testbed::wire::{command, read_reply};

use crate::templates::{
    ENDINGS, FEEDS, LIBRARY, MESSAGES, RAW, TEMPLATES, TRANSACTIONS, WAITS, WITH_ALL_NODES,
};

/// What a client sends, and how replies to it are compared.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) bytes: Vec<u8>,
    /// The same for people.
    pub(crate) shown: String,
    pub(crate) comparison: Comparison,
    /// How many replies it gets; where that is not known, the standalone server says.
    pub(crate) replies: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Comparison {
    /// Byte for byte.
    Exact,
    /// `?`: elements in any order. Those of a set or hash have none, each server hashes by a seed
    /// of its own.
    Unordered,
    /// `!`: errors up to the code word, because nodes word them for what they are. All else byte
    /// for byte.
    ErrorCode,
    /// `@`: what kind of reply it is. The rest is of that moment or of that server.
    Kind,
    /// `~`: byte for byte, unless it is one of [`EXPLAINED`].
    Cluster,
}

/// Errors where a standalone server would have done it, and why: a cluster cannot. They are the
/// words of Redis Cluster itself.
const EXPLAINED: &[&str] = &[
    // Keys of several slots in one command that cannot be cut.
    "-CROSSSLOT Keys in request don't hash to the same slot\r\n",
    // A pattern makes keys that may be anywhere.
    "-ERR BY option of SORT denied in Cluster mode.\r\n",
    "-ERR GET option of SORT denied in Cluster mode.\r\n",
    // A cluster has one database. These three name one that a standalone server has not either.
    "-ERR SELECT is not allowed in cluster mode\r\n",
    "-ERR MOVE is not allowed in cluster mode\r\n",
    "-ERR Copying to another database is not allowed in cluster mode\r\n",
    // A node has not seen the script yet, and has executed what the client sent behind the EVALSHA:
    // to bring it the script now would execute the client's commands in another order than they
    // came.
    "-NOSCRIPT No matching script. Please use EVAL.\r\n",
];

/// An endless conversation, the same for the same seed.
pub(crate) struct Script {
    protocol: u8,
    state: u64,
    /// Steps that are decided already, the next one last.
    decided: Vec<Step>,
}

impl Script {
    /// What a client says that has chosen this version of the protocol.
    pub(crate) fn new(seed: u64, protocol: u8) -> Self {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
        Self { protocol, state, decided: Vec::new() }
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    /// The next step of a client among others that wait, feed each other and hear of each other.
    /// The others have nobody else to end their waiting if the client `feeds` only.
    pub(crate) fn next_among_others(&mut self, feeds: bool) -> Step {
        if !self.decided.is_empty() {
            return self.next().unwrap();
        }
        let template = match self.below(10) {
            0..4 => self.choose(FEEDS),
            4..6 if !feeds => self.choose(WAITS),
            6..8 if !feeds => self.choose(MESSAGES),
            6..8 => self.choose(&["PUBLISH C V", "SPUBLISH {k}C V"]),
            8 => {
                self.decide_transaction();
                return self.next().unwrap();
            }
            _ => self.choose(&immediate()),
        };
        if template == "RESET" {
            self.decide(&[&format!("@HELLO {}", self.protocol)]);
        }
        self.fill(template)
    }

    /// So many steps, and those without which what they have begun would not be complete.
    pub(crate) fn steps(&mut self, count: usize) -> Vec<Step> {
        let mut steps: Vec<_> = self.by_ref().take(count).collect();
        while !self.decided.is_empty() {
            steps.extend(self.next());
        }
        steps
    }

    /// What ends the conversation, and the connection.
    pub(crate) fn ending(&mut self) -> Step {
        let bytes = self.choose(ENDINGS);
        Step { replies: 1, ..raw(bytes) }
    }

    fn choose<'a>(&mut self, among: &[&'a str]) -> &'a str {
        among[self.below(among.len())]
    }

    fn fill(&mut self, template: &str) -> Step {
        let (comparison, template) = match template.as_bytes()[0] {
            b'?' => (Comparison::Unordered, &template[1..]),
            b'!' => (Comparison::ErrorCode, &template[1..]),
            b'@' => (Comparison::Kind, &template[1..]),
            b'~' => (Comparison::Cluster, &template[1..]),
            _ => (Comparison::Exact, template),
        };
        let words = template.split(' ').map(|word| match word {
            "K" => format!("{{k}}{}", self.below(6)),
            "A" => format!("any:{}", self.below(12)),
            "M" => self.choose(&["a", "b", "c", "dd", "member"]).to_owned(),
            "V" => self.choose(&["", "v", "7", "some text", "\r\n$-1\r\n", "12.5"]).to_owned(),
            "I" => self.choose(&["0", "1", "2", "5", "-1", "13"]).to_owned(),
            "F" => self.choose(&["0.5", "1", "2.25", "-3", "1e3"]).to_owned(),
            "C" => self.choose(&["c1", "c2", "news"]).to_owned(),
            "{k}C" => self.choose(&["{k}c1", "{k}c2"]).to_owned(),
            "I-I" => format!("{}-{}", 1 + self.below(20), self.below(3)),
            "LIBRARY" => LIBRARY.to_owned(),
            other => other.to_owned(),
        });
        let words: Vec<_> = words.collect();
        let shown = words.join(" ").escape_debug().to_string();
        Step { bytes: command(&words), shown, comparison, replies: 1 }
    }

    /// The next steps are these.
    fn decide(&mut self, templates: &[&str]) {
        let steps: Vec<_> = templates.iter().map(|template| self.fill(template)).collect();
        self.decided = steps.into_iter().rev().collect();
    }

    /// A transaction on keys of one slot; now and then a queue that ends in an odd way.
    fn decide_transaction(&mut self) {
        let keyed: Vec<&str> = TEMPLATES
            .iter()
            .copied()
            .filter(|template| {
                !template.contains(" A") && !template.starts_with(['?', '!', '@', '~'])
            })
            .filter(|template| !WITH_ALL_NODES.contains(&template.split(' ').next().unwrap()))
            .collect();
        let mut templates = Vec::new();
        if self.below(3) == 0 {
            templates.push("WATCH K");
            if self.below(2) == 0 {
                templates.push("SET K V");
            }
        }
        templates.push("MULTI");
        for _ in 0..self.below(5) {
            templates.push(self.choose(&keyed));
        }
        if self.below(5) == 0 {
            templates.push(self.choose(TRANSACTIONS));
        }
        templates.push(if self.below(8) == 0 { "DISCARD" } else { "EXEC" });
        // Whatever happened, no transaction is open and nothing watched after these.
        templates.extend(["EXEC", "UNWATCH"]);
        self.decide(&templates);
    }

    /// Commands of a client that wants no replies for a while.
    fn decide_silence(&mut self) {
        let immediate = immediate();
        let any = [(); 3].map(|()| self.choose(&immediate));
        let templates = match self.below(2) {
            0 => vec!["CLIENT REPLY SKIP", any[0], any[1]],
            _ => {
                let off = ["CLIENT REPLY OFF", any[0], any[1], "CLIENT REPLY SKIP", any[2]];
                [&off[..], &["CLIENT REPLY ON"]].concat()
            }
        };
        self.decide(&templates);
        for step in self.decided.iter_mut().skip(1) {
            step.replies = 0;
        }
    }

    /// A client that listens for a while, and a RESET.
    fn decide_listening(&mut self) {
        let hello = format!("@HELLO {}", self.protocol);
        let in_between = if self.protocol == 2 { "!GET K" } else { "GET K" };
        self.decide(&["SUBSCRIBE C", "PING V", in_between, "PSUBSCRIBE c*", "RESET", &hello]);
    }
}

impl Iterator for Script {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.decided.is_empty() {
            match self.below(60) {
                0..4 => self.decide_transaction(),
                4 => self.decide_silence(),
                5 => self.decide_listening(),
                6 => {
                    let (bytes, replies) = RAW[self.below(RAW.len())];
                    return Some(Step { replies, ..raw(bytes) });
                }
                _ => {}
            }
        }
        if let Some(step) = self.decided.pop() {
            return Some(step);
        }
        let template = self.choose(TEMPLATES);
        Some(self.fill(template))
    }
}

/// Commands that are answered without waiting for anything.
fn immediate() -> Vec<&'static str> {
    let waits = |template: &&str| template.contains(" 0.01") || template.contains("BLOCK");
    TEMPLATES.iter().copied().filter(|template| !waits(template)).collect()
}

fn raw(bytes: &str) -> Step {
    let shown = bytes.escape_debug().to_string();
    Step { bytes: bytes.into(), shown, comparison: Comparison::Exact, replies: 0 }
}

impl Comparison {
    /// Whether a client could tell the proxy's reply from that of a standalone server.
    pub(crate) fn differs(self, proxy: &[u8], redis: &[u8]) -> bool {
        let is_explained = |reply: &[u8]| EXPLAINED.iter().any(|text| text.as_bytes() == reply);
        !(self == Self::Cluster && is_explained(proxy))
            && self.normalize(proxy) != self.normalize(redis)
    }

    /// What of a reply is compared.
    fn normalize(self, reply: &[u8]) -> Vec<u8> {
        match (self, reply.first()) {
            (Self::Unordered, Some(b'*' | b'~')) => {
                let mut rest = reply;
                let end = reply.iter().position(|byte| *byte == b'\n').unwrap() + 1;
                let (header, elements) = rest.split_at(end);
                rest = elements;
                let mut sorted = Vec::new();
                while !rest.is_empty() {
                    sorted.push(read_reply(&mut rest).unwrap());
                }
                sorted.sort();
                [header.to_vec(), sorted.concat()].concat()
            }
            (Self::ErrorCode, Some(b'-')) => {
                reply.split(|byte| *byte == b' ').next().unwrap().to_vec()
            }
            (Self::Kind, Some(kind)) => vec![*kind],
            _ => reply.to_vec(),
        }
    }
}
