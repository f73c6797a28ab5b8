//! What this proxy does with each command: the list written by hand.

use crate::command::keys::block_option;
use crate::command::{CommandSpec, Flags, TopicKind};
use crate::resp::RequestFrame;

/// What the proxy does with a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Support {
    /// Sent to the node that owns the slot of its keys, which must all share one.
    Forward,
    /// Cut into one command per slot; the replies are merged.
    Split(Merge),
    /// Sent like [`Support::Forward`], but on a connection that nobody else uses meanwhile: it may
    /// keep that waiting.
    Block,
    /// `WAIT` and `WAITAOF`: sent to every primary, each on a connection that nobody else uses
    /// meanwhile; the replies are merged.
    Wait(Merge),
    /// About the client's transaction.
    Transaction(Verb),
    /// `CLIENT TRACKING`: nodes track for the client from now on, or not any more.
    Track,
    /// `CLIENT UNBLOCK`: sent to the node that keeps the client's command waiting.
    Unblock,
    /// Answered by the proxy.
    Local(Local),
    /// Subscribes the client to topics, in common with others.
    Subscribe(TopicKind),
    /// Ends subscriptions of the client.
    Unsubscribe(TopicKind),
    /// Sent to the node at which this proxy's clients are subscribed.
    Publish(TopicKind),
    /// Sent to any node: each would give the same answer.
    AnyNode,
    /// Sent to one primary, always the same: each would answer for itself, and the answers cannot
    /// be joined.
    OnePrimary,
    /// Sent to every primary; the replies are merged.
    EveryPrimary(Merge),
    /// Sent to one primary after the other, as the cursor says.
    Scan,
    /// `DEBUG`: `SLEEP` is sent to every primary, all else refused.
    Debug,
    /// Answered with an error.
    Refuse(Reason),
}

impl Support {
    /// Whether the command waits for EXEC when it comes after MULTI.
    pub fn is_queued(self) -> bool {
        !matches!(self, Self::Transaction(_) | Self::Local(Local::Quit | Local::Reset))
    }
}

/// What a client does with its transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verb {
    /// `MULTI`
    Multi,
    /// `EXEC`
    Exec,
    /// `DISCARD`
    Discard,
    /// `WATCH key [key ...]`
    Watch,
    /// `UNWATCH`
    Unwatch,
}

/// How the replies to several parts become one. Unless it says otherwise, an error to any part is
/// the reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Merge {
    /// One array, its elements in the order of the keys.
    KeyOrder,
    /// OK, as every part answered.
    AllOk,
    /// The sum of the integers.
    Sum,
    /// The least integer.
    Least,
    /// An array of integers, each the least of those in its place.
    LeastOfEach,
    /// An array of flags, each set where the last array has it set, or all others have.
    LastOrAll,
    /// All elements of the arrays.
    Concat,
    /// All elements of the arrays, each once.
    Union,
    /// An array of names and integers in turn: the sums of the integers in the same place.
    SumOfEach,
    /// The elements with the latest time, which is their second member; as many as were asked for.
    Latest,
    /// The first of the replies, which are all the same.
    First,
    /// Any reply that is no error.
    AnySuccess,
    /// Any reply that is no null.
    AnyValue,
    /// The reply that tells of a running script.
    Running,
    /// The text of INFO, of one server with all keys.
    Info,
}

