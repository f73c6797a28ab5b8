//! The host on real TCP connections: one thread, non-blocking.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use mio::{
    Events, Interest, Poll, Token, Waker,
    net::{TcpListener, TcpStream},
};

use crate::{
    clock::Clock,
    config::Config,
    host::{ClientId, Effect, Host, UpstreamId},
    log::Level,
    vm::{StartError, Wasm},
};

/// A listener for clients, and the host behind it.
pub struct Server {
    host: Host,
    clock: Clock,
    poll: Poll,
    listener: TcpListener,
    address: SocketAddr,
    clients: BTreeMap<ClientId, Socket>,
    upstreams: BTreeMap<UpstreamId, Socket>,
    stopper: Stopper,
    scratch: Vec<u8>,
}

impl Server {
    /// Listens on `address`; port 0 is a free one, which [`Self::address`] tells.
    ///
    /// # Errors
    ///
    /// [`ServeError::Listen`] if the address is taken or not this machine's,
    /// [`ServeError::Start`] if the plugins do not start.
    pub fn new(wasm: &Wasm, config: Config, address: SocketAddr) -> Result<Self, ServeError> {
        let listen = |why| ServeError::Listen { address, why };
        let mut listener = TcpListener::bind(address).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let poll = Poll::new().map_err(listen)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE).map_err(listen)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(listen)?);
        let clock = Clock::system();
        let host = Host::new(wasm, config, clock.clone()).map_err(ServeError::Start)?;
        Ok(Self {
            host,
            clock,
            poll,
            listener,
            address,
            clients: BTreeMap::new(),
            upstreams: BTreeMap::new(),
            stopper: Stopper { waker, stopped: Arc::default() },
            scratch: vec![0; 64 << 10],
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What ends [`Self::run`].
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Serves until stopped.
    ///
    /// # Errors
    ///
    /// If the operating system cannot wait for events.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        self.do_effects();
        while !self.stopper.stopped.load(Ordering::Acquire) {
            match self.poll.poll(&mut events, self.next_timeout()) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                match Source::of(event.token()) {
                    Source::Listener => self.accept(),
                    Source::Waker => {}
                    Source::Client(client) => self.client_ready(client, event.is_writable()),
                    Source::Upstream(upstream) => {
                        self.upstream_ready(upstream, event.is_writable())
                    }
                }
            }
            if self.next_timeout() == Some(Duration::ZERO) {
                self.host.handle_timeout();
                self.do_effects();
            }
        }
        Ok(())
    }

    /// Serves in a thread of its own.
    #[must_use]
    pub fn spawn(mut self) -> Running {
        let (address, stopper) = (self.address, self.stopper());
        let thread = thread::spawn(move || self.run().map(|()| self.host));
        Running { address, stopper, thread: Some(thread) }
    }

    fn next_timeout(&self) -> Option<Duration> {
        Some(self.host.poll_timeout()?.saturating_sub(self.clock.elapsed()))
    }

    fn do_effects(&mut self) {
        while let Some(effect) = self.host.poll_effect() {
            match effect {
                Effect::WriteClient { client, bytes } => self.write_client(client, &bytes),
                Effect::CloseClient { client } => {
                    if let Some(socket) = self.clients.get_mut(&client) {
                        socket.closing = true;
                    }
                    self.flush_client(client);
                }
                Effect::Connect { upstream, address } => self.connect(upstream, &address),
                Effect::WriteUpstream { upstream, bytes } => {
                    if let Some(socket) = self.upstreams.get_mut(&upstream) {
                        socket.outgoing.extend_from_slice(&bytes);
                    }
                    self.flush_upstream(upstream);
                }
                Effect::FinishUpstream { upstream } => {
                    if let Some(socket) = self.upstreams.get_mut(&upstream) {
                        socket.closing = true;
                    }
                    self.flush_upstream(upstream);
                }
                Effect::DropUpstream { upstream } => drop(self.upstreams.remove(&upstream)),
            }
        }
    }
}

