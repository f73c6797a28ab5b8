//! The router: one engine for each root context, fed by its callbacks and obeyed.

use std::net::SocketAddr;

use slotmesh_engine::config::Attribute;
use slotmesh_engine::{Config, ConnectionId, Instant, LogLevel, Output, Proxy, SessionId};

use crate::abi::HostBytes;
use crate::host::{self, Buffer, HostError, Level};
use crate::metrics::Metrics;
use crate::plugin::Tokens;
use crate::transport;

/// A network filter's root context: the proxy of all its clients on this worker.
pub(crate) struct Router {
    proxy: Proxy,
    /// By the index of their session.
    clients: Vec<Client>,
    /// Tokens by the index of their connection.
    nodes: Vec<Option<(ConnectionId, u32)>>,
    metrics: Metrics,
    /// By which the host calls back after the events that it has at hand; `None` if it cannot.
    queue: Option<u32>,
    /// When the next tick comes, if one has been asked for.
    tick_at: Option<Instant>,
    /// The connection that could not be opened, and why: for the engine to hear in the next callback.
    unopened: Option<(ConnectionId, String)>,
}

/// Read bytes are left in the host's buffer only as long as they are not more than this: Envoy stops
/// reading when its buffer is full.
const MOST_STALE: usize = 4096;

/// What the host knows a session by.
#[derive(Clone, Copy, Default)]
struct Client {
    context: u32,
    /// So many bytes at the start of the host's buffer have been read. They stay until replies take
    /// their place, which saves a call of the host.
    stale: usize,
    /// Its bytes are left in the host's buffer.
    paused: bool,
    /// It has sent bytes since, and they are still there.
    unread: bool,
    /// It has sent bytes before, and the engine knows what it wants to know of it.
    known: bool,
}

/// What doing as the engine says has led to.
enum Event {
    Read(SessionId, Vec<u8>),
    Unopened(ConnectionId, String),
    Failed(ConnectionId, String),
    StatsDue,
    Flush,
}

