//! What holds for whatever a client sends: nothing panics, and every key is an argument.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use slotmesh_engine::command::{COMMANDS, Lookup, UNKNOWN, keys, lookup};
use slotmesh_engine::resp::{ArgRange, RequestFrame};

/// Words that mean something to some command, and numbers that could mislead it.
const WORDS: [&str; 24] = [
    "",
    "0",
    "1",
    "2",
    "3",
    "-1",
    "+1",
    "007",
    "4294967296",
    "18446744073709551615",
    "99999999999999999999999",
    "STREAMS",
    "store",
    "STOREDIST",
    "keys",
    "Auth",
    "AUTH2",
    "by",
    "GET",
    "limit",
    "block",
    "GROUP",
    "count",
    "key",
];

fn argument() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => select(&WORDS[..]).prop_map(|word| word.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..40),
    ]
}

fn name() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let known = (0..COMMANDS.len()).prop_map(|row| {
        COMMANDS[row].name.split('|').map(|word| word.as_bytes().to_vec()).collect()
    });
    prop_oneof![9 => known, 1 => argument().prop_map(|name| vec![name])]
}

fn command() -> impl Strategy<Value = Vec<Vec<u8>>> {
    (name(), vec(argument(), 0..12)).prop_map(|(mut args, more)| {
        args.extend(more);
        args
    })
}

fn ranges(args: &[Vec<u8>]) -> Vec<ArgRange> {
    let mut start = 0;
    let mut ranges = Vec::new();
    for arg in args {
        ranges.push(ArgRange { start, len: arg.len() as u32 });
        start += arg.len() as u32;
    }
    ranges
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_key_of_any_frame_is_one_of_its_arguments(args in command()) {
        let (bytes, ranges) = (args.concat(), ranges(&args));
        let frame = RequestFrame::new(&bytes, &ranges);
        let spec = match lookup(&frame) {
            Lookup::Known(spec) => spec,
            Lookup::Unknown => &UNKNOWN,
            Lookup::Invalid(error) => {
                let mut reply = Vec::new();
                error.write_reply(&frame, &mut reply);
                prop_assert!(reply.starts_with(b"-E") && reply.ends_with(b"\r\n"));
                let line = &reply[..reply.len() - 2];
                prop_assert!(!line.contains(&b'\r') && !line.contains(&b'\n'));
                return Ok(());
            }
        };
        let _ = spec.support_for(&frame);
        let mut out = Vec::new();
        if keys(spec, &frame, &mut out).is_ok() {
            prop_assert!(out.iter().all(|index| (1..args.len()).contains(&(*index as usize))));
            prop_assert!(out.len() < args.len());
        }
    }

    #[test]
    fn every_row_finds_only_arguments_in_any_frame(row in 0..COMMANDS.len(), args in command()) {
        let (bytes, ranges) = (args.concat(), ranges(&args));
        let frame = RequestFrame::new(&bytes, &ranges);
        let mut out = vec![7];
        let found = keys(&COMMANDS[row], &frame, &mut out);
        let in_frame = |index: &u32| (*index as usize) < args.len();
        prop_assert!(found.is_err() || out.iter().all(in_frame), "{out:?}");
    }

    #[test]
    fn a_frame_without_arguments_is_no_command(bytes in vec(any::<u8>(), 0..10)) {
        let frame = RequestFrame::new(&bytes, &[]);
        prop_assert!(matches!(lookup(&frame), Lookup::Invalid(_)));
    }
}
