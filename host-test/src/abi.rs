//! The numbers of the proxy-wasm 0.2.1 ABI and the guest's memory as host calls see it.
//!
//! Every pointer a guest passes is checked here and nowhere else: one that does not lie inside the
//! guest's memory becomes [`Status::InvalidMemoryAccess`], never a host fault.

use wasmtime::{AsContextMut, Caller, Memory};

use crate::{envoy::Envoy, state::State};

/// What a host call answers: `WasmResult` of proxy-wasm-cpp-host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Status {
    /// The call did what it says.
    Ok = 0,
    /// No such stream, property, metric or buffer.
    NotFound = 1,
    /// An argument the call does not accept.
    BadArgument = 2,
    /// Bytes that do not parse.
    ParseFailure = 4,
    /// A pointer outside the guest's memory, or a guest out of memory.
    InvalidMemoryAccess = 6,
    /// Nothing in the queue.
    Empty = 7,
    /// The host could not do it, although the arguments are right.
    InternalFailure = 10,
    /// The ABI has it, Envoy does not.
    Unimplemented = 12,
}

/// The buffers that `proxy_get_buffer_bytes` and `proxy_set_buffer_bytes` name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BufferType {
    HttpRequestBody,
    HttpResponseBody,
    DownstreamData,
    UpstreamData,
    HttpCallResponseBody,
    GrpcReceiveBuffer,
    VmConfiguration,
    PluginConfiguration,
    CallData,
}

impl TryFrom<u32> for BufferType {
    type Error = Status;

    fn try_from(number: u32) -> Result<Self, Status> {
        Ok(match number {
            0 => Self::HttpRequestBody,
            1 => Self::HttpResponseBody,
            2 => Self::DownstreamData,
            3 => Self::UpstreamData,
            4 => Self::HttpCallResponseBody,
            5 => Self::GrpcReceiveBuffer,
            6 => Self::VmConfiguration,
            7 => Self::PluginConfiguration,
            8 => Self::CallData,
            _ => return Err(Status::BadArgument),
        })
    }
}

/// The streams that `proxy_continue_stream` and `proxy_close_stream` name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum StreamType {
    HttpRequest,
    HttpResponse,
    Downstream,
    Upstream,
}

impl TryFrom<u32> for StreamType {
    type Error = Status;

    fn try_from(number: u32) -> Result<Self, Status> {
        Ok(match number {
            0 => Self::HttpRequest,
            1 => Self::HttpResponse,
            2 => Self::Downstream,
            3 => Self::Upstream,
            _ => return Err(Status::BadArgument),
        })
    }
}

/// The header maps that this host has; the ABI's others answer [`Status::BadArgument`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MapType {
    HttpRequestHeaders,
    HttpResponseHeaders,
    GrpcReceiveInitialMetadata,
}

impl TryFrom<u32> for MapType {
    type Error = Status;

    fn try_from(number: u32) -> Result<Self, Status> {
        Ok(match number {
            0 => Self::HttpRequestHeaders,
            2 => Self::HttpResponseHeaders,
            4 => Self::GrpcReceiveInitialMetadata,
            _ => return Err(Status::BadArgument),
        })
    }
}

/// What a data callback returns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    Continue,
    Pause,
}

impl From<u32> for Action {
    fn from(number: u32) -> Self {
        if number == 0 { Self::Continue } else { Self::Pause }
    }
}

/// Who ended a connection, as `proxy_on_downstream_connection_close` tells it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PeerType {
    Local = 1,
    Remote = 2,
}

/// How a gRPC stream ended, as `proxy_on_grpc_close` tells it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GrpcStatus {
    /// The node closed the connection.
    Unknown = 2,
    /// The connection was reset, bytes were sent before the host was known, or the stream broke the
    /// gRPC framing.
    Internal = 13,
    /// The connection was refused or took too long, or there is no such cluster.
    Unavailable = 14,
}

