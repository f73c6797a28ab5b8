//! Parts of the engine by themselves.

use slotmesh_engine::Config;
use slotmesh_engine::command::{self, Lookup, UNKNOWN};
use slotmesh_engine::resp::{Limits, Parsed, Reply, RequestParser, Scanner};

/// Replies that arrive in pieces of the first byte's size are delimited as when they arrive whole.
pub(crate) fn replies(bytes: &[u8]) {
    let Some((size, stream)) = bytes.split_first() else { return };
    let size = usize::from(*size).max(1);
    assert_eq!(frames(stream, size), frames(stream, stream.len().max(1)));
}

/// Where the frames of a stream end, until it ends or is found to be broken; what is seen of a view
/// on each.
fn frames(stream: &[u8], size: usize) -> (Vec<usize>, bool) {
    let mut scanner = Scanner::new();
    let (mut ends, mut start, mut scanned, mut arrived) = (Vec::new(), 0, 0, 0);
    while arrived < stream.len() {
        arrived = (arrived + size).min(stream.len());
        while let Some(rest) = stream.get(scanned..arrived).filter(|rest| !rest.is_empty()) {
            let Ok(scan) = scanner.scan(rest, &Limits::default()) else { return (ends, true) };
            scanned += scan.consumed;
            if !scan.complete {
                break;
            }
            view(Reply::new(stream.get(start..scanned).unwrap_or_default()));
            ends.push(scanned);
            start = scanned;
        }
    }
    (ends, false)
}

fn view(reply: Reply<'_>) {
    let lengths = (reply.bulk().map(<[u8]>::len), reply.error_line().map(<[u8]>::len));
    let seen = (reply.kind(), reply.is_null(), reply.integer(), lengths, reply.elements().count());
    std::hint::black_box(seen);
}

/// Commands that arrive in pieces of the first byte's size are the same as when they arrive whole.
pub(crate) fn requests(bytes: &[u8]) {
    let Some((size, stream)) = bytes.split_first() else { return };
    let size = usize::from(*size).max(1);
    assert_eq!(commands(stream, size), commands(stream, stream.len().max(1)));
}

/// The commands of a stream as their arguments, until it ends or is found to be broken.
fn commands(stream: &[u8], size: usize) -> (Vec<Vec<Vec<u8>>>, bool) {
    let mut parser = RequestParser::new();
    let (mut commands, mut start, mut arrived) = (Vec::new(), 0, 0);
    while arrived < stream.len() {
        arrived = (arrived + size).min(stream.len());
        while let Some(rest) = stream.get(start..arrived).filter(|rest| !rest.is_empty()) {
            match parser.parse(rest, &Limits::default()) {
                Err(_) => return (commands, true),
                Ok(Parsed::Incomplete) => break,
                Ok(
                    Parsed::Ignored { len } | Parsed::Skipped { len } | Parsed::TooLarge { len },
                ) => start += len,
                Ok(Parsed::Command { len }) => {
                    commands.push(parser.frame(rest).args().map(<[u8]>::to_vec).collect());
                    start += len;
                }
            }
        }
    }
    (commands, false)
}

/// Whatever a command says of itself, its keys are among its arguments.
pub(crate) fn keys(bytes: &[u8]) {
    let (mut parser, mut positions, mut start) = (RequestParser::new(), Vec::new(), 0);
    while let Some(rest) = bytes.get(start..).filter(|rest| !rest.is_empty()) {
        let len = match parser.parse(rest, &Limits::default()) {
            Ok(Parsed::Command { len }) => len,
            Ok(Parsed::Ignored { len }) => {
                start += len;
                continue;
            }
            // What is too large is not looked at any further.
            Ok(Parsed::Skipped { .. } | Parsed::TooLarge { .. } | Parsed::Incomplete) | Err(_) => {
                return;
            }
        };
        let frame = parser.frame(rest);
        let spec = match command::lookup(&frame) {
            Lookup::Known(spec) => Some(spec),
            Lookup::Unknown => Some(&UNKNOWN),
            Lookup::Invalid(error) => {
                error.write_reply(&frame, &mut Vec::new());
                None
            }
        };
        if let Some(spec) = spec
            && command::keys(spec, &frame, &mut positions).is_ok()
        {
            spec.support_for(&frame);
            let are_there = positions.iter().all(|at| (1..frame.len()).contains(&(*at as usize)));
            assert!(are_there, "keys of {} at {positions:?}", spec.name);
        }
        start += len;
    }
}

/// A configuration is taken or refused by the name of a field.
pub(crate) fn configuration(bytes: &[u8]) {
    if let Err(error) = Config::from_json(bytes) {
        assert!(!error.to_string().is_empty());
    }
}
