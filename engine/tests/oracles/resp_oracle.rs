//! The wire format against the `redis-protocol` crate, which builds a tree and cannot resume.
//!
//! Frames are generated as bytes, so their length is also known by construction. Where the crate
//! and we differ on purpose, `stricter_than_the_oracle` and `agrees` say so.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use redis_protocol::resp2::types::OwnedFrame;
use redis_protocol::{resp2, resp3};
use slotmesh_engine::resp::{
    Kind, Limits, Parsed, ProtocolError, Reply, RequestParser, Scanner, encode,
};

/// Up to this many bytes a generated stream is tried under every chunking there is: 2^(n-1).
const SMALL_STREAM: usize = 10;

// ------------------------------------------------------------------------------------------------
// Replies

#[test]
fn every_type_is_delimited_under_every_chunking() {
    let frames = [
        "+OK\r\n",
        "-ERR\r\n",
        ":-10\r\n",
        "$3\r\na\r\n\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "*1\r\n:1\r\n",
        "_\r\n",
        "#t\r\n",
        ",1.5\r\n",
        "(-123\r\n",
        "!1\r\na\r\n",
        "=4\r\ntxt:\r\n",
        "~1\r\n_\r\n",
        ">1\r\n_\r\n",
        "%1\r\n_\r\n_\r\n",
        "|1\r\n_\r\n_\r\n_\r\n",
        "$?\r\n;0\r\n",
        "$?\r\n;1\r\na\r\n;0\r\n",
        "*?\r\n_\r\n.\r\n",
        "%?\r\n.\r\n",
        "~?\r\n.\r\n",
        ">?\r\n.\r\n",
    ];
    for frame in frames {
        for cuts in every_chunking(frame.len()) {
            let found = scan(frame.as_bytes(), &cuts);
            assert_eq!(found, Ok(Some(frame.len())), "{frame:?} cut at {cuts:?}");
        }
    }
}

proptest! {
    #![proptest_config(config(3000))]

    #[test]
    fn a_resp2_reply_ends_where_the_oracle_says(
        frame in resp2_value(),
        next in prop_oneof![Just(Vec::new()), resp2_value()],
        cuts in cuts(),
    ) {
        let (_, oracle) = resp2::decode::decode_range(&frame).unwrap().unwrap();
        prop_assert_eq!(oracle, frame.len());
        prop_assert_eq!(scan_variously(&[frame, next].concat(), &cuts), Ok(Some(oracle)));
    }

    #[test]
    fn a_resp3_reply_ends_where_the_oracle_says(
        frame in resp3_value(),
        next in prop_oneof![Just(Vec::new()), resp3_value()],
        cuts in cuts(),
    ) {
        let (_, oracle) = resp3::decode::complete::decode_range(&frame).unwrap().unwrap();
        prop_assert_eq!(oracle, frame.len());
        prop_assert_eq!(scan_variously(&[frame, next].concat(), &cuts), Ok(Some(oracle)));
    }

    /// The oracle knows streams at the top level only, so the length is that of the construction.
    #[test]
    fn a_reply_with_streams_ends_where_it_was_made_to(
        frame in streamed_value(),
        next in resp3_value(),
        cuts in cuts(),
    ) {
        let len = frame.len();
        prop_assert_eq!(scan_variously(&[frame, next].concat(), &cuts), Ok(Some(len)));
    }

    #[test]
    fn damaged_resp2_is_read_as_the_oracle_does_or_refused(
        frame in resp2_value(),
        damage in vec(damage(), 1..4),
        cuts in cuts(),
    ) {
        let frame = damaged(frame, damage);
        let oracle = resp2::decode::decode_range(&frame).map(|found| found.map(|(_, len)| len));
        agrees(&frame, oracle.ok(), &cuts)?;
    }

    #[test]
    fn damaged_resp3_is_read_as_the_oracle_does_or_refused(
        frame in resp3_value(),
        damage in vec(damage(), 1..4),
        cuts in cuts(),
    ) {
        let frame = damaged(frame, damage);
        let oracle = resp3::decode::complete::decode_range(&frame);
        agrees(&frame, oracle.map(|found| found.map(|(_, len)| len)).ok(), &cuts)?;
    }

    #[test]
    fn the_elements_of_a_reply_are_the_frames_it_was_made_of(
        elements in vec(resp3_value(), 0..6),
        streamed in any::<bool>(),
    ) {
        let frame = if streamed { stream('*', &elements) } else { sized('*', &elements) };
        let reply = Reply::new(&frame);
        prop_assert_eq!(reply.kind(), Kind::Array);
        prop_assert_eq!(reply.elements().collect::<Vec<_>>(), elements);
    }

    #[test]
    fn a_view_on_any_bytes_stays_within_them(bytes in vec(wire_byte(), 0..60)) {
        let reply = Reply::new(&bytes);
        for part in [reply.bulk(), reply.error_line()].into_iter().flatten() {
            prop_assert!(part.len() < bytes.len());
        }
        let elements: usize = reply.elements().map(<[u8]>::len).sum();
        prop_assert!(elements <= bytes.len());
    }
}

