//! What istiod does with EnvoyFilters (its `pilot/pkg/networking/core/envoyfilter`): which patches
//! are for a proxy, in which order, and what they make of its listeners, clusters and extensions.
//!
//! Of `applyTo` there is what sidecars and gateways of TCP services need; another one is an error.

use anyhow::{Context as _, Result, bail, ensure};
use regex::Regex;
use serde_json::Value;

use crate::merge::merge;
use crate::proxy::{Proxy, ROOT_NAMESPACE};
use crate::render::VIRTUAL_OUTBOUND;

/// All patches for one proxy, in the order in which istiod applies them.
#[derive(Debug, Default)]
pub(crate) struct Patches(Vec<Patch>);

#[derive(Debug)]
struct Patch {
    apply_to: String,
    operation: String,
    /// `match`, without what has been decided already.
    conditions: Value,
    value: Value,
}

impl Patches {
    /// Those of `objects`, in the order of their creation, that are for `proxy`.
    pub(crate) fn select(objects: &[Value], proxy: &Proxy) -> Result<Self> {
        let mut filters: Vec<(usize, &Value)> = objects
            .iter()
            .enumerate()
            .filter(|(_, object)| object["kind"] == "EnvoyFilter" && proxy.selects(object))
            .collect();
        filters.sort_by_key(|(age, filter)| {
            let priority = filter["spec"]["priority"].as_i64().unwrap_or_default();
            (priority, filter["metadata"]["namespace"] != ROOT_NAMESPACE, *age)
        });
        let mut patches = Vec::new();
        for (_, filter) in filters {
            let refs = &filter["spec"]["targetRefs"];
            ensure!(refs.is_null(), "istio-test does not implement targetRefs");
            for patch in filter["spec"]["configPatches"].as_array().into_iter().flatten() {
                let name = &filter["metadata"]["name"];
                let patch = Patch::read(patch).with_context(|| format!("EnvoyFilter {name}"))?;
                if proxy_fits(&patch.conditions["proxy"], proxy)? {
                    patches.push(patch);
                }
            }
        }
        Ok(Self(patches))
    }

    /// Applies them to generated listeners.
    pub(crate) fn patch_listeners(&self, listeners: &mut Vec<Value>, context: &str) {
        for listener in listeners.iter_mut() {
            let mut removed = false;
            for patch in self.of("LISTENER", context) {
                if !patch.fits_listener(listener) {
                    continue;
                }
                match patch.operation.as_str() {
                    "REMOVE" => removed = true,
                    "MERGE" => merge(listener, &patch.value),
                    _ => {}
                }
            }
            if removed {
                *listener = Value::Null;
                continue;
            }
            self.patch_listener_filters(listener, context);
            self.patch_chains(listener, context);
        }
        listeners.retain(|listener| !listener.is_null());
        listeners.extend(self.added("LISTENER", context));
    }

    fn patch_listener_filters(&self, listener: &mut Value, context: &str) {
        let patches = self.of("LISTENER_FILTER", context);
        let patches: Vec<&Patch> = patches.filter(|patch| patch.fits_listener(listener)).collect();
        if patches.is_empty() {
            return;
        }
        let mut filters = taken(listener, "listener_filters");
        for patch in patches {
            patch.change_list(&mut filters);
        }
        listener["listener_filters"] = filters.into();
    }

    fn patch_chains(&self, listener: &mut Value, context: &str) {
        let head = listener.clone();
        let mut chains = taken(listener, "filter_chains");
        chains.retain_mut(|chain| self.patch_chain(&head, chain, context));
        let added = self.of("FILTER_CHAIN", context).filter(|patch| patch.operation == "ADD");
        let added = added.filter(|patch| patch.fits_listener(&head));
        chains.extend(added.map(|patch| patch.value.clone()));
        chains.retain(|chain| chain["filters"].is_array());
        if !chains.is_empty() {
            listener["filter_chains"] = chains.into();
        }
        if let Some(mut chain) = listener.get("default_filter_chain").cloned() {
            let stays = self.patch_chain(&head, &mut chain, context);
            listener["default_filter_chain"] = if stays { chain } else { Value::Null };
        }
    }

    /// Whether it stays.
    fn patch_chain(&self, listener: &Value, chain: &mut Value, context: &str) -> bool {
        for patch in self.of("FILTER_CHAIN", context) {
            if !patch.fits_listener(listener) || !patch.fits_chain(listener, chain) {
                continue;
            }
            match patch.operation.as_str() {
                "REMOVE" => return false,
                "MERGE" => merge_chain(chain, &patch.value),
                _ => {}
            }
        }
        self.patch_filters(listener, chain, context);
        true
    }

