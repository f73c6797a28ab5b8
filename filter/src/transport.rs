//! How a connection to a node is opened and written to through the host: it is a gRPC stream that
//! the tunnel turns into raw TCP.

use std::cell::Cell;

use slotmesh_engine::Address;

use crate::encoding::{grpc_service, header_pairs};
use crate::framing::HEADER_LEN;
use crate::host::{self, HostError};

/// Names the header by which the tunnel, where it runs in the router's VM, knows whose stream it
/// has.
pub(crate) const TICKET_HEADER: &str = "x-slotmesh-ticket";

thread_local! {
    /// Bytes in the message that is being handed over at the moment.
    static IN_HAND: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Opens a stream to `address` through `envoy_cluster`; returns its token.
///
/// The address travels twice: as the stream's authority, which a dynamic_forward_proxy cluster
/// dials, and as the header that an ORIGINAL_DST cluster or an `override_host` policy reads.
pub(crate) fn open(envoy_cluster: &str, address: &Address, ticket: &str) -> Result<u32, HostError> {
    let address = address.to_string();
    let service = grpc_service(envoy_cluster.as_bytes(), address.as_bytes());
    let metadata = header_pairs(&[
        (b"x-envoy-original-dst-host", address.as_bytes()),
        (TICKET_HEADER.as_bytes(), ticket.as_bytes()),
    ]);
    host::open_stream(&service, "redis", "tunnel", &metadata)
}

/// Writes to a stream.
pub(crate) fn send(token: u32, bytes: &[u8]) -> Result<(), HostError> {
    IN_HAND.set(Some(bytes.len()));
    let sent = host::send(token, bytes);
    IN_HAND.set(None);
    sent
}

/// Whether a body of `size` bytes with its gRPC header, that the host hands to the tunnel, is just
/// the message that the router is sending: both run in one VM, and one after the other.
pub(crate) fn is_in_hand(size: usize) -> bool {
    IN_HAND.get().is_some_and(|len| len.saturating_add(HEADER_LEN) == size)
}