/// Where the oracle gives a length, ours is the same, unless a stricter rule of ours refuses the
/// frame; where it needs more bytes, ours does not find a frame. Where it refuses (streams and
/// RESP2 nulls in RESP3, a map's key that cannot be hashed, a verbatim format that it does not
/// know, two attributes in a row), ours may go on.
fn agrees(
    bytes: &[u8],
    oracle: Option<Option<usize>>,
    cuts: &[Index],
) -> Result<(), TestCaseError> {
    let ours = scan_variously(bytes, cuts);
    let agreed = match oracle {
        Some(Some(len)) => ours.map_or_else(stricter_than_the_oracle, |ours| ours == Some(len)),
        Some(None) => !matches!(ours, Ok(Some(_))),
        None => true,
    };
    prop_assert!(agreed, "{}: {ours:?}, but the oracle {oracle:?}", bytes.escape_ascii());
    Ok(())
}

fn stricter_than_the_oracle(error: ProtocolError) -> bool {
    match error {
        // It takes any two bytes for the CRLF after a bulk.
        ProtocolError::ReplyBulkUnterminated => true,
        // It takes `+5` and `05` for 5, and knows no limit.
        ProtocolError::ReplyLength => true,
        // The same for integers; any text for a big number, and any after `_`.
        ProtocolError::ReplyValue(tag) => matches!(tag, b':' | b'(' | b'_'),
        // It takes a stream's chunk and end for values of their own, and knows an inline HELLO.
        ProtocolError::ReplyType(tag) => matches!(tag, b';' | b'.' | b'H'),
        _ => false,
    }
}

// ------------------------------------------------------------------------------------------------
// Commands

/// The arguments of one command, its name first.
type Args = Vec<Vec<u8>>;

#[test]
fn a_small_command_is_parsed_under_every_chunking() {
    for frame in ["*1\r\n$1\r\na\r\n", "*1\r\n$0\r\n\r\n", "GET \"a b\"\r\n", "*-1\r\nPING\r\n"] {
        let whole = parse(frame.as_bytes(), &[]);
        assert_eq!(whole.as_ref().map(Vec::len), Ok(1));
        for cuts in every_chunking(frame.len()) {
            assert_eq!(parse(frame.as_bytes(), &cuts), whole, "{frame:?} cut at {cuts:?}");
        }
    }
}