/// A command that the proxy answers itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Local {
    /// `ACL WHOAMI`
    AclWhoami,
    /// `AUTH [username] password`
    Auth,
    /// `CLIENT CACHING YES|NO`
    ClientCaching,
    /// `CLIENT CAPA capability [capability ...]`, of which none matters here
    ClientCapa,
    /// `CLIENT GETNAME`
    ClientGetname,
    /// `CLIENT GETREDIR`
    ClientGetredir,
    /// `CLIENT ID`
    ClientId,
    /// `CLIENT INFO`
    ClientInfo,
    /// `CLIENT KILL`, old form or new
    ClientKill,
    /// `CLIENT LIST [TYPE type] [ID id ...]`
    ClientList,
    /// `CLIENT REPLY ON|OFF|SKIP`
    ClientReply,
    /// `CLIENT SETINFO attribute value`
    ClientSetinfo,
    /// `CLIENT SETNAME name`
    ClientSetname,
    /// `CLIENT NO-EVICT ON|OFF`
    ClientNoEvict,
    /// `CLIENT NO-TOUCH ON|OFF`, which changes nothing here
    ClientNoTouch,
    /// `CLIENT TRACKINGINFO`
    ClientTrackinginfo,
    /// Any subcommand of `CLUSTER`
    Cluster,
    /// `ASKING`, `READONLY`, `READWRITE`
    ClusterMode,
    /// `ECHO message`
    Echo,
    /// `HELLO [version [AUTH username password] [SETNAME name]]`
    Hello,
    /// `PING [message]`
    Ping,
    /// `QUIT`
    Quit,
    /// `RESET`
    Reset,
    /// `ROLE`
    Role,
    /// `SELECT index`
    Select,
}

/// Why the proxy refuses a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// It prepares what only the same connection to the same node can use.
    Connection,
    /// It speaks of the whole data set, which lies on many nodes.
    ClusterWide,
    /// It is how Redis' own parts speak or are tested.
    Internal,
    /// It looks after one server.
    Operator,
    /// It makes or feeds a replica.
    Replication,
    /// It needs more than the one database that a cluster has.
    SingleDatabase,
    /// It shows or changes the cluster that the proxy hides.
    Topology,
}

impl Reason {
    /// The error text, without the leading `-` and the line's end.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Connection => {
                "ERR the command prepares something for one connection to one node, and here clients share those"
            }
            Self::ClusterWide => {
                "ERR the command is about all keys, and only its module could join what all nodes answer"
            }
            Self::Internal => "ERR the command is internal to Redis",
            Self::Operator => {
                "ERR the command looks after one server: send it to that node, not to this proxy"
            }
            Self::Replication => {
                "ERR replication is set up between servers: send the command to a node"
            }
            Self::SingleDatabase => "ERR SWAPDB is not allowed in cluster mode",
            Self::Topology => "ERR this proxy hides the cluster: send CLUSTER commands to a node",
        }
    }
}

