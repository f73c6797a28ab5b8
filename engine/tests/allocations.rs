//! What the proxy allocates for a command: nothing, once it is warm. And what it copies of large
//! values: nothing, where the driver lets it have the buffer.
//!
//! A binary of its own, because it counts by means of the global allocator.

#[path = "support/counting.rs"]
mod counting;

use counting::allocated;
use slotmesh_engine::{Config, ConnectionId, Instant, Output, Proxy, SessionId};

/// A proxy with one client and one node that owns every slot.
struct Pair {
    proxy: Proxy,
    session: SessionId,
    node: ConnectionId,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let config = br#"{"settings": {"op_timeout": "1s"},
            "prefix_routes": {"catch_all_route": {"cluster": "c"}},
            "clusters": {"c": {"seeds": ["node:1"]}}}"#;
        let now = Instant::from_nanos(1);
        let mut proxy = Proxy::new(Config::from_json(config).unwrap(), 1);
        let session = proxy.handle_downstream_open(now);
        let asking = opened(&mut proxy);
        proxy.handle_upstream_open(asking, now);
        drain(&mut proxy);
        let topology = b"*0\r\n+epoch\r\n*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$4\r\nnode\r\n:1\r\n";
        proxy.handle_upstream_data(asking, topology, now);
        drain(&mut proxy);
        proxy.handle_downstream_data(session, b"PING\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n", now);
        let node = opened(&mut proxy);
        proxy.handle_upstream_open(node, now);
        for reply in [&b"+PONG\r\n"[..], b"$-1\r\n"] {
            proxy.handle_upstream_data(node, reply, now);
            drain(&mut proxy);
        }
        Self { proxy, session, node, now }
    }

    /// The client sends `commands`, the node answers with `replies`.
    fn exchange(&mut self, commands: &[u8], replies: &[u8]) {
        self.proxy.handle_downstream_data(self.session, commands, self.now);
        assert_eq!(drain(&mut self.proxy), (commands.len(), 0));
        self.proxy.handle_upstream_data(self.node, replies, self.now);
        assert_eq!(drain(&mut self.proxy), (0, replies.len()));
        assert!(self.proxy.poll_timeout().is_some());
    }

    /// Fails if the same exchange allocates when it comes again.
    fn allocates_nothing(&mut self, commands: &[u8], replies: &[u8]) {
        for _ in 0..10 {
            self.exchange(commands, replies);
        }
        let bytes = allocated(|| {
            for _ in 0..1000 {
                self.exchange(commands, replies);
            }
        });
        assert_eq!(bytes, 0);
    }
}

#[test]
fn a_get_allocates_nothing() {
    let get = b"*2\r\n$3\r\nGET\r\n$5\r\nkey:1\r\n";
    Pair::new().allocates_nothing(get, b"$5\r\nvalue\r\n");
}

#[test]
fn a_set_of_a_kilobyte_allocates_nothing() {
    let set = [&b"*3\r\n$3\r\nSET\r\n$5\r\nkey:1\r\n$1000\r\n"[..], &[b'x'; 1000], b"\r\n"];
    Pair::new().allocates_nothing(&set.concat(), b"+OK\r\n");
}

#[test]
fn a_pipeline_of_64_allocates_nothing() {
    let get = b"*2\r\n$3\r\nGET\r\n$5\r\nkey:1\r\n";
    Pair::new().allocates_nothing(&get.repeat(64), &b"$5\r\nvalue\r\n".repeat(64));
}

/// A bulk string of so many bytes.
fn bulk(len: usize) -> Vec<u8> {
    [format!("${len}\r\n").as_bytes(), &vec![b'x'; len], b"\r\n"].concat()
}

