//! The plugins in this VM: routers and tunnels by their root context, and which of them an event is
//! for.

use std::cell::RefCell;
use std::collections::VecDeque;

use slotmesh_engine::{Config, SessionId};

use crate::abi::{BodyAction, Callbacks};
use crate::call::{self, Call, Stream};
use crate::host::{self, Buffer, Level};
use crate::id_map::IdMap;
use crate::router::Router;
use crate::scope::Scope;
use crate::tickets::Tickets;
use crate::transport;
use crate::tunnel::Tunnel;

thread_local! {
    static PLUGINS: RefCell<Plugins> = RefCell::default();
    /// The tunnel of all streams. Apart, because in a VM that plays both roles it is entered from
    /// within the router's sends.
    static TUNNEL: RefCell<Tunnel> = RefCell::default();
    /// Events that the host reported while another one was being handled.
    static LATE: RefCell<VecDeque<Late>> = RefCell::default();
}

type Late = Box<dyn FnOnce(&mut Plugins)>;

/// Everything that this VM holds.
#[derive(Default)]
struct Plugins {
    /// Routers by their root context, once configured.
    routers: IdMap<Router>,
    /// Clients by their context.
    clients: IdMap<Client>,
    /// Connections to nodes by the token of their stream.
    streams: IdMap<Stream>,
    tickets: Tickets<Stream>,
    /// What the tunnels of this VM carry, by their context, but for streams of another VM's router.
    tunnels: IdMap<Stream>,
    /// The context that host calls apply to in the callback that runs.
    scope: Scope,
}

#[derive(Clone, Copy)]
struct Client {
    root: u32,
    session: SessionId,
}

impl Plugins {
    /// Lets a router handle something.
    fn route<T>(
        &mut self,
        root: u32,
        handle: impl FnOnce(&mut Router, &mut Call<'_>) -> T,
    ) -> Option<T> {
        let Self { routers, streams, tickets, scope, .. } = self;
        let router = routers.get_mut(&root)?;
        Some(handle(router, &mut Call { root, scope, streams, tickets }))
    }
}

/// Handles an event of `context`. A host may report one from within a call that another one's
/// handling makes (a write that finds its stream broken); it is handled when that is done. Envoy
/// itself defers such events.
fn with_plugins(context: u32, handle: impl FnOnce(&mut Plugins) + 'static) {
    let mut handle = Some(handle);
    let now = try_with_plugins(context, |plugins| handle.take().map(|handle| handle(plugins)));
    if now.is_none()
        && let Some(handle) = handle
    {
        LATE.with_borrow_mut(|late| late.push_back(Box::new(handle)));
    }
}

/// Handles an event unless another one is being handled.
fn try_with_plugins<T>(context: u32, handle: impl FnOnce(&mut Plugins) -> T) -> Option<T> {
    PLUGINS.with(|plugins| {
        let mut plugins = plugins.try_borrow_mut().ok()?;
        plugins.scope = Scope::at(context);
        let result = handle(&mut plugins);
        while let Some(late) = LATE.with_borrow_mut(VecDeque::pop_front) {
            late(&mut plugins);
        }
        Some(result)
    })
}

/// The module, as the host calls it.
pub(crate) struct Module;

impl Callbacks for Module {
    fn on_vm_start() {
        std::panic::set_hook(Box::new(|panic| {
            host::log(Level::Error, &format!("slotmesh: this is a bug in Slotmesh: {panic}"));
        }));
        let build = option_env!("SLOTMESH_BUILD").unwrap_or("unknown build");
        let version = env!("CARGO_PKG_VERSION");
        host::log(Level::Info, &format!("slotmesh {version} ({build}) started"));
    }

    fn on_configure(root: u32, size: usize) -> bool {
        match configure(root, size) {
            Ok(()) => true,
            Err(reason) => {
                host::log(Level::Error, &format!("slotmesh: configuration refused: {reason}"));
                false
            }
        }
    }

    fn on_context_create(context: u32, parent: u32) {
        with_plugins(context, move |plugins| {
            if plugins.routers.contains_key(&parent) {
                mark();
            }
            let session =
                plugins.route(parent, |router, call| router.on_downstream_open(context, call));
            if let Some(session) = session {
                plugins.clients.insert(context, Client { root: parent, session });
            }
        });
    }

    fn on_tick(root: u32) {
        with_plugins(root, move |plugins| {
            plugins.route(root, |router, call| router.on_tick(call));
        });
    }

    fn on_queue_ready(root: u32) {
        with_plugins(root, move |plugins| {
            plugins.route(root, |router, call| router.on_queue_ready(call));
        });
    }

    fn on_downstream_data(context: u32, size: usize) {
        with_plugins(context, move |plugins| {
            let Some(Client { root, session }) = plugins.clients.get(&context).copied() else {
                return;
            };
            plugins.route(root, |router, call| router.on_downstream_data(session, size, call));
        });
    }

    fn on_downstream_close(context: u32) {
        with_plugins(context, move |plugins| {
            let Some(Client { root, session }) = plugins.clients.remove(&context) else { return };
            plugins.route(root, |router, call| router.on_downstream_close(session, call));
        });
    }