/// Clients.
impl Server {
    fn accept(&mut self) {
        loop {
            let (stream, address) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    let text = format!("cannot accept a client: {error}");
                    return self.host.log().write(Level::Error, "host", text);
                }
            };
            let client = self.host.handle_client_connected(address.to_string());
            match Socket::register(stream, &self.poll, Source::Client(client)) {
                Ok(socket) => drop(self.clients.insert(client, socket)),
                Err(_) => self.host.handle_client_closed(client),
            }
            self.do_effects();
        }
    }

    fn client_ready(&mut self, client: ClientId, writable: bool) {
        if writable {
            self.flush_client(client);
        }
        while let Some(socket) = self.clients.get_mut(&client) {
            match socket.read(&mut self.scratch) {
                Received::Bytes(_) if socket.closing => {}
                Received::Bytes(length) => {
                    let bytes = self.scratch.get(..length).unwrap_or_default();
                    self.host.handle_client_data(client, bytes);
                    self.do_effects();
                }
                Received::Nothing => return,
                Received::End | Received::Failure(_) => return self.lose_client(client),
            }
        }
    }

    fn write_client(&mut self, client: ClientId, bytes: &[u8]) {
        if let Some(socket) = self.clients.get_mut(&client) {
            socket.outgoing.extend_from_slice(bytes);
        }
        self.flush_client(client);
    }

    fn flush_client(&mut self, client: ClientId) {
        let Some(socket) = self.clients.get_mut(&client) else { return };
        match socket.flush() {
            Ok(true) if socket.closing => drop(self.clients.remove(&client)),
            Ok(_) => {}
            Err(_) => self.lose_client(client),
        }
    }

    fn lose_client(&mut self, client: ClientId) {
        self.clients.remove(&client);
        self.host.handle_client_closed(client);
        self.do_effects();
    }
}

/// Connections to nodes.
impl Server {
    fn connect(&mut self, upstream: UpstreamId, address: &str) {
        let socket = resolve(address)
            .and_then(TcpStream::connect)
            .and_then(|stream| Socket::register(stream, &self.poll, Source::Upstream(upstream)));
        match socket {
            Ok(socket) => {
                self.upstreams.insert(upstream, Socket { connecting: true, ..socket });
            }
            Err(error) => self.host.handle_upstream_failed(upstream, &error.to_string()),
        }
    }

    fn upstream_ready(&mut self, upstream: UpstreamId, writable: bool) {
        let Some(socket) = self.upstreams.get_mut(&upstream) else { return };
        if socket.connecting {
            if let Ok(Some(error)) | Err(error) = socket.stream.take_error() {
                return self.lose_upstream(upstream, &error.to_string());
            }
            if socket.stream.peer_addr().is_err() {
                return;
            }
            socket.connecting = false;
            self.host.handle_upstream_connected(upstream);
            self.do_effects();
        } else if writable {
            self.flush_upstream(upstream);
        }
        while let Some(socket) = self.upstreams.get_mut(&upstream) {
            match socket.read(&mut self.scratch) {
                Received::Bytes(length) => {
                    let bytes = self.scratch.get(..length).unwrap_or_default();
                    self.host.handle_upstream_data(upstream, bytes);
                    self.do_effects();
                }
                Received::Nothing => return,
                Received::End => {
                    self.host.handle_upstream_finished(upstream);
                    self.do_effects();
                }
                Received::Failure(error) => {
                    return self.lose_upstream(upstream, &error.to_string());
                }
            }
        }
    }

    fn flush_upstream(&mut self, upstream: UpstreamId) {
        let Some(socket) = self.upstreams.get_mut(&upstream) else { return };
        match socket.flush() {
            // An error here means that the connection is gone: reading says so too.
            Ok(true) if socket.closing => drop(socket.stream.shutdown(Shutdown::Write)),
            Ok(_) => {}
            Err(error) => self.lose_upstream(upstream, &error.to_string()),
        }
    }

    fn lose_upstream(&mut self, upstream: UpstreamId, why: &str) {
        self.upstreams.remove(&upstream);
        self.host.handle_upstream_failed(upstream, why);
        self.do_effects();
    }
}

/// Ends a server's [`run`](Server::run), from any thread.
#[derive(Clone)]
pub struct Stopper {
    waker: Arc<Waker>,
    stopped: Arc<AtomicBool>,
}

