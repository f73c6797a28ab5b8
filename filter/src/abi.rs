//! The proxy-wasm 0.2.1 ABI as far as Slotmesh uses it: the functions it imports from the host and
//! those it exports, and the memory that passes between them. The only file with `unsafe`.
//!
//! It is our own rather than the proxy-wasm SDK's for three reasons. The SDK exports every callback
//! there is, and Envoy enters the VM for each that is exported: `proxy_on_upstream_data` alone costs
//! an entry for every reply that the echo filter writes. It files a stream under the context whose
//! callback opened it and drops its events when that context goes, where our connections are shared
//! by clients that come and go. And it panics on statuses that we can answer.

use std::cell::{Cell, RefCell};

use crate::host::Level;
use crate::plugin;

/// `WasmResult::Ok` of the ABI; every other value is an error.
pub(crate) const STATUS_OK: u32 = 0;

/// What a stream callback returns: go on with the next filter.
const ACTION_CONTINUE: u32 = 0;
/// Stop here until told to go on.
const ACTION_PAUSE: u32 = 1;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, message: *const u8, message_size: usize) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        max_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_set_buffer_bytes(
        buffer: u32,
        start: usize,
        size: usize,
        data: *const u8,
        data_size: usize,
    ) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_property(
        path: *const u8,
        path_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_set_property(
        path: *const u8,
        path_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_grpc_stream(
        service: *const u8,
        service_size: usize,
        name: *const u8,
        name_size: usize,
        method: *const u8,
        method_size: usize,
        metadata: *const u8,
        metadata_size: usize,
        token: *mut u32,
    ) -> u32;
    fn proxy_grpc_send(token: u32, message: *const u8, size: usize, end_of_stream: u32) -> u32;
    fn proxy_grpc_cancel(token: u32) -> u32;
    fn proxy_get_status(code: *mut u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_close_stream(stream: u32) -> u32;
    fn proxy_register_shared_queue(name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_enqueue_shared_queue(id: u32, data: *const u8, size: usize) -> u32;
    fn proxy_dequeue_shared_queue(id: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u32;
    fn random_get(buffer: *mut u8, size: usize) -> u32;
    fn environ_sizes_get(count: *mut usize, size: *mut usize) -> u32;
    fn environ_get(variables: *mut *mut u8, buffer: *mut u8) -> u32;
}

thread_local! {
    /// A buffer for the next thing that the host wants to hand over.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Capacity of the buffer that the host is filling, or has filled last.
    static LENT_CAPACITY: Cell<usize> = const { Cell::new(0) };
}

/// A spare buffer that has grown beyond this is freed.
const KEPT_CAPACITY: usize = 1024 * 1024;

/// Bytes that the host handed over; their memory is used again for the next.
pub(crate) struct HostBytes(Vec<u8>);

impl HostBytes {
    fn empty() -> Self {
        Self(Vec::new())
    }

    /// Takes over what the host has put into memory of ours.
    fn adopt(data: *mut u8, size: usize) -> Self {
        let capacity = LENT_CAPACITY.replace(0);
        if data.is_null() || size > capacity {
            return Self::empty();
        }
        // SAFETY: in every call that returns memory the host asks `proxy_on_memory_allocate` for it
        // once, fills it and returns it; `data` is what that function returned last, the pointer of
        // a leaked `Vec<u8>` of `capacity` bytes, the first `size` of which the host has written.
        Self(unsafe { Vec::from_raw_parts(data, size, capacity) })
    }
}

impl std::ops::Deref for HostBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for HostBytes {
    fn drop(&mut self) {
        let mut spent = std::mem::take(&mut self.0);
        if spent.capacity() <= KEPT_CAPACITY {
            spent.clear();
            SPARE.with_borrow_mut(|spare| {
                if spare.capacity() < spent.capacity() {
                    *spare = spent;
                }
            });
        }
    }
}

pub(crate) fn log(level: Level, message: &str) {
    // SAFETY: the host only reads the message, during the call. There is nobody to tell of an error.
    unsafe { proxy_log(level as u32, message.as_ptr(), message.len()) };
}

pub(crate) fn set_tick_period(milliseconds: u32) -> u32 {
    // SAFETY: no memory is passed.
    unsafe { proxy_set_tick_period_milliseconds(milliseconds) }
}

pub(crate) fn get_buffer(buffer: u32, start: usize, max_size: usize) -> Result<HostBytes, u32> {
    receive(|data, size| {
        // SAFETY: `data` and `size` are valid for the host to write to during the call.
        unsafe { proxy_get_buffer_bytes(buffer, start, max_size, data, size) }
    })
}

pub(crate) fn set_buffer(buffer: u32, start: usize, size: usize, bytes: &[u8]) -> u32 {
    // SAFETY: the host only reads `bytes`, during the call.
    unsafe { proxy_set_buffer_bytes(buffer, start, size, bytes.as_ptr(), bytes.len()) }
}

pub(crate) fn get_header(map: u32, name: &[u8]) -> Result<HostBytes, u32> {
    receive(|data, size| {
        // SAFETY: the host reads `name` and writes `data` and `size`, all during the call.
        unsafe { proxy_get_header_map_value(map, name.as_ptr(), name.len(), data, size) }
    })
}

pub(crate) fn get_property(path: &[u8]) -> Result<HostBytes, u32> {
    receive(|data, size| {
        // SAFETY: the host reads `path` and writes `data` and `size`, all during the call.
        unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) }
    })
}

pub(crate) fn set_property(path: &[u8], value: &[u8]) -> u32 {
    // SAFETY: the host only reads both, during the call.
    unsafe { proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) }
}

pub(crate) fn grpc_stream(
    service: &[u8],
    name: &[u8],
    method: &[u8],
    metadata: &[u8],
) -> Result<u32, u32> {
    let mut token = 0;
    // SAFETY: the host reads the four byte strings and writes `token`, all during the call.
    let status = unsafe {
        proxy_grpc_stream(
            service.as_ptr(),
            service.len(),
            name.as_ptr(),
            name.len(),
            method.as_ptr(),
            method.len(),
            metadata.as_ptr(),
            metadata.len(),
            &mut token,
        )
    };
    if status == STATUS_OK { Ok(token) } else { Err(status) }
}

pub(crate) fn grpc_send(token: u32, message: &[u8]) -> u32 {
    // SAFETY: the host only reads the message, during the call.
    unsafe { proxy_grpc_send(token, message.as_ptr(), message.len(), 0) }
}

pub(crate) fn grpc_cancel(token: u32) -> u32 {
    // SAFETY: no memory is passed.
    unsafe { proxy_grpc_cancel(token) }
}

pub(crate) fn get_status() -> Result<(u32, HostBytes), u32> {
    let mut code = 0;
    let message = receive(|data, size| {
        // SAFETY: all three are valid for the host to write to during the call.
        unsafe { proxy_get_status(&mut code, data, size) }
    })?;
    Ok((code, message))
}

pub(crate) fn set_effective_context(context: u32) -> u32 {
    // SAFETY: no memory is passed.
    unsafe { proxy_set_effective_context(context) }
}

pub(crate) fn continue_stream(stream: u32) -> u32 {
    // SAFETY: no memory is passed.
    unsafe { proxy_continue_stream(stream) }
}

pub(crate) fn close_stream(stream: u32) -> u32 {
    // SAFETY: no memory is passed.
    unsafe { proxy_close_stream(stream) }
}

pub(crate) fn register_queue(name: &[u8]) -> Result<u32, u32> {
    let mut id = 0;
    // SAFETY: the host reads the name and writes `id`, both during the call.
    let status = unsafe { proxy_register_shared_queue(name.as_ptr(), name.len(), &mut id) };
    if status == STATUS_OK { Ok(id) } else { Err(status) }
}

pub(crate) fn enqueue(id: u32, data: &[u8]) -> u32 {
    // SAFETY: the host only reads `data`, during the call.
    unsafe { proxy_enqueue_shared_queue(id, data.as_ptr(), data.len()) }
}

pub(crate) fn dequeue(id: u32) -> Result<HostBytes, u32> {
    receive(|data, size| {
        // SAFETY: `data` and `size` are valid for the host to write to during the call.
        unsafe { proxy_dequeue_shared_queue(id, data, size) }
    })
}

pub(crate) fn define_metric(kind: u32, name: &str) -> Result<u32, u32> {
    let mut id = 0;
    // SAFETY: the host reads the name and writes `id`, both during the call.
    let status = unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), &mut id) };
    if status == STATUS_OK { Ok(id) } else { Err(status) }
}

