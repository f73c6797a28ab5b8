//! Clients: the side of the router.

use std::collections::BTreeMap;

use super::{ClientId, Effect, Host, length};
use crate::{
    abi::{Action, PeerType},
    log::Level,
    state::{Context, NetworkContext, ROOT},
};

impl Host {
    /// A client connected from `address`.
    pub fn handle_client_connected(&mut self, address: impl Into<String>) -> ClientId {
        let network = NetworkContext {
            downstream: Vec::new(),
            reachable: false,
            source_address: address.into(),
            properties: BTreeMap::new(),
        };
        let id = self.router.state_mut().contexts.create(Context::Network(network));
        self.router(|exports| &exports.on_context_create, id, (id, ROOT));
        // Envoy runs the filters on the first data even if this returned Pause.
        self.router(|exports| &exports.on_new_connection, id, id);
        ClientId(id)
    }

    /// A client sent `bytes`. The router sees them behind what it left in the buffer.
    pub fn handle_client_data(&mut self, client: ClientId, bytes: &[u8]) {
        let id = client.0;
        let Some(network) = self.router.state_mut().contexts.network_mut(id) else { return };
        network.downstream.extend_from_slice(bytes);
        network.reachable = true;
        let size = length(&network.downstream);
        let action = self.router(|exports| &exports.on_downstream_data, id, (id, size, 0));
        if action.map_or(Action::Continue, Action::from) == Action::Pause {
            return;
        }
        // A router that trapped has no clients any more.
        let Some(network) = self.router.state_mut().contexts.network_mut(id) else { return };
        network.reachable = false;
        self.echo(id);
    }

    /// A client closed its connection, or its sending direction: Envoy closes both.
    pub fn handle_client_closed(&mut self, client: ClientId) {
        self.forget_client(client.0, PeerType::Remote);
    }

    /// The next filter: takes all there is and sends it back.
    pub(super) fn echo(&mut self, id: u32) {
        let Some(network) = self.router.state_mut().contexts.network_mut(id) else { return };
        let bytes = std::mem::take(&mut network.downstream);
        if !bytes.is_empty() {
            self.effects.push_back(Effect::WriteClient { client: ClientId(id), bytes });
        }
    }

    pub(super) fn close_client(&mut self, id: u32) {
        if self.router.state_mut().contexts.network_mut(id).is_none() {
            return;
        }
        self.effects.push_back(Effect::CloseClient { client: ClientId(id) });
        self.forget_client(id, PeerType::Local);
    }

    fn forget_client(&mut self, id: u32, by: PeerType) {
        if self.router.state_mut().contexts.network_mut(id).is_none() {
            return;
        }
        self.router(|exports| &exports.on_downstream_connection_close, id, (id, by as u32));
        self.router(|exports| &exports.on_done, id, id);
        self.router(|exports| &exports.on_log, id, id);
        self.router(|exports| &exports.on_delete, id, id);
        self.router.state_mut().contexts.remove(id);
    }

    /// The router trapped: FAIL_CLOSED.
    pub(super) fn close_all_clients(&mut self) {
        let clients = self.router.state().contexts.clients();
        if clients.is_empty() && self.upstreams.is_empty() {
            return;
        }
        let text = format!("the router failed: {} clients are closed", clients.len());
        self.log().write(Level::Error, "host", text);
        for id in clients {
            self.effects.push_back(Effect::CloseClient { client: ClientId(id) });
            self.router.state_mut().contexts.remove(id);
        }
        for upstream in self.upstreams.keys().copied().collect::<Vec<_>>() {
            self.forget_upstream(upstream);
        }
    }
}