/// What is decided for each command; one that has keys and is not named here is forwarded.
///
/// `commands-table` writes `docs/commands.md` from it.
///
/// `MIGRATE` is not named on purpose: it has a key, so it goes to the node that owns it, which
/// dials the other server itself, as a standalone Redis would.
#[rustfmt::skip] // Families stay together.
const DECISIONS: &[(Support, &[&str])] = &[
    // The same one key at a time as all at once.
    (Support::Split(Merge::KeyOrder), &["mget"]),
    (Support::Split(Merge::AllOk), &["mset"]),
    (Support::Split(Merge::Sum), &["del", "exists", "touch", "unlink"]),

    // About the client's connection, which ends at the proxy.
    (Support::Local(Local::AclWhoami), &["acl|whoami"]),
    (Support::Local(Local::Auth), &["auth"]),
    (Support::Local(Local::ClientCaching), &["client|caching"]),
    (Support::Local(Local::ClientCapa), &["client|capa"]),
    (Support::Local(Local::ClientGetname), &["client|getname"]),
    (Support::Local(Local::ClientGetredir), &["client|getredir"]),
    (Support::Local(Local::ClientId), &["client|id"]),
    (Support::Local(Local::ClientInfo), &["client|info"]),
    (Support::Local(Local::ClientKill), &["client|kill"]),
    (Support::Local(Local::ClientList), &["client|list"]),
    (Support::Local(Local::ClientReply), &["client|reply"]),
    (Support::Local(Local::ClientSetinfo), &["client|setinfo"]),
    (Support::Local(Local::ClientSetname), &["client|setname"]),
    (Support::Local(Local::ClientNoEvict), &["client|no-evict"]),
    (Support::Local(Local::ClientNoTouch), &["client|no-touch"]),
    (Support::Local(Local::ClientTrackinginfo), &["client|trackinginfo"]),
    (Support::Track, &["client|tracking"]),
    (Support::Unblock, &["client|unblock"]),
    (Support::Local(Local::Echo), &["echo"]),
    (Support::Local(Local::Hello), &["hello"]),
    (Support::Local(Local::Ping), &["ping"]),
    (Support::Local(Local::Quit), &["quit"]),
    (Support::Local(Local::Reset), &["reset"]),
    (Support::Local(Local::Role), &["role"]),
    (Support::Local(Local::Select), &["select"]),

    // Messages.
    (Support::Subscribe(TopicKind::Channel), &["subscribe"]),
    (Support::Subscribe(TopicKind::Pattern), &["psubscribe"]),
    (Support::Subscribe(TopicKind::ShardChannel), &["ssubscribe"]),
    (Support::Unsubscribe(TopicKind::Channel), &["unsubscribe"]),
    (Support::Unsubscribe(TopicKind::Pattern), &["punsubscribe"]),
    (Support::Unsubscribe(TopicKind::ShardChannel), &["sunsubscribe"]),
    (Support::Publish(TopicKind::Channel), &["publish"]),
    (Support::Publish(TopicKind::ShardChannel), &["spublish"]),
    (Support::EveryPrimary(Merge::Union), &["pubsub|channels", "pubsub|shardchannels"]),
    (Support::EveryPrimary(Merge::SumOfEach), &["pubsub|numsub", "pubsub|shardnumsub"]),
    (Support::EveryPrimary(Merge::Sum), &["pubsub|numpat"]),

    // About the server as such.
    (Support::AnyNode, &[
        "acl|cat", "acl|genpass", "command", "command|count", "command|docs", "command|getkeys", "command|getkeysandflags",
        "command|help", "command|info", "command|list", "lolwut", "time",
    ]),
    (Support::AnyNode, &[
        "acl|help", "backup|help", "client|help", "commandlog|help", "config|help",
        "function|help", "hotkeys|help", "latency|help", "memory|help", "module|help",
        "object|help", "pubsub|help", "script|help", "slowlog|help", "xgroup|help", "xinfo|help",
    ]),
    // Search indexes span the cluster: the module asks the other nodes by itself.
    (Support::AnyNode, &[
        "ft._list", "ft.aggregate", "ft.aliasadd", "ft.aliasdel", "ft.aliasupdate", "ft.alter",
        "ft.create", "ft.dictadd", "ft.dictdel", "ft.dictdump", "ft.dropindex", "ft.explain",
        "ft.explaincli", "ft.hybrid", "ft.info", "ft.profile", "ft.search", "ft.spellcheck",
        "ft.syndump", "ft.synupdate", "ft.tagvals",
    ]),

    // Would hold up everyone who shares the connection to that node.
    (Support::Block, &[
        "blmove", "blmovem", "blmpop", "blpop", "brpop", "brpoplpush", "bzmpop", "bzpopmax",
        "bzpopmin",
    ]),
    (Support::Wait(Merge::Least), &["wait"]),
    (Support::Wait(Merge::LeastOfEach), &["waitaof"]),
    (Support::Transaction(Verb::Discard), &["discard"]),
    (Support::Transaction(Verb::Exec), &["exec"]),
    (Support::Transaction(Verb::Multi), &["multi"]),
    (Support::Transaction(Verb::Unwatch), &["unwatch"]),
    (Support::Transaction(Verb::Watch), &["watch"]),
    // State that would have to be kept for one client and carried to every node.
    (Support::Refuse(Reason::Connection), &[
        "himport|discard", "himport|discardall", "himport|prepare", "himport|set",
    ]),
    // About all keys, or to be done everywhere.
    (Support::Scan, &["scan"]),
    (Support::Debug, &["debug"]),
    (Support::EveryPrimary(Merge::Concat), &["keys"]),
    (Support::EveryPrimary(Merge::Sum), &["dbsize", "latency|reset", "slowlog|len"]),
    (Support::EveryPrimary(Merge::AnyValue), &["randomkey"]),
    (Support::EveryPrimary(Merge::AllOk), &[
        "client|pause", "client|unpause", "config|resetstat", "config|rewrite", "config|set",
        "flushall", "flushdb",
        "function|delete", "function|flush", "function|restore", "memory|purge", "script|flush",
        "slowlog|reset",
    ]),
    (Support::EveryPrimary(Merge::First), &["function|load", "script|load"]),
    (Support::EveryPrimary(Merge::LastOrAll), &["script|exists"]),
    (Support::EveryPrimary(Merge::AnySuccess), &["function|kill", "script|kill", "script|show"]),
    (Support::EveryPrimary(Merge::Running), &["function|stats"]),
    (Support::EveryPrimary(Merge::Least), &["lastsave"]),
    (Support::EveryPrimary(Merge::Latest), &["slowlog|get"]),
    (Support::EveryPrimary(Merge::Info), &["info"]),
    // Told by each node of itself.
    (Support::OnePrimary, &[
        "config|get", "function|dump", "function|list", "latency|doctor", "latency|graph",
        "latency|histogram", "latency|history", "latency|latest", "memory|doctor",
        "memory|malloc-stats", "memory|stats", "module|list",
    ]),
    // Their modules answer for one node, in ways of their own.
    (Support::Refuse(Reason::ClusterWide), &[
        "bless|scan", "clusterscan", "ts.mget", "ts.mrange", "ts.mrevrange", "ts.queryindex",
    ]),
    // A cursor lives on the node that opened it, and nothing in the command tells which.
    (Support::Refuse(Reason::ClusterWide), &["ft.cursor"]),

    // Make no sense through a proxy.
    (Support::Local(Local::ClusterMode), &["asking", "readonly", "readwrite"]),
    (Support::Refuse(Reason::Internal), &["pfdebug", "pfselftest", "replconf", "restore-asking"]),
    (Support::Refuse(Reason::Operator), &[
        "acl|deluser", "acl|dryrun", "acl|getuser", "acl|list",
        "acl|load", "acl|log", "acl|save", "acl|setuser", "acl|users", "backup|abort",
        "backup|cleanup", "backup|list", "backup|seal", "backup|start", "backup|status",
        "bgrewriteaof", "bgsave", "commandlog|get", "commandlog|len", "commandlog|reset",
        "client|import-source",
        "ft.config", "hotkeys|get", "hotkeys|reset", "hotkeys|start", "hotkeys|stop",
        "module|load", "module|loadex", "module|unload", "monitor", "save", "script|debug",
        "shutdown",
    ]),
    (Support::Refuse(Reason::Replication), &["failover", "psync", "replicaof", "slaveof", "sync"]),
    (Support::Refuse(Reason::SingleDatabase), &["swapdb"]),
    (Support::Local(Local::Cluster), &[
        "cluster|addslots", "cluster|addslotsrange", "cluster|bumpepoch",
        "cluster|cancelslotmigrations", "cluster|count-failure-reports",
        "cluster|countkeysinslot", "cluster|delslots", "cluster|delslotsrange",
        "cluster|failover", "cluster|help", "cluster|flushslot", "cluster|flushslots", "cluster|forget",
        "cluster|getkeysinslot", "cluster|getslotmigrations", "cluster|info", "cluster|keyslot",
        "cluster|links", "cluster|meet", "cluster|migrateslots", "cluster|migration",
        "cluster|myid", "cluster|myshardid", "cluster|nodes", "cluster|replicas",
        "cluster|replicate", "cluster|reset", "cluster|saveconfig", "cluster|set-config-epoch",
        "cluster|setslot", "cluster|shards", "cluster|slaves", "cluster|slot-stats",
        "cluster|slots", "cluster|syncslots",
    ]),
];

