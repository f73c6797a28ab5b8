//! The host's functions in words: nothing here decides anything, nothing panics.

use std::collections::HashMap;
use std::fmt;

use slotmesh_engine::Instant;

use crate::abi::{self, HostBytes};
pub(crate) use crate::abi::{Buffer, Level, MetricKind};

/// A status other than "ok".
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostError(u32);

/// The stream between a client and the proxy, in [`abi::continue_stream`] and
/// [`abi::close_stream`].
const DOWNSTREAM: u32 = 2;

pub(crate) fn log(level: Level, message: &str) {
    abi::log(level, message);
}

pub(crate) fn now() -> Instant {
    Instant::from_nanos(abi::monotonic_time())
}

pub(crate) fn random() -> u64 {
    abi::random()
}

/// Asks for a tick of this root context every so many milliseconds; 0 for none.
pub(crate) fn set_tick_period(milliseconds: u32) {
    // Fails only for contexts that are gone.
    let _ = abi::set_tick_period(milliseconds);
}

/// `size` bytes of `buffer` from `start` on, or as many as there are.
pub(crate) fn read(buffer: Buffer, start: usize, size: usize) -> Result<HostBytes, HostError> {
    abi::get_buffer(buffer, start, size).map_err(HostError)
}

/// The same, behind other bytes: returns both.
pub(crate) fn read_behind(
    before: Vec<u8>,
    buffer: Buffer,
    start: usize,
    size: usize,
) -> Result<HostBytes, HostError> {
    abi::get_buffer_behind(before, buffer, start, size).map_err(HostError)
}

/// Puts `bytes` in the place of the first `size` bytes of `buffer`.
pub(crate) fn replace_start(buffer: Buffer, size: usize, bytes: &[u8]) -> Result<(), HostError> {
    check(abi::set_buffer(buffer, 0, size, bytes))
}

/// Puts `bytes` behind all that `buffer` holds.
pub(crate) fn append(buffer: Buffer, bytes: &[u8]) -> Result<(), HostError> {
    check(abi::set_buffer(buffer, usize::MAX, 0, bytes))
}

/// The value of a header of the request whose filter is called.
pub(crate) fn request_header(name: &str) -> Result<HostBytes, HostError> {
    const REQUEST_HEADERS: u32 = 0;
    abi::get_header(REQUEST_HEADERS, name.as_bytes()).map_err(HostError)
}

/// The value of a property, by its path.
pub(crate) fn property(path: &[&str]) -> Result<HostBytes, HostError> {
    abi::get_property(path.join("\0").as_bytes()).map_err(HostError)
}

/// Keeps a property of the client's connection; Envoy's other filters see it as filter state
/// `wasm.<name>`.
pub(crate) fn set_property(name: &str, value: &str) -> Result<(), HostError> {
    check(abi::set_property(name.as_bytes(), value.as_bytes()))
}

/// The variables that `vm_config.environment_variables` gives this VM.
pub(crate) fn environment() -> HashMap<Vec<u8>, Vec<u8>> {
    abi::environment()
        .into_iter()
        .filter_map(|variable| {
            let equals = variable.iter().position(|byte| *byte == b'=')?;
            let (name, value) = variable.split_at(equals);
            Some((name.to_vec(), value.get(1..)?.to_vec()))
        })
        .collect()
}

/// Makes the calls that follow in this callback speak of `context`.
pub(crate) fn set_effective_context(context: u32) -> Result<(), HostError> {
    check(abi::set_effective_context(context))
}

/// Hands what is in the downstream buffer on to the next filter.
pub(crate) fn resume_downstream() -> Result<(), HostError> {
    check(abi::continue_stream(DOWNSTREAM))
}

/// Closes the client's connection after what was written to it has been sent.
pub(crate) fn close_downstream() -> Result<(), HostError> {
    check(abi::close_stream(DOWNSTREAM))
}

/// Opens a gRPC stream; returns its token.
pub(crate) fn open_stream(
    service: &[u8],
    name: &str,
    method: &str,
    metadata: &[u8],
) -> Result<u32, HostError> {
    abi::grpc_stream(service, name.as_bytes(), method.as_bytes(), metadata).map_err(HostError)
}

pub(crate) fn send(token: u32, message: &[u8]) -> Result<(), HostError> {
    check(abi::grpc_send(token, message))
}

/// A queue of this root context's own; returns its id.
pub(crate) fn register_queue(name: &str) -> Result<u32, HostError> {
    abi::register_queue(name.as_bytes()).map_err(HostError)
}

/// Has the host report the queue to its root context after the events that it has at hand.
pub(crate) fn wake(queue: u32) -> Result<(), HostError> {
    check(abi::enqueue(queue, b""))
}

/// Empties a queue that the host has reported.
pub(crate) fn awaken(queue: u32) {
    let _ = abi::dequeue(queue);
}

/// Resets a stream; no event follows.
pub(crate) fn cancel(token: u32) {
    // Fails only for streams that are gone.
    let _ = abi::grpc_cancel(token);
}

/// What the host says about the end of the stream whose callback is running.
pub(crate) fn close_message() -> Option<String> {
    let (_, message) = abi::get_status().ok()?;
    (!message.is_empty()).then(|| String::from_utf8_lossy(&message).into_owned())
}

/// Defines a metric, or finds the one of this name; returns its id.
pub(crate) fn define_metric(kind: MetricKind, name: &str) -> Result<u32, HostError> {
    abi::define_metric(kind, name).map_err(HostError)
}

/// Adds to a counter, or moves a gauge up or down.
pub(crate) fn shift_metric(id: u32, by: i64) {
    // Fails only for ids that were never defined.
    let _ = abi::increment_metric(id, by);
}

/// Adds a value to a histogram.
pub(crate) fn record_metric(id: u32, value: u64) {
    // Fails only for ids that were never defined.
    let _ = abi::record_metric(id, value);
}

fn check(status: u32) -> Result<(), HostError> {
    if status == abi::STATUS_OK { Ok(()) } else { Err(HostError(status)) }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host status {}", self.0)
    }
}
