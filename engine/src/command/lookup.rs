//! From a command's name to its row.

use crate::command::{COMMANDS, CommandError, CommandSpec};
use crate::resp::{Limits, Parsed, RequestFrame, RequestParser};

/// What the table knows of a frame's command.
#[derive(Clone, Copy, Debug)]
pub enum Lookup {
    /// Its row; the number of arguments is legal.
    Known(&'static CommandSpec),
    /// No row, but a first argument: to be treated as [`super::UNKNOWN`].
    Unknown,
    /// Not a command that any Redis would run.
    Invalid(CommandError),
}

impl Lookup {
    /// The row of every command with the same name and as many arguments; `None`: what they are may
    /// lead to another one.
    pub(crate) fn by_name(self) -> Option<&'static CommandSpec> {
        match self {
            Self::Known(spec) if !spec.name.contains('|') => Some(spec),
            _ => None,
        }
    }
}

/// Finds the row of the frame's command, or of its subcommand, in any case, and checks the number
/// of arguments.
///
/// Redis checks in this order too, before it asks whether the client has authenticated. There is
/// one exception, `QUIT`, which takes any arguments and is in the table so.
#[inline]
pub fn lookup(frame: &RequestFrame<'_>) -> Lookup {
    let row = frame.arg(0).and_then(find);
    let Some((row, mut spec)) = row.and_then(|row| Some((row, COMMANDS.get(row)?))) else {
        return if frame.len() > 1 {
            Lookup::Unknown
        } else {
            Lookup::Invalid(CommandError::UnknownCommand)
        };
    };
    if spec.subcommands != 0
        && let Some(name) = frame.arg(1)
    {
        let Some(subcommand) = find_subcommand(row, spec, name) else {
            return Lookup::Invalid(CommandError::UnknownSubcommand(spec));
        };
        spec = subcommand;
    }
    if spec.accepts(frame.len()) {
        Lookup::Known(spec)
    } else {
        Lookup::Invalid(CommandError::Arity(spec))
    }
}

/// Looks up the first of some commands that have been read before, and are kept as bytes: its
/// frame, and its length; `None` if there is none left.
pub(crate) fn read_again<'a>(
    parser: &'a mut RequestParser,
    commands: &'a [u8],
) -> Option<(Lookup, RequestFrame<'a>, usize)> {
    let Ok(Parsed::Command { len }) = parser.parse(commands, &Limits::UNBOUNDED) else {
        return None;
    };
    let frame = parser.frame(commands);
    Some((lookup(&frame), frame, len))
}

/// Whether a frame is a line of HTTP. Redis takes it for the work of a web browser that was lured
/// to its port, and closes the connection, whoever else uses it (redis `server.c`,
/// `securityWarningCommand`).
pub fn is_http(frame: &RequestFrame<'_>) -> bool {
    let is = |word: &&[u8]| frame.arg(0).is_some_and(|name| name.eq_ignore_ascii_case(word));
    [&b"post"[..], b"host:"].iter().any(is)
}

