//! A proxy-wasm network host on wasmtime: runs the real Slotmesh .wasm outside Envoy.
//!
//! One .wasm is two plugins, in one VM or in two: the router, a network filter, and the tunnel, an
//! HTTP filter between the router's gRPC streams and the nodes. [`Host`] is both of them and the
//! part of Envoy around them, without I/O. Two drivers give it a world: [`Simulation`], a virtual
//! clock with clients and nodes that a test plays, and [`Server`], real sockets.
//!
//! Where this host is not like Envoy, DIFFERENCES.md says so, and why that is safe.

mod abi;
mod calls;
mod clock;
mod config;
mod envoy;
mod grpc;
mod headers;
mod host;
mod log;
mod random;
pub mod simulation;
pub mod sockets;
mod state;
mod vm;

pub use crate::{
    abi::GrpcStatus,
    calls::metrics::Metric,
    clock::Clock,
    config::{Config, HostSelection, Reentrancy, Role, Vms},
    host::{ClientId, Effect, Host, UpstreamId, Usage},
    log::{Level, Line, Log},
    simulation::{Accept, Chunking, Connection, Peer, Simulation, answering},
    sockets::{Running, ServeError, Server, Stopper},
    vm::{StartError, Wasm},
};
