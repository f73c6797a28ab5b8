//! A client of raw bytes: nothing between the test and the wire.

use std::io::Write;
use std::net::SocketAddr;
use std::thread;

pub(crate) use slotmesh_testbed::wire::command;
use slotmesh_testbed::wire::{RawClient, read_reply};

/// One RESP2 connection.
pub(crate) struct Client(RawClient);

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self(RawClient::connect(addr).expect("the proxy accepts"))
    }

    /// Sends all commands without waiting for any reply, and hands each reply, as its bytes, to
    /// `check` with the number of its command.
    ///
    /// Writing and reading go on at the same time, as in any client that pipelines without end: a
    /// proxy may stop reading from a client that does not read.
    pub(crate) fn pipeline(&mut self, commands: &[Vec<u8>], mut check: impl FnMut(usize, Vec<u8>)) {
        let (writer, reader) = self.0.halves();
        thread::scope(|scope| {
            scope.spawn(move || writer.write_all(&commands.concat()).expect("the proxy reads"));
            for number in 0..commands.len() {
                match read_reply(reader) {
                    Ok(reply) => check(number, reply),
                    Err(error) => panic!(
                        "no reply to {} (command {number} of {}): {error}",
                        commands[number].escape_ascii(),
                        commands.len()
                    ),
                }
            }
        });
    }

    /// Sends commands whose replies are read later, by [`Self::receive`].
    pub(crate) fn send(&mut self, args: &[&str]) {
        self.0.send(&command(args)).expect("the proxy reads");
    }

    /// Reads what comes next: a reply, or a message of a channel.
    pub(crate) fn receive(&mut self) -> Vec<u8> {
        self.0.read().expect("the proxy sends something")
    }

    /// Sends one command and returns its reply's bytes.
    pub(crate) fn call(&mut self, args: &[&str]) -> Vec<u8> {
        let mut reply = Vec::new();
        self.pipeline(&[command(args)], |_, bytes| reply = bytes);
        reply
    }
}
