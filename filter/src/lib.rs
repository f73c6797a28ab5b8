//! Slotmesh as a proxy-wasm module: translates the host's callbacks to engine calls and back, and
//! decides nothing itself.
//!
//! One module plays two roles, told by the plugin's root id: the `router` is a network filter that
//! feeds the engine; the `tunnel` is an HTTP filter on the upstream side that makes raw TCP out of
//! the router's gRPC streams.
//!
//! ```text
//! abi ─► plugin ─► router ─► engine
//!                    │  └──► host, metrics, transport ─► abi
//!                  tunnel ─► host ─► abi
//! ```
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::todo,
    clippy::unimplemented,
    clippy::unreachable,
    clippy::unwrap_used
)]

mod abi;
mod host;
mod id_map;
mod metrics;
mod plugin;
mod router;
mod tickets;
mod transport;
mod tunnel;
