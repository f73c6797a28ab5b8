//! The row of a command, in the vocabulary of Redis' `COMMAND` reply.

use crate::command::support::{self, Support};
use crate::resp::RequestFrame;

/// What is known of one command or subcommand.
#[derive(Clone, Copy, Debug)]
pub struct CommandSpec {
    /// Full name in lower case; a subcommand's is `"config|get"`. Empty for [`super::UNKNOWN`].
    pub name: &'static str,
    /// Arguments taken, all names included; a negative number is a minimum.
    pub arity: i8,
    /// What Redis says of the command.
    pub flags: Flags,
    /// Where Redis says the keys stand.
    pub key_specs: &'static [KeySpec],
    /// How [`super::keys()`] finds the keys: what `key_specs` come down to.
    pub key_shape: KeyShape,
    /// Where Redis wants a cluster client to send the command.
    pub request_policy: RequestPolicy,
    /// How Redis wants a cluster client to join the replies.
    pub response_policy: ResponsePolicy,
    /// How many subcommands' rows follow in [`super::COMMANDS`]; 0 unless this is a container.
    pub subcommands: u8,
    /// What the proxy does with the command, before it looks at the arguments.
    pub support: Support,
    /// Its position in [`super::COMMANDS`]; that behind the last one for [`super::UNKNOWN`].
    pub(crate) row: u16,
}

impl CommandSpec {
    /// What the proxy does with this call of the command.
    ///
    /// Differs from `support` where that depends on the arguments: `XREAD` and `XREADGROUP` may
    /// wait with `BLOCK`; `EVAL`, `FCALL` and their kin go to any primary without a key.
    #[inline]
    pub fn support_for(&self, frame: &RequestFrame<'_>) -> Support {
        let flags = Flags::BLOCKING.or(Flags::NO_MANDATORY_KEYS).or(Flags::ADMIN);
        let depends = self.flags.intersects(flags);
        if depends && matches!(self.support, Support::Forward | Support::Debug) {
            return support::of_call(self, frame);
        }
        self.support
    }

    /// Whether a replica may answer: only where Redis itself flags the command as read-only.
    ///
    /// A command that can write under some option (`SORT` with `STORE`, `EVAL`) is a write.
    #[inline]
    pub const fn is_read(&self) -> bool {
        self.flags.contains(Flags::READONLY)
    }

    /// Where the only key stands, if the command always has one in the same place.
    #[inline]
    pub(crate) const fn single_key(&self) -> Option<usize> {
        match self.key_shape {
            KeyShape::One(index) if !self.flags.contains(Flags::NO_MANDATORY_KEYS) => {
                Some(index as usize)
            }
            _ => None,
        }
    }

    /// Whether `len` arguments, all names included, are a legal number.
    #[inline]
    pub const fn accepts(&self, len: usize) -> bool {
        let arity = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { len >= arity } else { len == arity }
    }

    /// States Redis' policies for a cluster client.
    pub(super) const fn policy(mut self, request: RequestPolicy, response: ResponsePolicy) -> Self {
        self.request_policy = request;
        self.response_policy = response;
        self
    }

    /// Makes the row a container, whose `count` subcommands are the next rows.
    pub(super) const fn subcommands(mut self, count: u8) -> Self {
        self.subcommands = count;
        self
    }

    /// States that the arguments tell the keys only to code written for this command.
    pub(super) const fn keys_by(mut self, shape: KeyShape) -> Self {
        self.key_shape = shape;
        self
    }
}

/// A row of the table; what it does not say is Redis' default.
pub(super) const fn row(
    name: &'static str,
    arity: i8,
    flags: &[Flags],
    key_specs: &'static [KeySpec],
) -> CommandSpec {
    CommandSpec {
        name,
        arity,
        flags: Flags::all(flags),
        key_specs,
        key_shape: KeyShape::of(key_specs),
        request_policy: RequestPolicy::Default,
        response_policy: ResponsePolicy::Default,
        subcommands: 0,
        support: Support::Forward,
        row: 0,
    }
}

/// A set of command flags, with Redis' names and meanings.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Flags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $text:literal;)*) => {
        impl Flags {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*

            /// Every flag with the name that `COMMAND` gives it.
            pub const NAMES: &[(Self, &'static str)] = &[$((Self::$name, $text)),*];
        }
    };
}

flags! {
    /// Administrative: not for applications.
    ADMIN = 0, "admin";
    /// Runs while a script keeps the server busy.
    ALLOW_BUSY = 1, "allow_busy";
    /// Runs on a slot that is being imported, without `ASKING` before it.
    ASKING = 2, "asking";
    /// May keep its connection waiting.
    BLOCKING = 3, "blocking";
    /// Refused when memory is short.
    DENYOOM = 4, "denyoom";
    /// Takes constant or logarithmic time.
    FAST = 5, "fast";
    /// Runs while the data set is being loaded.
    LOADING = 6, "loading";
    /// The place of the keys depends on the arguments.
    MOVABLEKEYS = 7, "movablekeys";
    /// Refused while a replica loads a data set aside.
    NO_ASYNC_LOADING = 8, "no_async_loading";
    /// Runs before the client has authenticated.
    NO_AUTH = 9, "no_auth";
    /// May come without any key, though it has key specs.
    NO_MANDATORY_KEYS = 10, "no_mandatory_keys";
    /// Refused in a transaction.
    NO_MULTI = 11, "no_multi";
    /// Refused in a script.
    NOSCRIPT = 12, "noscript";
    /// Belongs to publish/subscribe.
    PUBSUB = 13, "pubsub";
    /// Only reads keys: a replica may run it.
    READONLY = 14, "readonly";
    /// Not shown by `MONITOR`.
    SKIP_MONITOR = 15, "skip_monitor";
    /// Not kept by `SLOWLOG`.
    SKIP_SLOWLOG = 16, "skip_slowlog";
    /// Runs on a replica that has lost its primary.
    STALE = 17, "stale";
    /// May change keys.
    WRITE = 18, "write";
}

