//! A mesh without Kubernetes: services and objects on one side, real Envoys on the other.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use slotmesh_testbed::{Envoy, EnvoyOptions, PluginConfig, Port, locate};

use crate::ads::{Resources, Server};
use crate::agent::{self, Pull, Registry};
use crate::proxy::{Proxy, Service};
use crate::render::{VIRTUAL_OUTBOUND, render};
use crate::resource::{Kind, encode};

const BOOTSTRAP: &str = include_str!("../bootstrap.yaml");

/// Where objects go that name no namespace, as with `kubectl apply -n`.
const NAMESPACE: &str = "redis-client";

/// One of the networks in which manifests allow nodes.
pub const POD_NETWORK: &str = "10.0.0.0/8:6379";

/// The control plane. Every change reaches all its proxies at once.
#[derive(Debug)]
pub struct Mesh {
    server: Server,
    world: Mutex<World>,
}

#[derive(Debug, Default)]
struct World {
    services: Vec<Service>,
    /// In the order of their creation.
    objects: Vec<Value>,
    registry: Registry,
    /// What stands in the manifests, and what that is on this machine.
    places: BTreeMap<String, String>,
    /// Secrets of all proxies, by name.
    secrets: Vec<Value>,
    proxies: Vec<(Proxy, Bound)>,
}

/// Where the listeners of a proxy are bound, by their names.
type Bound = BTreeMap<String, Port>;

/// A running Envoy of a pod. Dropping it ends it.
#[derive(Debug)]
pub struct Sidecar {
    mesh: Arc<Mesh>,
    proxy: Proxy,
    envoy: Envoy,
}

impl Mesh {
    /// A mesh of these services.
    ///
    /// # Errors
    /// No port for its xDS server.
    pub fn new(services: Vec<Service>) -> Result<Arc<Self>> {
        // All nodes here are on loopback, on any port.
        let places = BTreeMap::from([(POD_NETWORK.to_owned(), "127.0.0.0/8".to_owned())]);
        let world = World { services, places, ..World::default() };
        Ok(Arc::new(Self { server: Server::start()?, world: Mutex::new(world) }))
    }

    /// Puts something of this machine in the place of what manifests name: a server's address for
    /// `host:port`, or a file.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn place(&self, name: &str, here: impl Into<String>) -> Result<()> {
        self.change(|world| drop(world.places.insert(name.to_owned(), here.into())))
    }

    /// Says what comes of pulling `image`.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn publish(&self, image: &str, pull: Pull) -> Result<()> {
        self.change(|world| drop(world.registry.insert(image.to_owned(), pull)))
    }

    /// Gives all proxies a secret (`envoy.extensions.transport_sockets.tls.v3.Secret`).
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn add_secret(&self, secret: Value) -> Result<()> {
        self.change(|world| world.secrets.push(secret))
    }

    /// Does what `kubectl apply -n redis-client` does; objects that are no business of the proxies'
    /// are left alone.
    ///
    /// # Errors
    /// What the objects ask for cannot be rendered, or is no valid configuration of Envoy's.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        self.change(|world| {
            for object in objects {
                let object = in_namespace(object);
                match world.objects.iter_mut().find(|old| is_same(old, &object)) {
                    Some(old) => *old = object,
                    None => world.objects.push(object),
                }
            }
        })
    }

    /// Does what `kubectl delete -n redis-client` does.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn delete(&self, objects: &[Value]) -> Result<()> {
        self.change(|world| {
            let gone: Vec<Value> = objects.iter().map(in_namespace).collect();
            world.objects.retain(|object| !gone.iter().any(|gone| is_same(object, gone)));
        })
    }

    /// Starts the Envoy of `proxy` and waits until it serves.
    ///
    /// # Errors
    /// Envoy does not start, or is given what cannot be rendered.
    pub fn start(self: &Arc<Self>, proxy: Proxy) -> Result<Sidecar> {
        self.change(|world| world.proxies.push((proxy.clone(), Bound::new())))?;
        let template = BOOTSTRAP
            .replace("@NODE@", &proxy.node_id())
            .replace("@XDS_PORT@", &self.server.addr().port().to_string());
        // The module's configuration comes by ADS.
        let mut options = EnvoyOptions::new(PluginConfig::from_text(""));
        options.template = template.into();
        options.binary = proxy.envoy.clone();
        options.process_environment = proxy.environment.clone();
        options.bootstrap_override = self.world().bootstrap_override(&proxy)?;
        let envoy = Envoy::start(options)?;
        Ok(Sidecar { mesh: Arc::clone(self), proxy, envoy })
    }

    /// Whether `proxy` has asked for the extension configuration `name`.
    pub fn was_asked_for(&self, proxy: &Proxy, name: &str) -> bool {
        self.server.was_asked_for(&proxy.node_id(), Kind::Extension, name)
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut World)) -> Result<()> {
        let mut world = self.world();
        change(&mut world);
        let mut proxies = std::mem::take(&mut world.proxies);
        let rendered = proxies.iter_mut().map(|(proxy, bound)| world.resources(proxy, bound));
        let rendered = rendered.collect::<Result<Vec<Resources>>>();
        world.proxies = proxies;
        for ((proxy, _), resources) in world.proxies.iter().zip(rendered?) {
            self.server.publish(&proxy.node_id(), resources);
        }
        Ok(())
    }
}

