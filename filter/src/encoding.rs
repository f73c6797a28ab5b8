//! What the host wants written as bytes when a stream is opened.

/// An `envoy.config.core.v3.GrpcService` whose field 1, `envoy_grpc`, holds 1: the cluster's name
/// and 2: the authority.
pub(crate) fn grpc_service(envoy_cluster: &[u8], authority: &[u8]) -> Vec<u8> {
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

/// A header map as the ABI writes it: count, all lengths, then all names and values with a NUL
/// each.
pub(crate) fn header_pairs(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_service_names_the_cluster_and_the_authority() {
        let expected = b"\x0a\x0b\x0a\x02up\x12\x05a:123";
        assert_eq!(grpc_service(b"up", b"a:123"), expected);
    }

    #[test]
    fn a_length_beyond_seven_bits_takes_two_bytes() {
        let service = grpc_service(&[b'x'; 300], b"");
        // 300 is 0b10_0101100; with its own tag and length and an empty authority, 305 are inside.
        assert!(service.starts_with(b"\x0a\xb1\x02\x0a\xac\x02x"), "{service:?}");
        assert_eq!(service.len(), 308);
    }

    #[test]
    fn a_length_of_127_takes_one_byte_and_one_of_128_takes_two() {
        assert!(grpc_service(&[b'x'; 127], b"").windows(3).any(|bytes| bytes == b"\x0a\x7fx"));
        assert!(grpc_service(&[b'x'; 128], b"").windows(4).any(|bytes| bytes == b"\x0a\x80\x01x"));
    }

    #[test]
    fn header_pairs_are_a_count_then_lengths_then_texts() {
        let expected = b"\x02\0\0\0\x01\0\0\0\x03\0\0\0\x02\0\0\0\0\0\0\0a\0one\0bc\0\0";
        assert_eq!(header_pairs(&[(b"a", b"one"), (b"bc", b"")]), expected);
    }

    #[test]
    fn no_header_pairs_are_a_count_of_zero() {
        assert_eq!(header_pairs(&[]), [0; 4]);
    }
}
