//! Which arguments of a command are keys.

use crate::command::{BeginSearch, CommandSpec, FindKeys, Flags, KeyShape, KeySpec};
use crate::resp::{RequestFrame, parse_decimal};

/// Why a frame has no keys that could be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeysError {
    /// The arguments come in groups (`MSET key value ...`) and the last group is cut short; Redis
    /// words it as a wrong number of arguments, see [`super::CommandError::Arity`].
    Arity,
    /// The arguments do not fit the command's syntax: no number where the number of keys should be,
    /// or more keys announced than sent. Redis finds no key in such a command either and runs it
    /// where it arrives, to answer with that command's own error: send it to any node.
    Malformed,
}

/// Replaces what is in `out` by the indices of all keys of `frame`, whose row is `spec`.
///
/// Agrees with the keys that a node finds when it checks the slots of a command, so that a route
/// made from them is one the node accepts: shard channels count as keys, patterns (`SORT ... BY`)
/// do not. Without an error, `out` is empty only if the command has no keys by its nature or says
/// so itself (`EVAL script 0`). With an error, `out` holds nothing of use.
#[inline]
pub fn keys(
    spec: &CommandSpec,
    frame: &RequestFrame<'_>,
    out: &mut Vec<u32>,
) -> Result<(), KeysError> {
    out.clear();
    match spec.key_shape {
        KeyShape::None => Ok(()),
        KeyShape::One(index) => push(index.into(), frame, out),
        KeyShape::Specs => {
            let may_be_none = spec.flags.contains(Flags::NO_MANDATORY_KEYS);
            spec.key_specs.iter().try_for_each(|spec| find_keys(spec, may_be_none, frame, out))
        }
        KeyShape::Sort => sort_keys(frame, out),
        KeyShape::Migrate => migrate_keys(frame, out),
    }
}

/// Appends the keys of one spec, by the rules of `getKeysUsingKeySpecs` in Redis' db.c.
fn find_keys(
    spec: &KeySpec,
    may_be_none: bool,
    frame: &RequestFrame<'_>,
    out: &mut Vec<u32>,
) -> Result<(), KeysError> {
    let len = frame.len();
    let begin = match spec.begin_search {
        BeginSearch::Index(index) => usize::from(index),
        BeginSearch::Keyword { word, start_from } => match find_word(word, start_from, frame) {
            Some(index) => index + 1,
            None if out.is_empty() => return Err(KeysError::Malformed),
            None => return Ok(()),
        },
        BeginSearch::Unknown => return Ok(()),
    };
    let (first, last, step) = match spec.find_keys {
        FindKeys::Range { last, step, limit } => {
            let rest = len.checked_sub(begin).ok_or(KeysError::Malformed)?;
            let step = usize::from(step).max(1);
            let from_end = usize::from(last.unsigned_abs());
            let last = match usize::from(limit) {
                _ if last >= 0 => Some(begin + from_end),
                0 | 1 if last == -1 && !rest.is_multiple_of(step) => return Err(KeysError::Arity),
                0 | 1 => len.checked_sub(from_end),
                limit => (begin + rest / limit).checked_sub(from_end),
            };
            (begin, last.ok_or(KeysError::Malformed)?, step)
        }
        FindKeys::KeyNum { count_at, first, step } => {
            let count = frame.arg(begin + usize::from(count_at)).and_then(parse_count);
            let count = count.ok_or(KeysError::Malformed)?;
            let Some(more) = count.checked_sub(1) else {
                return if may_be_none { Ok(()) } else { Err(KeysError::Malformed) };
            };
            let (first, step) = (begin + usize::from(first), usize::from(step).max(1));
            let last = more.checked_mul(step).and_then(|more| first.checked_add(more));
            (first, last.ok_or(KeysError::Malformed)?, step)
        }
        FindKeys::Unknown => return Ok(()),
    };
    // A list of keys after others may be empty: PFMERGE with a destination only.
    if first == len && !out.is_empty() && matches!(spec.find_keys, FindKeys::Range { .. }) {
        return Ok(());
    }
    if first > last || last >= len {
        return Err(KeysError::Malformed);
    }
    out.extend((first..=last).step_by(step).map(|index| index as u32));
    Ok(())
}

