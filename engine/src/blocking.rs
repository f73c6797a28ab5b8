//! Blocking commands: for how long they wait, and what they have done once they are answered.

use std::time::Duration;

use crate::command::{self, CommandSpec, Lookup, block_option};
use crate::ids::RouteId;
use crate::resp::{Reply, RequestFrame, RequestParser, encode, parse_decimal};
use crate::time::Instant;

/// A command that may keep its connection waiting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Blocking {
    /// When the node is to answer, whatever happens; `None`: it waits for ever.
    pub(crate) until: Option<Instant>,
    /// The route of its first key.
    pub(crate) route: Option<RouteId>,
}

/// Where a command has its timeout.
struct Timeout {
    position: usize,
    unit: Unit,
}

/// In what a timeout is given.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Unit {
    /// Seconds, with a fraction if need be.
    Seconds,
    Milliseconds,
}

impl Blocking {
    /// What a command says of its waiting. A timeout that cannot be read is the node's to refuse.
    pub(crate) fn of(name: &str, frame: &RequestFrame<'_>, now: Instant) -> Self {
        let duration = Timeout::of(name, frame)
            .and_then(|timeout| timeout.unit.read(frame.arg(timeout.position)?));
        let until = duration.filter(|wait| !wait.is_zero()).map(|wait| now + wait);
        Self { until, route: None }
    }

    /// The command with what is left of its timeout, for another try.
    pub(crate) fn shorten(self, command: &[u8], now: Instant) -> Option<Vec<u8>> {
        let left = self.until?.saturating_duration_since(now);
        let mut parser = RequestParser::new();
        let (spec, frame) = parse(&mut parser, command)?;
        let timeout = Timeout::of(spec.name, &frame)?;
        let shortened = timeout.unit.write(left);
        let words = frame.args().enumerate().map(|(position, argument)| {
            let shortened = (position == timeout.position).then_some(shortened.as_bytes());
            shortened.unwrap_or(argument)
        });
        Some(encoded(words))
    }
}

/// The command that does at once what a blocking one has done by the time of its reply; `None` if
/// that is nothing. (As Redis' replicas are told: redis `blocked.c`.)
pub(crate) fn effect(command: &[u8], reply: &[u8]) -> Option<Effect> {
    let reply = Reply::new(reply);
    if reply.is_null() || reply.error_line().is_some() {
        return None;
    }
    let mut parser = RequestParser::new();
    let (spec, frame) = parse(&mut parser, command)?;
    let name = spec.name;
    let timeout = Timeout::of(name, &frame)?.position;
    let popped = || Reply::new(reply.elements().next().unwrap_or_default()).bulk();
    let without = |dropped: std::ops::RangeInclusive<usize>| {
        let kept = frame.args().enumerate().filter(move |(at, _)| !dropped.contains(at));
        kept.map(|(_, argument)| argument)
    };
    // Without the `B` in front, and without the timeout.
    let twin = || name.strip_prefix('b').unwrap_or(name).as_bytes();
    let (key, command) = match name {
        "blpop" | "brpop" | "bzpopmin" | "bzpopmax" => (popped()?, encoded([twin(), popped()?])),
        "blmove" | "brpoplpush" => {
            (frame.arg(1)?, encoded([twin()].into_iter().chain(without(timeout..=timeout).skip(1))))
        }
        "blmpop" | "bzmpop" => {
            // `LMPOP numkeys key [key ...] LEFT [COUNT count]`, of the key that had something.
            let numkeys = usize::try_from(parse_decimal(frame.arg(2)?)?).ok()?;
            let rest = frame.args().skip(numkeys.checked_add(3)?);
            (popped()?, encoded([twin(), b"1", popped()?].into_iter().chain(rest)))
        }
        "xreadgroup" => {
            let streams = frame.args().position(|word| word.eq_ignore_ascii_case(b"streams"))?;
            (frame.arg(streams + 1)?, encoded(without(timeout - 1..=timeout)))
        }
        _ => return None,
    };
    Some(Effect { spec, key: key.into(), command })
}

/// What a blocking command has done.
#[derive(Debug)]
pub(crate) struct Effect {
    pub(crate) spec: &'static CommandSpec,
    pub(crate) key: Box<[u8]>,
    pub(crate) command: Vec<u8>,
}

fn parse<'a>(
    parser: &'a mut RequestParser,
    command: &'a [u8],
) -> Option<(&'static CommandSpec, RequestFrame<'a>)> {
    match command::read_again(parser, command)? {
        (Lookup::Known(spec), frame, _) => Some((spec, frame)),
        _ => None,
    }
}

fn encoded<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let words: Vec<_> = words.into_iter().collect();
    let mut command = Vec::new();
    encode::command(&mut command, &words);
    command
}

impl Timeout {
    fn of(name: &str, frame: &RequestFrame<'_>) -> Option<Self> {
        let (position, unit) = match name {
            "blpop" | "brpop" | "blmove" | "brpoplpush" | "bzpopmin" | "bzpopmax" => {
                (frame.len().checked_sub(1)?, Unit::Seconds)
            }
            "blmpop" | "bzmpop" => (1, Unit::Seconds),
            "wait" => (2, Unit::Milliseconds),
            "waitaof" => (3, Unit::Milliseconds),
            "xread" | "xreadgroup" => (block_option(frame)? + 1, Unit::Milliseconds),
            _ => return None,
        };
        Some(Self { position, unit })
    }
}

impl Unit {
    fn read(self, argument: &[u8]) -> Option<Duration> {
        match self {
            Self::Seconds => {
                let seconds = std::str::from_utf8(argument).ok()?.parse().ok()?;
                Duration::try_from_secs_f64(seconds).ok()
            }
            Self::Milliseconds => {
                let millis = u64::try_from(parse_decimal(argument)?).ok()?;
                Some(Duration::from_millis(millis))
            }
        }
    }

