//! Commands that become several: those whose keys sit in several slots and that Redis would refuse
//! whole, cut into one sub-request per slot, and those that go to every primary. One reply is made
//! from all of theirs.

use std::ops::Range;

use crate::command::Merge;
use crate::config::ReadPolicy;
use crate::errors;
use crate::flight::join;
use crate::flight::request::Part;
use crate::resp::{Reply, RequestFrame, encode, value_len};
use crate::route::Place;
use crate::target::Target;

/// Room that is made for the replies to all parts when the first one has come.
const MOST_RESERVED: usize = 4096;

/// A split command in flight.
#[derive(Debug)]
pub(crate) struct Split {
    merge: Merge,
    /// For [`Merge::AnyValue`] a random number, for [`Merge::Latest`] how many elements are wanted.
    argument: u64,
    parts: Vec<SplitPart>,
    /// For every key of the command, the part that carries it.
    part_of_key: Vec<u32>,
    /// Replies of the parts, in order of arrival.
    replies: Vec<u8>,
    /// Parts without a reply.
    outstanding: usize,
    /// A part has been executed, or may have been.
    executed: bool,
    /// The first error, if possible another one than that there is nothing to end.
    error: Option<Vec<u8>>,
}

#[derive(Debug)]
struct SplitPart {
    part: Part,
    answered: bool,
    /// Where its reply stands in `replies`.
    reply: Range<usize>,
}

/// Which keys travel together: the plan by which a command is cut.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Place and position among the keys, sorted.
    keys: Vec<(Place, u32)>,
}

impl Plan {
    /// Groups keys that live at `places` by cluster and slot.
    pub(crate) fn make(&mut self, places: impl Iterator<Item = Place>) {
        self.keys.clear();
        self.keys.extend(places.zip(0..));
        let order = |place: &Place, key: &u32| u64::from(place.number()) << 32 | u64::from(*key);
        self.keys.sort_unstable_by_key(|(place, key)| order(place, key));
    }

    /// The keys of each place, as positions among the keys, in their order.
    fn groups(&self) -> impl Iterator<Item = &[(Place, u32)]> {
        self.keys.chunk_by(|(left, _), (right, _)| left == right)
    }

    /// Encodes each group as a command of its own into `buffer` and hands it to `send` with its
    /// number: the command's name, then each key with whatever belongs to it, all of them as the
    /// client wrote them.
    pub(crate) fn encode_each(
        &self,
        frame: &RequestFrame<'_>,
        keys: &[u32],
        merge: Merge,
        buffer: &mut Vec<u8>,
        mut send: impl FnMut(u32, &[u8]),
    ) {
        let width = arguments_per_key(merge);
        for (group, part) in self.groups().zip(0..) {
            buffer.clear();
            encode::array_header(buffer, 1 + group.len() * width);
            buffer.extend_from_slice(frame.raw(0).unwrap_or_default());
            for (_, key) in group {
                let position = keys.get(*key as usize).map_or(0, |position| *position as usize);
                for argument in position..position + width {
                    buffer.extend_from_slice(frame.raw(argument).unwrap_or_default());
                }
            }
            send(part, buffer);
        }
    }
}

/// Whether a reply to a part is an error, if need be behind attributes.
fn is_error(reply: &[u8]) -> bool {
    match reply.first() {
        Some(b'|') => Reply::new(reply).error_line().is_some(),
        tag => matches!(tag, Some(b'-' | b'!')),
    }
}

/// A key and, for MSET, its value.
fn arguments_per_key(merge: Merge) -> usize {
    match merge {
        Merge::AllOk => 2,
        _ => 1,
    }
}

impl Split {
    /// A command cut by `plan`; its parts are numbered as the plan encodes them.
    pub(crate) fn new(merge: Merge, plan: &Plan, policy: ReadPolicy) -> Self {
        let mut part_of_key = vec![0; plan.keys.len()];
        let mut parts = Vec::with_capacity(plan.keys.len());
        for group in plan.groups() {
            let number = parts.len() as u32;
            for (_, key) in group {
                if let Some(part) = part_of_key.get_mut(*key as usize) {
                    *part = number;
                }
            }
            let Some((place, _)) = group.first() else { continue };
            let several_keys = group.len() > 1;
            let part =
                Part { several_keys, ..Part::new(place.cluster, Target::of(place.slot, policy)) };
            parts.push(SplitPart::new(part));
        }
        Self::of_parts(merge, 0, parts, part_of_key)
    }

    /// A command of which each of `parts` gets all.
    pub(crate) fn whole(merge: Merge, argument: u64, parts: impl Iterator<Item = Part>) -> Self {
        Self::of_parts(merge, argument, parts.map(SplitPart::new).collect(), Vec::new())
    }

