//! How the replies of all primaries become the reply of one server.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::command::Merge;
use crate::flight::info;
use crate::resp::{Kind, Reply, encode};
use crate::sort::sort_by_key;

/// Writes one reply in the place of `replies`, of which none is an error. `argument` is a random
/// number for [`Merge::AnyValue`], and for [`Merge::Latest`] how many entries are wanted. `None` if
/// the replies do not fit together.
pub(crate) fn write(
    merge: Merge,
    argument: u64,
    replies: &[&[u8]],
    out: &mut Vec<u8>,
) -> Option<()> {
    let values = || replies.iter().map(|reply| Reply::new(reply));
    match merge {
        // By key: see `Split`.
        Merge::KeyOrder => return None,
        Merge::AllOk => {
            values().all(|reply| reply.bulk() == Some(b"OK")).then_some(())?;
            encode::simple(out, b"OK");
        }
        Merge::Sum => {
            let sum = values().try_fold(0_i64, |sum, reply| sum.checked_add(reply.integer()?))?;
            encode::integer(out, sum);
        }
        Merge::Least => {
            let integers: Option<Vec<_>> = values().map(|reply| reply.integer()).collect();
            encode::integer(out, integers?.into_iter().min()?);
        }
        Merge::LeastOfEach => write_least_of_each(replies, out)?,
        Merge::LastOrAll => write_last_or_all(replies, out)?,
        Merge::Concat => {
            let elements = || values().flat_map(|reply| reply.elements());
            encode::array_header(out, elements().count());
            elements().for_each(|element| out.extend_from_slice(element));
        }
        Merge::Union => {
            let elements: BTreeSet<_> = values().flat_map(|reply| reply.elements()).collect();
            encode::array_header(out, elements.len());
            elements.into_iter().for_each(|element| out.extend_from_slice(element));
        }
        Merge::SumOfEach => write_sum_of_each(replies, out)?,
        Merge::Latest => write_latest(argument, replies, out),
        Merge::First | Merge::AnySuccess => out.extend_from_slice(replies.first()?),
        Merge::AnyValue => {
            let some: Vec<_> =
                replies.iter().filter(|reply| !Reply::new(reply).is_null()).collect();
            let chosen = argument.checked_rem(some.len() as u64).unwrap_or(0);
            let chosen = some.get(usize::try_from(chosen).ok()?).copied();
            out.extend_from_slice(chosen.or_else(|| replies.first())?);
        }
        Merge::Running => {
            let running = replies.iter().find(|reply| tells_of_script(reply));
            out.extend_from_slice(running.or_else(|| replies.first())?);
        }
        Merge::Info => {
            let texts: Option<Vec<_>> = values().map(|reply| reply.bulk()).collect();
            let mut text = Vec::new();
            info::merge(&texts?, &mut text);
            if values().next()?.kind() == Kind::Verbatim {
                encode::verbatim(out, &text);
            } else {
                encode::bulk(out, &text);
            }
        }
    }
    Some(())
}

fn write_least_of_each(replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    write_integers(&least_of_each(replies)?, out);
    Some(())
}

/// The flags of the last array, and those that all others have.
fn write_last_or_all(replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let (last, others) = replies.split_last()?;
    let (mut flags, all) = (least_of_each(&[last])?, least_of_each(others)?);
    (flags.len() == all.len()).then_some(())?;
    flags.iter_mut().zip(all).for_each(|(flag, all)| *flag = all.max(*flag));
    write_integers(&flags, out);
    Some(())
}

/// The integers of arrays, each the least of those in its place.
fn least_of_each(replies: &[&[u8]]) -> Option<Vec<i64>> {
    let mut least: Vec<i64> = Vec::new();
    for (number, reply) in replies.iter().enumerate() {
        let integers: Option<Vec<_>> =
            Reply::new(reply).elements().map(|element| Reply::new(element).integer()).collect();
        let integers = integers?;
        if number == 0 {
            least = integers;
            continue;
        }
        (least.len() == integers.len()).then_some(())?;
        least.iter_mut().zip(integers).for_each(|(least, integer)| *least = integer.min(*least));
    }
    Some(least)
}

fn write_integers(integers: &[i64], out: &mut Vec<u8>) {
    encode::array_header(out, integers.len());
    integers.iter().for_each(|integer| encode::integer(out, *integer));
}

/// Names as the first reply has them, and the sum of what all replies say behind each.
fn write_sum_of_each(replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let (first, others) = replies.split_first()?;
    let mut others: Vec<_> = others.iter().map(|reply| Reply::new(reply).elements()).collect();
    let elements = || Reply::new(first).elements();
    encode::array_header(out, elements().count());
    for element in elements() {
        let mut beside = others.iter_mut().map(|elements| elements.next());
        match Reply::new(element).integer() {
            None => {
                beside.all(|name| name == Some(element)).then_some(())?;
                out.extend_from_slice(element);
            }
            Some(number) => {
                let sum = beside
                    .try_fold(number, |sum, other| sum.checked_add(Reply::new(other?).integer()?));
                encode::integer(out, sum?.max(0));
            }
        }
    }
    Some(())
}

/// The newest entries of all logs, at most `count`.
fn write_latest(count: u64, replies: &[&[u8]], out: &mut Vec<u8>) {
    let entries = replies.iter().flat_map(|reply| Reply::new(reply).elements());
    let mut entries: Vec<_> = entries
        .map(|entry| {
            (Reply::new(entry).elements().nth(1).and_then(|t| Reply::new(t).integer()), entry)
        })
        .collect();
    sort_by_key(&mut entries, |(time, _)| Reverse(*time));
    entries.truncate(usize::try_from(count).unwrap_or(usize::MAX));
    encode::array_header(out, entries.len());
    entries.into_iter().for_each(|(_, entry)| out.extend_from_slice(entry));
}