impl Router {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            proxy: Proxy::new(config, host::random()),
            clients: Vec::new(),
            nodes: Vec::new(),
            metrics: Metrics::default(),
            // Each worker needs a name of its own: the host calls the one that came last.
            queue: host::register_queue(&format!("slotmesh-{:016x}", host::random())).ok(),
            tick_at: None,
            unopened: None,
        }
    }

    pub(crate) fn on_downstream_open(
        &mut self,
        context: u32,
        tokens: &mut Tokens<'_>,
    ) -> SessionId {
        let now = host::now();
        let session = self.proxy.handle_downstream_open(now);
        place(&mut self.clients, session.index(), Client { context, ..Client::default() });
        self.obey(now, tokens);
        session
    }

    /// Nothing that is read goes on to the next filter: what does is replies alone.
    pub(crate) fn on_downstream_data(
        &mut self,
        session: SessionId,
        size: usize,
        tokens: &mut Tokens<'_>,
    ) {
        self.introduce(session);
        let Some(client) = self.clients.get_mut(session.index()) else { return };
        if client.paused {
            client.unread = true;
            return;
        }
        let now = host::now();
        match read_downstream(client, size) {
            Ok(bytes) => self.proxy.handle_downstream_data(session, &bytes, now),
            // Bytes that cannot be taken out would come back to the client as an echo.
            Err(_) => {
                let _ = host::close_downstream();
            }
        }
        self.obey(now, tokens);
    }

    /// Tells the engine what it wants to know of a client that sends its first bytes. By then the
    /// filters before this one have set what they know of it.
    fn introduce(&mut self, session: SessionId) {
        let Some(client) = self.clients.get_mut(session.index()) else { return };
        if std::mem::replace(&mut client.known, true) {
            return;
        }
        // Each costs a call of the host; only who plays a cluster needs the second.
        let local = if self.proxy.emulates_a_cluster() { address("destination") } else { None };
        self.proxy.handle_downstream_addresses(session, address("source"), local);
        if self.proxy.attributes().is_empty() {
            return;
        }
        let values = self.proxy.attributes().iter().map(|attribute| {
            let value = match attribute {
                Attribute::FilterState(name) => host::property(&["filter_state", name]),
                Attribute::RemoteAddress => host::property(&["source", "address"]),
                Attribute::LocalAddress => host::property(&["destination", "address"]),
            };
            value.map(|value| value.to_vec()).unwrap_or_default()
        });
        let values = values.collect();
        self.proxy.handle_downstream_attributes(session, values);
    }

    pub(crate) fn on_downstream_close(&mut self, session: SessionId, tokens: &mut Tokens<'_>) {
        let now = host::now();
        self.proxy.handle_downstream_close(session, now);
        self.obey(now, tokens);
    }

    pub(crate) fn on_upstream_open(&mut self, connection: ConnectionId, tokens: &mut Tokens<'_>) {
        let now = host::now();
        self.proxy.handle_upstream_open(connection, now);
        self.obey(now, tokens);
    }

    pub(crate) fn on_upstream_data(
        &mut self,
        connection: ConnectionId,
        bytes: Result<HostBytes, HostError>,
        tokens: &mut Tokens<'_>,
    ) {
        let now = host::now();
        match bytes {
            Ok(bytes) => self.proxy.handle_upstream_data(connection, &bytes, now),
            Err(error) => {
                self.proxy.handle_upstream_close(connection, &error.to_string(), now);
            }
        }
        self.obey(now, tokens);
    }

    pub(crate) fn on_upstream_close(
        &mut self,
        connection: ConnectionId,
        reason: &str,
        tokens: &mut Tokens<'_>,
    ) {
        let now = host::now();
        if let Some(node) = self.nodes.get_mut(connection.index()) {
            *node = None;
        }
        self.proxy.handle_upstream_close(connection, reason, now);
        self.obey(now, tokens);
    }

    pub(crate) fn on_tick(&mut self, tokens: &mut Tokens<'_>) {
        let now = host::now();
        self.tick_at = None;
        self.proxy.handle_timeout(now);
        self.obey(now, tokens);
        if self.tick_at.is_none() {
            host::set_tick_period(0);
        }
    }

    /// The events that the host had at hand have been handled.
    pub(crate) fn on_queue_ready(&mut self, tokens: &mut Tokens<'_>) {
        if let Some(queue) = self.queue {
            host::awaken(queue);
        }
        self.proxy.flush();
        self.obey(host::now(), tokens);
    }

    /// The root context ends, and with it what its gauges tell of.
    pub(crate) fn retire(mut self) {
        self.metrics.report_last(&mut self.proxy);
    }

    /// Does what the engine wants until it wants nothing more, then sets the timer.
    ///
    /// A stream that fails inside the call that opens it ends the callback, and the rest is left for the next:
    /// Envoy puts off the end of that stream until no callback runs, and would try again for ever if it had
    /// to enter this VM once more before.
    fn obey(&mut self, now: Instant, tokens: &mut Tokens<'_>) {
        if let Some((connection, reason)) = self.unopened.take() {
            self.proxy.handle_upstream_close(connection, &reason, now);
        }
        let mut events = Vec::new();
        while self.unopened.is_none() {
            let Self { proxy, clients, nodes, .. } = self;
            while let Some(output) = proxy.poll_output() {
                events.extend(carry_out(output, clients, nodes, tokens));
                if let Some(Event::Unopened(..)) = events.last() {
                    break;
                }
            }
            if events.is_empty() {
                break;
            }
            for event in events.drain(..) {
                self.handle(event, now);
            }
        }
        self.set_timer(now);
    }

    /// Nothing here enters this VM again.
    fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Read(session, bytes) => {
                self.proxy.handle_downstream_data(session, &bytes, now);
            }
            Event::Flush => {
                if self.queue.is_none_or(|queue| host::wake(queue).is_err()) {
                    self.proxy.flush();
                }
            }
            Event::StatsDue => self.metrics.report(&mut self.proxy),
            Event::Failed(connection, reason) => {
                self.proxy.handle_upstream_close(connection, &reason, now);
            }
            Event::Unopened(connection, reason) => self.unopened = Some((connection, reason)),
        }
    }

    /// The tick that has been asked for may come too early, which does no harm, but not too late.
    fn set_timer(&mut self, now: Instant) {
        let waiting = self.unopened.is_some().then_some(now);
        let Some(wanted) = waiting.or_else(|| self.proxy.poll_timeout()) else { return };
        if self.tick_at.is_some_and(|at| at <= wanted) {
            return;
        }
        let wait = wanted.saturating_duration_since(now);
        let milliseconds = wait.as_nanos().div_ceil(1_000_000).max(1);
        let milliseconds = u32::try_from(milliseconds).unwrap_or(u32::MAX);
        host::set_tick_period(milliseconds);
        self.tick_at = Some(now + std::time::Duration::from_millis(milliseconds.into()));
    }
}

/// The address of one end of the current client's connection.
fn address(end: &str) -> Option<SocketAddr> {
    let text = host::property(&[end, "address"]).ok()?;
    std::str::from_utf8(&text).ok()?.parse().ok()
}

