//! A small istiod: serves each proxy its resources by delta ADS, and its secrets as the istio-agent
//! does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server as ads;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server as sds;
use envoy_types::pb::google::protobuf::Any;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream, WatchStream};
use tokio_stream::{Stream, StreamExt, once};
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::resource::Kind;

/// What one proxy can be given, by kind and name. Whoever asks for one that is `None` has to wait
/// for it.
pub(crate) type Resources = BTreeMap<Kind, BTreeMap<String, Option<Any>>>;

/// A server on loopback. Dropping it ends it, and with it all its streams.
#[derive(Debug)]
pub(crate) struct Server {
    addr: SocketAddr,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    /// By their node ids.
    proxies: Mutex<BTreeMap<String, ProxyState>>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct ProxyState {
    resources: Resources,
    /// What it has asked for by name.
    asked_for: BTreeSet<(Kind, String)>,
    /// What it said of what it does not accept.
    refusals: Vec<String>,
}

#[derive(Debug)]
struct Service(Arc<State>);

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Server {
    pub(crate) fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let state = Arc::<State>::default();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(async { tokio::net::TcpListener::from_std(listener) })?;
        let serving = tonic::transport::Server::builder()
            .add_service(ads::AggregatedDiscoveryServiceServer::new(Service(Arc::clone(&state))))
            .add_service(sds::SecretDiscoveryServiceServer::new(Service(Arc::clone(&state))))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let thread = thread::spawn(move || {
            runtime.spawn(serving);
            // With the runtime end the streams, which proxies never close.
            let _ = runtime.block_on(stopped);
        });
        Ok(Self { addr, state, stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What `node` is given from now on.
    pub(crate) fn publish(&self, node: &str, resources: Resources) {
        self.state.with_proxy(node, |proxy| proxy.resources = resources);
        self.state.changed.send_replace(());
    }

    /// Whether `node` has asked for a resource by its name.
    pub(crate) fn was_asked_for(&self, node: &str, kind: Kind, name: &str) -> bool {
        self.state.with_proxy(node, |proxy| proxy.asked_for.contains(&(kind, name.to_owned())))
    }

    /// Why `node` did not accept what it was given.
    pub(crate) fn refusals(&self, node: &str) -> Vec<String> {
        self.state.with_proxy(node, |proxy| proxy.refusals.clone())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let joined = self.thread.take().map(thread::JoinHandle::join);
        if let Some(Err(_)) = joined {
            eprintln!("istio-test: the xDS server has panicked");
        }
    }
}

impl State {
    fn with_proxy<T>(&self, node: &str, look: impl FnOnce(&mut ProxyState) -> T) -> T {
        let mut proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        look(proxies.entry(node.to_owned()).or_default())
    }
}

/// What happens on a proxy's stream.
enum Event {
    Request(Box<DeltaDiscoveryRequest>),
    Change,
    End,
}

/// A proxy's stream.
struct Session {
    state: Arc<State>,
    node: String,
    /// The names it wants of each kind; `None` is all there are.
    wanted: BTreeMap<Kind, Option<BTreeSet<String>>>,
    /// What it has; `None` where it knows that there is nothing.
    sent: BTreeMap<(Kind, String), Option<Any>>,
    pushes: u64,
    out: mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, Status>>,
}

impl Session {
    fn on_request(&mut self, request: DeltaDiscoveryRequest) {
        if let Some(node) = request.node {
            self.node = node.id;
        }
        let Some(kind) = Kind::of(&request.type_url) else { return };
        if let Some(error) = request.error_detail {
            self.state.with_proxy(&self.node, |proxy| proxy.refusals.push(error.message));
        }
        let is_first = !self.wanted.contains_key(&kind);
        let names = request.resource_names_subscribe;
        let wanted = self.wanted.entry(kind).or_insert_with(|| {
            let all = names.is_empty() || names.iter().any(|name| name == "*");
            (!all).then(BTreeSet::new)
        });
        for name in request.resource_names_unsubscribe {
            if let Some(wanted) = wanted {
                wanted.remove(&name);
            }
            self.sent.remove(&(kind, name));
        }
        let is_more = !names.is_empty();
        for name in names {
            self.state.with_proxy(&self.node, |proxy| proxy.asked_for.insert((kind, name.clone())));
            self.sent.remove(&(kind, name.clone()));
            if let Some(wanted) = wanted {
                wanted.insert(name);
            }
        }
        if is_first || is_more {
            self.push(kind, is_first);
        }
    }

    /// In istiod's order. A cluster that was changed waits for its endpoints to be sent anew.
    fn on_change(&mut self) {
        for kind in Kind::ALL {
            if self.wanted.contains_key(&kind) && self.push(kind, false) && kind == Kind::Cluster {
                self.sent.retain(|(kind, _), _| *kind != Kind::Endpoints);
            }
        }
    }

    /// Sends what is new or gone; where the proxy waits for a first answer, also that there is
    /// nothing.
    fn push(&mut self, kind: Kind, is_first: bool) -> bool {
        let there = self.state.with_proxy(&self.node, |proxy| {
            proxy.resources.get(&kind).cloned().unwrap_or_default()
        });
        let known = self.sent.keys().filter(|(of, _)| *of == kind).map(|(_, name)| name.clone());
        let mut names: BTreeSet<String> = known.collect();
        match self.wanted.get(&kind) {
            Some(Some(wanted)) => names.extend(wanted.iter().cloned()),
            _ => names.extend(there.keys().cloned()),
        }
        self.pushes += 1;
        let mut response = DeltaDiscoveryResponse {
            type_url: kind.type_url(),
            nonce: self.pushes.to_string(),
            ..DeltaDiscoveryResponse::default()
        };
        for name in names {
            let now = match there.get(&name) {
                Some(None) => continue,
                Some(resource) => resource.clone(),
                None => None,
            };
            let key = (kind, name.clone());
            if self.sent.get(&key) == Some(&now) {
                continue;
            }
            self.sent.insert(key, now.clone());
            match now {
                Some(resource) => response.resources.push(Resource {
                    name,
                    version: self.pushes.to_string(),
                    resource: Some(resource),
                    ..Resource::default()
                }),
                None => response.removed_resources.push(name),
            }
        }
        let is_news = !response.resources.is_empty() || !response.removed_resources.is_empty();
        if is_news || (is_first && self.wanted.get(&kind) == Some(&None)) {
            // A proxy that has gone wants nothing more.
            let _ = self.out.send(Ok(response));
        }
        is_news
    }
}

#[async_trait]
impl ads::AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("sidecars ask for deltas"))
    }