    /// First what changes the list, patch by patch; then the merges, filter by filter.
    fn patch_filters(&self, listener: &Value, chain: &mut Value, context: &str) {
        let here =
            |patch: &&Patch| patch.fits_listener(listener) && patch.fits_chain(listener, chain);
        let patches: Vec<&Patch> = self.of("NETWORK_FILTER", context).filter(here).collect();
        let Some(filters) = chain["filters"].as_array_mut() else { return };
        for patch in &patches {
            patch.change_list(filters);
        }
        for filter in filters {
            for patch in patches.iter().filter(|patch| patch.operation == "MERGE") {
                // What comes by ECDS is not known yet, and not merged with.
                if patch.fits_filter(filter) && filter["typed_config"].is_object() {
                    if patch.value["name"].is_string() {
                        filter["name"] = patch.value["name"].clone();
                    }
                    if filter["typed_config"]["@type"] == patch.value["typed_config"]["@type"] {
                        merge(&mut filter["typed_config"], &patch.value["typed_config"]);
                    }
                }
            }
        }
    }

    /// Applies them to generated clusters.
    pub(crate) fn patch_clusters(&self, clusters: &mut Vec<Value>, context: &str) {
        clusters.retain_mut(|cluster| {
            for patch in self.of("CLUSTER", context) {
                if !patch.fits_cluster(cluster) {
                    continue;
                }
                match patch.operation.as_str() {
                    "REMOVE" => return false,
                    "MERGE" => merge_cluster(cluster, &patch.value),
                    _ => {}
                }
            }
            true
        });
        clusters.extend(self.added("CLUSTER", context));
        let mut names = std::collections::BTreeSet::new();
        clusters.retain(|cluster| names.insert(cluster["name"].to_string()));
    }

    /// The extension configurations: served to whoever asks for them, whatever their context.
    pub(crate) fn extensions(&self) -> impl Iterator<Item = &Value> {
        let all = self.0.iter().filter(|patch| patch.apply_to == "EXTENSION_CONFIG");
        all.filter(|patch| patch.operation == "ADD").map(|patch| &patch.value)
    }

    fn of(&self, apply_to: &'static str, context: &str) -> impl Iterator<Item = &Patch> {
        self.0.iter().filter(move |patch| patch.apply_to == apply_to && patch.fits_context(context))
    }

    fn added(&self, apply_to: &'static str, context: &str) -> impl Iterator<Item = Value> {
        let added = self.of(apply_to, context).filter(|patch| patch.operation == "ADD");
        // Without a context it would be added once for each.
        let outbound = ["SIDECAR_OUTBOUND", "GATEWAY"].contains(&context);
        added.filter(move |patch| patch.has_context() || outbound).map(|patch| patch.value.clone())
    }
}

impl Patch {
    fn read(patch: &Value) -> Result<Self> {
        let apply_to = patch["applyTo"].as_str().context("a patch without applyTo")?;
        let lists = ["LISTENER_FILTER", "NETWORK_FILTER"];
        let others = ["LISTENER", "FILTER_CHAIN", "CLUSTER", "EXTENSION_CONFIG"];
        let known = lists.iter().chain(&others).any(|known| *known == apply_to);
        ensure!(known, "istio-test does not implement applyTo: {apply_to}");
        let mut operation = patch["patch"]["operation"].as_str().context("no operation")?;
        let relative = ["INSERT_BEFORE", "INSERT_AFTER", "INSERT_FIRST"];
        if relative.contains(&operation) && !lists.contains(&apply_to) {
            operation = "ADD";
        }
        let known = ["ADD", "REMOVE", "REPLACE", "MERGE"];
        if !known.contains(&operation) && !relative.contains(&operation) {
            bail!("istio-test does not implement operation: {operation}");
        }
        Ok(Self {
            apply_to: apply_to.to_owned(),
            operation: operation.to_owned(),
            conditions: patch["match"].clone(),
            value: patch["patch"]["value"].clone(),
        })
    }

    fn has_context(&self) -> bool {
        !matches!(self.conditions["context"].as_str(), None | Some("ANY"))
    }

    fn fits_context(&self, context: &str) -> bool {
        !self.has_context() || self.conditions["context"] == context
    }

    fn fits_listener(&self, listener: &Value) -> bool {
        let wanted = &self.conditions["listener"];
        if wanted["name"].is_string() && wanted["name"] != listener["name"] {
            return false;
        }
        if self.apply_to != "LISTENER" && is_virtual(listener) {
            return true;
        }
        let port = &listener["address"]["socket_address"]["port_value"];
        wanted["portNumber"].is_null() || wanted["portNumber"] == *port
    }