impl World {
    /// What the agent has Envoy merge over the bootstrap. Without the ConfigMap that a pod names, the
    /// kubelet does not start it.
    fn bootstrap_override(&self, proxy: &Proxy) -> Result<Option<String>> {
        let Some(name) = &proxy.bootstrap_override else { return Ok(None) };
        let named = |object: &&Value| {
            object["kind"] == "ConfigMap"
                && object["metadata"]["name"] == name.as_str()
                && object["metadata"]["namespace"] == proxy.namespace.as_str()
        };
        let map = self.objects.iter().find(named);
        let map = map.with_context(|| format!("there is no ConfigMap {name}"))?;
        let text = map["data"]["custom_bootstrap.json"].as_str();
        Ok(Some(text.with_context(|| format!("{name} has no custom_bootstrap.json"))?.to_owned()))
    }

    /// All that `proxy` can be given.
    fn resources(&self, proxy: &Proxy, bound: &mut Bound) -> Result<Resources> {
        let mut rendered = render(proxy, &self.services, &self.objects)?;
        for listener in &mut rendered.listeners {
            bind(listener, bound)?;
        }
        rendered.clusters.iter_mut().for_each(end_passthrough);
        let mut resources = Resources::new();
        for (kind, of_kind) in [
            (Kind::Cluster, rendered.clusters),
            (Kind::Endpoints, rendered.endpoints),
            (Kind::Listener, rendered.listeners),
            (Kind::Secret, self.secrets.clone()),
            (Kind::Extension, rendered.extensions),
        ] {
            let by_name = resources.entry(kind).or_default();
            for resource in of_kind {
                let resource = self.localize(resource)?;
                let name = kind.name_of(&resource).to_owned();
                let resource = match kind {
                    Kind::Extension => agent::convert(resource, &self.registry),
                    _ => Some(resource),
                };
                let encoded = resource.map(|resource| encode(kind, &resource)).transpose()?;
                by_name.insert(name, encoded);
            }
        }
        Ok(resources)
    }

    /// Puts addresses of this machine in the place of those that the manifests name.
    fn localize(&self, resource: Value) -> Result<Value> {
        let mut text = resource.to_string();
        for (name, here) in &self.places {
            text = text.replace(name, here);
        }
        serde_json::from_str(&text).context("a place that is no place")
    }
}

impl Sidecar {
    /// Where clients reach the listener `name`.
    ///
    /// # Errors
    /// There has never been such a listener.
    pub fn addr(&self, name: &str) -> Result<SocketAddr> {
        let world = self.mesh.world();
        let id = self.proxy.node_id();
        let bound = world.proxies.iter().find(|(proxy, _)| proxy.node_id() == id);
        let port = bound.and_then(|(_, bound)| bound.get(name));
        Ok(port.with_context(|| format!("no listener {name}"))?.addr())
    }

    /// Its Envoy.
    pub fn envoy(&self) -> &Envoy {
        &self.envoy
    }

    /// Why it did not accept what it was given.
    pub fn refusals(&self) -> Vec<String> {
        self.mesh.server.refusals(&self.proxy.node_id())
    }
}

/// A pod's traffic is redirected to virtualOutbound, which knows where it was going to. Here
/// clients connect to the other listeners themselves.
fn bind(listener: &mut Value, bound: &mut Bound) -> Result<()> {
    let name = listener["name"].as_str().unwrap_or_default();
    if name != VIRTUAL_OUTBOUND && listener["internal_listener"].is_null() {
        let port = match bound.entry(name.to_owned()) {
            Entry::Occupied(port) => port.into_mut(),
            Entry::Vacant(place) => place.insert(Port::free()?),
        };
        let addr = port.addr();
        listener["address"]["socket_address"] =
            json!({"address": addr.ip().to_string(), "port_value": addr.port()});
        listener["bind_to_port"] = true.into();
    }
    Ok(())
}

/// "Where the client was going" is here the listener itself, which would connect to itself without
/// end.
fn end_passthrough(cluster: &mut Value) {
    if cluster["type"] == "ORIGINAL_DST" {
        cluster["type"] = "STATIC".into();
        cluster["lb_policy"] = "ROUND_ROBIN".into();
    }
}

fn in_namespace(object: &Value) -> Value {
    let mut object = object.clone();
    if object["metadata"]["namespace"].is_null() {
        object["metadata"]["namespace"] = NAMESPACE.into();
    }
    object
}

fn is_same(a: &Value, b: &Value) -> bool {
    let id = |object: &Value| {
        [&object["kind"], &object["metadata"]["namespace"], &object["metadata"]["name"]]
            .map(Value::clone)
    };
    id(a) == id(b)
}

/// The module that was built, as an image.
///
/// # Errors
/// It has not been built.
pub fn image(digest: &str) -> Result<Pull> {
    let file: PathBuf = locate::wasm()?;
    Ok(Pull::Pulled { file, digest: digest.to_owned() })
}
