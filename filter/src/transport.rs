//! How a connection to a node is opened and written to through the host: it is a gRPC stream that the
//! tunnel turns into raw TCP.

use std::cell::Cell;

use slotmesh_engine::Address;

use crate::host::{self, HostError};

/// Names the header by which the tunnel, where it runs in the router's VM, knows whose stream it has.
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

/// Whether a body of `size` bytes with its gRPC header, that the host hands to the tunnel, is just the
/// message that the router is sending: both run in one VM, and one after the other.
pub(crate) fn is_in_hand(size: usize) -> bool {
    IN_HAND.get().is_some_and(|len| len.saturating_add(GRPC_HEADER) == size)
}

/// Length of what precedes a gRPC message: a flag (0: not compressed) and the message's length.
pub(crate) const GRPC_HEADER: usize = 5;

/// An `envoy.config.core.v3.GrpcService` whose field 1, `envoy_grpc`, holds 1: the cluster's name
/// and 2: the authority.
fn grpc_service(envoy_cluster: &[u8], authority: &[u8]) -> Vec<u8> {
    let mut envoy_grpc = Vec::new();
    write_field(&mut envoy_grpc, 1, envoy_cluster);
    write_field(&mut envoy_grpc, 2, authority);
    let mut service = Vec::new();
    write_field(&mut service, 1, &envoy_grpc);
    service
}

/// A length-delimited protobuf field.
fn write_field(out: &mut Vec<u8>, number: u8, value: &[u8]) {
    const LENGTH_DELIMITED: u8 = 2;
    out.push(number << 3 | LENGTH_DELIMITED);
    let mut length = value.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(value);
}

/// A header map as the ABI writes it: count, all lengths, then all names and values with a NUL each.
fn header_pairs(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let write_length = |out: &mut Vec<u8>, length: usize| {
        out.extend_from_slice(&(length as u32).to_le_bytes());
    };
    write_length(&mut out, pairs.len());
    for (name, value) in pairs {
        write_length(&mut out, name.len());
        write_length(&mut out, value.len());
    }
    for (name, value) in pairs {
        for text in [name, value] {
            out.extend_from_slice(text);
            out.push(0);
        }
    }
    out
}