#[test]
fn a_reply_that_comes_alone_is_not_copied() {
    let mut pair = Pair::new();
    for len in [10_000, 16_384, 1 << 20] {
        pair.proxy.handle_downstream_data(pair.session, b"GET a\r\n", pair.now);
        drain(&mut pair.proxy);
        let reply = bulk(len);
        let mut buffer = reply.clone();
        let came = buffer.as_ptr();
        pair.proxy.handle_upstream_buffer(pair.node, &mut buffer, pair.now);
        assert_eq!(written(&mut pair.proxy), [(came, reply)], "{len}");
    }
}

#[test]
fn the_pieces_of_a_relayed_reply_are_not_copied() {
    let mut pair = Pair::new();
    pair.proxy.handle_downstream_data(pair.session, b"GET a\r\n", pair.now);
    drain(&mut pair.proxy);
    for piece in bulk(1 << 20).chunks(100_000) {
        let mut buffer = piece.to_vec();
        let came = buffer.as_ptr();
        pair.proxy.handle_upstream_buffer(pair.node, &mut buffer, pair.now);
        assert_eq!(written(&mut pair.proxy), [(came, piece.to_vec())]);
    }
}

#[test]
fn replies_that_come_together_are_not_copied_either() {
    let mut pair = Pair::new();
    let other = pair.proxy.handle_downstream_open(pair.now);
    for session in [pair.session, other] {
        pair.proxy.handle_downstream_data(session, b"GET a\r\n", pair.now);
    }
    drain(&mut pair.proxy);
    let reply = bulk(16_384);
    let mut buffer = reply.repeat(2);
    let came = buffer.as_ptr().addr();
    pair.proxy.handle_upstream_buffer(pair.node, &mut buffer, pair.now);
    let written = written(&mut pair.proxy).into_iter().map(|(at, bytes)| (at.addr(), bytes));
    let expected = [(came, reply.clone()), (came + reply.len(), reply)];
    assert!(written.eq(expected));
}

#[test]
fn a_reply_that_is_not_written_before_the_next_comes_is_kept() {
    let mut pair = Pair::new();
    let commands = b"GET a\r\nGET a\r\n";
    pair.proxy.handle_downstream_data(pair.session, commands, pair.now);
    drain(&mut pair.proxy);
    let replies = [bulk(10_000), bulk(20_000)];
    for reply in &replies {
        pair.proxy.handle_upstream_buffer(pair.node, &mut reply.clone(), pair.now);
        // The driver has not come to it yet.
        pair.proxy.check_invariants();
    }
    let written: Vec<u8> =
        written(&mut pair.proxy).into_iter().flat_map(|(_, bytes)| bytes).collect();
    assert!(written == replies.concat());
}

#[test]
fn what_comes_behind_a_reply_that_is_moved_stays_behind_it() {
    let mut pair = Pair::new();
    let commands = b"GET a\r\nPING\r\nQUIT\r\n";
    pair.proxy.handle_downstream_data(pair.session, commands, pair.now);
    drain(&mut pair.proxy);
    let reply = bulk(10_000);
    pair.proxy.handle_upstream_buffer(pair.node, &mut reply.clone(), pair.now);
    let mut got = Vec::new();
    let mut is_closed = false;
    while let Some(output) = pair.proxy.poll_output() {
        match output {
            Output::WriteDownstream { bytes, .. } => got.extend_from_slice(bytes),
            Output::CloseDownstream { .. } => is_closed = true,
            _ => assert!(!is_closed, "nothing follows the end"),
        }
    }
    assert!(is_closed);
    assert!(got == [&reply[..], b"+PONG\r\n+OK\r\n"].concat());
}

