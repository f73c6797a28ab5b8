//! A client that asks for much while others are measured.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use slotmesh_testbed::wire::{RawClient, command};

/// The size of the value that it asks for.
const VALUE: usize = 100_000;

/// How many GETs it sends at once. It goes on when it has been answered.
const PIPELINE: usize = 10_000;

/// When nothing at all is answered for so long, something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);

const KEY: &str = "greedy";

/// Asks without end until it is dropped.
pub(crate) struct Greedy {
    stream: TcpStream,
    threads: Vec<JoinHandle<()>>,
}

impl Greedy {
    /// Connects, and waits for the first replies, so that it is in the way from now on.
    pub(crate) fn start(addr: SocketAddr) -> Result<Self> {
        let reply = RawClient::connect(addr)?.call(&["SET", KEY, &"x".repeat(VALUE)])?;
        ensure!(reply == b"+OK\r\n", "SET {KEY}: {}", reply.escape_ascii());
        let stream = TcpStream::connect(addr).context("connecting the greedy client")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (mut writer, mut reader) = (stream.try_clone()?, stream.try_clone()?);
        let commands = command(&["GET", KEY]).repeat(PIPELINE);
        writer.write_all(&commands)?;
        let mut chunk = vec![0; 1 << 16];
        ensure!(reader.read(&mut chunk)? > 0, "the greedy client was closed");
        // Both end when the stream is shut down.
        let writing = thread::spawn(move || while writer.write_all(&commands).is_ok() {});
        let reading =
            thread::spawn(move || while reader.read(&mut chunk).is_ok_and(|len| len > 0) {});
        Ok(Self { stream, threads: vec![writing, reading] })
    }

    /// Whether it is still being served.
    pub(crate) fn is_served(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }
}

impl Drop for Greedy {
    fn drop(&mut self) {
        // If it has been closed already, there is nothing to shut down.
        let _closed = self.stream.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}
