//! What the host keeps: it lives in the wasmtime `Store` that holds the plugins' VMs.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use wasmtime::ResourceLimiter;

use crate::{
    abi::{BufferType, GrpcStatus, MapType, Status},
    clock::Clock,
    config::{Config, Role, Vms},
    envoy::Upstream,
    headers::Headers,
    host::{Effect, UpstreamId},
    log::{Level, Log},
    vm::Vm,
};

pub(crate) struct State {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Clock,
    pub(crate) limiter: Limiter,
    /// The router's VM, which is the tunnel's too if that has none of its own.
    router: Vm,
    tunnel: Option<Vm>,
    /// Whose callbacks run, the innermost last: none between the driver's events.
    pub(crate) speakers: Vec<Speaker>,
    pub(crate) ticks: BTreeMap<Role, Tick>,
    /// Queues that something was put into, and whose they are.
    pub(crate) ready_queues: VecDeque<(Role, u32)>,
    pub(crate) streams: Streams,
    /// Envoy's side of the streams.
    pub(crate) upstreams: BTreeMap<UpstreamId, Upstream>,
    /// What a driver is still to do.
    pub(crate) effects: VecDeque<Effect>,
    /// Readable while `proxy_on_configure` runs.
    pub(crate) plugin_configuration: Option<Vec<u8>>,
    /// Readable while `proxy_on_grpc_receive` runs.
    pub(crate) grpc_message: Option<Vec<u8>>,
    /// How many the router was given.
    pub(crate) grpc_messages: u64,
    /// Readable while `proxy_on_grpc_receive_initial_metadata` runs.
    pub(crate) initial_metadata: Option<Headers>,
    /// What `proxy_get_status` says.
    pub(crate) grpc_status: (u32, String),
    /// Things a guest did that this host survives and Envoy may not.
    pub(crate) misuse: Vec<String>,
}

/// Whose callback runs.
#[derive(Clone, Copy)]
pub(crate) struct Speaker {
    pub(crate) role: Role,
    context: u32,
    /// The one host calls act on instead, if not 0: `proxy_set_effective_context`.
    effective: u32,
}

impl Speaker {
    pub(crate) fn new(role: Role, context: u32) -> Self {
        Self { role, context, effective: 0 }
    }
}

/// What waits for a callback to return.
#[derive(Debug)]
pub(crate) enum Deferred {
    /// Continue with the filter after this one.
    ContinueDownstream { context: u32 },
    /// Flush, then close.
    CloseDownstream { context: u32 },
    /// Hand on the body that the HTTP filter holds back.
    ContinueHttp { context: u32, direction: Direction },
    /// Tell the guest that a stream ended.
    StreamClosed { token: u32, status: GrpcStatus, why: String },
}

impl State {
    pub(crate) fn new(config: Arc<Config>, clock: Clock) -> Self {
        Self {
            clock,
            limiter: Limiter { limit: config.memory_limit },
            router: Vm::new(config.seed),
            tunnel: (config.vms == Vms::Two).then(|| Vm::new(config.seed)),
            config,
            speakers: Vec::new(),
            ticks: BTreeMap::new(),
            ready_queues: VecDeque::new(),
            streams: Streams::default(),
            upstreams: BTreeMap::new(),
            effects: VecDeque::new(),
            plugin_configuration: None,
            grpc_message: None,
            grpc_messages: 0,
            initial_metadata: None,
            grpc_status: (0, String::new()),
            misuse: Vec::new(),
        }
    }

    /// The VM that plays a role.
    pub(crate) fn vm(&self, role: Role) -> &Vm {
        match (role, &self.tunnel) {
            (Role::Tunnel, Some(vm)) => vm,
            _ => &self.router,
        }
    }

    pub(crate) fn vm_mut(&mut self, role: Role) -> &mut Vm {
        match (role, &mut self.tunnel) {
            (Role::Tunnel, Some(vm)) => vm,
            _ => &mut self.router,
        }
    }

    /// The VM whose callback runs.
    pub(crate) fn running(&self) -> &Vm {
        self.vm(self.speaker().role)
    }

    pub(crate) fn running_mut(&mut self) -> &mut Vm {
        self.vm_mut(self.speaker().role)
    }

    /// The root context of a role, once there is one.
    pub(crate) fn root(&self, role: Role) -> u32 {
        self.vm(role).contexts.root(role)
    }

