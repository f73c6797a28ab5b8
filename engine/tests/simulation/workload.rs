//! What clients ask for.

use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use slotmesh_engine::resp::encode;

use super::client::Expected;
use super::history::{OpId, Outcome};
use super::linearizability::Effect;
use super::listener::{CHANNELS, Kind, Topic};
use super::script;
use super::world::{Event, World};

/// Slots that clients use.
const TAGS: usize = 6;
/// In so many of them there is a shard channel.
const SHARD_CHANNELS: usize = 3;

/// The keys of one world: for each slot some of each kind.
#[derive(Clone)]
pub struct Keys {
    tags: Rc<Vec<String>>,
}

impl Keys {
    pub fn choose(rng: &mut Rng) -> Self {
        let tags = (0..TAGS).map(|_| format!("{{{}}}", rng.u16(..))).collect();
        Self { tags: Rc::new(tags) }
    }

    /// All keys that are no lists.
    pub fn all(&self) -> Vec<Vec<u8>> {
        let kinds = ["s0", "s1", "a", "n"];
        let keys = self.tags.iter().flat_map(|tag| kinds.map(|kind| format!("{tag}{kind}").into()));
        keys.collect()
    }

    /// Shard channels of slots that have keys, too.
    pub fn shard_channels(&self) -> impl Iterator<Item = Topic> {
        let tags = self.tags.iter().take(SHARD_CHANNELS);
        tags.map(|tag| Topic::new(Kind::ShardChannel, format!("{tag}c").as_bytes()))
    }

    /// Whether a key is one of these, or a list.
    pub fn contain(&self, key: &[u8]) -> bool {
        self.tags.iter().any(|tag| key.starts_with(tag.as_bytes()))
    }

    fn any(&self, rng: &mut Rng, kinds: &[&str]) -> Vec<u8> {
        let tag = &self.tags[rng.usize(..self.tags.len())];
        format!("{tag}{}", kinds[rng.usize(..kinds.len())]).into_bytes()
    }

    fn one_of_each(&self, rng: &mut Rng, kind: &str) -> Vec<Vec<u8>> {
        let mut tags: Vec<_> = self.tags.iter().collect();
        rng.shuffle(&mut tags);
        tags.truncate(rng.usize(1..=4));
        tags.into_iter().map(|tag| format!("{tag}{kind}").into_bytes()).collect()
    }
}

/// A pipeline in the making.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    expected: Vec<Expected>,
}

impl Batch {
    fn add(&mut self, words: &[&[u8]], expected: Expected) {
        encode::command(&mut self.bytes, words);
        self.expected.push(expected);
    }
}

impl World {
    /// A client's next pipeline.
    pub fn act(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if client.left == 0 || !client.waiting.is_empty() {
            return;
        }
        if client.listens {
            return self.listen(number);
        }
        client.left -= 1;
        let mut batch = Batch::default();
        if let Some((key, seen)) = client.watched.take() {
            match seen {
                Some(seen) => self.swap(number, &key, seen, &mut batch),
                None => batch.add(&[b"UNWATCH"], Expected::Status("OK")),
            }
        } else {
            for _ in 0..self.rng.usize(1..=6) {
                self.add_command(number, &mut batch);
            }
            match self.rng.u8(..20) {
                0 | 1 => self.watch(number, &mut batch),
                2 | 3 => self.pop(number, &mut batch),
                _ => {}
            }
        }
        let session = self.clients[number].number;
        if self.rng.u8(..100) < 2 {
            let wait = self.up_to(Duration::from_millis(20));
            self.after(wait, Event::Leave(number, session));
        }
        self.send(number, batch.bytes, batch.expected);
    }

    /// A client's last pipeline: what has become of everything?
    pub fn read_all_keys(&mut self, number: usize) {
        let mut batch = Batch::default();
        self.clients[number].left = 0;
        for key in self.clients[number].keys.all() {
            let op = self.begin(number, &key, Effect::Read(None));
            batch.add(&[b"GET", &key], Expected::Value(op));
            // Of reads none comes too late for its script.
            let op = self.begin(number, &key, Effect::Read(None));
            let (name, script) = self.call(number, script::READ, b"EVAL_RO", b"EVALSHA_RO");
            batch.add(&[name, &script, b"1", &key, b"-"], Expected::Tagged(b"-".to_vec(), op));
        }
        self.send(number, batch.bytes, batch.expected);
    }

