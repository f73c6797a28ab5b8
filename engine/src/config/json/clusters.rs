//! `clusters`: the words of Envoy's `RedisClusterConfig` and `RedisProtocolOptions`, by the names
//! that routes use.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::{AllowedNodes, ClusterConfig, ClusterKind, ConfigError, HostPattern};
use super::Reader;
use super::credentials::{self, RawCredentials};
use super::data_source::DataSource;
use super::duration::RawDuration;
use super::field::{Entries, Field};
use crate::cluster::Address;
use crate::ids::ClusterId;

/// The Envoy cluster of Slotmesh's own manifests.
const ENVOY_CLUSTER: &str = "slotmesh_upstream";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct RawCluster {
    #[serde(rename = "type")]
    kind: Option<ClusterKind>,
    seeds: Option<Vec<String>>,
    #[serde(alias = "envoyCluster")]
    envoy_cluster: Option<String>,
    #[serde(alias = "envoyClusterForNames")]
    envoy_cluster_for_names: Option<String>,
    #[serde(alias = "clusterRefreshRate")]
    cluster_refresh_rate: Option<RawDuration>,
    #[serde(alias = "clusterRefreshTimeout")]
    cluster_refresh_timeout: Option<RawDuration>,
    #[serde(alias = "redirectRefreshInterval")]
    redirect_refresh_interval: Option<RawDuration>,
    #[serde(alias = "redirectRefreshThreshold")]
    redirect_refresh_threshold: Option<u32>,
    #[serde(alias = "failureRefreshThreshold")]
    failure_refresh_threshold: Option<u32>,
    #[serde(alias = "hostDegradedRefreshThreshold")]
    host_degraded_refresh_threshold: Option<u32>,
    #[serde(alias = "enableZoneDiscovery")]
    enable_zone_discovery: Option<bool>,
    #[serde(alias = "authUsername")]
    auth_username: Option<DataSource>,
    #[serde(alias = "authPassword")]
    auth_password: Option<DataSource>,
    credentials: Option<Vec<RawCredentials>>,
    #[serde(alias = "awsIam")]
    aws_iam: Option<IgnoredAny>,
    zones: Option<Entries<String>>,
    #[serde(alias = "allowedNodes")]
    allowed_nodes: Option<Vec<String>>,
}

/// Checks them all; there is at least one.
pub(super) fn check(
    clusters: Option<Entries<RawCluster>>,
    reader: &mut Reader<'_>,
) -> Result<Vec<ClusterConfig>, ConfigError> {
    let at = Field::new("clusters");
    let mut checked: Vec<ClusterConfig> = Vec::new();
    for (name, cluster) in clusters.map_or_else(Vec::new, |Entries(clusters)| clusters) {
        if checked.iter().any(|cluster| cluster.name == name) {
            return Err(at.member(&name).refuse("is there twice"));
        }
        checked.push(cluster.check(&at.member(&name), name, reader)?);
    }
    if checked.is_empty() {
        return Err(at.refuse("needs at least one cluster"));
    }
    if checked.len() > ClusterId::MOST {
        return Err(at.refuse(format!("has more than {} clusters", ClusterId::MOST)));
    }
    Ok(checked)
}

impl RawCluster {
    fn check(
        self,
        at: &Field,
        name: String,
        reader: &mut Reader<'_>,
    ) -> Result<ClusterConfig, ConfigError> {
        const ON_FAILURE: &str = "every failure asks for a refresh, up to 20 times a second";
        at.member("aws_iam").unsupported(
            self.aws_iam,
            "signing with AWS credentials is not implemented; use auth_username and auth_password",
        )?;
        let seeds = check_seeds(&at.member("seeds"), self.seeds)?;
        let kind = self.kind.unwrap_or_default();
        if kind == ClusterKind::Standalone && seeds.len() > 1 {
            return Err(at.member("seeds").refuse("of a STANDALONE Redis are its one address"));
        }
        reader.no_effect(
            &at.member("failure_refresh_threshold"),
            self.failure_refresh_threshold,
            ON_FAILURE,
        );
        reader.no_effect(
            &at.member("host_degraded_refresh_threshold"),
            self.host_degraded_refresh_threshold,
            ON_FAILURE,
        );
        let envoy_cluster = at
            .member("envoy_cluster")
            .not_empty(self.envoy_cluster)?
            .unwrap_or_else(|| ENVOY_CLUSTER.to_owned());
        let envoy_cluster_for_names = at
            .member("envoy_cluster_for_names")
            .not_empty(self.envoy_cluster_for_names)?
            .unwrap_or_else(|| envoy_cluster.clone());
        let duration = |word, value: Option<RawDuration>, default| match value {
            Some(value) => value.positive(&at.member(word)),
            None => Ok(Duration::from_secs(default)),
        };
        Ok(ClusterConfig {
            name,
            kind,
            seeds,
            envoy_cluster,
            envoy_cluster_for_names,
            refresh_rate: duration("cluster_refresh_rate", self.cluster_refresh_rate, 5)?,
            refresh_timeout: duration("cluster_refresh_timeout", self.cluster_refresh_timeout, 3)?,
            redirect_refresh_interval: duration(
                "redirect_refresh_interval",
                self.redirect_refresh_interval,
                5,
            )?,
            redirect_refresh_threshold: self.redirect_refresh_threshold.unwrap_or(5),
            credentials: credentials::check(
                at,
                self.credentials,
                self.auth_username,
                self.auth_password,
                reader,
            )?,
            enable_zone_discovery: self.enable_zone_discovery.unwrap_or(false),
            zones: check_zones(&at.member("zones"), self.zones)?,
            allowed_nodes: check_allowed(&at.member("allowed_nodes"), self.allowed_nodes)?,
        })
    }
}