/// Whether a reply to FUNCTION STATS tells of a script that is running.
fn tells_of_script(reply: &[u8]) -> bool {
    let mut fields = Reply::new(reply).elements().map(Reply::new);
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        if name.bulk() == Some(b"running_script") {
            return !value.is_null();
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(merge: Merge, argument: u64, replies: &[&str]) -> Option<String> {
        let replies: Vec<_> = replies.iter().map(|reply| reply.as_bytes()).collect();
        let mut out = Vec::new();
        write(merge, argument, &replies, &mut out)?;
        Some(String::from_utf8(out).unwrap().replace("\r\n", " "))
    }

    #[test]
    fn integers_are_summed_or_the_least_is_taken() {
        let two = &[":2\r\n", ":3\r\n"];
        assert_eq!(written(Merge::Sum, 0, two).unwrap(), ":5 ");
        assert_eq!(written(Merge::Least, 0, two).unwrap(), ":2 ");
        assert_eq!(written(Merge::Sum, 0, &[":9223372036854775807\r\n", ":1\r\n"]), None);
        let flags = &["*2\r\n:1\r\n:1\r\n", "*2\r\n:1\r\n:0\r\n"];
        assert_eq!(written(Merge::LeastOfEach, 0, flags).unwrap(), "*2 :1 :0 ");
        assert_eq!(written(Merge::LeastOfEach, 0, &["*1\r\n:1\r\n", "*0\r\n"]), None);
        let ours = "*2\r\n:0\r\n:1\r\n";
        assert_eq!(written(Merge::LastOrAll, 0, &[flags[0], flags[1], ours]).unwrap(), "*2 :1 :1 ");
        assert_eq!(written(Merge::LastOrAll, 0, &[flags[1], ours, flags[1]]).unwrap(), "*2 :1 :0 ");
    }

    #[test]
    fn the_elements_of_all_arrays_make_one() {
        let arrays = &["*1\r\n$1\r\na\r\n", "*0\r\n", "*2\r\n$1\r\nb\r\n$1\r\nc\r\n"];
        assert_eq!(written(Merge::Concat, 0, arrays).unwrap(), "*3 $1 a $1 b $1 c ");
    }

    #[test]
    fn of_the_same_elements_in_several_arrays_one_is_kept() {
        let arrays = &["*2\r\n$1\r\nb\r\n$1\r\na\r\n", "*0\r\n", "*1\r\n$1\r\nb\r\n"];
        assert_eq!(written(Merge::Union, 0, arrays).unwrap(), "*2 $1 a $1 b ");
    }

    #[test]
    fn what_is_said_of_each_name_is_summed_and_never_less_than_nothing() {
        let one = "*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n:0\r\n";
        let other = "*4\r\n$1\r\na\r\n:2\r\n$1\r\nb\r\n:-1\r\n";
        let sums = written(Merge::SumOfEach, 0, &[one, other]).unwrap();
        assert_eq!(sums, "*4 $1 a :3 $1 b :0 ");
        assert_eq!(written(Merge::SumOfEach, 0, &["*0\r\n", "*0\r\n"]).unwrap(), "*0 ");
        assert_eq!(written(Merge::SumOfEach, 0, &[one, "*0\r\n"]), None);
    }

    #[test]
    fn the_latest_entries_come_first_and_no_more_than_were_asked_for() {
        let logs = &["*2\r\n*2\r\n:0\r\n:5\r\n*2\r\n:1\r\n:3\r\n", "*1\r\n*2\r\n:9\r\n:4\r\n"];
        assert_eq!(written(Merge::Latest, 2, logs).unwrap(), "*2 *2 :0 :5 *2 :9 :4 ");
    }

    #[test]
    fn a_value_is_drawn_from_those_that_are_there() {
        let replies = &["$-1\r\n", "$1\r\na\r\n", "_\r\n", "$1\r\nb\r\n"];
        assert_eq!(written(Merge::AnyValue, 2, replies).unwrap(), "$1 a ");
        assert_eq!(written(Merge::AnyValue, 3, replies).unwrap(), "$1 b ");
        assert_eq!(written(Merge::AnyValue, 3, &["$-1\r\n", "$-1\r\n"]).unwrap(), "$-1 ");
    }

    #[test]
    fn a_running_script_is_told_of() {
        let idle = "*4\r\n$14\r\nrunning_script\r\n$-1\r\n$7\r\nengines\r\n*0\r\n";
        let busy = "%2\r\n$14\r\nrunning_script\r\n%1\r\n+name\r\n+f\r\n$7\r\nengines\r\n*0\r\n";
        let answer = written(Merge::Running, 0, &[idle, busy]).unwrap();
        assert!(answer.starts_with("%2 "), "{answer}");
        assert!(written(Merge::Running, 0, &[idle, idle]).unwrap().starts_with("*4 "));
    }

    #[test]
    fn all_have_to_say_ok() {
        assert_eq!(written(Merge::AllOk, 0, &["+OK\r\n", "+OK\r\n"]).unwrap(), "+OK ");
        assert_eq!(written(Merge::AllOk, 0, &["+OK\r\n", "+NO\r\n"]), None);
    }
}