pub(crate) fn increment_metric(id: u32, offset: i64) -> u32 {
    // SAFETY: no memory is passed.
    unsafe { proxy_increment_metric(id, offset) }
}

pub(crate) fn record_metric(id: u32, value: u64) -> u32 {
    // SAFETY: no memory is passed.
    unsafe { proxy_record_metric(id, value) }
}

/// Nanoseconds of the host's monotonic clock.
pub(crate) fn monotonic_time() -> u64 {
    const MONOTONIC: u32 = 1;
    let mut time = 0;
    // SAFETY: `time` is valid for the host to write to during the call.
    unsafe { clock_time_get(MONOTONIC, 0, &mut time) };
    time
}

/// A number nobody can guess; 0 if the host has none.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: `bytes` is valid for the host to write to during the call.
    unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) };
    u64::from_le_bytes(bytes)
}

/// The environment variables of this VM, as `name=value`.
pub(crate) fn environment() -> Vec<Vec<u8>> {
    let (mut count, mut size) = (0, 0);
    // SAFETY: both are valid for the host to write to during the call.
    let status = unsafe { environ_sizes_get(&mut count, &mut size) };
    if status != STATUS_OK || count == 0 || size == 0 {
        return Vec::new();
    }
    let mut pointers = vec![std::ptr::null_mut(); count];
    let mut buffer = vec![0; size];
    // SAFETY: there is room for the `count` pointers and `size` bytes that the host has announced.
    let status = unsafe { environ_get(pointers.as_mut_ptr(), buffer.as_mut_ptr()) };
    if status != STATUS_OK {
        return Vec::new();
    }
    // Each variable ends with a NUL; the pointers say nothing that the buffer does not.
    let variables = buffer.split(|byte| *byte == 0).filter(|variable| !variable.is_empty());
    variables.map(<[u8]>::to_vec).collect()
}

