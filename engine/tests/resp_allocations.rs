//! What the wire format allocates: nothing by a declared length, and nothing once it is warm.
//!
//! A binary of its own, because it counts by means of the global allocator.

#[path = "support/counting.rs"]
mod counting;

use counting::allocated;
use slotmesh_engine::resp::{Limits, Parsed, Protocol, Reply, RequestParser, Scanner, encode};

#[test]
fn the_counter_counts() {
    assert_eq!(allocated(|| drop(std::hint::black_box(vec![0_u8; 1000]))), 1000);
}

#[test]
fn a_declared_command_allocates_by_the_arguments_that_arrived() {
    let limits = Limits::default();
    // The first argument makes room for four ranges of 8 bytes.
    let declared: [(&[u8], usize); 4] = [
        (b"*1000000\r\n", 0),
        (b"*1000000\r\n$", 0),
        (b"*1\r\n$100000000\r\n", 32),
        (b"*1000000\r\n$100000000\r\nabc", 32),
    ];
    for (stream, expected) in declared {
        let bytes = allocated(|| {
            let parsed = RequestParser::new().parse(stream, &limits);
            assert_eq!(parsed, Ok(Parsed::Incomplete));
        });
        assert_eq!(bytes, expected, "{}", stream.escape_ascii());
    }
}

#[test]
fn a_declared_reply_allocates_nothing() {
    let limits = Limits::default();
    let declared = [
        "*1000000\r\n",
        "~1000000\r\n",
        ">1000000\r\n",
        "%1000000\r\n",
        "|1000000\r\n",
        "*1000000\r\n*1000000\r\n",
        "$536870912\r\nabc",
        "!536870912\r\n",
        "=536870912\r\n",
        "$?\r\n;536870912\r\n",
    ];
    for stream in declared {
        let bytes = allocated(|| {
            let scan = Scanner::new().scan(stream.as_bytes(), &limits).unwrap();
            assert_eq!((scan.consumed, scan.complete), (stream.len(), false));
        });
        assert_eq!(bytes, 0, "{stream:?}");
    }
}

#[test]
fn a_warm_parser_allocates_nothing() {
    let limits = Limits::default();
    let mut parser = RequestParser::new();
    let mut stream = Vec::new();
    encode::command(&mut stream, &[b"SET", b"key", b"value", b"EX", b"10"]);
    let parse = |parser: &mut RequestParser| {
        assert_eq!(parser.parse(&stream[..20], &limits), Ok(Parsed::Incomplete));
        assert_eq!(parser.parse(&stream, &limits), Ok(Parsed::Command { len: stream.len() }));
        assert_eq!(parser.frame(&stream).args().count(), 5);
    };
    parse(&mut parser);
    assert_eq!(allocated(|| (0..100).for_each(|_| parse(&mut parser))), 0);
}

#[test]
fn replies_are_delimited_and_walked_without_allocating() {
    let limits = Limits::default();
    let frame = b"*2\r\n%1\r\n+k\r\n*2\r\n:1\r\n$3\r\nabc\r\n|1\r\n+ttl\r\n:1\r\n=7\r\ntxt:abc\r\n";
    let bytes = allocated(|| {
        let scan = Scanner::new().scan(frame, &limits).unwrap();
        assert_eq!((scan.consumed, scan.complete), (frame.len(), true));
        let elements = Reply::new(frame).elements().map(Reply::new);
        assert!(elements.map(|element| element.bulk()).eq([None, Some(&b"abc"[..])]));
    });
    assert_eq!(bytes, 0);
}

#[test]
fn writers_use_the_room_of_their_buffer() {
    let mut out = Vec::with_capacity(256);
    let bytes = allocated(|| {
        encode::simple(&mut out, b"OK");
        encode::error(&mut out, b"ERR no");
        encode::integer(&mut out, -1);
        encode::null(&mut out, Protocol::Resp3);
        encode::map_header(&mut out, Protocol::Resp3, 1);
        encode::command(&mut out, &[b"GET", b"key"]);
    });
    assert_eq!(bytes, 0);
}
