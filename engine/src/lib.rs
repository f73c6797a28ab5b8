//! Slotmesh's proxy as a pure state machine: no I/O, no clock, no randomness, no host.
//!
//! A command travels through the modules in this order, and its reply back again:
//!
//! ```text
//! client bytes ─► proxy::downstream ─► resp::request ─► command ─► route ─► cluster::slot
//!                                                                                │
//!  node bytes ◄─ upstream::pipeline ◄─ cluster::shard ◄─ proxy::dispatch ◄─ split ◄┘
//!
//!  node bytes ─► resp::scan ─► proxy::upstream ─► cluster::redirect ─► (hold, dispatch again)
//!                                     │
//! client bytes ◄─ session ◄─ proxy::deliver ◄─ split
//! ```
//!
//! [`Proxy`] owns everything. Its driver reports what happened (`handle_*`), then does what it is
//! told ([`Proxy::poll_output`]) until there is nothing left, then arms one timer
//! ([`Proxy::poll_timeout`]).
#![forbid(unsafe_code)]
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::todo,
    clippy::unimplemented,
    clippy::unreachable,
    clippy::unwrap_used
)]

mod arena;
mod arrivals;
mod auth;
mod blocking;
mod buffers;
mod cluster;
pub mod command;
pub mod config;
mod cursor;
mod hold;
mod identity;
mod info;
mod join;
mod mirror;
mod output;
mod proxy;
mod pubsub;
mod request;
pub mod resp;
mod rng;
mod route;
mod scripts;
mod session;
mod split;
mod stats;
mod time;
mod tracking;
mod transaction;
mod upstream;

pub use arena::Key;
pub use cluster::{Address, SLOTS, Slot};
pub use config::{Config, ConfigError};
pub use output::{LogLevel, Output};
pub use proxy::{Kept, Proxy};
pub use pubsub::TopicKind;
pub use session::{Session, SessionId};
pub use stats::{Change, Metric, MetricId, MetricKind, Stats, documented as documented_metrics};
pub use time::Instant;
pub use upstream::{Connection, ConnectionId};
