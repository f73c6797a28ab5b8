//! What the module calls in the host: the imported functions, and a safe one around each.

use super::memory::HostBytes;

/// `WasmResult::Ok` of the ABI; every other value is an error.
pub(crate) const STATUS_OK: u32 = 0;

/// Log levels of the ABI.
#[derive(Clone, Copy)]
pub(crate) enum Level {
    Info = 2,
    Warn = 3,
    Error = 4,
}

/// Buffers of the ABI that Slotmesh reads or changes.
#[derive(Clone, Copy)]
pub(crate) enum Buffer {
    HttpRequestBody = 0,
    HttpResponseBody = 1,
    Downstream = 2,
    GrpcReceive = 5,
    PluginConfiguration = 7,
}

/// Kinds of metric of the ABI.
#[derive(Clone, Copy)]
pub(crate) enum MetricKind {
    Counter = 0,
    Gauge = 1,
    Histogram = 2,
}

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

pub(crate) fn log(level: Level, message: &str) {
    // SAFETY: the host only reads the message, during the call. There is nobody to tell of an
    // error.
    unsafe { proxy_log(level as u32, message.as_ptr(), message.len()) };
}

pub(crate) fn set_tick_period(milliseconds: u32) -> u32 {
    // SAFETY: no memory is passed.
    unsafe { proxy_set_tick_period_milliseconds(milliseconds) }
}

pub(crate) fn get_buffer(buffer: Buffer, start: usize, max_size: usize) -> Result<HostBytes, u32> {
    receive(|data, size| {
        // SAFETY: `data` and `size` are valid for the host to write to during the call.
        unsafe { proxy_get_buffer_bytes(buffer as u32, start, max_size, data, size) }
    })
}

/// The same, behind other bytes: returns both.
pub(crate) fn get_buffer_behind(
    before: Vec<u8>,
    buffer: Buffer,
    start: usize,
    max_size: usize,
) -> Result<HostBytes, u32> {
    HostBytes::put_before(before);
    get_buffer(buffer, start, max_size).inspect_err(|_| HostBytes::forget_before())
}

pub(crate) fn set_buffer(buffer: Buffer, start: usize, size: usize, bytes: &[u8]) -> u32 {
    // SAFETY: the host only reads `bytes`, during the call.
    unsafe { proxy_set_buffer_bytes(buffer as u32, start, size, bytes.as_ptr(), bytes.len()) }
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

pub(crate) fn define_metric(kind: MetricKind, name: &str) -> Result<u32, u32> {
    let mut id = 0;
    // SAFETY: the host reads the name and writes `id`, both during the call.
    let status = unsafe { proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &mut id) };
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