/// Finds the row that a command's first word leads to, in any case.
#[inline]
fn find(name: &[u8]) -> Option<usize> {
    let name = FoldedName::new(name)?;
    let mut slot = name.slot();
    loop {
        // A vacant slot holds no row, and ends the search.
        let row = usize::from(*INDEX.get(slot)?);
        if *NAMES.get(row)? == name {
            return Some(row);
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// Finds a subcommand's row among those that follow its container's.
fn find_subcommand(
    row: usize,
    container: &CommandSpec,
    name: &[u8],
) -> Option<&'static CommandSpec> {
    let rows = COMMANDS.get(row + 1..)?.get(..usize::from(container.subcommands))?;
    let prefix = container.name.len() + 1;
    rows.iter().find(|spec| {
        spec.name.as_bytes().get(prefix..).is_some_and(|own| own.eq_ignore_ascii_case(name))
    })
}

/// A name in lower case, in registers: three words of eight bytes, the last byte its length.
#[derive(Clone, Copy, Eq, PartialEq)]
struct FoldedName([u64; 3]);

impl FoldedName {
    /// Room for the longest command, and one byte for the length.
    const CAPACITY: usize = 24;

    /// Equals no name: the length is out of range.
    const NONE: Self = Self([u64::MAX; 3]);

    /// `None` if no command has so long a name.
    #[inline]
    const fn new(name: &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::CAPACITY];
        let Some((copy, [.., length])) = bytes.split_at_mut_checked(name.len()) else {
            return None;
        };
        copy.copy_from_slice(name);
        *length = name.len() as u8;
        let ([a, b, c], []) = bytes.as_chunks::<8>() else {
            return None;
        };
        let (a, b, c) = (u64::from_le_bytes(*a), u64::from_le_bytes(*b), u64::from_le_bytes(*c));
        Some(Self([to_lower(a), to_lower(b), to_lower(c)]))
    }

    /// Where in [`INDEX`] the search begins.
    #[inline]
    const fn slot(self) -> usize {
        let [a, b, c] = self.0;
        let mixed = a ^ b.rotate_left(21) ^ c.rotate_left(43);
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.ilog2())) as usize
    }
}

/// Folds eight ASCII letters at once: bit 7 of a byte in `upper` says that it is in `A..=Z`.
#[inline]
const fn to_lower(word: u64) -> u64 {
    const EACH: u64 = u64::MAX / 0xff;
    let low = word & (EACH * 0x7f);
    let at_least_a = low + EACH * (0x80 - b'A' as u64);
    let above_z = low + EACH * (0x7f - b'Z' as u64);
    let upper = (at_least_a ^ above_z) & !word & (EACH * 0x80);
    word | upper >> 2
}

/// Slots of the hash index: a power of two, more than twice the number of names.
const SLOTS: usize = 1024;

/// An empty slot.
const VACANT: u16 = u16::MAX;

/// The first word of each row, [`FoldedName::NONE`] for subcommands.
static NAMES: [FoldedName; COMMANDS.len()] = fold_names();

/// Hash index with linear probing from a name to its row.
static INDEX: [u16; SLOTS] = index_names();

#[expect(clippy::indexing_slicing, reason = "runs in the compiler only, which checks the bounds")]
const fn fold_names() -> [FoldedName; COMMANDS.len()] {
    let mut names = [FoldedName::NONE; COMMANDS.len()];
    let mut row = 0;
    while row < COMMANDS.len() {
        // A test finds every row by its name: none is too long.
        if let Some(name) = FoldedName::new(COMMANDS[row].name.as_bytes()) {
            names[row] = name;
        }
        row += 1 + COMMANDS[row].subcommands as usize;
    }
    names
}

