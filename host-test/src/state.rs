//! What the host keeps for one plugin: it lives in the plugin's wasmtime `Store`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use wasmtime::{Memory, ResourceLimiter, TypedFunc};

use crate::{
    abi::{BufferType, GrpcStatus, MapType, Status},
    calls::{metrics::Metrics, queue::Queues},
    clock::Clock,
    config::{Config, Role},
    headers::Headers,
    log::{Level, Log},
    random::Random,
};

/// The root context's id. Context 0 is the VM itself.
pub(crate) const ROOT: u32 = 1;

pub(crate) struct State {
    pub(crate) role: Role,
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) metrics: Metrics,
    pub(crate) queues: Queues,
    pub(crate) limiter: Limiter,
    pub(crate) memory: Option<Memory>,
    pub(crate) allocate: Option<TypedFunc<u32, u32>>,
    /// How often the host asked the guest for memory.
    pub(crate) allocations: u64,
    pub(crate) contexts: Contexts,
    /// What the guest asked for and what is done only when its callback has returned, in order.
    pub(crate) deferred: VecDeque<Deferred>,
    pub(crate) tick: Option<Tick>,
    pub(crate) streams: Streams,
    /// Readable while `proxy_on_configure` runs.
    pub(crate) plugin_configuration: Option<Vec<u8>>,
    /// Readable while `proxy_on_grpc_receive` runs.
    pub(crate) grpc_message: Option<Vec<u8>>,
    /// Readable while `proxy_on_grpc_receive_initial_metadata` runs.
    pub(crate) initial_metadata: Option<Headers>,
    /// What `proxy_get_status` says.
    pub(crate) grpc_status: (u32, String),
    /// Things a guest did that this host survives and Envoy may not.
    pub(crate) misuse: Vec<String>,
}

/// What waits for the guest's callback to return.
#[derive(Debug)]
pub(crate) enum Deferred {
    /// Continue with the filter after this one.
    ContinueDownstream {
        context: u32,
    },
    /// Flush, then close.
    CloseDownstream {
        context: u32,
    },
    /// Hand on the body that the HTTP filter holds back.
    ContinueHttp {
        direction: Direction,
    },
    OpenStream {
        token: u32,
        address: String,
        metadata: Headers,
    },
    /// One gRPC message, not yet framed.
    SendMessage {
        token: u32,
        message: Vec<u8>,
    },
    /// Nothing more will be sent; what comes is still received.
    FinishStream {
        token: u32,
    },
    /// Drop the connection; no event follows.
    CancelStream {
        token: u32,
    },
    /// Tell the guest that there is something in its queue.
    QueueReady {
        queue: u32,
    },
    /// Tell the guest that a stream ended.
    StreamClosed {
        token: u32,
        status: GrpcStatus,
        why: String,
    },
}

impl State {
    pub(crate) fn new(role: Role, config: Arc<Config>, clock: Clock) -> Self {
        Self {
            role,
            clock,
            random: Random::new(config.seed),
            metrics: Metrics::default(),
            queues: Queues::default(),
            limiter: Limiter { limit: config.memory_limit },
            config,
            memory: None,
            allocate: None,
            allocations: 0,
            contexts: Contexts::new(),
            deferred: VecDeque::new(),
            tick: None,
            streams: Streams::default(),
            plugin_configuration: None,
            grpc_message: None,
            initial_metadata: None,
            grpc_status: (0, String::new()),
            misuse: Vec::new(),
        }
    }

    pub(crate) fn log(&self, level: Level, text: impl Into<String>) {
        self.log_sink().write(level, self.role.root_id(), text);
    }

    pub(crate) fn log_sink(&self) -> &Log {
        &self.config.log
    }

    /// Records something that Envoy may not survive.
    pub(crate) fn misuse(&mut self, what: String) {
        self.log(Level::Error, format!("misuse of the host: {what}"));
        self.misuse.push(what);
    }

    /// What a buffer holds now, seen from the effective context. An absent buffer is
    /// [`Status::NotFound`]; one that is merely out of reach is empty, as in Envoy.
    pub(crate) fn buffer(&self, buffer: BufferType) -> Result<&[u8], Status> {
        let context = self.contexts.effective();
        Ok(match (buffer, context) {
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
        match (buffer, self.contexts.effective_mut()) {
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
        match (map, self.contexts.effective()) {
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

/// The contexts of a VM and which of them speaks.
pub(crate) struct Contexts {
    known: BTreeMap<u32, Context>,
    next: u32,
    /// The context whose callback runs.
    pub(crate) current: u32,
    /// The one host calls act on instead, if not 0: `proxy_set_effective_context`.
    pub(crate) effective: u32,
}

pub(crate) enum Context {
    Root,
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
}

impl Contexts {
    fn new() -> Self {
        Self {
            known: BTreeMap::from([(ROOT, Context::Root)]),
            next: ROOT + 1,
            current: 0,
            effective: 0,
        }
    }

    pub(crate) fn create(&mut self, context: Context) -> u32 {
        let id = self.next;
        self.next += 1;
        self.known.insert(id, context);
        id
    }

    pub(crate) fn remove(&mut self, id: u32) {
        self.known.remove(&id);
    }

    /// Context 0, the VM, is there too.
    pub(crate) fn contains(&self, id: u32) -> bool {
        id == 0 || self.known.contains_key(&id)
    }

    /// The context that host calls act on: the effective one as long as it exists.
    pub(crate) fn effective_id(&self) -> u32 {
        match self.effective {
            0 => self.current,
            id if self.known.contains_key(&id) => id,
            _ => self.current,
        }
    }

    pub(crate) fn effective(&self) -> Option<&Context> {
        self.known.get(&self.effective_id())
    }

    pub(crate) fn effective_mut(&mut self) -> Option<&mut Context> {
        self.known.get_mut(&self.effective_id())
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

/// The root context's timer.
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
