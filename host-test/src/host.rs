//! The host itself, without I/O: what happens goes in, what is to be done comes out.
//!
//! `handle_*` says what happened on a socket or a clock; [`Host::poll_effect`] says what to do
//! about it, and is drained completely after every `handle_*`. The two drivers are
//! [`sockets`](crate::sockets) and [`simulation`](crate::simulation).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use wasmtime::{AsContextMut, Store};

use crate::{
    calls::metrics::Metric,
    clock::Clock,
    config::{Config, Role},
    envoy::{Envoy, Upstream},
    log::Log,
    state::State,
    vm::{StartError, Wasm},
};

/// One client's connection.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClientId(pub(crate) u32);

/// One connection to a node, which is one gRPC stream of the router.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UpstreamId(pub(crate) u32);

/// What a driver is to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Send to a client.
    WriteClient {
        /// Whom.
        client: ClientId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Send what was written, then close. The host has forgotten the client.
    CloseClient {
        /// Whom.
        client: ClientId,
    },
    /// Connect, and say how it went with [`Host::handle_upstream_connected`],
    /// [`Host::handle_upstream_failed`] or [`Host::handle_upstream_not_found`].
    Connect {
        /// The id the connection is to have.
        upstream: UpstreamId,
        /// `host:port`, the host being a name or an IP address.
        address: String,
    },
    /// Send to a node.
    WriteUpstream {
        /// Whom.
        upstream: UpstreamId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Send what was written, then end the sending direction.
    FinishUpstream {
        /// Whom.
        upstream: UpstreamId,
    },
    /// Drop the connection, or the attempt to make one. The host has forgotten it.
    DropUpstream {
        /// Whom.
        upstream: UpstreamId,
    },
}

/// What the VM that plays a role has used; it may play the other one too.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Usage {
    /// Entries into the VM, not counting its allocator.
    pub calls: u64,
    /// Calls of its allocator by the host: one for each non-empty thing handed over.
    pub allocations: u64,
    /// The size of its memory.
    pub memory_bytes: usize,
    /// Whether it trapped.
    pub failed: bool,
}

/// Two plugins and the Envoy around them.
pub struct Host {
    store: Store<State>,
}

impl Host {
    /// Starts both plugins.
    ///
    /// # Errors
    ///
    /// If the module does not fit this host, or a plugin refuses to start: see [`StartError`].
    pub fn new(wasm: &Wasm, config: Config, clock: Clock) -> Result<Self, StartError> {
        let mut store = wasm.store(State::new(Arc::new(config), clock));
        store.limiter(|state| &mut state.limiter);
        let mut envoy = Envoy(store.as_context_mut());
        envoy.start(wasm, Role::Tunnel)?;
        envoy.start(wasm, Role::Router)?;
        let mut host = Self { store };
        host.handle(|_| ());
        Ok(host)
    }

    /// A client connected from `address`.
    pub fn handle_client_connected(&mut self, address: impl Into<String>) -> ClientId {
        self.handle(|envoy| envoy.client_connected(address.into()))
    }

    /// A client sent `bytes`.
    pub fn handle_client_data(&mut self, client: ClientId, bytes: &[u8]) {
        self.handle(|envoy| envoy.client_data(client, bytes));
    }

    /// A client closed its connection, or its sending direction: Envoy closes both.
    pub fn handle_client_closed(&mut self, client: ClientId) {
        self.handle(|envoy| envoy.client_closed(client));
    }

    /// A connection to a node was made.
    pub fn handle_upstream_connected(&mut self, upstream: UpstreamId) {
        self.handle(|envoy| envoy.upstream_connected(upstream));
    }

    /// A node sent `bytes`.
    pub fn handle_upstream_data(&mut self, upstream: UpstreamId, bytes: &[u8]) {
        self.handle(|envoy| envoy.upstream_data(upstream, bytes));
    }

    /// A node closed its sending direction.
    pub fn handle_upstream_finished(&mut self, upstream: UpstreamId) {
        self.handle(|envoy| envoy.upstream_finished(upstream));
    }

    /// A node refused, could not be reached, or reset the connection.
    pub fn handle_upstream_failed(&mut self, upstream: UpstreamId, why: &str) {
        self.handle(|envoy| envoy.upstream_failed(upstream, why));
    }

    /// The name of a node has no address: an attempt to connect has not even begun.
    pub fn handle_upstream_not_found(&mut self, upstream: UpstreamId) {
        self.handle(|envoy| envoy.refuse_upstream(upstream, "dns_resolution_failure"));
    }

    /// The time that [`Self::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self) {
        let now = self.state().clock.elapsed();
        let ticks = self.state().ticks.iter();
        let ticks: Vec<_> =
            ticks.filter(|(_, tick)| tick.due <= now).map(|(role, _)| *role).collect();
        for role in ticks {
            self.handle(|envoy| envoy.tick(role));
        }
        let upstreams = self.state().upstreams.iter();
        let late: Vec<_> = upstreams
            .filter(|(_, it)| it.due().is_some_and(|due| due <= now))
            .map(|(id, _)| *id)
            .collect();
        for upstream in late {
            self.handle_upstream_failed(upstream, "connection timeout");
        }
    }

    /// When [`Self::handle_timeout`] is to be called, on the clock the host was given.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let ticks = self.state().ticks.values().map(|tick| tick.due);
        let connects = self.state().upstreams.values().filter_map(Upstream::due);
        ticks.chain(connects).min()
    }

    /// What to do next.
    #[must_use]
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.store.data_mut().effects.pop_front()
    }

    /// Makes the connection of the next stream that the router sends on be found reset, inside the
    /// send: see [`Reentrancy`](crate::Reentrancy).
    pub fn reset_next_send(&mut self) {
        self.store.data_mut().streams.reset_next_send = true;
    }

    /// What the VM of a plugin has used so far.
    #[must_use]
    pub fn usage(&self, role: Role) -> Usage {
        let vm = self.state().vm(role);
        Usage {
            calls: vm.calls,
            allocations: vm.allocations,
            memory_bytes: vm.memory.map_or(0, |memory| memory.data_size(&self.store)),
            failed: vm.failed,
        }
    }

    /// How many gRPC messages the router was given. What it gets from a tunnel in its own VM is
    /// none.
    #[must_use]
    pub fn grpc_messages(&self) -> u64 {
        self.state().grpc_messages
    }

    /// The router's metrics by name.
    #[must_use]
    pub fn metrics(&self) -> &BTreeMap<String, Metric> {
        self.state().vm(Role::Router).metrics.all()
    }

    /// What the router did that this host survives and Envoy may not, such as sending on a stream
    /// whose end it was told. Tests want this empty.
    #[must_use]
    pub fn misuse(&self) -> &[String] {
        &self.state().misuse
    }

    /// The log that the host and its plugins write to.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.state().config.log
    }

    /// Lets something happen, and does what waits for the end of an event.
    fn handle<T>(&mut self, happen: impl FnOnce(&mut Envoy<'_>) -> T) -> T {
        let mut envoy = Envoy(self.store.as_context_mut());
        let result = happen(&mut envoy);
        envoy.report_queues();
        envoy.close_what_failed();
        result
    }

    fn state(&self) -> &State {
        self.store.data()
    }
}