#[expect(clippy::indexing_slicing, reason = "runs in the compiler only, which checks the bounds")]
const fn index_names() -> [u16; SLOTS] {
    let mut index = [VACANT; SLOTS];
    let mut row = 0;
    while row < COMMANDS.len() {
        let mut slot = NAMES[row].slot();
        while index[slot] != VACANT {
            slot = (slot + 1) % SLOTS;
        }
        index[slot] = row as u16;
        row += 1 + COMMANDS[row].subcommands as usize;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Flags, Local, Support, with_frame};

    fn look_up(command: &str) -> Lookup {
        let args: Vec<_> = command.split(' ').map(str::as_bytes).collect();
        with_frame(&args, |frame| lookup(&frame))
    }

    #[track_caller]
    fn known(command: &str) -> &'static CommandSpec {
        match look_up(command) {
            Lookup::Known(spec) => spec,
            other => panic!("{command}: {other:?}"),
        }
    }

    #[track_caller]
    fn refusal(command: &str) -> String {
        let Lookup::Invalid(error) = look_up(command) else { panic!("{command} is valid") };
        let args: Vec<_> = command.split(' ').map(str::as_bytes).collect();
        let mut reply = Vec::new();
        with_frame(&args, |frame| error.write_reply(&frame, &mut reply));
        String::from_utf8(reply).unwrap()
    }

    #[test]
    fn every_row_is_found_by_its_name_in_any_case() {
        for spec in &COMMANDS {
            let words: Vec<_> = spec.name.split('|').collect();
            let filler = usize::from(spec.arity.unsigned_abs()).saturating_sub(words.len());
            let command = [words.join(" "), " x".repeat(filler)].concat();
            if spec.subcommands != 0 && filler != 0 {
                continue; // A container that cannot run alone.
            }
            assert!(core::ptr::eq(known(&command), spec), "{command}");
            assert!(core::ptr::eq(known(&command.to_uppercase()), spec), "{command}");
        }
    }

    #[test]
    fn only_letters_are_folded() {
        for byte in 0..=u8::MAX {
            let folded = to_lower(u64::from_le_bytes([byte; 8]));
            assert_eq!(folded.to_le_bytes(), [byte.to_ascii_lowercase(); 8]);
        }
        assert!(matches!(look_up("sort\x7fro k"), Lookup::Unknown));
    }

    #[test]
    fn a_name_is_not_found_by_a_part_of_it_or_with_a_nul_after_it() {
        for name in ["ge", "gets", "get\0", "", "config|get", "georadiusbymember_ro\0\0\0", "x\0"] {
            assert!(matches!(look_up(&format!("{name} k")), Lookup::Unknown), "{name:?}");
        }
        let long = "x".repeat(1000);
        assert!(matches!(look_up(&format!("{long} k")), Lookup::Unknown));
    }

    #[test]
    fn a_subcommand_is_found_before_the_number_of_arguments_is_checked() {
        assert_eq!(known("CONFIG Get maxmemory").name, "config|get");
        assert_eq!(
            refusal("CONFIG GET"),
            "-ERR wrong number of arguments for 'config|get' command\r\n"
        );
        assert_eq!(refusal("CONFIG"), "-ERR wrong number of arguments for 'config' command\r\n");
        assert_eq!(refusal("config x"), "-ERR unknown subcommand 'x'. Try CONFIG HELP.\r\n");
        assert_eq!(known("COMMAND").name, "command");
    }

    #[test]
    fn an_unknown_command_without_arguments_is_answered() {
        assert_eq!(refusal("Foo"), "-ERR unknown command 'Foo', with args beginning with: \r\n");
        assert!(matches!(look_up("foo a"), Lookup::Unknown));
    }

    #[test]
    fn reads_are_what_redis_flags_as_such() {
        for read in ["GET k", "EVAL_RO s 1 k", "SORT_RO k", "FCALL_RO f 1 k", "OBJECT FREQ k"] {
            assert!(known(read).is_read(), "{read}");
        }
        for write in
            ["SET k v", "EVAL s 1 k", "SORT k", "GETEX k", "XREADGROUP GROUP g c STREAMS s >"]
        {
            assert!(!known(write).is_read(), "{write}");
        }
        assert!(COMMANDS.iter().all(|spec| !spec.is_read() || !spec.flags.contains(Flags::WRITE)));
    }

    #[test]
    fn what_is_done_with_a_call_may_depend_on_its_arguments() {
        for (call, support) in [
            ("XREAD COUNT 1 STREAMS block 0", Support::Forward),
            ("XREAD COUNT 1 block 0 STREAMS s 0", Support::Block),
            ("XREADGROUP GROUP block block STREAMS s >", Support::Forward),
            ("XREADGROUP GROUP g c BLOCK 0 STREAMS s >", Support::Block),
            ("EVAL s 0 block", Support::AnyNode),
            ("EVAL s 1 k", Support::Forward),
            ("EVAL s x", Support::Forward),
            ("FCALL f 0", Support::AnyNode),
            ("BLPOP k 0", Support::Block),
            ("PING", Support::Local(Local::Ping)),
        ] {
            let args: Vec<_> = call.split(' ').map(str::as_bytes).collect();
            let decided = with_frame(&args, |frame| known(call).support_for(&frame));
            assert_eq!(decided, support, "{call}");
        }
    }
}
