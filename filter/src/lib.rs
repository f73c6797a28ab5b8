//! Slotmesh as a proxy-wasm module: translates the host's callbacks to engine calls and back, and
//! decides nothing itself.
//!
//! One module plays two roles, told by the plugin's root id: the `router` is a network filter that
//! feeds the engine; the `tunnel` is an HTTP filter on the upstream side that makes raw TCP out of
//! the router's gRPC streams.
//!
//! ```text
//! plugin ─► router ─► engine
//!   │         └──► client, call, metrics, transport ─► host ─► abi
//!   └─────► tunnel ─► transport
//! ```
//!
//! `plugin` implements `abi::Callbacks`; `abi` knows no other module. `encoding`, `framing`,
//! `id_map`, `scope` and `tickets` never call the host: they have native tests, for which the rest
//! is left out.
#![deny(
    unsafe_code,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::todo,
    clippy::unimplemented,
    clippy::unreachable,
    clippy::unwrap_used
)]

#[cfg(not(test))]
#[allow(unsafe_code, reason = "pointers are how a host and its module exchange bytes")]
mod abi;
#[cfg(not(test))]
mod call;
#[cfg(not(test))]
mod client;
mod encoding;
mod framing;
#[cfg(not(test))]
mod host;
mod id_map;
#[cfg(not(test))]
mod metrics;
#[cfg(not(test))]
mod plugin;
#[cfg(not(test))]
mod router;
mod scope;
mod tickets;
#[cfg(not(test))]
mod transport;
#[cfg(not(test))]
mod tunnel;

#[cfg(not(test))]
abi::export_callbacks!(crate::plugin::Module);
