//! The router: one engine for each root context, fed by its callbacks and obeyed.

use std::net::SocketAddr;

use slotmesh_engine::config::Attribute;
use slotmesh_engine::{Config, ConnectionId, Instant, LogLevel, Output, Proxy, SessionId};

use crate::abi::HostBytes;
use crate::call::Call;
use crate::client::Client;
use crate::host::{self, HostError, Level};
use crate::metrics::Metrics;
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
    /// The connection that could not be opened, and why: for the engine to hear in the next
    /// callback.
    unopened: Option<(ConnectionId, String)>,
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

    pub(crate) fn on_downstream_open(&mut self, context: u32, call: &mut Call<'_>) -> SessionId {
        // Needs no call of the host: the callback is this context's.
        let _ = call.enter_client(context);
        let now = host::now();
        let session = self.proxy.handle_downstream_open(now);
        place(&mut self.clients, session.index(), Client::new(context));
        self.obey(now, call);
        session
    }

    /// Nothing that is read goes on to the next filter: what does is replies alone.
    pub(crate) fn on_downstream_data(
        &mut self,
        session: SessionId,
        size: usize,
        call: &mut Call<'_>,
    ) {
        let Some(client) = self.clients.get_mut(session.index()) else { return };
        if call.enter_client(client.context).is_err() {
            return;
        }
        self.introduce(session);
        let Some(client) = self.clients.get_mut(session.index()) else { return };
        let Some(unread) = client.unread(size) else { return };
        let now = host::now();
        let before = self.proxy.take_unfinished(session, unread);
        let rest_at = before.as_ref().map(Vec::len);
        match (client.read(size, before), rest_at) {
            (Ok(mut bytes), None) => {
                self.proxy.handle_downstream_buffer(session, bytes.buffer(), now);
            }
            (Ok(mut bytes), Some(rest_at)) => {
                let bytes = std::mem::take(bytes.buffer());
                self.proxy.handle_downstream_rest(session, bytes, rest_at, now);
            }
            // Bytes that cannot be taken out would come back to the client as an echo.
            (Err(_), _) => {
                let _ = host::close_downstream();
            }
        }
        self.obey(now, call);
    }

    /// Tells the engine what it wants to know of a client that sends its first bytes. By then the
    /// filters before this one have set what they know of it.
    fn introduce(&mut self, session: SessionId) {
        let Some(client) = self.clients.get_mut(session.index()) else { return };
        if !client.is_new() {
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

    pub(crate) fn on_downstream_close(&mut self, session: SessionId, call: &mut Call<'_>) {
        if let Some(client) = self.clients.get(session.index()) {
            // Fails for a context that is gone, to which nothing more applies.
            let _ = call.enter_client(client.context);
        }
        let now = host::now();
        self.proxy.handle_downstream_close(session, now);
        self.obey(now, call);
    }

    pub(crate) fn on_upstream_open(&mut self, connection: ConnectionId, call: &mut Call<'_>) {
        let now = host::now();
        self.proxy.handle_upstream_open(connection, now);
        self.obey(now, call);
    }

    pub(crate) fn on_upstream_data(
        &mut self,
        connection: ConnectionId,
        bytes: Result<HostBytes, HostError>,
        call: &mut Call<'_>,
    ) {
        let now = host::now();
        match bytes {
            Ok(mut bytes) => {
                self.proxy.handle_upstream_buffer(connection, bytes.buffer(), now);
            }
            Err(error) => {
                self.proxy.handle_upstream_close(connection, &error.to_string(), now);
            }
        }
        self.obey(now, call);
    }

    pub(crate) fn on_upstream_close(
        &mut self,
        connection: ConnectionId,
        reason: &str,
        call: &mut Call<'_>,
    ) {
        let now = host::now();
        if let Some(node) = self.nodes.get_mut(connection.index()) {
            *node = None;
        }
        self.proxy.handle_upstream_close(connection, reason, now);
        self.obey(now, call);
    }

    pub(crate) fn on_tick(&mut self, call: &mut Call<'_>) {
        let now = host::now();
        self.tick_at = None;
        self.proxy.handle_timeout(now);
        self.obey(now, call);
        if self.tick_at.is_none() {
            call.enter_router();
            host::set_tick_period(0);
        }
    }

    /// The events that the host had at hand have been handled.
    pub(crate) fn on_queue_ready(&mut self, call: &mut Call<'_>) {
        if let Some(queue) = self.queue {
            host::awaken(queue);
        }
        self.proxy.flush();
        self.obey(host::now(), call);
    }

    /// The root context ends, and with it what its gauges tell of.
    pub(crate) fn retire(mut self) {
        self.metrics.report_last(&mut self.proxy);
    }

    /// Does what the engine wants until it wants nothing more, then sets the timer.
    ///
    /// A stream that fails inside the call that opens it ends the callback, and the rest is left
    /// for the next: Envoy puts off the end of that stream until no callback runs, and would try
    /// again for ever if it had to enter this VM once more before.
    fn obey(&mut self, now: Instant, call: &mut Call<'_>) {
        if let Some((connection, reason)) = self.unopened.take() {
            self.proxy.handle_upstream_close(connection, &reason, now);
        }
        let mut events = Vec::new();
        while self.unopened.is_none() {
            let Self { proxy, clients, nodes, .. } = self;
            while let Some(output) = proxy.poll_output() {
                events.extend(carry_out(output, clients, nodes, call));
                if let Some(Event::Unopened(..)) = events.last() {
                    break;
                }
            }
            if events.is_empty() {
                break;
            }
            for event in events.drain(..) {
                self.handle(event, now, call);
            }
        }
        self.set_timer(now, call);
    }

    /// Nothing here enters this VM again.
    fn handle(&mut self, event: Event, now: Instant, call: &mut Call<'_>) {
        match event {
            Event::Read(session, bytes) => {
                self.proxy.handle_downstream_data(session, &bytes, now);
            }
            Event::Flush => {
                // A queue belongs to its root context.
                call.enter_router();
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
    fn set_timer(&mut self, now: Instant, call: &mut Call<'_>) {
        let waiting = self.unopened.is_some().then_some(now);
        let Some(wanted) = waiting.or_else(|| self.proxy.poll_timeout()) else { return };
        if self.tick_at.is_some_and(|at| at <= wanted) {
            return;
        }
        let wait = wanted.saturating_duration_since(now);
        let milliseconds = wait.as_nanos().div_ceil(1_000_000).max(1);
        let milliseconds = u32::try_from(milliseconds).unwrap_or(u32::MAX);
        call.enter_router();
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
    call: &mut Call<'_>,
) -> Option<Event> {
    match output {
        Output::OpenUpstream { connection, envoy_cluster, address } => {
            call.enter_router();
            match transport::open(envoy_cluster, address, &call.ticket(connection)) {
                Ok(token) => {
                    place(nodes, connection.index(), Some((connection, token)));
                    call.insert(token, connection);
                    None
                }
                Err(error) => {
                    call.revoke(connection);
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
            call.enter_router();
            let error = transport::send(token, bytes).err()?;
            Some(Event::Failed(connection, error.to_string()))
        }
        Output::CloseUpstream { connection } => {
            let token = token_of(nodes, connection)?;
            place(nodes, connection.index(), None);
            call.remove(token);
            call.enter_router();
            host::cancel(token);
            None
        }
        // Where a call for a client fails, the client is gone; its context's end will be reported.
        Output::WriteDownstream { session, bytes } => {
            let client = clients.get_mut(session.index())?;
            call.enter_client(client.context).ok()?;
            let unread = client.write(bytes).ok()?;
            Some(Event::Read(session, unread?))
        }
        Output::CloseDownstream { session } => {
            let client = clients.get(session.index())?;
            call.enter_client(client.context).ok()?;
            host::close_downstream().ok()?;
            None
        }
        Output::PauseDownstream { session } => {
            clients.get_mut(session.index())?.pause();
            None
        }
        Output::ResumeDownstream { session } => {
            let client = clients.get_mut(session.index())?;
            if !client.resume() {
                return None;
            }
            call.enter_client(client.context).ok()?;
            let unread = client.take_unread().ok()?;
            Some(Event::Read(session, unread?))
        }
        Output::FlushSoon => Some(Event::Flush),
        Output::ReportStats => Some(Event::StatsDue),
        Output::Log { level, message } => {
            let level = match level {
                LogLevel::Info => Level::Info,
                LogLevel::Warn => Level::Warn,
            };
            call.enter_router();
            host::log(level, &format!("slotmesh: {message}"));
            None
        }
    }
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
