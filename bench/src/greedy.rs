//! A client that asks for much while others are measured.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc;
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
        let replies = PIPELINE * (format!("${VALUE}\r\n").len() + VALUE + 2);
        let (ask, asked) = mpsc::channel();
        let (note_first, first) = mpsc::channel();
        // Both end when the stream is shut down. The next commands wait for all replies, because a
        // proxy without bounds would take commands without end.
        let mut write = move || writer.write_all(&commands).is_ok() && asked.recv().is_ok();
        let writing = thread::spawn(move || while write() {});
        let reading = thread::spawn(move || {
            let (mut chunk, mut left) = (vec![0; 1 << 16], replies);
            while let Ok(len @ 1..) = reader.read(&mut chunk) {
                // Nobody listens for the first one any more, or the writer has ended.
                let _ended = note_first.send(());
                left = left.saturating_sub(len);
                if left == 0 {
                    left = replies;
                    let _ended = ask.send(());
                }
            }
        });
        let greedy = Self { stream, threads: vec![writing, reading] };
        first.recv_timeout(PATIENCE).context("the greedy client gets no reply")?;
        Ok(greedy)
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