    /// Writes a timeout that is not zero: that would mean for ever.
    fn write(self, wait: Duration) -> String {
        let wait = wait.max(Duration::from_millis(1));
        match self {
            Self::Seconds => format!("{:.3}", wait.as_secs_f64()),
            Self::Milliseconds => wait.as_millis().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Limits;

    fn encode(words: &str) -> Vec<u8> {
        let words: Vec<_> = words.split(' ').map(str::as_bytes).collect();
        let mut command = Vec::new();
        encode::command(&mut command, &words);
        command
    }

    /// When a command that comes at second 100 is to be answered, in milliseconds from then.
    fn wait(words: &str) -> Option<u128> {
        let command = encode(words);
        let mut parser = RequestParser::new();
        parser.parse(&command, &Limits::UNBOUNDED).unwrap();
        let frame = parser.frame(&command);
        let Lookup::Known(spec) = command::lookup(&frame) else { panic!("{words}") };
        let now = Instant::from_nanos(100_000_000_000);
        let until = Blocking::of(spec.name, &frame, now).until?;
        Some(until.saturating_duration_since(now).as_millis())
    }

    #[test]
    fn every_blocking_command_says_how_long() {
        assert_eq!(wait("BLPOP a b 1.5"), Some(1500));
        assert_eq!(wait("BRPOP a 2"), Some(2000));
        assert_eq!(wait("BLMOVE a b LEFT RIGHT 0.25"), Some(250));
        assert_eq!(wait("BRPOPLPUSH a b 3"), Some(3000));
        assert_eq!(wait("BZPOPMIN a 1"), Some(1000));
        assert_eq!(wait("BLMPOP 4 1 a LEFT"), Some(4000));
        assert_eq!(wait("BZMPOP 5 1 a MIN"), Some(5000));
        assert_eq!(wait("XREAD COUNT 1 BLOCK 70 STREAMS s 0"), Some(70));
        assert_eq!(wait("WAIT 1 90"), Some(90));
        assert_eq!(wait("WAITAOF 1 1 90"), Some(90));
        assert_eq!(wait("XREADGROUP GROUP block c BLOCK 80 STREAMS s >"), Some(80));
        // A fraction is read leniently, a whole number is not: the node refuses these.
        assert_eq!(wait("BLPOP a +01"), Some(1000));
        for refused in ["XREAD BLOCK +70 STREAMS s 0", "WAIT 1 090", "WAITAOF 1 1 -0"] {
            assert_eq!(wait(refused), None, "{refused}");
        }
    }

    #[test]
    fn zero_is_for_ever_and_nonsense_is_the_node_s_to_refuse() {
        for words in ["BLPOP a 0", "BLPOP a -1", "BLPOP a x", "BLPOP a 1e300", "BLMPOP x 1 a LEFT"]
        {
            assert_eq!(wait(words), None, "{words}");
        }
    }

    #[test]
    fn another_try_has_what_is_left() {
        let now = Instant::from_nanos(1_000_000_000);
        let blocking = Blocking { until: Some(now + Duration::from_millis(1250)), route: None };
        let shortened = blocking.shorten(&encode("BLPOP a b 9"), now).unwrap();
        assert_eq!(shortened, encode("BLPOP a b 1.250"));
        let late = now + Duration::from_secs(2);
        let shortened = blocking.shorten(&encode("XREAD BLOCK 9 STREAMS s 0"), late).unwrap();
        assert_eq!(shortened, encode("XREAD BLOCK 1 STREAMS s 0"));
        let forever = Blocking { until: None, route: None };
        assert_eq!(forever.shorten(&encode("BLPOP a 0"), now), None);
    }

    #[test]
    fn what_a_wait_has_done_can_be_done_at_once() {
        let done = |words: &str, reply: &str| {
            let effect = effect(&encode(words), reply.as_bytes())?;
            Some((String::from_utf8(effect.key.into()).unwrap(), effect.command))
        };
        let from_b = "*2\r\n$1\r\nb\r\n$1\r\nv\r\n";
        for (words, reply, key, twin) in [
            ("BLPOP a b 0", from_b, "b", "lpop b"),
            ("BRPOP a b 0", from_b, "b", "rpop b"),
            ("BZPOPMIN a b 0", "*3\r\n$1\r\nb\r\n$1\r\nv\r\n$1\r\n1\r\n", "b", "zpopmin b"),
            ("BLMOVE a b LEFT RIGHT 0", "$1\r\nv\r\n", "a", "lmove a b LEFT RIGHT"),
            ("BRPOPLPUSH a b 0", "$1\r\nv\r\n", "a", "rpoplpush a b"),
            ("BLMPOP 0 2 a b LEFT COUNT 3", from_b, "b", "lmpop 1 b LEFT COUNT 3"),
            (
                "XREADGROUP GROUP g c BLOCK 0 STREAMS a >",
                "*1\r\n*2\r\n$1\r\na\r\n*0\r\n",
                "a",
                "XREADGROUP GROUP g c STREAMS a >",
            ),
        ] {
            assert_eq!(done(words, reply), Some((key.to_owned(), encode(twin))), "{words}");
        }
        assert_eq!(done("BLPOP a 0", "*-1\r\n"), None);
        assert_eq!(done("BLPOP a 0", "-ERR x\r\n"), None);
        assert_eq!(done("XREAD BLOCK 0 STREAMS a 0", "*1\r\n*0\r\n"), None, "it only reads");
    }
}