/// Index of the argument that is `word`; Redis does not look at the last one, which could have
/// nothing after it.
fn find_word(word: &str, start_from: i8, frame: &RequestFrame<'_>) -> Option<usize> {
    let from = usize::from(start_from.unsigned_abs());
    let is_word = |index: &usize| {
        frame.arg(*index).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    };
    if start_from < 0 {
        (1..=frame.len().checked_sub(from)?).rev().find(is_word)
    } else {
        (from..frame.len().checked_sub(1)?).find(is_word)
    }
}

/// The number of keys as a client writes it. A number that cannot count arguments is none.
fn parse_count(digits: &[u8]) -> Option<usize> {
    usize::try_from(parse_decimal(digits)?).ok()
}

/// `SORT key [BY pattern] [LIMIT offset count] [GET pattern ...] [STORE destination] ...`: of
/// several destinations, Redis takes the last.
fn sort_keys(frame: &RequestFrame<'_>, out: &mut Vec<u32>) -> Result<(), KeysError> {
    push(1, frame, out)?;
    let mut destination = None;
    let mut index = 2;
    while let Some(option) = frame.arg(index) {
        let is = |word: &[u8]| option.eq_ignore_ascii_case(word);
        index += match () {
            () if is(b"limit") => 3,
            () if is(b"by") || is(b"get") => 2,
            () if is(b"store") && index + 1 < frame.len() => {
                destination = Some(index as u32 + 1);
                2
            }
            () => 1,
        };
    }
    out.extend(destination);
    Ok(())
}

/// `MIGRATE host port key|"" database timeout [COPY] [REPLACE] [AUTH password]
/// [AUTH2 username password] [KEYS key ...]`
fn migrate_keys(frame: &RequestFrame<'_>, out: &mut Vec<u32>) -> Result<(), KeysError> {
    const KEY: usize = 3;
    let mut index = 6;
    while let Some(option) = frame.arg(index) {
        let is = |word: &[u8]| option.eq_ignore_ascii_case(word);
        index += match () {
            () if is(b"keys") && index + 1 < frame.len() => {
                if frame.arg(KEY) != Some(b"") {
                    return Err(KeysError::Malformed);
                }
                out.extend((index + 1..frame.len()).map(|index| index as u32));
                return Ok(());
            }
            () if is(b"auth2") => 3,
            () if is(b"auth") => 2,
            () => 1,
        };
    }
    push(KEY, frame, out)
}

/// Appends the key at `index`, if there is such an argument.
#[inline]
fn push(index: usize, frame: &RequestFrame<'_>, out: &mut Vec<u32>) -> Result<(), KeysError> {
    if index >= frame.len() {
        return Err(KeysError::Malformed);
    }
    out.push(index as u32);
    Ok(())
}

/// The number of a database that a SELECT names.
pub(crate) fn database_of(frame: &RequestFrame<'_>) -> Option<i64> {
    parse_decimal(frame.arg(1)?)
}