proptest! {
    #![proptest_config(config(3000))]

    #[test]
    fn a_pipeline_of_commands_has_the_arguments_that_the_oracle_sees(
        commands in vec(command(), 1..5),
        cuts in cuts(),
    ) {
        let stream = commands.iter().map(encoded).collect::<Vec<_>>().concat();
        prop_assert_eq!(&oracle_commands(&stream), &commands);
        prop_assert_eq!(parse_variously(&stream, &cuts), Ok(commands));
    }

    #[test]
    fn the_raw_arguments_of_a_command_make_up_its_frame(args in command()) {
        let frame = encoded(&args);
        let mut parser = RequestParser::new();
        let parsed = parser.parse(&frame, &Limits::default());
        prop_assert_eq!(parsed, Ok(Parsed::Command { len: frame.len() }));
        let request = parser.frame(&frame);
        let mut rebuilt = line('*', request.len());
        for index in 0..request.len() {
            rebuilt.extend_from_slice(request.raw(index).unwrap());
        }
        prop_assert_eq!(rebuilt, frame);
    }

    #[test]
    fn an_inline_command_is_the_command_that_it_spells(args in command()) {
        let spell = |arg: &Vec<u8>| arg.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        let words: Vec<String> = args.iter().map(spell).collect();
        let line = format!("\"{}\"\r\n", words.join("\" \""));
        let mut parser = RequestParser::new();
        let parsed = parser.parse(line.as_bytes(), &Limits::default());
        prop_assert_eq!(parsed, Ok(Parsed::Command { len: line.len() }));
        prop_assert_eq!(parser.frame(line.as_bytes()).bytes(), encoded(&args));
    }

    /// Lengths in another spelling are refused, as Redis does; whatever else the oracle reads as a
    /// command is the same command for us.
    #[test]
    fn a_damaged_command_is_read_as_the_oracle_does_or_refused(
        args in command(),
        damage in vec(damage(), 1..4),
        cuts in cuts(),
    ) {
        let stream = damaged(encoded(&args), damage);
        let ours = parse_variously(&stream, &cuts);
        let oracle = oracle_commands(&stream);
        match ours {
            Ok(ours) => prop_assert!(ours.starts_with(&oracle), "{ours:?}, not {oracle:?}"),
            Err(_) if oracle.is_empty() => {}
            Err(_) => {
                // The oracle's first command is ours too, if the error is not in it.
                match first_command(&stream) {
                    Ok(first) => prop_assert_eq!(first.as_ref(), oracle.first()),
                    Err(error) => prop_assert!(matches!(
                        error,
                        ProtocolError::InvalidBulkLength | ProtocolError::InvalidMultibulkLength
                    )),
                }
            }
        }
    }
}

/// The commands at the start of `stream`, up to the first thing that is no array of bulk strings
/// for the oracle.
fn oracle_commands(mut stream: &[u8]) -> Vec<Args> {
    let mut commands = Vec::new();
    while let Ok(Some((OwnedFrame::Array(frames), len))) = resp2::decode::decode(stream) {
        let payload = |frame| match frame {
            OwnedFrame::BulkString(payload) => Some(payload),
            _ => None,
        };
        match frames.into_iter().map(payload).collect::<Option<Args>>() {
            Some(args) if !args.is_empty() => commands.push(args),
            _ => break,
        }
        stream = &stream[len..];
    }
    commands
}

// ------------------------------------------------------------------------------------------------
// Drivers

/// Where the first reply of `stream` ends, if it arrives in pieces cut at `cuts` and what is not
/// consumed is kept.
fn scan(stream: &[u8], cuts: &[usize]) -> Result<Option<usize>, ProtocolError> {
    let mut scanner = Scanner::new();
    let mut start = 0;
    for &end in cuts.iter().chain([&stream.len()]) {
        let scan = scanner.scan(&stream[start..end], &Limits::default())?;
        start += scan.consumed;
        if scan.complete {
            return Ok(Some(start));
        }
    }
    Ok(None)
}

/// What [`scan`] answers, however the stream is cut.
fn scan_variously(stream: &[u8], cuts: &[Index]) -> Result<Option<usize>, ProtocolError> {
    let whole = scan(stream, &[]);
    for cuts in chunkings(stream.len(), cuts) {
        assert_eq!(scan(stream, &cuts), whole, "cut at {cuts:?}");
    }
    whole
}

