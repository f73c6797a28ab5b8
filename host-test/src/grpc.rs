//! The little of gRPC that Envoy puts around a stream: the frame header, and where to go.
//!
//! Frame: one flag byte (0, not compressed) and the message's length, four bytes big endian
//! (gRPC over HTTP/2, "Length-Prefixed-Message").

use std::collections::VecDeque;

/// Bytes before each message.
pub(crate) const FRAME_HEADER: usize = 5;

/// Appends `message` as one frame.
pub(crate) fn encode_frame(message: &[u8], into: &mut Vec<u8>) {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    into.reserve(FRAME_HEADER + message.len());
    into.push(0);
    into.extend_from_slice(&length.to_be_bytes());
    into.extend_from_slice(message);
}

/// Cuts a byte stream into messages. Holds no more than it was given: a declared length reserves
/// nothing.
#[derive(Default)]
pub(crate) struct FrameDecoder {
    pending: Vec<u8>,
}

/// The stream is not gRPC: a frame has flags set.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct NotAFrame;

impl FrameDecoder {
    /// Takes the next bytes and returns the messages they complete, in order.
    pub(crate) fn decode(&mut self, bytes: &[u8]) -> Result<VecDeque<Vec<u8>>, NotAFrame> {
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        let mut messages = VecDeque::new();
        while let Some((header, body)) = rest.split_first_chunk::<FRAME_HEADER>() {
            let [flags, length @ ..] = *header;
            let length = u32::from_be_bytes(length) as usize;
            if flags != 0 && length > 0 {
                return Err(NotAFrame);
            }
            let Some((message, after)) = body.split_at_checked(length) else { break };
            messages.push_back(message.to_vec());
            rest = after;
        }
        let consumed = self.pending.len() - rest.len();
        self.pending.drain(..consumed);
        Ok(messages)
    }
}

/// Where `proxy_grpc_stream` is to connect, as its first argument says.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Target {
    /// Envoy's cluster.
    pub(crate) cluster: String,
    /// `host:port`, if the argument was a `GrpcService` that has one.
    pub(crate) authority: Option<String>,
}

impl Target {
    /// Reads an Envoy cluster's name or an `envoy.config.core.v3.GrpcService`: field 1,
    /// `envoy_grpc`, of which field 1 is `cluster_name` and field 2 `authority`.
    ///
    /// Like Envoy, whatever parses as protobuf is taken for protobuf. `None` if it is a message
    /// that names no cluster.
    pub(crate) fn read(service: &[u8]) -> Option<Self> {
        let Some(service_fields) = fields(service) else {
            let cluster = String::from_utf8_lossy(service).into_owned();
            return Some(Self { cluster, authority: None });
        };
        let envoy_grpc = fields(last(&service_fields, 1)?)?;
        let text = |number| Some(String::from_utf8_lossy(last(&envoy_grpc, number)?).into_owned());
        Some(Self { cluster: text(1)?, authority: text(2).filter(|text| !text.is_empty()) })
    }
}

/// The length-delimited fields of a protobuf message, or `None` if it is not one.
fn fields(mut message: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let (number, wire_type) = (tag >> 3, tag & 7);
        if number == 0 {
            return None;
        }
        match wire_type {
            0 => drop(varint(&mut message)?),
            1 => drop(take(&mut message, 8)?),
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                found.push((number, take(&mut message, length)?));
            }
            5 => drop(take(&mut message, 4)?),
            _ => return None,
        }
    }
    Some(found)
}

/// Of a field that is there twice the last one counts.
fn last<'a>(fields: &[(u64, &'a [u8])], number: u64) -> Option<&'a [u8]> {
    fields.iter().rev().find(|(found, _)| *found == number).map(|(_, bytes)| *bytes)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_cut_at_every_byte_decode_to_the_same_messages() {
        let mut stream = Vec::new();
        for message in [b"+PONG\r\n".as_slice(), b"", b"$3\r\nfoo\r\n"] {
            encode_frame(message, &mut stream);
        }
        let mut whole = FrameDecoder::default();
        let expected = whole.decode(&stream).unwrap();
        assert_eq!(expected, [b"+PONG\r\n".to_vec(), vec![], b"$3\r\nfoo\r\n".to_vec()]);
        for cut in 0..=stream.len() {
            let mut decoder = FrameDecoder::default();
            let mut messages = decoder.decode(&stream[..cut]).unwrap();
            messages.extend(decoder.decode(&stream[cut..]).unwrap());
            assert_eq!(messages, expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_frame_with_flags_is_refused_and_a_huge_length_reserves_nothing() {
        assert_eq!(FrameDecoder::default().decode(&[1, 0, 0, 0, 1, b'x']), Err(NotAFrame));
        let mut decoder = FrameDecoder::default();
        assert!(decoder.decode(&[0, 0xff, 0xff, 0xff, 0xff, b'x']).unwrap().is_empty());
        assert!(decoder.pending.capacity() < 64);
    }

    #[test]
    fn a_plain_name_is_a_cluster_without_an_authority() {
        let target = Target::read(b"upstream").unwrap();
        assert_eq!(target, Target { cluster: "upstream".into(), authority: None });
    }

    #[test]
    fn a_grpc_service_gives_cluster_and_authority() {
        let authority = "[2001:db8::1]:6379";
        let mut envoy_grpc = vec![0x0a, 8];
        envoy_grpc.extend_from_slice(b"upstream");
        envoy_grpc.extend_from_slice(&[0x12, u8::try_from(authority.len()).unwrap()]);
        envoy_grpc.extend_from_slice(authority.as_bytes());
        let mut service = vec![0x0a, u8::try_from(envoy_grpc.len()).unwrap()];
        service.extend_from_slice(&envoy_grpc);
        let target = Target::read(&service).unwrap();
        assert_eq!(target.cluster, "upstream");
        assert_eq!(target.authority.as_deref(), Some(authority));
    }

    #[test]
    fn a_message_that_names_no_cluster_is_no_target() {
        assert_eq!(Target::read(&[0x12, 0]), None);
    }
}
