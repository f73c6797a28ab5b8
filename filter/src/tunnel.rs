//! The tunnel: what stands between a gRPC stream and a node that knows nothing of gRPC. It takes
//! the 5-byte header off each message on its way out and puts one on whatever comes in.

use std::collections::HashMap;

use crate::framing::{self, Deframer, HEADER_LEN, message_len};
use crate::host::{self, Buffer, HostError};
use crate::transport;

/// Streams whose last message has been handed over only in part, by their context.
#[derive(Default)]
pub(crate) struct Tunnel {
    unfinished: HashMap<u32, Deframer>,
}

impl Tunnel {
    /// Bytes on their way to a node: nearly always exactly one message, whose body then never
    /// enters the VM.
    pub(crate) fn on_request_body(&mut self, context: u32, size: usize) -> Result<(), HostError> {
        if !self.unfinished.contains_key(&context) && is_one_message(size)? {
            return host::replace_start(Buffer::HttpRequestBody, HEADER_LEN, b"");
        }
        let body = host::read(Buffer::HttpRequestBody, 0, size)?;
        let mut deframer = self.unfinished.remove(&context).unwrap_or_default();
        let mut payload = Vec::with_capacity(body.len());
        deframer.deframe(&body, &mut payload);
        if !deframer.is_between_messages() {
            self.unfinished.insert(context, deframer);
        }
        host::replace_start(Buffer::HttpRequestBody, size, &payload)
    }

    /// Bytes that a node has sent: each chunk becomes one message.
    pub(crate) fn on_response_body(size: usize) -> Result<(), HostError> {
        let Some(len) = u32::try_from(size).ok().filter(|len| *len > 0) else { return Ok(()) };
        host::replace_start(Buffer::HttpResponseBody, 0, &framing::header(len))
    }

    pub(crate) fn on_delete(&mut self, context: u32) {
        self.unfinished.remove(&context);
    }
}

/// Whether a body of `size` bytes is one whole message.
fn is_one_message(size: usize) -> Result<bool, HostError> {
    if transport::is_in_hand(size) {
        return Ok(true);
    }
    let header = host::read(Buffer::HttpRequestBody, 0, HEADER_LEN)?;
    Ok(message_len(&header).is_some_and(|len| len.saturating_add(HEADER_LEN) == size))
}
