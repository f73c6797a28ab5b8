//! How a connection to a node is opened through the host: as a gRPC stream that Envoy turns into raw
//! TCP.

use slotmesh_engine::Address;

use crate::host::{self, HostError};

/// Opens a stream to `address` through `envoy_cluster`; returns its token.
///
/// The address travels twice: as the stream's authority, which a dynamic_forward_proxy cluster
/// dials, and as the header that an ORIGINAL_DST cluster or an `override_host` policy reads.
pub(crate) fn open(envoy_cluster: &str, address: &Address) -> Result<u32, HostError> {
    let address = address.to_string();
    let service = grpc_service(envoy_cluster.as_bytes(), address.as_bytes());
    let metadata = header_pairs(&[(b"x-envoy-original-dst-host", address.as_bytes())]);
    host::open_stream(&service, "redis", "tunnel", &metadata)
}

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
