//! Slotmesh's proxy as a pure state machine: no I/O, no clock, no randomness, no host.
//!
//! A command travels through the modules in this order, and its reply back again:
//!
//! ```text
//! client bytes ─► proxy::read ─► proxy::execute ─► exchange::keyed ─► exchange::command ─► flight
//!                                                                            │
//!  node bytes ◄───────────── upstream ◄── exchange::send ◄───────────────────┘
//!
//!  node bytes ─► upstream::receive ─► exchange::replies ─► exchange::redirect ─► exchange::send
//!                                           │
//! client bytes ◄──── downstream ◄──── exchange::deliver
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
mod auth;
mod blocking;
mod budget;
mod buffers;
mod cluster;
pub mod command;
pub mod config;
mod cursor;
mod downstream;
mod errors;
mod exchange;
mod features;
mod flight;
mod ids;
mod mirror;
mod offer;
mod output;
mod pool_key;
mod proxy;
pub mod resp;
mod rng;
mod route;
mod scripts;
mod sort;
mod stats;
mod target;
mod throttle;
mod time;
mod tracking;
mod transaction;
mod upstream;

pub use arena::Key;
pub use cluster::{Address, SLOTS, Slot};
pub use command::TopicKind;
pub use config::{Config, ConfigError};
pub use ids::{ClusterId, Connection, ConnectionId, Session, SessionId};
pub use output::{LogLevel, Output};
pub use proxy::{Kept, Proxy};
pub use stats::{Change, Metric, MetricId, MetricKind, Stats, documented as documented_metrics};
pub use time::Instant;
