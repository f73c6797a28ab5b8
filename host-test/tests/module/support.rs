//! The real module, and a scripted Redis Cluster for it to talk to under the virtual clock.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::LazyLock,
    time::Duration,
};

use slotmesh_host::{
    Accept, ClientId, Config, Connection, Host, Peer, Role, Simulation, UpstreamId, Wasm,
};

/// `settings.op_timeout` of every scripted cluster.
pub(crate) const OP_TIMEOUT: Duration = Duration::from_secs(2);

/// The module that `make wasm` built, compiled once for all tests of a program.
pub(crate) fn wasm() -> Wasm {
    static WASM: LazyLock<Wasm> = LazyLock::new(|| {
        let path = slotmesh_testbed::locate::wasm().expect("the module is built");
        Wasm::from_file(path).expect("it is a module")
    });
    WASM.clone()
}

/// Neither plugin trapped, and the router did nothing that Envoy might not survive.
pub(crate) fn assert_sound(host: &Host) {
    assert_eq!(host.misuse(), [""; 0]);
    for role in [Role::Router, Role::Tunnel] {
        assert!(!host.usage(role).failed, "the {} trapped", role.root_id());
    }
}

/// A command as clients send it.
pub(crate) fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(&bulk(word));
    }
    bytes
}

/// A command whose arguments hold no spaces.
pub(crate) fn words(line: &str) -> Vec<u8> {
    command(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>())
}

/// A bulk string.
pub(crate) fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

/// Cuts replies that are no aggregates into their lines; of a bulk string, the value.
pub(crate) fn replies(mut text: &str) -> Vec<String> {
    let mut replies = Vec::new();
    while !text.is_empty() {
        let (line, rest) = text.split_once("\r\n").expect("a whole line");
        text = rest;
        match line.strip_prefix('$').and_then(|length| length.parse::<usize>().ok()) {
            Some(length) => {
                replies.push(text[..length].to_owned());
                text = text[length..].strip_prefix("\r\n").expect("the end of a bulk string");
            }
            None => replies.push(line.to_owned()),
        }
    }
    replies
}

/// The slot of a key that has no hash tag.
pub(crate) fn slot(key: &str) -> u16 {
    crc16::State::<crc16::XMODEM>::calculate(key.as_bytes()) % SLOTS
}

const SLOTS: u16 = 16_384;

/// A simulation of the module before a scripted cluster of three primaries, `10.0.0.1:6379` to
/// `10.0.0.3:6379`.
pub(crate) struct World {
    pub(crate) simulation: Simulation,
    pub(crate) cluster: Rc<RefCell<Cluster>>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// Changes the host's configuration before it starts.
    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::seeded(7, change)
    }

    /// Has a seed decide what [`Simulation::new`] says.
    pub(crate) fn seeded(seed: u64, change: impl FnOnce(&mut Config)) -> Self {
        let cluster = Rc::new(RefCell::new(Cluster::default()));
        let seeds: Vec<_> = (0..PRIMARIES).map(|node| format!("\"{}\"", address(node))).collect();
        let mut config = Config::new(format!(
            r#"{{"settings": {{"op_timeout": "{}s"}},
                "prefix_routes": {{"catch_all_route": {{"cluster": "main"}}}},
                "clusters": {{"main": {{"seeds": [{}]}}}}}}"#,
            OP_TIMEOUT.as_secs(),
            seeds.join(", ")
        ));
        change(&mut config);
        let mut simulation = Simulation::new(&wasm(), config, seed).expect("the module starts");
        for index in 0..PRIMARIES {
            simulation.add_peer(address(index), Node::new(index, &cluster));
        }
        Self { simulation, cluster }
    }

    /// A client whose first command has been answered by the node that owns `key`: the topology is
    /// known and that node is connected.
    pub(crate) fn client_of(&mut self, key: &str) -> ClientId {
        let client = self.simulation.connect();
        assert_eq!(self.ask(client, &format!("EXISTS {key}")), ":0\r\n");
        client
    }

    /// Sends a command and returns what comes back before time passes.
    pub(crate) fn ask(&mut self, client: ClientId, line: &str) -> String {
        self.simulation.send(client, words(line));
        self.simulation.settle();
        self.take(client)
    }

    /// What a client has got.
    pub(crate) fn take(&mut self, client: ClientId) -> String {
        String::from_utf8(self.simulation.take_received(client)).expect("the tests' own text")
    }

    /// Changes what a node does from now on.
    pub(crate) fn script(&mut self, node: usize, change: impl FnOnce(&mut Script)) {
        change(&mut self.cluster.borrow_mut().scripts[node]);
    }

    /// The value of a key.
    pub(crate) fn value(&self, key: &str) -> String {
        let cluster = self.cluster.borrow();
        let value = cluster.values.get(key.as_bytes()).map(Vec::as_slice).unwrap_or_default();
        String::from_utf8_lossy(value).into_owned()
    }

    /// Every command the nodes executed, as `node: words`, in their order.
    pub(crate) fn executed(&self) -> Vec<String> {
        self.cluster.borrow().executed.clone()
    }

    /// How often nodes executed exactly this command.
    pub(crate) fn times_executed(&self, line: &str) -> usize {
        self.executed()
            .iter()
            .filter(|it| it.split_once(": ").is_some_and(|it| it.1 == line))
            .count()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_sound(self.simulation.host());
        }
    }
}

