//! The host against small guests in WAT, each made to show one thing.

mod binary;
mod buffers;
mod calls;
mod deferral;
mod failure;
mod sockets;
mod start;
mod streams;
mod support;
