//! A real Redis Cluster and a real Envoy on loopback, for tests, demo and bench.
//!
//! ```no_run
//! use slotmesh_testbed::{ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster};
//!
//! # fn main() -> anyhow::Result<()> {
//! let cluster = RedisCluster::start(ClusterOptions::default())?;
//! let envoy = Envoy::start(EnvoyOptions::new(PluginConfig::from_seeds(&cluster.seeds())))?;
//! println!("redis-cli -p {}", envoy.addr().port());
//! # Ok(()) }
//! ```
//!
//! Every value owns the processes it started. Dropping it ends them by pid and removes their
//! files, also while a test panics; should the test process itself be killed, the kernel ends them.
//! Ports are picked free at run time and stay reserved, between all users of this crate on the
//! machine, until their owner is dropped. Nothing waits for longer than a deadline, and nothing
//! sleeps except between two looks at a condition.

mod cluster;
mod envoy;
mod host;
mod member;
mod optional;
mod plugin;
mod port;
mod reload;
mod server;
mod temp;

pub mod compare;
pub mod locate;
pub mod process;
pub mod wait;
pub mod walkthrough;
pub mod wire;

pub use cluster::{ClusterOptions, RedisCluster};
pub use envoy::{Envoy, EnvoyOptions, upstream_tls};
pub use host::{Host, HostOptions};
pub use member::{Member, Role};
pub use optional::or_skip;
pub use plugin::{ENVOY_CLUSTER, PluginConfig};
pub use port::{Port, holder};
pub use server::{RedisServer, Security, Tls};
pub use temp::TempDir;
