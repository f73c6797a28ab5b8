//! Clients that send commands as fast as they are answered, and check every byte of every reply.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slotmesh_testbed::wire;

use crate::load::{Load, Profile};
use crate::traffic::Traffic;

/// When nothing at all is answered for so long, something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);

/// Keys that are written at once before a load.
const FILLED_AT_ONCE: usize = 100;

/// The clients of one load, connected to one proxy.
pub(crate) struct Generator {
    addr: SocketAddr,
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    traffic: Traffic,
    pipeline: usize,
    /// What is read from a socket at once.
    buffer: Vec<u8>,
}

/// What came of one stretch of time.
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) took: Duration,
    /// Microseconds from sending a request's batch to the end of its reply.
    pub(crate) latencies: Histogram<u64>,
}

struct Client {
    stream: TcpStream,
    /// Commands under way, and how much of them has been written.
    commands: Vec<u8>,
    written: usize,
    /// Their replies, how much of them has come, and where each ends.
    replies: Vec<u8>,
    received: usize,
    ends: Vec<usize>,
    answered: usize,
    sent_at: Instant,
}

impl Generator {
    /// Connects all clients of `load` to the proxy at `addr`.
    pub(crate) fn connect(addr: SocketAddr, load: &Load) -> Result<Self> {
        let poll = Poll::new()?;
        let mut clients = Vec::new();
        for index in 0..load.clients {
            let stream = connect(addr, load);
            let stream = stream.with_context(|| format!("connecting client {index} to {addr}"))?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(index), interest)?;
            clients.push(Client::new(stream));
        }
        Ok(Self {
            addr,
            poll,
            events: Events::with_capacity(1024),
            clients,
            traffic: Traffic::new(load),
            pipeline: load.pipeline,
            buffer: vec![0; 256 * 1024],
        })
    }

    /// Sets every key that `load` will use, through one client.
    pub(crate) fn fill(addr: SocketAddr, load: &Load) -> Result<()> {
        let stream = connect(addr, load)?;
        let traffic = Traffic::new(load);
        let at_once = FILLED_AT_ONCE.min(1 + FILLED_AT_ONCE * 1024 / load.value);
        let (mut commands, mut expected, mut replies) = (Vec::new(), Vec::new(), Vec::new());
        for first in (0..load.keys).step_by(at_once) {
            commands.clear();
            expected.clear();
            for key in first..load.keys.min(first + at_once) {
                traffic.fill(key, &mut commands, &mut expected);
            }
            (&stream).write_all(&commands)?;
            replies.resize(expected.len(), 0);
            (&stream).read_exact(&mut replies).context("filling the cluster")?;
            ensure!(replies == expected, "a SET was answered '{}'", replies.escape_ascii());
        }
        Ok(())
    }

    /// Keeps all clients busy for `duration`; what is under way then goes on in the next run.
    pub(crate) fn run(&mut self, duration: Duration) -> Result<Outcome> {
        let start = Instant::now();
        let mut outcome = Outcome {
            requests: 0,
            took: duration,
            latencies: Histogram::new_with_max(60_000_000, 3)?,
        };
        for client in &mut self.clients {
            if client.is_idle() {
                client.send_batch(&mut self.traffic, self.pipeline)?;
            }
        }
        let mut last_progress = start;
        loop {
            let now = Instant::now();
            if now >= start + duration {
                outcome.took = now - start;
                return Ok(outcome);
            }
            if now >= last_progress + PATIENCE {
                bail!("{} has answered nothing for {PATIENCE:?}", self.addr);
            }
            let before = outcome.requests;
            match self.poll.poll(&mut self.events, Some(start + duration - now)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &self.events {
                let Token(index) = event.token();
                let Some(client) = self.clients.get_mut(index) else { continue };
                client.write()?;
                if event.is_readable() {
                    client.read(&mut self.buffer, &mut outcome)?;
                    if client.is_idle() {
                        client.send_batch(&mut self.traffic, self.pipeline)?;
                    }
                }
            }
            if outcome.requests > before {
                last_progress = now;
            }
        }
    }
}

/// A client's connection, of the protocol version that the load says.
fn connect(addr: SocketAddr, load: &Load) -> Result<std::net::TcpStream> {
    let stream = std::net::TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    if load.profile == Profile::Resp3 {
        (&stream).write_all(&wire::command(&["HELLO", "3"]))?;
        let reply = wire::read_reply(&mut BufReader::new(&stream)).context("HELLO 3")?;
        ensure!(reply.starts_with(b"%"), "HELLO 3 was answered '{}'", reply.escape_ascii());
    }
    Ok(stream)
}

impl Client {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            commands: Vec::new(),
            written: 0,
            replies: Vec::new(),
            received: 0,
            ends: Vec::new(),
            answered: 0,
            sent_at: Instant::now(),
        }
    }

    /// Whether all that was sent has been answered.
    fn is_idle(&self) -> bool {
        self.answered == self.ends.len()
    }

    fn send_batch(&mut self, traffic: &mut Traffic, size: usize) -> io::Result<()> {
        self.commands.clear();
        self.replies.clear();
        self.ends.clear();
        for _ in 0..size {
            traffic.next(&mut self.commands, &mut self.replies);
            self.ends.push(self.replies.len());
        }
        (self.written, self.received, self.answered) = (0, 0, 0);
        self.sent_at = Instant::now();
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        while let Some(rest) = self.commands.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8], outcome: &mut Outcome) -> Result<()> {
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => bail!("the proxy has closed a connection"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            self.check(buffer.get(..count).unwrap_or_default())?;
            let latency = self.sent_at.elapsed().as_micros() as u64;
            while self.ends.get(self.answered).is_some_and(|end| *end <= self.received) {
                self.answered += 1;
                outcome.requests += 1;
                outcome.latencies.saturating_record(latency);
            }
            if count < buffer.len() {
                // The socket is empty; when it is not any more there will be an event.
                return Ok(());
            }
        }
    }

    /// Compares what has come with what had to come.
    fn check(&mut self, bytes: &[u8]) -> Result<()> {
        let expected = self.replies.get(self.received..self.received + bytes.len());
        if expected != Some(bytes) {
            let shown = |bytes: &[u8]| bytes.get(..200).unwrap_or(bytes).escape_ascii().to_string();
            let rest = self.replies.get(self.received..).unwrap_or_default();
            bail!("a reply is '{}' instead of '{}'", shown(bytes), shown(rest));
        }
        self.received += bytes.len();
        Ok(())
    }
}
