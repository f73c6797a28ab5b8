//! What the host offers to a guest: the imports of proxy-wasm 0.2.1, one file per group.
//!
//! Each group has `link`, which names its functions, and the functions themselves below it. A
//! function answers with a [`Failure`](crate::abi::Failure) or nothing; `link` turns that into the
//! ABI's status.

mod buffer;
mod grpc;
mod header;
mod log;
pub(crate) mod metrics;
mod property;
pub(crate) mod queue;
mod stream;
mod time;
mod wasi;

use wasmtime::{Engine, Linker};

use crate::state::State;

/// Everything a guest may import.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    for link in [
        buffer::link,
        grpc::link,
        header::link,
        log::link,
        metrics::link,
        property::link,
        queue::link,
        stream::link,
        time::link,
        wasi::link,
    ] {
        link(&mut linker)?;
    }
    Ok(linker)
}

/// The module of the proxy-wasm functions.
const ENV: &str = "env";
