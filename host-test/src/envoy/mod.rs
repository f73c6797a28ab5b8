//! The part of Envoy around the plugins: how they are started and entered, and what follows.
//!
//! ```text
//! client ── client_data ──> router ── proxy_grpc_send ──> tunnel ── WriteUpstream ──> node
//!                              │                                                        │
//! client <── WriteClient ── echo <── router <── gRPC decoder <── tunnel <── upstream_data
//! ```
//!
//! As in Envoy, a stream that the router opens, writes to or cancels enters the tunnel before the
//! router's call returns: in one VM that is a callback within a callback. What concerns a client
//! waits for the end of the callback ([`Deferred`]), though not of the outermost one: Envoy looks
//! for it whenever it leaves the VM.

mod downstream;
mod upstream;

use std::collections::VecDeque;

use wasmtime::{AsContextMut, StoreContextMut, WasmParams, WasmResults};

pub(crate) use self::upstream::Upstream;
use crate::{
    config::Role,
    log::Level,
    state::{Context, Deferred, Speaker, State},
    vm::{self, Export, Exports, StartError, Wasm},
};

/// Envoy between two events, or within a host call.
pub(crate) struct Envoy<'a>(pub(crate) StoreContextMut<'a, State>);

impl Envoy<'_> {
    /// Starts a plugin as Envoy does: its VM is loaded and initialised, unless it plays the other
    /// role already; then the root context is created, started and configured.
    pub(crate) fn start(&mut self, wasm: &Wasm, role: Role) -> Result<(), StartError> {
        if self.state().vm(role).exports.is_none() {
            self.load(wasm, role)?;
        }
        let root = self.state().vm_mut(role).contexts.create(Context::Root(role));
        self.enter(role, |exports| &exports.on_context_create, root, (root, 0));
        let size = length(&self.state().config.vm_configuration);
        let started = self.enter(role, |exports| &exports.on_vm_start, root, (root, size));
        if self.has_failed(role) {
            return Err(StartError::Trapped(role));
        }
        if started == Some(0) {
            return Err(StartError::VmStartRejected(role));
        }

        let configuration = self.state().config.plugin_configuration(role).to_vec();
        let size = length(&configuration);
        self.state().plugin_configuration = Some(configuration);
        let configured = self.enter(role, |exports| &exports.on_configure, root, (root, size));
        self.state().plugin_configuration = None;
        if self.has_failed(role) {
            return Err(StartError::Trapped(role));
        }
        if configured == Some(0) {
            return Err(StartError::ConfigurationRejected(role));
        }
        Ok(())
    }

    fn load(&mut self, wasm: &Wasm, role: Role) -> Result<(), StartError> {
        self.state().speakers.push(Speaker::new(role, 0));
        let loaded = vm::instantiate(wasm, role, self.0.as_context_mut());
        self.state().speakers.pop();
        loaded?;
        let exports = self.state().vm(role).exports.as_ref();
        if exports.is_some_and(|exports| exports.initialize.function.is_some()) {
            self.enter(role, |exports| &exports.initialize, 0, ());
            self.enter(role, |exports| &exports.main, 0, (0, 0));
        } else {
            self.enter(role, |exports| &exports.start, 0, ());
        }
        Ok(())
    }

    /// The timer of a root context has fired.
    pub(crate) fn tick(&mut self, role: Role) {
        let root = self.state().root(role);
        self.enter(role, |exports| &exports.on_tick, root, root);
        // The next period begins when the callback has returned.
        let state = self.state();
        let now = state.clock.elapsed();
        if state.vm(role).failed {
            state.ticks.remove(&role);
        } else if let Some(tick) = state.ticks.get_mut(&role) {
            tick.due = now + tick.period;
        }
    }

    /// Tells the plugins what is in their queues.
    pub(crate) fn report_queues(&mut self) {
        while let Some((role, queue)) = self.state().ready_queues.pop_front() {
            let root = self.state().root(role);
            self.enter(role, |exports| &exports.on_queue_ready, root, (root, queue));
        }
    }

    /// FAIL_CLOSED: ends what belongs to a VM that trapped.
    pub(crate) fn close_what_failed(&mut self) {
        if self.has_failed(Role::Router) {
            self.close_all_clients();
        } else if self.has_failed(Role::Tunnel) {
            self.end_all_upstreams();
        }
    }

    /// Calls an export of the VM that plays `role`, as `context`, then does what waits for its end.
    /// `None` if the plugin does not have it, or has failed, or fails now: a trap is logged and the
    /// VM is never entered again.
    fn enter<P: WasmParams, R: WasmResults>(
        &mut self,
        role: Role,
        export: impl FnOnce(&Exports) -> &Export<P, R>,
        context: u32,
        params: P,
    ) -> Option<R> {
        let vm = self.state().vm_mut(role);
        if vm.failed {
            return None;
        }
        let Export { name, function } = export(vm.exports.as_ref()?);
        let (name, function) = (*name, function.clone()?);
        vm.calls += 1;
        self.state().speakers.push(Speaker::new(role, context));
        let outcome = function.call(&mut self.0, params);
        if let Err(error) = &outcome {
            let state = self.state();
            state.log(Level::Critical, format!("trapped in {name}: {error:#}"));
            state.vm_mut(role).failed = true;
        }
        self.state().speakers.pop();
        self.run_deferred(role);
        outcome.ok()
    }

    /// Does what the callbacks of a VM have left to be done, in its order. What that leads to may
    /// enter the VM again, and is done completely before the next.
    ///
    /// The end of a stream is put off again as long as any callback runs: Envoy 1.40 never comes
    /// out of that loop (`doAfterVmCallActions` and `Context::onGrpcCloseWrapper`).
    fn run_deferred(&mut self, role: Role) {
        let mut put_off = VecDeque::new();
        while let Some(deferred) = self.state().vm_mut(role).deferred.pop_front() {
            match deferred {
                Deferred::StreamClosed { token, .. } if !self.state().speakers.is_empty() => {
                    self.state().misuse(format!(
                        "the VM was entered inside a callback after stream {token} has ended in it: \
                         Envoy would put off that end for ever"
                    ));
                    put_off.push_back(deferred);
                }
                Deferred::ContinueDownstream { context } => self.echo(context),
                Deferred::CloseDownstream { context } => self.close_client(context),
                Deferred::ContinueHttp { context, direction } => {
                    let contexts = &mut self.state().vm_mut(role).contexts;
                    if let Some(side) = contexts.http_side(context, direction) {
                        side.continued = true;
                    }
                }
                Deferred::StreamClosed { token, status, why } => {
                    self.tell_stream_closed(token, status, why);
                }
            }
        }
        self.state().vm_mut(role).deferred = put_off;
    }

    fn has_failed(&mut self, role: Role) -> bool {
        self.state().vm(role).failed
    }

    fn state(&mut self) -> &mut State {
        self.0.data_mut()
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}