    fn fits_chain(&self, listener: &Value, chain: &Value) -> bool {
        let wanted = &self.conditions["listener"];
        let has = &chain["filter_chain_match"];
        let is = |wanted: &Value, found: &Value| wanted.is_null() || wanted == found;
        if is_virtual(listener) && !is(&wanted["portNumber"], &has["destination_port"]) {
            return false;
        }
        let wanted = &wanted["filterChain"];
        let names = has["server_names"].as_array();
        let sni = wanted["sni"].is_null() || names.is_some_and(|all| all.contains(&wanted["sni"]));
        let protocols =
            wanted["applicationProtocols"].as_str().into_iter().flat_map(|all| all.split(','));
        let spoken = |name: &str| {
            let all = has["application_protocols"].as_array();
            all.is_some_and(|all| all.iter().any(|protocol| protocol == name))
        };
        sni && protocols.into_iter().all(spoken)
            && is(&wanted["name"], &chain["name"])
            && is(&wanted["transportProtocol"], &has["transport_protocol"])
            && is(&wanted["destinationPort"], &has["destination_port"])
    }

    /// The name of the filter that it is about, if it is about one.
    fn filter(&self) -> Option<&str> {
        let listener = &self.conditions["listener"];
        match self.apply_to.as_str() {
            "LISTENER_FILTER" => listener["listenerFilter"].as_str(),
            _ => listener["filterChain"]["filter"]["name"].as_str(),
        }
    }

    fn fits_filter(&self, filter: &Value) -> bool {
        self.filter().is_none_or(|name| filter["name"] == name)
    }

    fn change_list(&self, filters: &mut Vec<Value>) {
        let value = || self.value.clone();
        let first = filters.iter().position(|filter| self.fits_filter(filter));
        match (self.operation.as_str(), self.filter(), first) {
            ("ADD", ..) | ("INSERT_AFTER", None, _) => filters.push(value()),
            ("INSERT_FIRST", ..) | ("INSERT_BEFORE", None, _) => filters.insert(0, value()),
            ("INSERT_BEFORE", Some(_), Some(at)) => filters.insert(at, value()),
            ("INSERT_AFTER", Some(_), Some(at)) => filters.insert(at + 1, value()),
            ("REPLACE", Some(_), Some(at)) => filters[at] = value(),
            ("REMOVE", Some(_), _) => filters.retain(|filter| !self.fits_filter(filter)),
            _ => {}
        }
    }

    fn fits_cluster(&self, cluster: &Value) -> bool {
        let wanted = &self.conditions["cluster"];
        let name = cluster["name"].as_str().unwrap_or_default();
        if let Some(wanted) = wanted["name"].as_str() {
            return wanted == name;
        }
        // direction|port|subset|host
        let parts: Vec<&str> = name.split('|').collect();
        let [_, port, subset, host] = parts[..] else { return wanted.is_null() };
        wanted["subset"].as_str().is_none_or(|wanted| wanted == subset)
            && wanted["service"].as_str().is_none_or(|wanted| wanted == host)
            && wanted["portNumber"].as_u64().is_none_or(|wanted| port == wanted.to_string())
    }
}

fn is_virtual(listener: &Value) -> bool {
    listener["name"] == VIRTUAL_OUTBOUND || listener["name"] == "virtualInbound"
}

/// A list of a listener's, which is left without it.
fn taken(listener: &mut Value, name: &str) -> Vec<Value> {
    let list = listener.as_object_mut().and_then(|listener| listener.remove(name));
    match list {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

/// Merges a patch; of one with a transport socket of the same name, that alone counts.
fn merge_chain(chain: &mut Value, patch: &Value) {
    let name = &patch["transport_socket"]["name"];
    match chain.get_mut("transport_socket").filter(|socket| socket["name"] == *name) {
        Some(socket) => {
            merge(&mut socket["typed_config"], &patch["transport_socket"]["typed_config"]);
        }
        None => merge(chain, patch),
    }
}

/// Merges a patch; a transport socket goes by a rule of its own, and nothing else of such a patch
/// counts.
fn merge_cluster(cluster: &mut Value, patch: &Value) {
    let socket = &patch["transport_socket"];
    if socket.is_null() {
        return merge(cluster, patch);
    }
    let put = |old: &mut Value| {
        if old["name"] == socket["name"] {
            merge(&mut old["typed_config"], &socket["typed_config"]);
        } else {
            *old = socket.clone();
        }
    };
    match cluster["transport_socket_matches"].as_array_mut() {
        Some(matches) => {
            let same = |entry: &&mut Value| entry["transport_socket"]["name"] == socket["name"];
            let same = matches.iter_mut().find(same);
            same.into_iter().for_each(|entry| put(&mut entry["transport_socket"]));
        }
        None => put(&mut cluster["transport_socket"]),
    }
}

/// Whether a patch is for proxies of this version and metadata.
fn proxy_fits(wanted: &Value, proxy: &Proxy) -> Result<bool> {
    let has = |(name, value): (&String, &Value)| {
        proxy.metadata.get(name).is_some_and(|found| value == found.as_str())
    };
    if !wanted["metadata"].as_object().into_iter().flatten().all(has) {
        return Ok(false);
    }
    let Some(version) = wanted["proxyVersion"].as_str() else { return Ok(true) };
    Ok(Regex::new(version)?.is_match(&proxy.version))
}