    /// The context that host calls act on: the effective one as long as it exists.
    pub(crate) fn context_id(&self) -> u32 {
        let Speaker { context, effective, .. } = self.speaker();
        match self.running().contexts.known.contains_key(&effective) {
            true => effective,
            false => context,
        }
    }

    pub(crate) fn context(&self) -> Option<&Context> {
        self.running().contexts.known.get(&self.context_id())
    }

    pub(crate) fn context_mut(&mut self) -> Option<&mut Context> {
        let id = self.context_id();
        self.running_mut().contexts.known.get_mut(&id)
    }

    /// As which plugin host calls act.
    pub(crate) fn role(&self) -> Role {
        match self.context() {
            Some(Context::Root(role)) => *role,
            Some(Context::Network(_)) => Role::Router,
            Some(Context::Http(_)) => Role::Tunnel,
            None => self.speaker().role,
        }
    }

    /// Has host calls act on a context until the callback ends, or on its own again if `id` is 0.
    /// False if there is no such context.
    pub(crate) fn set_effective_context(&mut self, id: u32) -> bool {
        let exists = id == 0 || self.running().contexts.known.contains_key(&id);
        if let Some(speaker) = self.speakers.last_mut().filter(|_| exists) {
            speaker.effective = id;
        }
        exists
    }

    fn speaker(&self) -> Speaker {
        self.speakers.last().copied().unwrap_or_else(|| Speaker::new(Role::Router, 0))
    }

    pub(crate) fn log(&self, level: Level, text: impl Into<String>) {
        self.log_sink().write(level, self.role().root_id(), text);
    }

    pub(crate) fn log_sink(&self) -> &Log {
        &self.config.log
    }

    /// Records something that Envoy may not survive.
    pub(crate) fn misuse(&mut self, what: String) {
        self.log(Level::Error, format!("misuse of the host: {what}"));
        self.misuse.push(what);
    }

    /// What a buffer holds now, seen from the context that calls act on. An absent buffer is
    /// [`Status::NotFound`]; one that is merely out of reach is empty, as in Envoy.
    pub(crate) fn buffer(&self, buffer: BufferType) -> Result<&[u8], Status> {
        Ok(match (buffer, self.context()) {
            (BufferType::VmConfiguration, _) => &self.config.vm_configuration,
            (BufferType::PluginConfiguration, _) => {
                self.plugin_configuration.as_deref().ok_or(Status::NotFound)?
            }
            (BufferType::GrpcReceiveBuffer, _) => self.grpc_message.as_deref().unwrap_or_default(),
            (BufferType::DownstreamData, Some(Context::Network(network))) if network.reachable => {
                &network.downstream
            }
            (BufferType::HttpRequestBody, Some(Context::Http(http))) => {
                http.request.body.as_deref().unwrap_or_default()
            }
            (BufferType::HttpResponseBody, Some(Context::Http(http))) => {
                http.response.body.as_deref().unwrap_or_default()
            }
            (BufferType::HttpCallResponseBody, _) => return Err(Status::NotFound),
            _ => &[],
        })
    }

    /// The same buffer, to be changed; [`Status::BadArgument`] if it is not there or read-only.
    pub(crate) fn buffer_mut(&mut self, buffer: BufferType) -> Result<&mut Vec<u8>, Status> {
        self.buffer(buffer)?;
        if buffer == BufferType::GrpcReceiveBuffer {
            return self.grpc_message.as_mut().ok_or(Status::BadArgument);
        }
        match (buffer, self.context_mut()) {
            (BufferType::DownstreamData, Some(Context::Network(network))) => {
                network.reachable.then_some(&mut network.downstream)
            }
            (BufferType::HttpRequestBody, Some(Context::Http(http))) => http.request.body.as_mut(),
            (BufferType::HttpResponseBody, Some(Context::Http(http))) => {
                http.response.body.as_mut()
            }
            _ => None,
        }
        .ok_or(Status::BadArgument)
    }

    pub(crate) fn headers(&self, map: MapType) -> Option<&Headers> {
        match (map, self.context()) {
            (MapType::GrpcReceiveInitialMetadata, _) => self.initial_metadata.as_ref(),
            (MapType::HttpRequestHeaders, Some(Context::Http(http))) => {
                http.request.headers.as_ref()
            }
            (MapType::HttpResponseHeaders, Some(Context::Http(http))) => {
                http.response.headers.as_ref()
            }
            _ => None,
        }
    }
}