    fn add_command(&mut self, number: usize, batch: &mut Batch) {
        let keys = self.clients[number].keys.clone();
        let token = self.clients[number].token();
        let rng = &mut self.rng;
        match rng.u8(..20) {
            0..=3 => {
                let key = keys.any(rng, &["s0", "s1"]);
                let op = self.begin(number, &key, Effect::Write(token.clone()));
                batch.add(&[b"SET", &key, &token], Expected::Written(vec![op]));
            }
            4..=7 => {
                let key = keys.any(rng, &["s0", "s1", "a", "n"]);
                let op = self.begin(number, &key, Effect::Read(None));
                match self.rng.bool() {
                    true => batch.add(&[b"GET", &key], Expected::Value(op)),
                    false => {
                        let [eval, evalsha] = [b"EVAL_RO".as_slice(), b"EVALSHA_RO"];
                        let expected = Expected::Tagged(token.clone(), op);
                        let (name, script) = self.call(number, script::READ, eval, evalsha);
                        batch.add(&[name, &script, b"1", &key, &token], expected);
                    }
                }
            }
            8..=10 => {
                let key = keys.any(rng, &["a"]);
                let op = self.begin(number, &key, Effect::Append(token.clone(), None));
                let expected = Expected::Number(op);
                if self.rng.bool() {
                    return batch.add(&[b"APPEND", &key, &token], expected);
                }
                let (name, script) = self.call(number, script::APPEND, b"EVAL", b"EVALSHA");
                batch.add(&[name, &script, b"1", &key, &token], expected);
            }
            11 | 12 => {
                let key = keys.any(rng, &["n"]);
                let op = self.begin(number, &key, Effect::Increment(None));
                batch.add(&[b"INCR", &key], Expected::Number(op));
            }
            13 => {
                let mut names = keys.one_of_each(rng, "s0");
                names.extend(keys.one_of_each(rng, "s1"));
                let ops = self.begin_all(number, &names, || Effect::Read(None));
                batch.add(&words(b"MGET", &names), Expected::Values(ops));
            }
            14 => {
                let names = [keys.one_of_each(rng, "s1"), keys.one_of_each(rng, "s0")].concat();
                let mut arguments = Vec::new();
                let mut ops = Vec::new();
                for key in names {
                    let token = self.clients[number].token();
                    ops.push(self.begin(number, &key, Effect::Write(token.clone())));
                    arguments.extend([key, token]);
                }
                batch.add(&words(b"MSET", &arguments), Expected::Written(ops));
            }
            15 => {
                let kind = ["s0", "s1", "n"][rng.usize(..3)];
                let names = keys.one_of_each(rng, kind);
                let ops = self.begin_all(number, &names, || Effect::Delete(None));
                batch.add(&words(b"DEL", &names), Expected::Deleted(ops));
            }
            16 => self.add_keyless(number, &token, batch),
            17 => {
                let key = keys.any(rng, &["l"]);
                self.history.pushed.insert(token.clone(), Outcome::Unknown);
                batch.add(&[b"RPUSH", &key, &token], Expected::Pushed(token.clone()));
            }
            _ => self.add_transaction(number, batch),
        }
    }