/// A SET of so many bytes.
fn set(len: usize) -> Vec<u8> {
    [&b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n"[..], &bulk(len)].concat()
}

#[test]
fn a_large_command_that_comes_alone_is_not_copied() {
    let mut pair = Pair::new();
    for len in [100_000, 1 << 20] {
        let mut buffer = set(len);
        let came = buffer.as_ptr();
        pair.proxy.handle_downstream_buffer(pair.session, &mut buffer, pair.now);
        assert_eq!(sent(&mut pair.proxy), [(came, set(len))], "{len}");
        pair.proxy.handle_upstream_data(pair.node, b"+OK\r\n", pair.now);
        drain(&mut pair.proxy);
    }
}

#[test]
fn a_large_command_that_comes_in_pieces_is_not_copied_when_all_are_put_behind_each_other() {
    let mut pair = Pair::new();
    let command = set(1 << 20);
    let (beginning, rest) = command.split_at(900_000);
    pair.proxy.handle_downstream_buffer(pair.session, &mut beginning.to_vec(), pair.now);
    assert_eq!(drain(&mut pair.proxy), (0, 0));
    let mut came: *const u8 = std::ptr::null();
    for piece in rest.chunks(50_000) {
        let mut bytes = pair.proxy.take_unfinished(pair.session, piece.len()).unwrap();
        let rest_at = bytes.len();
        came = if came.is_null() { bytes.as_ptr() } else { came };
        assert_eq!(came, bytes.as_ptr(), "room for all that has been announced");
        bytes.extend_from_slice(piece);
        pair.proxy.handle_downstream_rest(pair.session, bytes, rest_at, pair.now);
    }
    assert_eq!(sent(&mut pair.proxy), [(came, command)]);
}

#[test]
fn commands_around_a_large_one_are_sent_in_their_order() {
    let mut pair = Pair::new();
    let (first, last) =
        (&b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"[..], &b"*2\r\n$3\r\nTTL\r\n$1\r\na\r\n"[..]);
    for commands in [first, &set(100_000), last] {
        pair.proxy.handle_downstream_buffer(pair.session, &mut commands.to_vec(), pair.now);
    }
    let sent: Vec<u8> = sent(&mut pair.proxy).into_iter().flat_map(|(_, bytes)| bytes).collect();
    assert!(sent == [first, &set(100_000), last].concat());
    pair.proxy.handle_upstream_data(pair.node, b"$-1\r\n+OK\r\n:-1\r\n", pair.now);
    let written: Vec<u8> =
        written(&mut pair.proxy).into_iter().flat_map(|(_, bytes)| bytes).collect();
    assert_eq!(written, b"$-1\r\n+OK\r\n:-1\r\n");
}

/// What the proxy wants written to its node, and where that is.
fn sent(proxy: &mut Proxy) -> Vec<(*const u8, Vec<u8>)> {
    writes(proxy, |output| match output {
        Output::WriteUpstream { bytes, .. } => Some(bytes),
        _ => None,
    })
}

/// What the proxy wants written to its client, and where that is.
fn written(proxy: &mut Proxy) -> Vec<(*const u8, Vec<u8>)> {
    writes(proxy, |output| match output {
        Output::WriteDownstream { bytes, .. } => Some(bytes),
        _ => None,
    })
}

fn writes(
    proxy: &mut Proxy,
    bytes_of: for<'a> fn(Output<'a>) -> Option<&'a [u8]>,
) -> Vec<(*const u8, Vec<u8>)> {
    let mut writes = Vec::new();
    while let Some(output) = proxy.poll_output() {
        writes.extend(bytes_of(output).map(|bytes| (bytes.as_ptr(), bytes.to_vec())));
    }
    writes
}

/// Does nothing that the proxy wants but counts the bytes that go up and down.
fn drain(proxy: &mut Proxy) -> (usize, usize) {
    let (mut up, mut down) = (0, 0);
    while let Some(output) = proxy.poll_output() {
        match output {
            Output::WriteUpstream { bytes, .. } => up += bytes.len(),
            Output::WriteDownstream { bytes, .. } => down += bytes.len(),
            _ => {}
        }
    }
    (up, down)
}

/// The connection that the proxy wants opened.
fn opened(proxy: &mut Proxy) -> ConnectionId {
    let mut opened = None;
    while let Some(output) = proxy.poll_output() {
        if let Output::OpenUpstream { connection, .. } = output {
            opened = Some(connection);
        }
    }
    opened.expect("a connection was wanted")
}
