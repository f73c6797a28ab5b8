//! What a command means to a cluster proxy: its row in Redis' own command table, where its keys
//! stand, and what this proxy does with it.
//!
//! ```text
//! frame -> lookup() -> CommandSpec -> support_for() -> keys() -> slots
//! ```
//!
//! Two lists, joined by the compiler. `table` is generated from what Redis says of itself
//! (`COMMAND`): arity, flags, key specs, policies. `support` is written by hand: what the proxy
//! does with each command. `commands-table` writes the first, and prints both as
//! `docs/commands.md`.

mod error;
mod keys;
mod lookup;
mod spec;
mod support;
#[rustfmt::skip] // One row per line.
mod table;
mod topic;

pub use error::CommandError;
pub use keys::{KeysError, keys};
pub(crate) use keys::{block_option, database_of};
pub(crate) use lookup::read_again;
pub use lookup::{Lookup, is_http, lookup};
pub use spec::{
    BeginSearch, CommandSpec, FindKeys, Flags, KeyShape, KeySpec, RequestPolicy, ResponsePolicy,
};
pub(crate) use support::changes_without_keys;
pub use support::{Local, Merge, Reason, Support, Verb};
pub use topic::TopicKind;

/// Every command and subcommand this proxy knows, each container followed by its subcommands.
pub static COMMANDS: [CommandSpec; table::ROWS.len()] = support::decide(table::ROWS);

/// How a command without a row is treated: a write, routed by its first argument.
///
/// Redis' modules are free to bring commands that no table foresees; nearly all of them take their
/// key first, and taking a read for a write costs a trip to the primary, never a wrong answer.
pub static UNKNOWN: CommandSpec = CommandSpec {
    name: "",
    arity: -2,
    flags: Flags::WRITE,
    key_specs: &[KeySpec::FIRST_ARGUMENT],
    key_shape: KeyShape::One(1),
    request_policy: RequestPolicy::Default,
    response_policy: ResponsePolicy::Default,
    subcommands: 0,
    support: Support::Forward,
    row: COMMANDS.len() as u16,
};

/// Hands `check` a frame of these arguments.
#[cfg(test)]
fn with_frame<T>(args: &[&[u8]], check: impl FnOnce(crate::resp::RequestFrame<'_>) -> T) -> T {
    use crate::resp::{ArgRange, RequestFrame};

    let mut end = 0;
    let ranges: Vec<_> = args
        .iter()
        .map(|arg| {
            let range = ArgRange { start: end, len: arg.len() as u32 };
            end += range.len;
            range
        })
        .collect();
    check(RequestFrame::new(&args.concat(), &ranges))
}
