//! The proxy-wasm 0.2.1 ABI as far as Slotmesh uses it. The only module with `unsafe`.
//!
//! It is our own rather than the proxy-wasm SDK's for three reasons. The SDK exports every callback
//! there is, and Envoy enters the VM for each that is exported: `proxy_on_upstream_data` alone
//! costs an entry for every reply that the echo filter writes. It files a stream under the context
//! whose callback opened it and drops its events when that context goes, where our connections are
//! shared by clients that come and go. And it panics on statuses that we can answer.
//!
//! It knows nothing of the rest of the module: who wants the callbacks implements [`Callbacks`].

mod callbacks;
mod imports;
mod memory;

pub(crate) use callbacks::{BodyAction, Callbacks, export_callbacks};
pub(crate) use imports::*;
pub(crate) use memory::HostBytes;