/// Makes a host call that returns memory.
fn receive(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<HostBytes, u32> {
    let (mut data, mut size) = (std::ptr::null_mut(), 0);
    match call(&mut data, &mut size) {
        STATUS_OK => Ok(HostBytes::adopt(data, size)),
        status => Err(status),
    }
}

/// Tells the host which ABI this module speaks.
#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

/// Gives the host memory for what a call of ours returns; see [`HostBytes::adopt`].
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    let mut buffer = SPARE.take();
    buffer.clear();
    buffer.reserve_exact(size);
    LENT_CAPACITY.set(buffer.capacity());
    std::mem::ManuallyDrop::new(buffer).as_mut_ptr()
}

/// A root context (without parent) or a connection's has been made.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(context: u32, parent: u32) {
    plugin::on_context_create(context, parent);
}

/// The VM starts.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_vm_start(_root: u32, _configuration_size: usize) -> u32 {
    plugin::on_vm_start();
    1
}

/// A plugin is configured; 0 refuses.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(root: u32, configuration_size: usize) -> u32 {
    u32::from(plugin::on_configure(root, configuration_size))
}

/// The timer of a root context has fired.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(root: u32) {
    plugin::on_tick(root);
}

/// What was put into a queue of a root context's can be taken out.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_queue_ready(root: u32, _queue: u32) {
    plugin::on_queue_ready(root);
}

/// A client has sent bytes.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_downstream_data(context: u32, size: usize, _end: u32) -> u32 {
    plugin::on_downstream_data(context, size);
    ACTION_PAUSE
}

/// A client has gone, or has been closed.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_downstream_connection_close(context: u32, _peer: u32) {
    plugin::on_downstream_close(context);
}

/// A connection to a node has been established: Envoy's TCP upstream makes up response headers. For
/// one that was refused it reports none.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_receive_initial_metadata(_root: u32, token: u32, headers: u32) {
    if headers > 0 {
        plugin::on_upstream_open(token);
    }
}

/// A node has sent bytes.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_receive(_root: u32, token: u32, size: usize) {
    plugin::on_upstream_data(token, size);
}

/// A connection to a node has ended, or could not be established.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_close(_root: u32, token: u32, status: u32) {
    plugin::on_upstream_close(token, status);
}

/// The tunnel: a connection to a node is being opened.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(context: u32, _headers: u32, _end: u32) -> u32 {
    plugin::on_request_headers(context);
    ACTION_CONTINUE
}

/// The tunnel: bytes to a node.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(context: u32, size: usize, _end: u32) -> u32 {
    plugin::on_request_body(context, size);
    ACTION_CONTINUE
}

/// The tunnel: bytes from a node.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_body(context: u32, size: usize, _end: u32) -> u32 {
    plugin::on_response_body(context, size);
    ACTION_CONTINUE
}

/// A context has ended.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(context: u32) {
    plugin::on_delete(context);
}