    fn of_parts(merge: Merge, argument: u64, parts: Vec<SplitPart>, part_of_key: Vec<u32>) -> Self {
        let outstanding = parts.len();
        let (replies, executed, error) = (Vec::new(), false, None);
        Self { merge, argument, parts, part_of_key, replies, outstanding, executed, error }
    }

    pub(crate) fn part(&self, part: u32) -> Option<&Part> {
        let part = self.parts.get(part as usize)?;
        (!part.answered).then_some(&part.part)
    }

    /// Adds a reply that is there already: what the proxy itself knows beside the nodes.
    pub(crate) fn add_reply(&mut self, reply: &[u8]) {
        let Some(part) = self.parts.first().map(|first| first.part) else { return };
        let number = self.parts.len() as u32;
        self.parts.push(SplitPart::new(part));
        self.outstanding += 1;
        let executed = self.executed;
        self.absorb(number, reply);
        self.executed = executed;
    }

    pub(crate) fn part_mut(&mut self, part: u32) -> Option<&mut Part> {
        let part = self.parts.get_mut(part as usize)?;
        (!part.answered).then_some(&mut part.part)
    }

    /// The parts that are still to be answered, with their numbers.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (u32, &Part)> {
        let numbered = (0..).zip(&self.parts);
        numbered.filter(|(_, part)| !part.answered).map(|(number, part)| (number, &part.part))
    }

    /// A part that gets an error may have been executed all the same.
    pub(crate) fn note_executed(&mut self) {
        self.executed = true;
    }

    /// Whether any part has been executed, or may have been, as far as replies tell.
    pub(crate) fn is_executed(&self) -> bool {
        self.executed
    }

    /// Takes in the reply to one part. Returns whether that was the last one.
    pub(crate) fn absorb(&mut self, part: u32, reply: &[u8]) -> bool {
        let all = self.parts.len();
        let Some(part) = self.parts.get_mut(part as usize).filter(|part| !part.answered) else {
            return false;
        };
        part.answered = true;
        self.outstanding = self.outstanding.saturating_sub(1);
        if is_error(reply) {
            if self.error.as_ref().is_none_or(|error| error.starts_with(b"-NOTBUSY")) {
                self.error = Some(reply.to_vec());
            }
        } else {
            self.executed = true;
            let start = self.replies.len();
            if start == 0 {
                // The others will hardly be longer.
                self.replies.reserve(reply.len().saturating_mul(all).min(MOST_RESERVED));
            }
            self.replies.extend_from_slice(reply);
            part.reply = start..self.replies.len();
        }
        self.outstanding == 0
    }

    /// Bytes of the replies that have come.
    pub(crate) fn reply_bytes(&self) -> usize {
        self.replies.len()
    }

    /// Writes the one reply that all parts' replies make. They are used up.
    pub(crate) fn write_reply(&mut self, out: &mut Vec<u8>) {
        if let Some(error) = &self.error
            && (self.merge != Merge::AnySuccess || self.replies().next().is_none())
        {
            out.extend_from_slice(error);
            return;
        }
        let start = out.len();
        let written = match self.merge {
            Merge::KeyOrder => self.write_array(out),
            merge => join::write(merge, self.argument, &self.replies().collect::<Vec<_>>(), out),
        };
        if written.is_none() {
            out.truncate(start);
            encode::error(out, errors::UNMERGEABLE.as_bytes());
        }
    }

    /// The elements of the parts' arrays, each in the place of its key.
    fn write_array(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let Self { parts, part_of_key, replies, .. } = self;
        for part in parts.iter_mut() {
            let elements = Reply::new(replies.get(part.reply.clone())?).elements();
            part.reply.start = part.reply.end.saturating_sub(elements.rest().len());
        }
        encode::array_header(out, part_of_key.len());
        for part in part_of_key {
            let rest = &mut parts.get_mut(*part as usize)?.reply;
            let bytes = replies.get(rest.clone())?;
            let element = bytes.get(..value_len(bytes)?)?;
            out.extend_from_slice(element);
            rest.start += element.len();
        }
        Some(())
    }

    /// The replies that are no errors, in the order of the parts.
    fn replies(&self) -> impl Iterator<Item = &[u8]> {
        self.parts
            .iter()
            .filter_map(|part| self.replies.get(part.reply.clone()))
            .filter(|reply| !reply.is_empty())
    }
}

impl SplitPart {
    fn new(part: Part) -> Self {
        Self { part, answered: false, reply: 0..0 }
    }
}