/// The arguments of all commands in `stream`, if it arrives in pieces cut at `cuts`.
fn parse(stream: &[u8], cuts: &[usize]) -> Result<Vec<Args>, ProtocolError> {
    let mut parser = RequestParser::new();
    let mut commands = Vec::new();
    let mut start = 0;
    for &end in cuts.iter().chain([&stream.len()]) {
        loop {
            let buf = &stream[start..end];
            match parser.parse(buf, &Limits::default())? {
                Parsed::Command { len } => {
                    commands.push(parser.frame(buf).args().map(<[u8]>::to_vec).collect());
                    start += len;
                }
                Parsed::Ignored { len } | Parsed::Skipped { len } | Parsed::TooLarge { len } => {
                    start += len;
                }
                Parsed::Incomplete => break,
            }
        }
    }
    Ok(commands)
}

/// What [`parse`] answers, however the stream is cut.
fn parse_variously(stream: &[u8], cuts: &[Index]) -> Result<Vec<Args>, ProtocolError> {
    let whole = parse(stream, &[]);
    for cuts in chunkings(stream.len(), cuts) {
        assert_eq!(parse(stream, &cuts), whole, "cut at {cuts:?}");
    }
    whole
}

/// The command that `stream` starts with.
fn first_command(stream: &[u8]) -> Result<Option<Args>, ProtocolError> {
    let mut parser = RequestParser::new();
    Ok(match parser.parse(stream, &Limits::default())? {
        Parsed::Command { .. } => Some(parser.frame(stream).args().map(<[u8]>::to_vec).collect()),
        _ => None,
    })
}

/// Byte by byte, cut at `cuts`, and in every other way if the stream is small.
fn chunkings(len: usize, cuts: &[Index]) -> impl Iterator<Item = Vec<usize>> {
    let bytewise = (1..len).collect();
    let mut chosen: Vec<usize> = cuts.iter().map(|cut| cut.index(len + 1)).collect();
    chosen.sort_unstable();
    let every = (len <= SMALL_STREAM).then(|| every_chunking(len));
    [bytewise, chosen].into_iter().chain(every.into_iter().flatten())
}

/// All ways to cut `len` bytes into pieces.
fn every_chunking(len: usize) -> impl Iterator<Item = Vec<usize>> {
    let gaps = len.saturating_sub(1);
    (0_u32..1 << gaps).map(move |set| (1..=gaps).filter(|gap| set >> (gap - 1) & 1 == 1).collect())
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

// ------------------------------------------------------------------------------------------------
// Generators

fn cuts() -> impl Strategy<Value = Vec<Index>> {
    vec(any::<Index>(), 0..12)
}

/// All byte values, and often those that mean something in the wire format.
fn wire_byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        3 => select(&b"\r\n$*:+-_#,(!=%~>|?.;0123456789tfH"[..]),
        1 => any::<u8>(),
    ]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![9 => vec(wire_byte(), 0..12), 1 => vec(any::<u8>(), 90..1100)]
}

fn text() -> impl Strategy<Value = String> {
    vec(prop::char::range(' ', '~'), 0..20).prop_map(String::from_iter)
}

/// A value that every version knows, and that can be a map's key.
fn plain_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        payload().prop_map(|payload| blob('$', &payload)),
        text().prop_map(|text| line('+', text)),
        any::<i64>().prop_map(|value| line(':', value)),
    ]
}

fn resp2_value() -> impl Strategy<Value = Vec<u8>> {
    let scalar = prop_oneof![
        4 => plain_value(),
        1 => text().prop_map(|text| line('-', text)),
        1 => Just(b"$-1\r\n".to_vec()),
        1 => Just(b"*-1\r\n".to_vec()),
    ];
    scalar.prop_recursive(5, 40, 6, |value| vec(value, 0..6).prop_map(|values| sized('*', &values)))
}

fn resp3_scalar() -> impl Strategy<Value = Vec<u8>> {
    let digits = vec(prop::char::range('0', '9'), 1..40).prop_map(String::from_iter);
    prop_oneof![
        4 => plain_value(),
        1 => text().prop_map(|text| line('-', text)),
        1 => Just(b"_\r\n".to_vec()),
        1 => select(&["t", "f"][..]).prop_map(|value| line('#', value)),
        1 => any::<f64>().prop_map(|value| line(',', value)),
        1 => select(&["inf", "-inf", "nan", "-nan"][..]).prop_map(|value| line(',', value)),
        1 => (select(&["", "-"][..]), digits).prop_map(|(sign, n)| line('(', format!("{sign}{n}"))),
        1 => payload().prop_map(|payload| blob('!', &payload)),
        1 => payload().prop_map(|payload| blob('=', &[b"txt:", &payload[..]].concat())),
    ]
}