impl Stopper {
    /// Has the server stop before its next event.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        // Waking cannot fail while the server's poll lives, and nobody is to be woken after.
        drop(self.waker.wake());
    }
}

/// A server in its own thread; stopped when dropped.
pub struct Running {
    address: SocketAddr,
    stopper: Stopper,
    thread: Option<JoinHandle<io::Result<Host>>>,
}

impl Running {
    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the server and gives its host back, to be asked what happened.
    ///
    /// # Errors
    ///
    /// What [`Server::run`] returned.
    ///
    /// # Panics
    ///
    /// If the server's thread did.
    pub fn stop(mut self) -> io::Result<Host> {
        self.join().unwrap_or_else(|| Err(ErrorKind::NotConnected.into()))
    }

    fn join(&mut self) -> Option<io::Result<Host>> {
        self.stopper.stop();
        match self.thread.take()?.join() {
            Ok(outcome) => Some(outcome),
            Err(panic) if thread::panicking() => {
                drop(panic);
                None
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.join());
    }
}

/// Why a [`Server`] does not serve.
#[derive(Debug)]
pub enum ServeError {
    /// The address cannot be listened on.
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        why: io::Error,
    },
    /// The plugins did not start.
    Start(StartError),
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listen { address, why } => write!(f, "cannot listen on {address}: {why}"),
            Self::Start(why) => why.fmt(f),
        }
    }
}

impl std::error::Error for ServeError {}

/// One TCP connection.
struct Socket {
    stream: TcpStream,
    /// What the operating system did not take yet.
    outgoing: Vec<u8>,
    /// Nothing more will be written: to be closed when all is flushed.
    closing: bool,
    connecting: bool,
}

/// What reading gave.
enum Received {
    Bytes(usize),
    Nothing,
    End,
    Failure(io::Error),
}

impl Socket {
    fn register(mut stream: TcpStream, poll: &Poll, source: Source) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, source.token(), interest)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, outgoing: Vec::new(), closing: false, connecting: false })
    }

    fn read(&mut self, into: &mut [u8]) -> Received {
        loop {
            return match self.stream.read(into) {
                Ok(0) => Received::End,
                Ok(length) => Received::Bytes(length),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Received::Nothing,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Received::Failure(error),
            };
        }
    }

    /// Writes what it can, and says whether that was all.
    fn flush(&mut self) -> io::Result<bool> {
        if self.connecting {
            return Ok(false);
        }
        let mut written = 0;
        let outcome = loop {
            let rest = self.outgoing.get(written..).unwrap_or_default();
            if rest.is_empty() {
                break Ok(true);
            }
            match self.stream.write(rest) {
                Ok(0) => break Err(ErrorKind::WriteZero.into()),
                Ok(length) => written += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.outgoing.drain(..written);
        outcome
    }
}

/// Who an event is about: kept in its token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Source {
    Listener,
    Waker,
    Client(ClientId),
    Upstream(UpstreamId),
}

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);

impl Source {
    /// Even tokens from 2 on are clients, odd ones upstreams.
    fn token(self) -> Token {
        match self {
            Self::Listener => LISTENER,
            Self::Waker => WAKER,
            Self::Client(ClientId(id)) => Token(2 + 2 * id as usize),
            Self::Upstream(UpstreamId(id)) => Token(3 + 2 * id as usize),
        }
    }

    fn of(token: Token) -> Self {
        match token {
            LISTENER => Self::Listener,
            WAKER => Self::Waker,
            Token(number) => {
                let id = u32::try_from((number - 2) / 2).unwrap_or(u32::MAX);
                if number % 2 == 0 {
                    Self::Client(ClientId(id))
                } else {
                    Self::Upstream(UpstreamId(id))
                }
            }
        }
    }
}

/// The first address of `host:port`, an IPv4 one if there is one:
/// `dns_lookup_family: V4_PREFERRED`. A name is looked up while all else waits.
fn resolve(address: &str) -> io::Result<SocketAddr> {
    let addresses: Vec<_> = address.to_socket_addrs()?.collect();
    let found = addresses.iter().find(|address| address.is_ipv4()).or_else(|| addresses.first());
    found.copied().ok_or_else(|| ErrorKind::NotFound.into())
}