fn check_seeds(at: &Field, seeds: Option<Vec<String>>) -> Result<Vec<Address>, ConfigError> {
    let seeds = at.each(seeds, |at, seed| {
        // As in a URL, what stands before the @ may be a password.
        if seed.contains('@') {
            return Err(at.refuse("is not host:port; log in by auth_username and auth_password"));
        }
        Address::parse(&seed)
            .ok_or_else(|| at.refuse(format!("'{seed}' is not host:port or [IPv6]:port")))
    })?;
    if seeds.is_empty() {
        return Err(at.refuse("needs at least one host:port"));
    }
    Ok(seeds)
}

fn check_zones(
    at: &Field,
    zones: Option<Entries<String>>,
) -> Result<Vec<(HostPattern, String)>, ConfigError> {
    let mut checked: Vec<(HostPattern, String)> = Vec::new();
    for (host, zone) in zones.map_or_else(Vec::new, |Entries(zones)| zones) {
        let at = at.member(&host);
        let host = HostPattern::parse(&host).ok_or_else(|| {
            at.refuse("is no host name, *.domain, IP address or network such as 10.0.0.0/8")
        })?;
        if zone.is_empty() {
            return Err(at.refuse("is empty"));
        }
        if checked.iter().any(|(other, _)| *other == host) {
            return Err(at.refuse("is there twice"));
        }
        checked.push((host, zone));
    }
    Ok(checked)
}

/// Reads the nodes that may be dialled: `host`, `host:port` or `host:first-last`.
fn check_allowed(
    at: &Field,
    nodes: Option<Vec<String>>,
) -> Result<Option<AllowedNodes>, ConfigError> {
    if nodes.is_none() {
        return Ok(None);
    }
    let nodes = at.each(nodes, |at, node| {
        let (host, ports) = split_ports(&node).ok_or_else(|| {
            at.refuse("has ports that are not 1 to 65535, as in host:6379 or host:6379-6384")
        })?;
        let host = HostPattern::parse(host).ok_or_else(|| {
            at.refuse(
                "is no network such as 10.0.0.0/8, IP address, host name or *.domain, with or \
                 without ports behind a colon; IPv6 with ports is written [fd00::/8]:6379",
            )
        })?;
        match &host {
            HostPattern::Network(network) if network.trunc() != *network => {
                let (meant, single) = (network.trunc(), network.addr());
                Err(at.refuse(format!("has bits beyond its prefix: write {meant} or {single}")))
            }
            _ => Ok((host, ports)),
        }
    })?;
    Ok(Some(AllowedNodes(nodes)))
}

/// A host and the ports behind it, which are all where none is written; `None`: what is written
/// there are no ports.
fn split_ports(node: &str) -> Option<(&str, RangeInclusive<u16>)> {
    let (host, ports) = match node.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':')?)),
        // Several colons belong to an IPv6 address.
        None => match node.split_once(':') {
            Some((host, ports)) if !ports.contains(':') => (host, Some(ports)),
            _ => (node, None),
        },
    };
    let Some(ports) = ports else { return Some((host, 1..=u16::MAX)) };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let ports: RangeInclusive<u16> = first.parse().ok()?..=last.parse().ok()?;
    (*ports.start() > 0 && !ports.is_empty()).then_some((host, ports))
}