    async fn delta_aggregated_resources(
        &self,
        requests: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (out, responses) = mpsc::unbounded_channel();
        let mut session = Session {
            state: Arc::clone(&self.0),
            node: String::new(),
            wanted: BTreeMap::new(),
            sent: BTreeMap::new(),
            pushes: 0,
            out,
        };
        let requests = requests.into_inner().map(|request| match request {
            Ok(request) => Event::Request(Box::new(request)),
            Err(_) => Event::End,
        });
        let changes = WatchStream::from_changes(self.0.changed.subscribe());
        let changes = changes.map(|()| Event::Change);
        let mut events = requests.chain(once(Event::End)).merge(changes);
        tokio::spawn(async move {
            loop {
                match events.next().await {
                    Some(Event::Request(request)) => session.on_request(*request),
                    Some(Event::Change) => session.on_change(),
                    Some(Event::End) | None => break,
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(responses))))
    }
}

#[async_trait]
impl sds::SecretDiscoveryService for Service {
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Responses<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("sidecars ask for all secrets at once"))
    }

    async fn stream_secrets(
        &self,
        requests: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let state = Arc::clone(&self.0);
        let mut node = String::new();
        let responses = requests.into_inner().filter_map(move |request| {
            let request = request.ok()?;
            if let Some(sender) = request.node {
                node = sender.id;
            }
            // Secrets do not change here: what has a nonce only confirms.
            if !request.response_nonce.is_empty() {
                return None;
            }
            let secrets = state.with_proxy(&node, |proxy| {
                let secrets = proxy.resources.get(&Kind::Secret).cloned().unwrap_or_default();
                let named = |(name, _): &(String, _)| request.resource_names.contains(name);
                secrets.into_iter().filter(named).filter_map(|(_, secret)| secret).collect()
            });
            Some(Ok(DiscoveryResponse {
                version_info: "1".to_owned(),
                resources: secrets,
                type_url: request.type_url,
                nonce: "1".to_owned(),
                ..DiscoveryResponse::default()
            }))
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("sidecars keep a stream open"))
    }
}