/// Why a host call does not answer [`Status::Ok`].
pub(crate) enum Failure {
    /// The guest is told.
    Status(Status),
    /// The guest trapped while the host called it back, for instance in its allocator.
    Trap(wasmtime::Error),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<wasmtime::Error> for Failure {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

/// Turns a host call's result into what the ABI returns.
pub(crate) fn answer(result: Result<(), Failure>) -> wasmtime::Result<u32> {
    match result {
        Ok(()) => Ok(Status::Ok as u32),
        Err(Failure::Status(status)) => Ok(status as u32),
        Err(Failure::Trap(error)) => Err(error),
    }
}

/// The guest that made a host call: its memory, its allocator and its [`State`].
pub(crate) struct Guest<'a>(pub(crate) Caller<'a, State>);

impl Guest<'_> {
    /// Envoy, from within the host call.
    pub(crate) fn envoy(&mut self) -> Envoy<'_> {
        Envoy(self.0.as_context_mut())
    }

    pub(crate) fn state(&mut self) -> &mut State {
        self.0.data_mut()
    }

    /// Reads `length` bytes at `pointer`.
    pub(crate) fn bytes(&self, pointer: u32, length: u32) -> Result<&[u8], Status> {
        let memory = self.memory()?.data(&self.0);
        span(memory.len(), pointer, length).and_then(|span| memory.get(span)).ok_or(OUT_OF_BOUNDS)
    }

    /// The guest's bytes beside the state they are to be stored in.
    pub(crate) fn bytes_and_state(
        &mut self,
        pointer: u32,
        length: u32,
    ) -> Result<(&[u8], &mut State), Status> {
        let (memory, state) = self.memory()?.data_and_store_mut(&mut self.0);
        let span = span(memory.len(), pointer, length).ok_or(OUT_OF_BOUNDS)?;
        Ok((memory.get(span).ok_or(OUT_OF_BOUNDS)?, state))
    }

    pub(crate) fn write(&mut self, pointer: u32, bytes: &[u8]) -> Result<(), Status> {
        let length = u32::try_from(bytes.len()).map_err(|_| OUT_OF_BOUNDS)?;
        self.writable(pointer, length)?.0.copy_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn write_u32(&mut self, pointer: u32, value: u32) -> Result<(), Status> {
        self.write(pointer, &value.to_le_bytes())
    }

    pub(crate) fn write_u64(&mut self, pointer: u32, value: u64) -> Result<(), Status> {
        self.write(pointer, &value.to_le_bytes())
    }

    /// Copies what `find` finds in the state into memory that the guest's allocator gives, and
    /// writes its address and size where the guest asked for them. Nothing is allocated for no
    /// bytes: the address is then 0.
    pub(crate) fn hand_over(
        &mut self,
        length: usize,
        address_at: u32,
        size_at: u32,
        find: impl FnOnce(&State) -> Option<&[u8]>,
    ) -> Result<(), Failure> {
        let length = u32::try_from(length).map_err(|_| OUT_OF_BOUNDS)?;
        let address = if length == 0 { 0 } else { self.allocate(length)? };
        let (target, state) = self.writable(address, length)?;
        target.copy_from_slice(find(state).ok_or(Status::NotFound)?);
        self.write_u32(address_at, address)?;
        self.write_u32(size_at, length)?;
        Ok(())
    }

    /// [`Self::hand_over`] for bytes that are not kept in the state.
    pub(crate) fn hand_over_bytes(
        &mut self,
        bytes: &[u8],
        address_at: u32,
        size_at: u32,
    ) -> Result<(), Failure> {
        let length = u32::try_from(bytes.len()).map_err(|_| OUT_OF_BOUNDS)?;
        let address = if length == 0 { 0 } else { self.allocate(length)? };
        self.write(address, bytes)?;
        self.write_u32(address_at, address)?;
        self.write_u32(size_at, length)?;
        Ok(())
    }

    fn allocate(&mut self, length: u32) -> Result<u32, Failure> {
        let allocate = self.state().running().allocate.clone().ok_or(OUT_OF_BOUNDS)?;
        self.state().running_mut().allocations += 1;
        match allocate.call(&mut self.0, length)? {
            0 => Err(OUT_OF_BOUNDS.into()),
            address => Ok(address),
        }
    }

    fn writable(&mut self, pointer: u32, length: u32) -> Result<(&mut [u8], &mut State), Status> {
        let (memory, state) = self.memory()?.data_and_store_mut(&mut self.0);
        let span = span(memory.len(), pointer, length).ok_or(OUT_OF_BOUNDS)?;
        Ok((memory.get_mut(span).ok_or(OUT_OF_BOUNDS)?, state))
    }

    fn memory(&self) -> Result<Memory, Status> {
        self.0.data().running().memory.ok_or(OUT_OF_BOUNDS)
    }
}

/// The bytes `pointer..pointer + length`, if a memory of `size` bytes holds them.
fn span(size: usize, pointer: u32, length: u32) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(pointer).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    (end <= size).then_some(start..end)
}

const OUT_OF_BOUNDS: Status = Status::InvalidMemoryAccess;