    /// By which command a script is called, and what it is told: the script itself the first time
    /// and now and then, else its digest, which the proxy has to know from then on.
    fn call<'a>(
        &mut self,
        number: usize,
        body: &'static [u8],
        eval: &'a [u8],
        evalsha: &'a [u8],
    ) -> (&'a [u8], Vec<u8>) {
        let is_news = self.clients[number].scripts.insert(body);
        if !is_news && self.rng.u8(..4) > 0 {
            return (evalsha, script::digest(body));
        }
        (eval, body.to_vec())
    }

    /// Something in the middle of a pipeline that is about no key.
    fn add_keyless(&mut self, number: usize, token: &[u8], batch: &mut Batch) {
        let client = &self.clients[number];
        match self.rng.u8(..10) {
            // Half of all clients keep to RESP2.
            0 if number.is_multiple_of(2) => batch.add(&[b"HELLO", b"3"], Expected::Hello),
            1 => batch.add(&[b"RESET"], Expected::Status("RESET")),
            2 => batch.add(&[b"SCAN", &client.cursor], Expected::Scanned),
            3 => batch.add(&[b"DBSIZE"], Expected::Count),
            4 | 5 => {
                let channel = CHANNELS[self.rng.usize(..CHANNELS.len())];
                let topic = Topic::new(Kind::Channel, channel);
                batch.add(&[b"PUBLISH", channel, token], self.publish(number, topic, token));
            }
            6 | 7 => {
                let place = self.rng.usize(..SHARD_CHANNELS);
                let topic = self.clients[number].keys.shard_channels().nth(place);
                let topic = topic.expect("a shard channel");
                let channel = topic.name.clone();
                batch.add(&[b"SPUBLISH", &channel, token], self.publish(number, topic, token));
            }
            _ => batch.add(&[b"ECHO", token], Expected::Echo(token.to_vec())),
        }
    }

    /// The next step of a client's SCAN.
    pub fn scan_on(&mut self, number: usize) {
        let mut batch = Batch::default();
        batch.add(&[b"SCAN", &self.clients[number].cursor], Expected::Scanned);
        self.send(number, batch.bytes, batch.expected);
    }

    /// A transaction on the keys of one slot.
    fn add_transaction(&mut self, number: usize, batch: &mut Batch) {
        let keys = self.clients[number].keys.clone();
        let tag = self.rng.usize(..TAGS);
        batch.add(&[b"MULTI"], Expected::Status("OK"));
        let mut expected = Vec::new();
        for _ in 0..self.rng.usize(1..4) {
            let token = self.clients[number].token();
            let key = |kind| format!("{}{kind}", keys.tags[tag]).into_bytes();
            match self.rng.u8(..3) {
                0 => {
                    let op = self.begin(number, &key("s0"), Effect::Write(token.clone()));
                    batch.add(&[b"SET", &key("s0"), &token], Expected::Status("QUEUED"));
                    expected.push(Expected::Written(vec![op]));
                }
                1 => {
                    let op = self.begin(number, &key("a"), Effect::Append(token.clone(), None));
                    batch.add(&[b"APPEND", &key("a"), &token], Expected::Status("QUEUED"));
                    expected.push(Expected::Number(op));
                }
                _ => {
                    let op = self.begin(number, &key("s1"), Effect::Read(None));
                    batch.add(&[b"GET", &key("s1")], Expected::Status("QUEUED"));
                    expected.push(Expected::Value(op));
                }
            }
        }
        batch.add(&[b"EXEC"], Expected::Exec(expected));
    }

    /// The first half of a change of a value that nobody else may change meanwhile.
    fn watch(&mut self, number: usize, batch: &mut Batch) {
        let key = self.clients[number].keys.clone().any(&mut self.rng, &["s0", "s1"]);
        batch.add(&[b"WATCH", &key], Expected::Watching(key.clone()));
        let op = self.begin(number, &key, Effect::Read(None));
        batch.add(&[b"GET", &key], Expected::Value(op));
    }

    /// The second half.
    fn swap(&mut self, number: usize, key: &[u8], seen: Option<Vec<u8>>, batch: &mut Batch) {
        let token = self.clients[number].token();
        batch.add(&[b"MULTI"], Expected::Status("OK"));
        let op = self.begin(number, key, Effect::Swap(seen, token.clone()));
        batch.add(&[b"SET", key, &token], Expected::Status("QUEUED"));
        batch.add(&[b"EXEC"], Expected::Exec(vec![Expected::Written(vec![op])]));
    }

    fn pop(&mut self, number: usize, batch: &mut Batch) {
        let key = self.clients[number].keys.clone().any(&mut self.rng, &["l"]);
        let seconds = ["0.05", "0.3", "2"][self.rng.usize(..3)];
        batch.add(&[b"BLPOP", &key, seconds.as_bytes()], Expected::Popped(key.clone()));
    }

    fn begin(&mut self, number: usize, key: &[u8], effect: Effect) -> OpId {
        let session = self.clients[number].number;
        self.history.begin(session, key, effect, self.now)
    }

    fn begin_all(
        &mut self,
        number: usize,
        keys: &[Vec<u8>],
        effect: impl Fn() -> Effect,
    ) -> Vec<OpId> {
        keys.iter().map(|key| self.begin(number, key, effect())).collect()
    }
}

fn words<'a>(name: &'a [u8], arguments: &'a [Vec<u8>]) -> Vec<&'a [u8]> {
    std::iter::once(name).chain(arguments.iter().map(Vec::as_slice)).collect()
}