/// Does one thing that the engine wants. Returns what that has led to.
fn carry_out(
    output: Output<'_>,
    clients: &mut [Client],
    nodes: &mut Vec<Option<(ConnectionId, u32)>>,
    tokens: &mut Tokens<'_>,
) -> Option<Event> {
    match output {
        Output::OpenUpstream { connection, envoy_cluster, address } => {
            match transport::open(envoy_cluster, address, &tokens.ticket(connection)) {
                Ok(token) => {
                    place(nodes, connection.index(), Some((connection, token)));
                    tokens.insert(token, connection);
                    None
                }
                Err(error) => {
                    tokens.revoke(connection);
                    let reason = format!(
                        "Envoy opens no stream through its cluster '{envoy_cluster}' ({error}): \
                         there is no such cluster, or it has no endpoint of this address"
                    );
                    Some(Event::Unopened(connection, reason))
                }
            }
        }
        Output::WriteUpstream { connection, bytes } => {
            let token = token_of(nodes, connection)?;
            let error = transport::send(token, bytes).err()?;
            Some(Event::Failed(connection, error.to_string()))
        }
        Output::CloseUpstream { connection } => {
            let token = token_of(nodes, connection)?;
            place(nodes, connection.index(), None);
            tokens.remove(token);
            host::cancel(token);
            None
        }
        Output::WriteDownstream { session, bytes } => {
            let client = clients.get_mut(session.index())?;
            match write_downstream(client, bytes) {
                Ok(unread) => Some(Event::Read(session, unread?)),
                Err(_) => {
                    // The client is gone; its context's end will be reported.
                    None
                }
            }
        }
        Output::CloseDownstream { session } => {
            let client = clients.get(session.index())?;
            let _ =
                host::set_effective_context(client.context).and_then(|()| host::close_downstream());
            None
        }
        Output::PauseDownstream { session } => {
            clients.get_mut(session.index())?.paused = true;
            None
        }
        Output::ResumeDownstream { session } => {
            let client = clients.get_mut(session.index())?;
            client.paused = false;
            let unread =
                host::set_effective_context(client.context).and_then(|()| take_unread(client));
            Some(Event::Read(session, unread.ok()??))
        }
        Output::FlushSoon => Some(Event::Flush),
        Output::ReportStats => Some(Event::StatsDue),
        Output::Log { level, message } => {
            let level = match level {
                LogLevel::Info => Level::Info,
                LogLevel::Warn => Level::Warn,
            };
            host::log(level, &format!("slotmesh: {message}"));
            None
        }
    }
}

/// The bytes in the host's buffer, of `size` in all, that have not been read before.
fn read_downstream(client: &mut Client, size: usize) -> Result<HostBytes, HostError> {
    let bytes = host::read(Buffer::Downstream, client.stale, size.saturating_sub(client.stale))?;
    client.stale = size;
    if size > MOST_STALE {
        drop_stale(client)?;
    }
    Ok(bytes)
}

/// Takes what has been read out of the host's buffer.
fn drop_stale(client: &mut Client) -> Result<(), HostError> {
    match std::mem::take(&mut client.stale) {
        0 => Ok(()),
        stale => host::replace_start(Buffer::Downstream, stale, b""),
    }
}

/// Has the next filter, echo, write `bytes` to a client.
///
/// Echo takes all that is in the buffer, and only after this callback, perhaps after further ones. So
/// replies go behind those that it has not taken yet, and whatever the client has sent is taken out
/// before; it is returned.
fn write_downstream(client: &mut Client, bytes: &[u8]) -> Result<Option<Vec<u8>>, HostError> {
    host::set_effective_context(client.context)?;
    let unread = take_unread(client)?;
    match std::mem::take(&mut client.stale) {
        0 => host::append(Buffer::Downstream, bytes)?,
        stale => host::replace_start(Buffer::Downstream, stale, bytes)?,
    }
    host::resume_downstream()?;
    Ok(unread)
}

/// Takes what a paused client has sent out of the host's buffer.
fn take_unread(client: &mut Client) -> Result<Option<Vec<u8>>, HostError> {
    if !std::mem::take(&mut client.unread) {
        return Ok(None);
    }
    drop_stale(client)?;
    let unread = host::read(Buffer::Downstream, 0, usize::MAX >> 1)?;
    host::replace_start(Buffer::Downstream, unread.len(), b"")?;
    Ok(Some(unread.to_vec()))
}

fn token_of(nodes: &[Option<(ConnectionId, u32)>], connection: ConnectionId) -> Option<u32> {
    let (id, token) = (*nodes.get(connection.index())?)?;
    (id == connection).then_some(token)
}

fn place<T: Clone + Default>(table: &mut Vec<T>, index: usize, value: T) {
    if index >= table.len() {
        table.resize(index + 1, T::default());
    }
    if let Some(place) = table.get_mut(index) {
        *place = value;
    }
}