/// Joins the table with the decisions, in the compiler.
///
/// # Panics
/// A decision on a command that the table lacks does not compile.
#[expect(clippy::indexing_slicing, reason = "runs in the compiler only, which checks the bounds")]
pub(super) const fn decide<const N: usize>(mut rows: [CommandSpec; N]) -> [CommandSpec; N] {
    let mut family = 0;
    while family < DECISIONS.len() {
        let (support, names) = DECISIONS[family];
        let mut i = 0;
        while i < names.len() {
            rows[position(&rows, names[i])].support = support;
            i += 1;
        }
        family += 1;
    }
    let mut row = 0;
    while row < rows.len() {
        rows[row].row = row as u16;
        row += 1;
    }
    rows
}

/// Where `name` stands in the sorted `rows`.
#[expect(clippy::indexing_slicing, reason = "runs in the compiler only, which checks the bounds")]
const fn position(rows: &[CommandSpec], name: &str) -> usize {
    let (mut low, mut high) = (0, rows.len());
    while low < high {
        let middle = low + (high - low) / 2;
        if sorts_before(rows[middle].name, name) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    assert!(low < rows.len() && !sorts_before(name, rows[low].name), "no such command");
    low
}

/// The order of the table: by container, then by subcommand.
#[expect(clippy::indexing_slicing, reason = "runs in the compiler only, which checks the bounds")]
const fn sorts_before(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() {
        if a[i] != b[i] {
            return a[i] == b'|' || (b[i] != b'|' && a[i] < b[i]);
        }
        i += 1;
    }
    a.len() < b.len()
}

/// What to do with a call that has to be looked at: see [`CommandSpec::support_for`].
#[inline(never)]
pub(super) fn of_call(spec: &CommandSpec, frame: &RequestFrame<'_>) -> Support {
    if spec.support == Support::Debug {
        let sleeps = frame.arg(1).is_some_and(|word| word.eq_ignore_ascii_case(b"SLEEP"));
        return match sleeps {
            true => Support::EveryPrimary(Merge::AllOk),
            false => Support::Refuse(Reason::Operator),
        };
    }
    if spec.flags.contains(Flags::BLOCKING) && block_option(frame).is_some() {
        return Support::Block;
    }
    // EVAL and its kin all have the number of keys in the same place.
    if spec.flags.contains(Flags::NO_MANDATORY_KEYS) && frame.arg(2) == Some(b"0") {
        return Support::AnyNode;
    }
    Support::Forward
}

/// Whether a command, where it names no key, changes what is kept, so that mirrors have to hear of
/// it.
pub(crate) fn changes_without_keys(spec: &CommandSpec) -> bool {
    let runs_a_script = spec.flags.contains(Flags::NO_MANDATORY_KEYS) && !spec.is_read();
    let keeps_scripts = matches!(spec.name, "script|load" | "script|flush");
    spec.flags.contains(Flags::WRITE) || runs_a_script || keeps_scripts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::COMMANDS;

    fn decided() -> impl Iterator<Item = &'static str> {
        DECISIONS.iter().flat_map(|(_, names)| names.iter().copied())
    }

    #[test]
    fn every_command_without_keys_is_decided_by_hand() {
        let undecided: Vec<_> = COMMANDS
            .iter()
            .filter(|spec| spec.key_specs.is_empty() && spec.subcommands == 0)
            .map(|spec| spec.name)
            .filter(|name| !decided().any(|decided| decided == *name))
            .collect();
        assert_eq!(undecided, [""; 0]);
    }

    #[test]
    fn a_decision_is_made_once_and_for_a_command_that_can_run() {
        let mut names: Vec<_> = decided().collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        for name in names {
            let spec = COMMANDS.iter().find(|spec| spec.name == name).unwrap();
            assert!(spec.subcommands == 0 || spec.accepts(1), "{name} needs a subcommand");
        }
    }

    #[test]
    fn a_command_that_runs_on_keys_and_is_not_named_is_forwarded() {
        for spec in COMMANDS.iter().filter(|spec| !decided().any(|name| name == spec.name)) {
            assert_eq!(spec.support, Support::Forward, "{}", spec.name);
        }
    }

    #[test]
    fn the_decisions_reach_the_table() {
        for (support, names) in DECISIONS {
            for name in *names {
                let spec = COMMANDS.iter().find(|spec| spec.name == *name).unwrap();
                assert_eq!(spec.support, *support, "{name}");
            }
        }
    }

    #[test]
    fn the_table_is_in_order() {
        assert!(COMMANDS.windows(2).all(|pair| sorts_before(pair[0].name, pair[1].name)));
    }

    #[test]
    fn every_refusal_is_one_error_line() {
        for spec in &COMMANDS {
            if let Support::Refuse(reason) = spec.support {
                assert!(reason.text().starts_with("ERR "), "{}", spec.name);
                assert!(!reason.text().contains(['\r', '\n']), "{}", spec.name);
            }
        }
    }
}