const PRIMARIES: usize = 3;

/// The address of a node by its index.
pub(crate) fn address(node: usize) -> String {
    format!("10.0.0.{}:6379", node + 1)
}

/// What all nodes know together, and what each is told to do.
pub(crate) struct Cluster {
    pub(crate) scripts: [Script; PRIMARIES],
    /// Who owns a slot that has left its first owner; CLUSTER SLOTS does not know of it yet.
    pub(crate) moved: BTreeMap<u16, usize>,
    /// Slots on their way to another node.
    pub(crate) migrating: BTreeMap<u16, usize>,
    /// See [`World::executed`].
    pub(crate) executed: Vec<String>,
    /// How often nodes wrote something.
    pub(crate) writes: u64,
    values: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What one node is told to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) accept: Accept,
    /// Every reply comes this much later.
    pub(crate) delay: Duration,
    /// The next command's reply is cut after so many bytes, by a reset.
    pub(crate) cut: Option<usize>,
    /// Reads and answers nothing.
    pub(crate) hangs: bool,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            scripts: std::array::from_fn(|_| Script::default()),
            moved: BTreeMap::new(),
            migrating: BTreeMap::new(),
            executed: Vec::new(),
            writes: 0,
            values: BTreeMap::new(),
        }
    }
}

impl Cluster {
    /// The node that owns a key.
    pub(crate) fn owner(&self, key: &str) -> usize {
        let slot = slot(key);
        self.moved.get(&slot).copied().unwrap_or_else(|| first_owner(slot))
    }

    /// MOVED or ASK, where node `node` does not serve `key`.
    fn redirection(&self, node: usize, key: &str, asking: bool) -> Option<String> {
        let (slot, owner) = (slot(key), self.owner(key));
        let importer = self.migrating.get(&slot).copied().filter(|importer| *importer != owner);
        if owner != node {
            let may = asking && importer == Some(node);
            return (!may).then(|| format!("-MOVED {slot} {}\r\n", address(owner)));
        }
        Some(format!("-ASK {slot} {}\r\n", address(importer?)))
    }

    fn run(&mut self, node: usize, args: &[Vec<u8>], asking: bool) -> Vec<u8> {
        let text: Vec<_> = args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
        self.executed.push(format!("{node}: {}", text.join(" ")));
        if let Some(redirection) = text.get(1).and_then(|key| self.redirection(node, key, asking)) {
            return redirection.into_bytes();
        }
        let null = || b"$-1\r\n".to_vec();
        match (&*text[0], &args[1..]) {
            ("GET", [key]) => self.values.get(key).map_or_else(null, |value| bulk(value)),
            ("SET", [key, value]) => {
                self.values.insert(key.clone(), value.clone());
                b"+OK\r\n".to_vec()
            }
            ("APPEND", [key, more]) => {
                let value = self.values.entry(key.clone()).or_default();
                value.extend_from_slice(more);
                format!(":{}\r\n", value.len()).into_bytes()
            }
            ("EXISTS", keys) => {
                let known = keys.iter().filter(|key| self.values.contains_key(*key)).count();
                format!(":{known}\r\n").into_bytes()
            }
            ("MGET", keys) => {
                let mut reply = format!("*{}\r\n", keys.len()).into_bytes();
                for key in keys {
                    reply.extend(self.values.get(key).map_or_else(null, |value| bulk(value)));
                }
                reply
            }
            _ => format!("-ERR the scripted node does not know {}\r\n", text[0]).into_bytes(),
        }
    }
}

