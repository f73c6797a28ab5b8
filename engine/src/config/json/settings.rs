//! `settings`: Envoy's `ConnPoolSettings`.

use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::{ConfigError, Limits, ReadPolicy};
use super::Reader;
use super::duration::RawDuration;
use super::field::Field;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct RawSettings {
    #[serde(alias = "opTimeout")]
    op_timeout: Option<RawDuration>,
    #[serde(alias = "enableHashtagging")]
    enable_hashtagging: Option<bool>,
    #[serde(alias = "enableRedirection")]
    enable_redirection: Option<bool>,
    #[serde(alias = "maxBufferSizeBeforeFlush")]
    max_buffer_size_before_flush: Option<u32>,
    #[serde(alias = "bufferFlushTimeout")]
    buffer_flush_timeout: Option<RawDuration>,
    #[serde(alias = "maxUpstreamUnknownConnections")]
    max_upstream_unknown_connections: Option<u32>,
    #[serde(alias = "readPolicy")]
    read_policy: Option<ReadPolicy>,
    #[serde(alias = "enableCommandStats")]
    enable_command_stats: Option<bool>,
    #[serde(alias = "dnsCacheConfig")]
    dns_cache_config: Option<IgnoredAny>,
    #[serde(alias = "connectionRateLimit")]
    connection_rate_limit: Option<RawConnectionRateLimit>,
    #[serde(alias = "connectionsPerNode")]
    connections_per_node: Option<u32>,
    #[serde(alias = "clusterEmulation")]
    cluster_emulation: Option<bool>,
    #[serde(alias = "maxMemoryBytesPerWorker")]
    max_memory_bytes_per_worker: Option<u32>,
    zone: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct RawConnectionRateLimit {
    #[serde(alias = "connectionRateLimitPerSec")]
    connection_rate_limit_per_sec: Option<u32>,
}

/// The fields of [`Config`](super::super::Config) that `settings` holds.
pub(super) struct Settings {
    pub(super) op_timeout: Duration,
    pub(super) read_policy: ReadPolicy,
    pub(super) enable_redirection: bool,
    pub(super) enable_command_stats: bool,
    pub(super) max_upstream_unknown_connections: u32,
    pub(super) connection_rate_limit: Option<u32>,
    pub(super) connections_per_node: u32,
    pub(super) cluster_emulation: bool,
    pub(super) limits: Limits,
    pub(super) zone: Option<String>,
}

impl RawSettings {
    pub(super) fn check(
        self,
        at: &Field,
        reader: &mut Reader<'_>,
    ) -> Result<Settings, ConfigError> {
        const BATCHED: &str = "what one callback produced is sent at once, without waiting";
        let op_timeout = at.member("op_timeout");
        let op_timeout = op_timeout.required(self.op_timeout)?.positive(&op_timeout)?;
        let per_node = self.connections_per_node.unwrap_or(1);
        if !(1..=64).contains(&per_node) {
            return Err(at.member("connections_per_node").refuse("must be from 1 to 64"));
        }
        reader.no_effect(
            &at.member("enable_hashtagging"),
            self.enable_hashtagging,
            "a Redis Cluster always hashes the tag of a key",
        );
        reader.no_effect(
            &at.member("max_buffer_size_before_flush"),
            self.max_buffer_size_before_flush,
            BATCHED,
        );
        reader.no_effect(&at.member("buffer_flush_timeout"), self.buffer_flush_timeout, BATCHED);
        reader.no_effect(
            &at.member("dns_cache_config"),
            self.dns_cache_config,
            "the Envoy cluster through which nodes are dialled resolves their names",
        );
        Ok(Settings {
            op_timeout,
            read_policy: self.read_policy.unwrap_or_default(),
            enable_redirection: self.enable_redirection.unwrap_or(true),
            enable_command_stats: self.enable_command_stats.unwrap_or(false),
            max_upstream_unknown_connections: self.max_upstream_unknown_connections.unwrap_or(100),
            connection_rate_limit: self
                .connection_rate_limit
                .map(|limit| limit.check(&at.member("connection_rate_limit")))
                .transpose()?,
            connections_per_node: per_node,
            cluster_emulation: self.cluster_emulation.unwrap_or(false),
            limits: limits(
                &at.member("max_memory_bytes_per_worker"),
                self.max_memory_bytes_per_worker,
            )?,
            zone: at.member("zone").not_empty(self.zone)?,
        })
    }
}

fn limits(at: &Field, memory: Option<u32>) -> Result<Limits, ConfigError> {
    let memory = memory.map_or(Limits::DEFAULT_MEMORY, |bytes| bytes as usize);
    let (least, most) = (Limits::LEAST_MEMORY, Limits::MOST_MEMORY);
    match memory {
        _ if (least..=most).contains(&memory) => Ok(Limits::for_memory(memory)),
        _ => Err(at.refuse(format!("must be from {least} to {most}"))),
    }
}

impl RawConnectionRateLimit {
    fn check(self, at: &Field) -> Result<u32, ConfigError> {
        let at = at.member("connection_rate_limit_per_sec");
        match at.required(self.connection_rate_limit_per_sec)? {
            0 => Err(at.refuse("must be greater than 0")),
            limit => Ok(limit),
        }
    }
}