fn resp3_value() -> impl Strategy<Value = Vec<u8>> {
    resp3_scalar().prop_recursive(5, 40, 6, |value| {
        prop_oneof![
            vec(value.clone(), 0..6).prop_map(|values| sized('*', &values)),
            vec(value.clone(), 0..6).prop_map(|values| sized('>', &values)),
            vec(plain_value(), 0..6).prop_map(|values| sized('~', &values)),
            vec((plain_value(), value.clone()), 0..4).prop_map(|entries| pairs('%', &entries)),
            (vec((plain_value(), value), 0..3), plain_value()).prop_map(|(entries, value)| [
                pairs('|', &entries),
                value
            ]
            .concat()),
        ]
    })
}

fn streamed_value() -> impl Strategy<Value = Vec<u8>> {
    let chunk = vec(any::<u8>(), 1..12).prop_map(|payload| blob(';', &payload));
    let string =
        vec(chunk, 0..4).prop_map(|chunks| [b"$?\r\n", &chunks.concat()[..], b";0\r\n"].concat());
    prop_oneof![string, resp3_scalar()].prop_recursive(5, 40, 6, |value| {
        let pair = (value.clone(), value.clone());
        prop_oneof![
            vec(value.clone(), 0..6).prop_map(|values| stream('*', &values)),
            vec(value.clone(), 0..6).prop_map(|values| stream('>', &values)),
            vec(value.clone(), 0..6).prop_map(|values| stream('~', &values)),
            vec(pair.clone(), 0..4).prop_map(|entries| {
                stream('%', &entries.into_iter().flat_map(<[_; 2]>::from).collect::<Vec<_>>())
            }),
            vec(value.clone(), 0..6).prop_map(|values| sized('*', &values)),
            (vec(pair, 0..3), value)
                .prop_map(|(entries, value)| [pairs('|', &entries), value].concat()),
        ]
    })
}

fn command() -> impl Strategy<Value = Args> {
    vec(payload(), 1..14)
}

fn line(tag: char, text: impl std::fmt::Display) -> Vec<u8> {
    format!("{tag}{text}\r\n").into_bytes()
}

fn blob(tag: char, payload: &[u8]) -> Vec<u8> {
    [&line(tag, payload.len())[..], payload, b"\r\n"].concat()
}

fn sized(tag: char, elements: &[Vec<u8>]) -> Vec<u8> {
    [line(tag, elements.len()), elements.concat()].concat()
}

fn pairs(tag: char, entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let values: Vec<_> = entries.iter().flat_map(|(key, value)| [&key[..], value]).collect();
    [line(tag, entries.len()), values.concat()].concat()
}

fn stream(tag: char, elements: &[Vec<u8>]) -> Vec<u8> {
    [line(tag, "?"), elements.concat(), b".\r\n".to_vec()].concat()
}

fn encoded(args: &Args) -> Vec<u8> {
    let mut out = Vec::new();
    encode::command(&mut out, &args.iter().map(Vec::as_slice).collect::<Vec<_>>());
    out
}

#[derive(Clone, Debug)]
enum Damage {
    Insert(Index, u8),
    Remove(Index),
    Replace(Index, u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<Index>(), wire_byte()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        any::<Index>().prop_map(Damage::Remove),
        (any::<Index>(), wire_byte()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
    ]
}

/// `bytes`, of which there are more than `damage` removes.
fn damaged(mut bytes: Vec<u8>, damage: Vec<Damage>) -> Vec<u8> {
    for damage in damage {
        let len = bytes.len();
        match damage {
            Damage::Insert(at, byte) => bytes.insert(at.index(len + 1), byte),
            Damage::Remove(at) => drop(bytes.remove(at.index(len))),
            Damage::Replace(at, byte) => bytes[at.index(len)] = byte,
        }
    }
    bytes
}