/// Thirds of the slots.
fn first_owner(slot: u16) -> usize {
    usize::from(slot) * PRIMARIES / usize::from(SLOTS)
}

/// What CLUSTER SLOTS answers.
fn topology() -> Vec<u8> {
    let mut reply = format!("*{PRIMARIES}\r\n").into_bytes();
    for node in 0..PRIMARIES {
        let mut owned = (0..SLOTS).filter(|slot| first_owner(*slot) == node);
        let (first, last) = (owned.next().unwrap_or(0), owned.next_back().unwrap_or(0));
        let address = address(node);
        let (host, port) = address.rsplit_once(':').expect("host:port");
        reply.extend(format!("*3\r\n:{first}\r\n:{last}\r\n*2\r\n").into_bytes());
        reply.extend([bulk(host.as_bytes()), format!(":{port}\r\n").into_bytes()].concat());
    }
    reply
}

/// One node: the connections to it and its part in the cluster.
struct Node {
    index: usize,
    cluster: Rc<RefCell<Cluster>>,
    /// Commands that have come in part.
    inputs: BTreeMap<UpstreamId, Vec<u8>>,
    /// Connections that the node has reset: what still comes is lost.
    reset: BTreeSet<UpstreamId>,
    asking: BTreeSet<UpstreamId>,
}

impl Node {
    fn new(index: usize, cluster: &Rc<RefCell<Cluster>>) -> Self {
        Self {
            index,
            cluster: Rc::clone(cluster),
            inputs: BTreeMap::new(),
            reset: BTreeSet::new(),
            asking: BTreeSet::new(),
        }
    }

    /// Executes a command; appends its reply to `output`, and says whether that was cut.
    fn execute(&mut self, id: UpstreamId, args: &[Vec<u8>], output: &mut Vec<u8>) -> bool {
        let reply = match args[0].as_slice() {
            b"HELLO" => b"%2\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:3\r\n".to_vec(),
            b"CLUSTER" => topology(),
            b"PING" => b"+PONG\r\n".to_vec(),
            b"ASKING" => {
                self.asking.insert(id);
                b"+OK\r\n".to_vec()
            }
            _ => {
                let mut cluster = self.cluster.borrow_mut();
                let reply = cluster.run(self.index, args, self.asking.remove(&id));
                if let Some(length) = cluster.scripts[self.index].cut.take() {
                    output.extend_from_slice(&reply[..length.min(reply.len())]);
                    return true;
                }
                reply
            }
        };
        output.extend_from_slice(&reply);
        false
    }
}

impl Peer for Node {
    fn on_connect(&mut self, _node: &mut Connection) -> Accept {
        self.cluster.borrow().scripts[self.index].accept
    }

    fn on_data(&mut self, node: &mut Connection, bytes: &[u8]) {
        let script = self.cluster.borrow().scripts[self.index].clone();
        if script.hangs || self.reset.contains(&node.id()) {
            return;
        }
        let mut input = self.inputs.remove(&node.id()).unwrap_or_default();
        input.extend_from_slice(bytes);
        let (mut output, mut read, mut cut) = (Vec::new(), 0, false);
        while !cut && let Some((args, length)) = parse(&input[read..]) {
            cut = self.execute(node.id(), &args, &mut output);
            read += length;
        }
        node.wait(script.delay);
        self.cluster.borrow_mut().writes += u64::from(!output.is_empty());
        node.write(output);
        if cut {
            self.reset.insert(node.id());
            return node.reset();
        }
        input.drain(..read);
        self.inputs.insert(node.id(), input);
    }

    fn on_close(&mut self, node: &mut Connection) {
        self.inputs.remove(&node.id());
        self.asking.remove(&node.id());
    }
}

/// The command at the start of `bytes` and its length, once it is there in full.
fn parse(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let (count, mut read) = parse_header(bytes, b'*')?;
    let mut args = Vec::new();
    for _ in 0..count {
        let (length, header) = parse_header(&bytes[read..], b'$')?;
        read += header;
        args.push(bytes.get(read..read + length)?.to_vec());
        read += length + 2;
    }
    (bytes.len() >= read).then_some((args, read))
}

/// The number in a header line, and the line's length.
fn parse_header(bytes: &[u8], kind: u8) -> Option<(usize, usize)> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    assert_eq!(bytes[0], kind, "the proxy sends commands of bulk strings");
    let number = std::str::from_utf8(&bytes[1..end]).expect("a number").parse();
    Some((number.expect("a number"), end + 2))
}
