//! The tunnel: what stands between a gRPC stream and a node that knows nothing of gRPC. It takes the
//! 5-byte header off each message on its way out and puts one on whatever comes in.

use std::collections::HashMap;

use crate::host::{self, Buffer, HostError};
use crate::transport::{self, GRPC_HEADER};

/// Streams whose last message has been handed over only in part, by their context.
#[derive(Default)]
pub(crate) struct Tunnel {
    unfinished: HashMap<u32, Deframer>,
}

/// Takes gRPC headers out of bytes that may be cut anywhere.
#[derive(Default)]
struct Deframer {
    header: Vec<u8>,
    /// Bytes of the current message that are still to come.
    missing: usize,
}

impl Tunnel {
    /// Bytes on their way to a node: nearly always exactly one message, whose body then never
    /// enters the VM.
    pub(crate) fn on_request_body(&mut self, context: u32, size: usize) -> Result<(), HostError> {
        if !self.unfinished.contains_key(&context) && is_one_message(size)? {
            return host::replace_start(Buffer::HttpRequestBody, GRPC_HEADER, b"");
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
        let [a, b, c, d] = len.to_be_bytes();
        host::replace_start(Buffer::HttpResponseBody, 0, &[0, a, b, c, d])
    }

    pub(crate) fn on_delete(&mut self, context: u32) {
        self.unfinished.remove(&context);
    }
}

impl Deframer {
    fn deframe(&mut self, mut bytes: &[u8], payload: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let wanted =
                if self.missing > 0 { self.missing } else { GRPC_HEADER - self.header.len() };
            let (taken, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if self.missing > 0 {
                payload.extend_from_slice(taken);
                self.missing -= taken.len();
            } else {
                self.header.extend_from_slice(taken);
                if let Some(len) = message_len(&self.header) {
                    self.missing = len;
                    self.header.clear();
                }
            }
        }
    }

    fn is_between_messages(&self) -> bool {
        self.missing == 0 && self.header.is_empty()
    }
}

/// Whether a body of `size` bytes is one whole message.
fn is_one_message(size: usize) -> Result<bool, HostError> {
    if transport::is_in_hand(size) {
        return Ok(true);
    }
    let header = host::read(Buffer::HttpRequestBody, 0, GRPC_HEADER)?;
    Ok(message_len(&header).is_some_and(|len| len.saturating_add(GRPC_HEADER) == size))
}

/// The length that a whole header announces.
fn message_len(header: &[u8]) -> Option<usize> {
    let [_flag, a, b, c, d] = *header else { return None };
    usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()
}
