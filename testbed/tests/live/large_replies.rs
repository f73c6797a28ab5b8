//! Replies of tens of mebibytes, through stock Envoy with the module: they pass through it, and it
//! does not hold them.

use std::io::{BufRead, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::proxy::start;
use slotmesh_testbed::wire::{RawClient, command};

const REPLY: usize = 48 * 1024 * 1024;
const CLIENTS: usize = 8;

/// By how much Envoy may grow, of 384 MiB that go through it.
const GROWTH_KIB: u64 = 64 * 1024;

#[test]
fn large_replies_pass_through_and_clients_that_leave_in_the_middle_of_one_disturb_nobody() {
    let (_cluster, envoy) = start();
    let mut client = RawClient::connect(envoy.addr()).unwrap();
    // Zeroes, made by the node itself.
    let last = (REPLY - 1).to_string();
    let made = client.call(&["SETRANGE", "{k}large", &last, "x"]).unwrap();
    assert_eq!(made, format!(":{REPLY}\r\n").into_bytes());
    client.call(&["SET", "{k}small", "value"]).unwrap();

    let before = envoy.resident_kib().unwrap();
    let (most, stop) = (AtomicU64::new(before), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(envoy.resident_kib().unwrap(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| fetch(RawClient::connect(envoy.addr()).unwrap())))
            .collect();
        for _ in 0..CLIENTS {
            leave_in_the_middle(RawClient::connect(envoy.addr()).unwrap());
        }
        let ends: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(Result::is_ok));
    });
    let grown = most.into_inner() - before;
    eprintln!("Envoy grew by {grown} KiB");
    assert!(grown < GROWTH_KIB, "Envoy grew by {grown} KiB");
}

/// Reads a large reply and, behind it, a small one.
fn fetch(mut client: RawClient) {
    client.send(&command(&["GET", "{k}large"])).unwrap();
    client.send(&command(&["GET", "{k}small"])).unwrap();
    let (_, reader) = client.halves();
    let mut header = Vec::new();
    reader.read_until(b'\n', &mut header).unwrap();
    assert_eq!(header, format!("${REPLY}\r\n").into_bytes());
    let mut piece = vec![0; 256 * 1024];
    let mut left = REPLY;
    while left > 0 {
        let wanted = left.min(piece.len());
        let read = reader.read(&mut piece[..wanted]).unwrap();
        assert!(read > 0, "{left} bytes are missing");
        left -= read;
        let (zeroes, end) = piece[..read].split_at(read - usize::from(left == 0));
        assert!(zeroes.iter().all(|byte| *byte == 0));
        assert_eq!(end, if left == 0 { &b"x"[..] } else { b"" });
    }
    let mut rest = [0; 13];
    reader.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"\r\n$5\r\nvalue\r\n");
}

/// Asks for a large reply, and goes when its beginning has come.
fn leave_in_the_middle(mut client: RawClient) {
    let (writer, reader) = client.halves();
    writer.write_all(&command(&["GET", "{k}large"])).unwrap();
    reader.read_exact(&mut vec![0; 100_000]).unwrap();
}