/// Where an `XREAD` or `XREADGROUP` says `BLOCK`, if it does, and not as the name of a group or
/// stream.
pub(crate) fn block_option(frame: &RequestFrame<'_>) -> Option<usize> {
    let mut index = 1;
    while let Some(option) = frame.arg(index) {
        let is = |word: &[u8]| option.eq_ignore_ascii_case(word);
        index += match () {
            () if is(b"block") => return Some(index),
            () if is(b"streams") => return None,
            () if is(b"group") => 3,
            () if is(b"claim") || is(b"count") => 2,
            () => 1,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Lookup, UNKNOWN, lookup, with_frame};

    fn find(command: &str) -> Result<Vec<u32>, KeysError> {
        let args: Vec<_> = command.split(' ').map(str::as_bytes).collect();
        with_frame(&args, |frame| {
            let spec = match lookup(&frame) {
                Lookup::Known(spec) => spec,
                Lookup::Unknown => &UNKNOWN,
                Lookup::Invalid(error) => panic!("{command}: {error:?}"),
            };
            let mut out = vec![99];
            keys(spec, &frame, &mut out).map(|()| out)
        })
    }

    #[track_caller]
    fn finds<const N: usize>(command: &str, expected: [u32; N]) {
        assert_eq!(find(command).as_deref(), Ok(expected.as_slice()), "{command}");
    }

    #[test]
    fn one_key_is_where_the_row_says() {
        finds("GET k", [1]);
        finds("OBJECT ENCODING k", [2]);
        finds("PING", []);
    }

    #[test]
    fn an_unknown_command_is_keyed_by_its_first_argument() {
        finds("FROB a b", [1]);
    }

    #[test]
    fn a_range_runs_to_the_end_in_steps() {
        finds("MGET a b c", [1, 2, 3]);
        finds("MSET a 1 b 2", [1, 3]);
        finds("BITOP AND d a b", [2, 3, 4]);
        finds("SMOVE a b m", [1, 2]);
        finds("JSON.MGET a b $", [1, 2]);
        finds("TS.MADD a 1 2 b 3 4", [1, 4]);
    }

    #[test]
    fn a_pair_cut_short_is_a_wrong_number_of_arguments() {
        assert_eq!(find("MSET a 1 b"), Err(KeysError::Arity));
        assert_eq!(find("MSETNX a 1 b"), Err(KeysError::Arity));
        assert_eq!(find("TS.MADD a 1 2 b"), Err(KeysError::Arity));
    }

    #[test]
    fn half_of_what_follows_streams_are_keys() {
        finds("XREAD COUNT 2 streams a b 0 0", [4, 5]);
        finds("XREADGROUP GROUP streams c STREAMS a >", [5]);
        assert_eq!(find("XREAD COUNT 1 a"), Err(KeysError::Malformed));
    }

    #[test]
    fn as_many_keys_as_announced() {
        finds("ZUNIONSTORE d 2 a b WEIGHTS 1 2", [1, 3, 4]);
        finds("ZUNION 1 a", [2]);
        finds("EVAL s 2 a b c", [3, 4]);
        finds("EVAL s 0 a", []);
        finds("MSETEX 2 a 1 b 2 EX 10", [2, 4]);
        finds("CMS.MERGE d 2 a b", [1, 3, 4]);
    }

    #[test]
    fn a_number_of_keys_that_is_none_or_too_high_is_malformed() {
        for count in
            ["0", "3", "-1", "+1", "01", "x", "", "1.0", "4294967296", "99999999999999999999"]
        {
            let command = format!("ZUNIONSTORE d {count} a b");
            assert_eq!(find(&command), Err(KeysError::Malformed), "{command}");
        }
        assert_eq!(find("EVAL s 18446744073709551615 a"), Err(KeysError::Malformed));
        assert_eq!(find("EVAL s 2 a"), Err(KeysError::Malformed));
    }

    #[test]
    fn a_merge_into_a_destination_alone_has_that_key() {
        finds("PFMERGE d", [1]);
    }

    #[test]
    fn sort_has_a_destination_but_its_patterns_are_no_keys() {
        finds("SORT k BY store GET store LIMIT 0 store ALPHA", [1]);
        finds("SORT k STORE a sTore b DESC", [1, 5]);
        finds("SORT k STORE", [1]);
        finds("SORT_RO k BY w_*", [1]);
    }

    #[test]
    fn a_geo_query_stores_where_it_is_told_to() {
        finds("GEORADIUS k 1 2 3 m STORE a STOREDIST b", [1, 7, 9]);
        finds("GEORADIUSBYMEMBER k m 3 m storedist b", [1, 6]);
        finds("GEORADIUS_RO k 1 2 3 m STORE a", [1]);
        finds("GEORADIUS k 1 2 3 m STORE", [1]);
    }

    #[test]
    fn migrate_moves_one_key_or_a_list() {
        finds("MIGRATE h 1 k 0 9 COPY AUTH keys", [3]);
        finds("MIGRATE h 1  0 9 AUTH2 keys keys keys a b", [10, 11]);
        assert_eq!(find("MIGRATE h 1 k 0 9 KEYS a b"), Err(KeysError::Malformed));
        finds("MIGRATE h 1 k 0 9 KEYS", [3]);
    }

    #[test]
    fn only_a_row_that_names_code_has_specs_that_do_not_tell() {
        use crate::command::COMMANDS;
        for spec in &COMMANDS {
            let untold = spec.key_specs.iter().any(|spec| {
                spec.begin_search == BeginSearch::Unknown || spec.find_keys == FindKeys::Unknown
            });
            assert!(!untold || spec.key_shape != KeyShape::Specs, "{}", spec.name);
        }
    }
}
