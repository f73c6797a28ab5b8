//! `prefix_routes`: Envoy's `PrefixRoutes`.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::super::{
    ClusterConfig, ConfigError, Fraction, KeyFormatter, Mirror, ReadPolicy, Route, Routes,
};
use super::Reader;
use super::field::Field;
use super::fraction::RawRuntimeFraction;
use crate::ids::{ClusterId, RouteId};

/// Envoy's bound on a prefix, in bytes.
const LONGEST_PREFIX: usize = 1000;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct RawPrefixRoutes {
    routes: Option<Vec<RawRoute>>,
    #[serde(alias = "caseInsensitive")]
    case_insensitive: Option<bool>,
    #[serde(alias = "catchAllRoute")]
    catch_all_route: Option<RawRoute>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct RawRoute {
    prefix: Option<String>,
    #[serde(alias = "removePrefix")]
    remove_prefix: Option<bool>,
    cluster: Option<String>,
    #[serde(alias = "keyFormatter")]
    key_formatter: Option<String>,
    #[serde(alias = "readCommandPolicy")]
    read_command_policy: Option<RawReadCommandPolicy>,
    #[serde(alias = "requestMirrorPolicy")]
    request_mirror_policy: Option<Vec<RawMirror>>,
    #[serde(alias = "readPolicy")]
    read_policy: Option<ReadPolicy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct RawReadCommandPolicy {
    cluster: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct RawMirror {
    cluster: Option<String>,
    #[serde(alias = "runtimeFraction")]
    runtime_fraction: Option<RawRuntimeFraction>,
    #[serde(alias = "excludeReadCommands")]
    exclude_read_commands: Option<bool>,
    #[serde(alias = "drawPerCommand")]
    draw_per_command: Option<bool>,
}

impl RawPrefixRoutes {
    pub(super) fn check(
        self,
        at: &Field,
        clusters: &[ClusterConfig],
        reader: &mut Reader<'_>,
    ) -> Result<Routes, ConfigError> {
        let case_insensitive = self.case_insensitive.unwrap_or(false);
        let mut seen = BTreeSet::new();
        let prefixes = at.member("routes").each(self.routes, |at, route| {
            let prefix = route.check_prefix(&at.member("prefix"))?;
            let folded = if case_insensitive { prefix.to_ascii_lowercase() } else { prefix };
            if !seen.insert(folded) {
                return Err(at.member("prefix").refuse("is there twice"));
            }
            route.check(at, clusters, reader)
        })?;
        if prefixes.len() >= RouteId::MOST {
            return Err(at
                .member("routes")
                .refuse(format!("has {} routes or more", RouteId::MOST)));
        }
        let catch_all = match self.catch_all_route {
            Some(route) => {
                Some(route.check_catch_all(&at.member("catch_all_route"), clusters, reader)?)
            }
            None => None,
        };
        if prefixes.is_empty() && catch_all.is_none() {
            let reason = "cannot configure a redis-proxy without any upstream: \
                          needs catch_all_route or routes";
            return Err(at.refuse(reason));
        }
        Ok(Routes { prefixes, catch_all, case_insensitive })
    }
}

impl RawRoute {
    fn check_prefix(&self, at: &Field) -> Result<String, ConfigError> {
        match self.prefix.as_deref() {
            None | Some("") => Err(at.refuse("is required; all other keys have catch_all_route")),
            Some(prefix) if prefix.len() > LONGEST_PREFIX => {
                Err(at.refuse(format!("is longer than {LONGEST_PREFIX} bytes")))
            }
            Some(prefix) => Ok(prefix.to_owned()),
        }
    }

    fn check_catch_all(
        mut self,
        at: &Field,
        clusters: &[ClusterConfig],
        reader: &mut Reader<'_>,
    ) -> Result<Route, ConfigError> {
        const REASON: &str = "the catch-all route is for keys without a prefix";
        reader.no_effect(&at.member("prefix"), self.prefix.take(), REASON);
        reader.no_effect(&at.member("remove_prefix"), self.remove_prefix.take(), REASON);
        self.check(at, clusters, reader)
    }

    fn check(
        self,
        at: &Field,
        clusters: &[ClusterConfig],
        reader: &mut Reader<'_>,
    ) -> Result<Route, ConfigError> {
        let cluster = index_of(self.cluster, &at.member("cluster"), clusters)?;
        let read_cluster = match self.read_command_policy {
            Some(policy) => {
                let at = at.member("read_command_policy").member("cluster");
                Some(index_of(policy.cluster, &at, clusters)?)
            }
            None => None,
        };
        let mirrors = at
            .member("request_mirror_policy")
            .each(self.request_mirror_policy, |at, mirror| mirror.check(at, clusters, reader))?;
        Ok(Route {
            prefix: self.prefix.unwrap_or_default().into_bytes(),
            remove_prefix: self.remove_prefix.unwrap_or(false),
            key_formatter: check_formatter(
                &at.member("key_formatter"),
                self.key_formatter,
                reader,
            )?,
            cluster,
            read_cluster,
            read_policy: self.read_policy,
            mirrors,
        })
    }
}

impl RawMirror {
    fn check(
        self,
        at: &Field,
        clusters: &[ClusterConfig],
        reader: &mut Reader<'_>,
    ) -> Result<Mirror, ConfigError> {
        let fraction = match self.runtime_fraction {
            Some(fraction) => fraction.check(&at.member("runtime_fraction"), reader)?,
            None => Fraction::ALL,
        };
        Ok(Mirror {
            cluster: index_of(self.cluster, &at.member("cluster"), clusters)?,
            exclude_read_commands: self.exclude_read_commands.unwrap_or(false),
            fraction,
            draw_per_command: self.draw_per_command.unwrap_or(false),
        })
    }
}

fn index_of(
    name: Option<String>,
    at: &Field,
    clusters: &[ClusterConfig],
) -> Result<ClusterId, ConfigError> {
    let name = at.required(name)?;
    let position = clusters.iter().position(|cluster| cluster.name == name);
    position
        .map(ClusterId::new)
        .ok_or_else(|| at.refuse(format!("no cluster '{name}' in clusters")))
}

fn check_formatter(
    at: &Field,
    text: Option<String>,
    reader: &mut Reader<'_>,
) -> Result<Option<KeyFormatter>, ConfigError> {
    let Some(text) = at.not_empty(text)? else { return Ok(None) };
    let formatter = KeyFormatter::parse(&text, &mut reader.attributes);
    formatter.map(Some).map_err(|reason| at.refuse(reason))
}
