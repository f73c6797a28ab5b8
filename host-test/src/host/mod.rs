//! The host itself, without I/O: what happens goes in, what is to be done comes out.
//!
//! `handle_*` says what happened on a socket or a clock; [`Host::poll_effect`] says what to do about
//! it, and is drained completely after every `handle_*`. The two drivers are
//! [`sockets`](crate::sockets) and [`simulation`](crate::simulation).
//!
//! ```text
//! client ── handle_client_data ──> router ── proxy_grpc_send ──> tunnel ── WriteUpstream ──> node
//!                                    │                                                        │
//! client <── WriteClient ── echo <── router <── gRPC decoder <── tunnel <── handle_upstream_data
//! ```
//!
//! As in Envoy, what a plugin asks for while it runs is done when its callback has returned: every
//! entry into the router is followed by [`Host::run_deferred`].

mod downstream;
mod upstream;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use self::upstream::Upstream;
use crate::{
    calls::metrics::Metric,
    clock::Clock,
    config::{Config, Role},
    log::Log,
    state::{Deferred, ROOT},
    vm::{Export, Exports, StartError, Vm, Wasm},
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
    /// Connect, and say how it went with [`Host::handle_upstream_connected`] or
    /// [`Host::handle_upstream_failed`].
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

/// What one plugin's VM has used.
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
    router: Vm,
    tunnel: Vm,
    upstreams: BTreeMap<UpstreamId, Upstream>,
    effects: VecDeque<Effect>,
    config: Arc<Config>,
    clock: Clock,
}

impl Host {
    /// Starts both plugins.
    ///
    /// # Errors
    ///
    /// If the module does not fit this host, or a plugin refuses to start: see [`StartError`].
    pub fn new(wasm: &Wasm, config: Config, clock: Clock) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let tunnel = Vm::start(wasm, Role::Tunnel, Arc::clone(&config), clock.clone())?;
        let router = Vm::start(wasm, Role::Router, Arc::clone(&config), clock.clone())?;
        let mut host = Self {
            router,
            tunnel,
            upstreams: BTreeMap::new(),
            effects: VecDeque::new(),
            config,
            clock,
        };
        host.run_deferred();
        Ok(host)
    }

    /// The time that [`Self::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self) {
        let now = self.clock.elapsed();
        for role in [Role::Router, Role::Tunnel] {
            let vm = self.vm_mut(role);
            if vm.state().tick.is_none_or(|tick| now < tick.due) {
                continue;
            }
            match role {
                Role::Router => drop(self.router(|exports| &exports.on_tick, ROOT, ROOT)),
                Role::Tunnel => drop(self.tunnel.enter(|exports| &exports.on_tick, ROOT, ROOT)),
            }
            // The next period begins when the callback has returned.
            let now = self.clock.elapsed();
            let vm = self.vm_mut(role);
            if vm.failed() {
                vm.state_mut().tick = None;
            } else if let Some(tick) = &mut vm.state_mut().tick {
                tick.due = now + tick.period;
            }
        }
        let late: Vec<_> = self
            .upstreams
            .iter()
            .filter(|(_, it)| it.due().is_some_and(|due| due <= now))
            .map(|(id, _)| *id)
            .collect();
        for upstream in late {
            self.handle_upstream_failed(upstream, "connection timeout");
        }
        if self.tunnel.failed() {
            self.fail_tunnel();
        }
    }

    /// When [`Self::handle_timeout`] is to be called, on the clock the host was given.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let ticks = [&self.router, &self.tunnel].into_iter().filter_map(|vm| vm.state().tick);
        let connects = self.upstreams.values().filter_map(Upstream::due);
        ticks.map(|tick| tick.due).chain(connects).min()
    }

    /// What to do next.
    #[must_use]
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Makes the connection of the next stream that the router sends on be found reset, inside the
    /// send: see [`Reentrancy`](crate::Reentrancy).
    pub fn reset_next_send(&mut self) {
        self.router.state_mut().streams.reset_next_send = true;
    }

    /// What a plugin has used so far.
    #[must_use]
    pub fn usage(&self, role: Role) -> Usage {
        let vm = match role {
            Role::Router => &self.router,
            Role::Tunnel => &self.tunnel,
        };
        Usage {
            calls: vm.calls(),
            allocations: vm.state().allocations,
            memory_bytes: vm.memory_bytes(),
            failed: vm.failed(),
        }
    }

    /// The router's metrics by name.
    #[must_use]
    pub fn metrics(&self) -> &BTreeMap<String, Metric> {
        self.router.state().metrics.all()
    }

    /// What the router did that this host survives and Envoy may not, such as sending on a stream
    /// whose end it was told. Tests want this empty.
    #[must_use]
    pub fn misuse(&self) -> &[String] {
        &self.router.state().misuse
    }

    /// The log that the host and its plugins write to.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.config.log
    }

    /// Enters the router, does what it asked for, and closes its clients if it trapped.
    fn router<P: wasmtime::WasmParams, R: wasmtime::WasmResults>(
        &mut self,
        export: impl FnOnce(&Exports) -> &Export<P, R>,
        context: u32,
        params: P,
    ) -> Option<R> {
        let result = self.enter_router(export, context, params);
        self.run_deferred();
        result
    }

    /// Enters the router only.
    fn enter_router<P: wasmtime::WasmParams, R: wasmtime::WasmResults>(
        &mut self,
        export: impl FnOnce(&Exports) -> &Export<P, R>,
        context: u32,
        params: P,
    ) -> Option<R> {
        self.router.enter(export, context, params)
    }

    /// Does what the router asked for since it was entered, in its order. What that leads to may
    /// enter the router again, and is done completely before the next.
    fn run_deferred(&mut self) {
        while let Some(deferred) = self.router.state_mut().deferred.pop_front() {
            self.run(deferred);
        }
        if self.router.failed() {
            self.close_all_clients();
        }
    }

    fn run(&mut self, deferred: Deferred) {
        match deferred {
            Deferred::ContinueDownstream { context } => self.echo(context),
            Deferred::CloseDownstream { context } => self.close_client(context),
            // The router is no HTTP filter.
            Deferred::ContinueHttp { .. } => {}
            Deferred::OpenStream { token, address, metadata } => {
                self.open_upstream(UpstreamId(token), address, metadata);
            }
            Deferred::SendMessage { token, message } => self.send(UpstreamId(token), &message),
            Deferred::FinishStream { token } => self.finish(UpstreamId(token)),
            Deferred::CancelStream { token } => self.forget_upstream(UpstreamId(token)),
            Deferred::QueueReady { queue } => {
                self.enter_router(|exports| &exports.on_queue_ready, ROOT, (ROOT, queue));
            }
            Deferred::StreamClosed { token, status, why } => {
                self.tell_stream_closed(token, status, why);
            }
        }
    }

    fn vm_mut(&mut self, role: Role) -> &mut Vm {
        match role {
            Role::Router => &mut self.router,
            Role::Tunnel => &mut self.tunnel,
        }
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}