    fn on_upstream_open(root: u32, token: u32) {
        with_plugins(root, move |plugins| {
            let Some(Stream { root, connection }) = plugins.streams.get(&token).copied() else {
                return;
            };
            plugins.route(root, |router, call| router.on_upstream_open(connection, call));
        });
    }

    fn on_upstream_data(root: u32, token: u32, size: usize) {
        with_plugins(root, move |plugins| {
            let Some(Stream { root, connection }) = plugins.streams.get(&token).copied() else {
                return;
            };
            plugins.route(root, |router, call| {
                router.on_upstream_data(connection, host::read(Buffer::GrpcReceive, 0, size), call);
            });
        });
    }

    fn on_upstream_close(root: u32, token: u32, status: u32) {
        let reason = host::close_message().unwrap_or_else(|| reason_of(status));
        with_plugins(root, move |plugins| {
            let Some(Stream { root, connection }) = plugins.streams.remove(&token) else { return };
            call::revoke(&mut plugins.tickets, root, connection);
            plugins.route(root, |router, call| router.on_upstream_close(connection, &reason, call));
        });
    }

    /// A stream's headers are on their way through its tunnel: the only time that Envoy shows them.
    fn on_request_headers(context: u32) {
        let Ok(ticket) = host::request_header(transport::TICKET_HEADER) else { return };
        with_plugins(context, move |plugins| {
            if let Some(stream) = plugins.tickets.redeem(&ticket) {
                plugins.tunnels.insert(context, stream);
            }
        });
    }

    fn on_request_body(context: u32, size: usize) {
        if let Err(error) = TUNNEL.with_borrow_mut(|tunnel| tunnel.on_request_body(context, size)) {
            host::log(Level::Error, &format!("slotmesh: bytes for a node were spoilt: {error}"));
        }
    }

    /// Bytes from a node: a router in this VM gets them at once, and nothing of them goes through
    /// the gRPC stream, except for its end. For one in another VM they are made a message of that
    /// stream.
    fn on_response_body(context: u32, size: usize, end: bool) -> BodyAction {
        if size > 0 && take_from_tunnel(context, size) {
            return if end { BodyAction::Continue } else { BodyAction::Drop };
        }
        if let Err(error) = Tunnel::on_response_body(size) {
            host::log(Level::Error, &format!("slotmesh: bytes from a node were spoilt: {error}"));
        }
        BodyAction::Continue
    }

    fn on_delete(context: u32) {
        TUNNEL.with_borrow_mut(|tunnel| tunnel.on_delete(context));
        with_plugins(context, move |plugins| {
            if let Some(router) = plugins.routers.remove(&context) {
                router.retire();
            }
            plugins.clients.remove(&context);
            plugins.tunnels.remove(&context);
        });
    }
}

fn configure(root: u32, size: usize) -> Result<(), String> {
    let root_id = host::property(&["plugin_root_id"]).map_err(|error| error.to_string())?;
    match &*root_id {
        b"tunnel" => return Ok(()),
        b"router" => {}
        other => {
            let other = String::from_utf8_lossy(other);
            return Err(format!("root_id is '{other}'; it must be 'router' or 'tunnel'"));
        }
    }
    drop(root_id);
    let json = match size {
        0 => Vec::new(),
        _ => host::read(Buffer::PluginConfiguration, 0, size).map_err(|e| e.to_string())?.to_vec(),
    };
    let environment = host::environment();
    let variable = |name: &str| environment.get(name.as_bytes()).cloned();
    let mut config =
        Config::from_json_with_environment(&json, variable).map_err(|error| error.to_string())?;
    for note in &config.notes {
        host::log(Level::Info, &format!("slotmesh: configuration: {note}"));
    }
    if config.zone.is_none() {
        config.zone = zone();
    }
    with_plugins(root, move |plugins| {
        plugins.routers.insert(root, Router::new(config));
    });
    Ok(())
}

/// The zone that Envoy's bootstrap says it is in.
fn zone() -> Option<String> {
    let zone = host::property(&["xds", "node", "locality", "zone"]).ok()?;
    let zone = std::str::from_utf8(&zone).ok().filter(|zone| !zone.is_empty())?;
    Some(zone.to_owned())
}

/// Tells Envoy's other filters that a router has this client. In a mesh, one of them stands before
/// echo and closes connections without this mark (istio/base): echo alone would give a client its
/// own bytes.
fn mark() {
    // A host that keeps no properties has no such filter either.
    let _ = host::set_property("slotmesh", "router");
}

/// What the gRPC status means with which Envoy ends a stream that was a TCP connection.
fn reason_of(status: u32) -> String {
    match status {
        2 => "closed by the node".to_owned(),
        13 => "reset".to_owned(),
        14 => "connection refused, or no answer in time".to_owned(),
        other => format!("gRPC status {other}"),
    }
}

fn take_from_tunnel(context: u32, size: usize) -> bool {
    try_with_plugins(context, |plugins| {
        let Some(Stream { root, connection }) = plugins.tunnels.get(&context).copied() else {
            return false;
        };
        let Ok(bytes) = host::read(Buffer::HttpResponseBody, 0, size) else { return false };
        if host::replace_start(Buffer::HttpResponseBody, size, b"").is_err() {
            return false;
        }
        plugins.route(root, |router, call| {
            router.on_upstream_data(connection, Ok(bytes), call);
        });
        true
    })
    .unwrap_or(false)
}
