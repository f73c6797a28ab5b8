//! Clients: the side of the router.

use std::collections::BTreeMap;

use super::{Envoy, length};
use crate::{
    abi::{Action, PeerType},
    config::Role,
    host::{ClientId, Effect},
    log::Level,
    state::{Context, NetworkContext},
};

impl Envoy<'_> {
    pub(crate) fn client_connected(&mut self, address: String) -> ClientId {
        let network = NetworkContext {
            downstream: Vec::new(),
            reachable: false,
            source_address: address,
            properties: BTreeMap::new(),
        };
        let root = self.state().root(Role::Router);
        let id = self.state().vm_mut(Role::Router).contexts.create(Context::Network(network));
        self.enter(Role::Router, |exports| &exports.on_context_create, id, (id, root));
        // Envoy runs the filters on the first data even if this returned Pause.
        self.enter(Role::Router, |exports| &exports.on_new_connection, id, id);
        ClientId(id)
    }

    /// The router sees what a client sent behind what it left in the buffer.
    pub(crate) fn client_data(&mut self, client: ClientId, bytes: &[u8]) {
        let id = client.0;
        let Some(network) = self.network(id) else { return };
        network.downstream.extend_from_slice(bytes);
        network.reachable = true;
        let params = (id, length(&network.downstream), 0);
        let action = self.enter(Role::Router, |exports| &exports.on_downstream_data, id, params);
        if action.map_or(Action::Continue, Action::from) == Action::Pause
            || self.has_failed(Role::Router)
        {
            return;
        }
        let Some(network) = self.network(id) else { return };
        network.reachable = false;
        self.echo(id);
    }

    pub(crate) fn client_closed(&mut self, client: ClientId) {
        self.forget_client(client.0, PeerType::Remote);
    }

    /// The next filter: takes all there is and sends it back.
    pub(super) fn echo(&mut self, id: u32) {
        let Some(network) = self.network(id) else { return };
        let bytes = std::mem::take(&mut network.downstream);
        if !bytes.is_empty() {
            self.state().effects.push_back(Effect::WriteClient { client: ClientId(id), bytes });
        }
    }

    pub(super) fn close_client(&mut self, id: u32) {
        if self.network(id).is_none() {
            return;
        }
        self.state().effects.push_back(Effect::CloseClient { client: ClientId(id) });
        self.forget_client(id, PeerType::Local);
    }

    fn forget_client(&mut self, id: u32, by: PeerType) {
        if self.network(id).is_none() {
            return;
        }
        let closed = (id, by as u32);
        self.enter(Role::Router, |exports| &exports.on_downstream_connection_close, id, closed);
        self.enter(Role::Router, |exports| &exports.on_done, id, id);
        self.enter(Role::Router, |exports| &exports.on_log, id, id);
        self.enter(Role::Router, |exports| &exports.on_delete, id, id);
        self.state().vm_mut(Role::Router).contexts.remove(id);
    }

    /// The router trapped.
    pub(super) fn close_all_clients(&mut self) {
        let state = self.state();
        let clients = state.vm(Role::Router).contexts.clients();
        if clients.is_empty() && state.upstreams.is_empty() {
            return;
        }
        let text = format!("the router failed: {} clients are closed", clients.len());
        state.config.log.write(Level::Error, "host", text);
        for id in clients {
            state.effects.push_back(Effect::CloseClient { client: ClientId(id) });
            state.vm_mut(Role::Router).contexts.remove(id);
        }
        for upstream in state.upstreams.keys().copied().collect::<Vec<_>>() {
            self.forget_upstream(upstream);
        }
    }

    fn network(&mut self, id: u32) -> Option<&mut NetworkContext> {
        self.state().vm_mut(Role::Router).contexts.network_mut(id)
    }
}
