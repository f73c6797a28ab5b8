//! The sockets driver, on loopback.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};

use slotmesh_host::{Config, Running, ServeError, Server, Wasm};

use crate::support::{grpc_service, guest, relay, relay_config};

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn serve(wasm: &Wasm, config: Config) -> Running {
    Server::new(wasm, config, ANY_PORT).expect("loopback has free ports").spawn()
}

fn connect(server: &Running) -> TcpStream {
    let client = TcpStream::connect(server.address()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client
}

/// A node that serves one connection and sends back in capitals what it gets, until its end.
fn shouting_node() -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind(ANY_PORT).unwrap();
    let address = listener.local_addr().unwrap();
    let node = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut all, mut buffer) = (Vec::new(), vec![0; 4096]);
        // An error is a reset: the host dropped the connection.
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            all.extend_from_slice(&buffer[..length]);
            let answer = buffer[..length].to_ascii_uppercase();
            stream.write_all(&answer).unwrap();
        }
        all
    });
    (address, node)
}

fn relay_to(address: SocketAddr) -> Running {
    serve(&relay(), relay_config(&address.to_string()))
}

#[test]
fn bytes_reach_a_real_node_and_come_back() {
    let (address, node) = shouting_node();
    let server = relay_to(address);
    let mut client = connect(&server);
    let mut reply = [0; 5];
    for _ in 0..100 {
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"HELLO");
    }
    let host = server.stop().unwrap();
    assert_eq!(host.misuse(), [""; 0]);
    assert_eq!(node.join().unwrap(), b"hello".repeat(100));
}

#[test]
fn more_than_the_socket_buffers_hold_comes_back_whole() {
    let server = serve(&guest(""), Config::new(""));
    let client = connect(&server);
    let sent: Vec<u8> = (0..8_000_000u32).map(|number| (number % 251) as u8).collect();
    let mut writer = client.try_clone().unwrap();
    let writing = thread::spawn({
        let sent = sent.clone();
        move || writer.write_all(&sent).unwrap()
    });
    let mut received = vec![0; sent.len()];
    (&client).read_exact(&mut received).unwrap();
    writing.join().unwrap();
    assert!(received == sent);
}

#[test]
fn a_plugin_that_closes_has_its_last_bytes_flushed() {
    let wasm = guest(
        r#"(func (export "proxy_on_downstream_data") (param i32 i32 i32) (result i32)
             (drop (call $continue (i32.const 2)))
             (drop (call $close (i32.const 2)))
             (i32.const 1))"#,
    );
    let server = serve(&wasm, Config::new(""));
    let mut client = connect(&server);
    client.write_all(b"bye").unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"bye");
}

#[test]
fn a_client_that_half_closes_is_closed() {
    let server = serve(&guest(""), Config::new(""));
    let mut client = connect(&server);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_refused_node_is_told_to_the_router_and_the_client_stays() {
    // A port that was free a moment ago and is nobody's now.
    let address = TcpListener::bind(ANY_PORT).unwrap().local_addr().unwrap();
    let service: String = grpc_service("upstream", &address.to_string())
        .iter()
        .map(|it| format!("\\{it:02x}"))
        .collect();
    let size = service.len() / 3;
    let wasm = guest(&format!(
        r#"
        (data (i32.const 1024) "{service}")
        (global $client (mut i32) (i32.const 0))
        (func (export "proxy_on_downstream_data") (param i32 i32 i32) (result i32)
          (global.set $client (local.get 0))
          (call $data)
          (drop (call $open (i32.const 1024) (i32.const {size}) (i32.const 0) (i32.const 0)
              (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16)))
          (i32.const 1))
        (func (export "proxy_on_grpc_close") (param i32 i32 i32)
          (drop (call $effective (global.get $client)))
          (call $reply))"#
    ));
    let server = serve(&wasm, Config::new(""));
    let mut client = connect(&server);
    client.write_all(b"lost").unwrap();
    let mut reply = [0; 4];
    client.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"lost");
}

#[test]
fn ticks_come_on_the_machines_clock() {
    let wasm = guest(
        r#"
        (global $client (mut i32) (i32.const 0))
        (func (export "proxy_on_downstream_data") (param i32 i32 i32) (result i32)
          (global.set $client (local.get 0))
          (drop (call $tick (i32.const 1)))
          (i32.const 1))
        (func (export "proxy_on_tick") (param i32)
          (drop (call $effective (global.get $client)))
          (drop (call $continue (i32.const 2))))"#,
    );
    let server = serve(&wasm, Config::new(""));
    let mut client = connect(&server);
    client.write_all(b"later").unwrap();
    let mut reply = [0; 5];
    client.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"later");
}

#[test]
fn a_taken_port_is_an_error_that_names_it() {
    let server = serve(&guest(""), Config::new(""));
    let taken = Server::new(&guest(""), Config::new(""), server.address()).err();
    let Some(ServeError::Listen { address, .. }) = taken else { panic!("{taken:?}") };
    assert_eq!(address, server.address());
}