/// The contexts of a VM. Context 0 is the VM itself.
#[derive(Default)]
pub(crate) struct Contexts {
    known: BTreeMap<u32, Context>,
    created: u32,
}

pub(crate) enum Context {
    Root(Role),
    Network(NetworkContext),
    Http(HttpContext),
}

/// A client's connection, as the network filter sees it.
pub(crate) struct NetworkContext {
    /// The connection's read buffer: all bytes that no filter has taken.
    pub(crate) downstream: Vec<u8>,
    /// Whether the guest can get at it: from its first data on, unless it returned Continue.
    pub(crate) reachable: bool,
    pub(crate) source_address: String,
    /// What `proxy_set_property` stored.
    pub(crate) properties: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// One request, as the HTTP filter sees it.
#[derive(Default)]
pub(crate) struct HttpContext {
    pub(crate) request: HttpSide,
    pub(crate) response: HttpSide,
}

/// The way to the node, and the way back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Direction {
    Request,
    Response,
}

/// One direction of a request.
#[derive(Default)]
pub(crate) struct HttpSide {
    pub(crate) headers: Option<Headers>,
    /// What the filter was given: there during its callback, and after it returned Pause.
    pub(crate) body: Option<Vec<u8>>,
    /// The filter has asked for the body to be handed on, whatever its callback returns.
    pub(crate) continued: bool,
}

impl Contexts {
    pub(crate) fn create(&mut self, context: Context) -> u32 {
        self.created += 1;
        self.known.insert(self.created, context);
        self.created
    }

    pub(crate) fn remove(&mut self, id: u32) {
        self.known.remove(&id);
    }

    fn root(&self, wanted: Role) -> u32 {
        let mut known = self.known.iter();
        let root = known.find(|(_, it)| matches!(it, Context::Root(role) if *role == wanted));
        root.map_or(0, |(id, _)| *id)
    }

    pub(crate) fn network_mut(&mut self, id: u32) -> Option<&mut NetworkContext> {
        match self.known.get_mut(&id)? {
            Context::Network(network) => Some(network),
            _ => None,
        }
    }

    pub(crate) fn http_side(&mut self, id: u32, direction: Direction) -> Option<&mut HttpSide> {
        match (self.known.get_mut(&id)?, direction) {
            (Context::Http(http), Direction::Request) => Some(&mut http.request),
            (Context::Http(http), Direction::Response) => Some(&mut http.response),
            _ => None,
        }
    }

    /// The ids of all client connections.
    pub(crate) fn clients(&self) -> Vec<u32> {
        let clients = self.known.iter();
        clients
            .filter(|(_, context)| matches!(context, Context::Network(_)))
            .map(|(id, _)| *id)
            .collect()
    }
}

/// The gRPC streams the guest may name.
#[derive(Default)]
pub(crate) struct Streams {
    pub(crate) known: BTreeMap<u32, StreamState>,
    /// Streams whose end the guest was told. Envoy frees such a stream soon after: naming it again
    /// is [misuse](State::misuse).
    pub(crate) ended: BTreeSet<u32>,
    opened: u32,
    /// Streams whose host Envoy is still looking up, if that takes time: sending on one resets it.
    pub(crate) awaiting_host: BTreeSet<u32>,
    /// The hosts that were looked up.
    pub(crate) known_hosts: BTreeSet<String>,
    /// The next message finds its connection reset.
    pub(crate) reset_next_send: bool,
}

/// A stream as the guest knows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum StreamState {
    Open,
    /// Closed by the guest's own `proxy_grpc_close`.
    Finished,
    /// Ended, and the guest is still to be told: what it sends goes nowhere.
    Ending,
}

impl Streams {
    /// A new stream's token. Envoy's tokens of streams are 2 modulo 4.
    pub(crate) fn next_token(&mut self) -> u32 {
        self.opened += 1;
        self.opened * 4 + 2
    }
}

/// A root context's timer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tick {
    pub(crate) period: Duration,
    pub(crate) due: Duration,
}

/// Refuses memory above a limit.
pub(crate) struct Limiter {
    limit: usize,
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= self.limit)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_LIMIT)
    }
}

/// Entries in a table; a module of ours has a few thousand.
const TABLE_LIMIT: usize = 1 << 20;