impl Flags {
    /// The union of `flags`.
    const fn all(flags: &[Self]) -> Self {
        match flags {
            [] => Self(0),
            [first, rest @ ..] => first.or(Self::all(rest)),
        }
    }

    /// The union of both sets.
    const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the sets share a flag.
    const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether every flag of `other` is in the set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names of the flags in the set, in alphabetical order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| *name)
    }
}

/// How the keys of a command are found, decided when the table is compiled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyShape {
    /// There are none.
    None,
    /// One key, the argument with this index: nothing has to be searched.
    One(u8),
    /// As `key_specs` say.
    Specs,
    /// `SORT`: the first argument, and the destination of the last `STORE`.
    Sort,
    /// `MIGRATE`: the third argument, or all after `KEYS`.
    Migrate,
}

impl KeyShape {
    const fn of(specs: &[KeySpec]) -> Self {
        match specs {
            [] => Self::None,
            [
                KeySpec {
                    begin_search: BeginSearch::Index(index),
                    find_keys: FindKeys::Range { last: 0, .. },
                },
            ] => Self::One(*index),
            _ => Self::Specs,
        }
    }
}

/// Where to look for some of a command's keys: first where to begin, then how to go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeySpec {
    /// Where the search begins.
    pub begin_search: BeginSearch,
    /// Which arguments from there are keys.
    pub find_keys: FindKeys,
}

impl KeySpec {
    /// One key, right after the command's name.
    pub(super) const FIRST_ARGUMENT: Self = index(1).range(0, 1, 0);
}

/// Where the search for keys begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BeginSearch {
    /// At the argument with this index.
    Index(u8),
    /// After the first argument that is this word, in any case.
    Keyword {
        /// The word, in upper case.
        word: &'static str,
        /// Index of the first argument looked at; a negative one counts from the end, and the
        /// search then goes backwards.
        start_from: i8,
    },
    /// Not told by the spec: see [`KeyShape`] for the code that knows.
    Unknown,
}

/// Which arguments are keys, once the search has begun at a first one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FindKeys {
    /// All from the first to a last one.
    Range {
        /// The last key: counted from the first one, or if negative, from the end (-1 is the last
        /// argument).
        last: i8,
        /// Arguments from one key to the next.
        step: u8,
        /// Where `last` is negative: 2 or more means that only one in so many of the remaining
        /// arguments are keys (`XREAD`: the first half are keys, the others ids).
        limit: u8,
    },
    /// As many as an argument says.
    KeyNum {
        /// Where that argument stands, counted from the first one.
        count_at: u8,
        /// Where the first key stands, counted from the same.
        first: u8,
        /// Arguments from one key to the next.
        step: u8,
    },
    /// Not told by the spec: see [`KeyShape`] for the code that knows.
    Unknown,
}

/// Begins at the argument with this index.
pub(super) const fn index(index: u8) -> BeginSearch {
    BeginSearch::Index(index)
}

/// Begins after `word`, looked for from `start_from`.
pub(super) const fn keyword(word: &'static str, start_from: i8) -> BeginSearch {
    BeginSearch::Keyword { word, start_from }
}

/// A spec that leaves the keys to code.
pub(super) const UNKNOWN_KEYS: KeySpec =
    KeySpec { begin_search: BeginSearch::Unknown, find_keys: FindKeys::Unknown };

impl BeginSearch {
    /// All arguments up to `last`.
    pub(super) const fn range(self, last: i8, step: u8, limit: u8) -> KeySpec {
        KeySpec { begin_search: self, find_keys: FindKeys::Range { last, step, limit } }
    }

    /// As many as the argument at `count_at` says.
    pub(super) const fn keynum(self, count_at: u8, first: u8, step: u8) -> KeySpec {
        KeySpec { begin_search: self, find_keys: FindKeys::KeyNum { count_at, first, step } }
    }
}

/// Where Redis wants a cluster client to send a command (`request_policy` in its tips).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestPolicy {
    /// By its keys; without keys, to any node.
    Default,
    /// To every node, replicas included.
    AllNodes,
    /// To every primary.
    AllShards,
    /// Split by slot.
    MultiShard,
    /// By rules of its own.
    Special,
}

/// How Redis wants a cluster client to join replies (`response_policy` in its tips).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ResponsePolicy {
    /// Replies with keys in their order; without keys, all elements in any order.
    Default,
    /// The logical AND of integers.
    AggLogicalAnd,
    /// The least integer.
    AggMin,
    /// The sum of integers.
    AggSum,
    /// OK if all succeeded, else an error.
    AllSucceeded,
    /// The first reply that is no error.
    OneSucceeded,
    /// By rules of its own.
    Special,
}
