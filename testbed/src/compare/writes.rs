//! Writes are taken for reads: they go to replicas, to the cluster that is for reads, and past
//! mirrors.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::contender::Setup;
use super::counts::{self, Count};
use super::{Look, Sight};
use crate::wait::{Probe, until};
use crate::{RedisServer, Role};

/// Time for a mirror to get what was sent to it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes with a key, which stands where the `@` is.
const WRITES: [&str; 9] = [
    "GETEX @ EX 100",
    "GETSET @ 1",
    "XADD @stream * field value",
    "XDEL @stream 0-1",
    "XTRIM @stream MAXLEN 10",
    "XACK @stream group 0-1",
    "XCLAIM @stream group consumer 0 0-1",
    "XAUTOCLAIM @stream group consumer 0 0",
    "BITFIELD @ SET u8 0 1",
];

/// Writes without a key.
const KEYLESS: [&str; 3] = ["FLUSHALL", "SCRIPT LOAD return", "PUBLISH channel message"];

pub(super) fn probe(look: &Look<'_>) -> Result<Vec<Sight>> {
    let reads = RedisServer::start(&[])?;
    let mirror = RedisServer::start(&[])?;
    let settings = json!({
        "op_timeout": "5s", "enable_redirection": true, "read_policy": "REPLICA",
    });
    let routes = json!({
        "routes": [
            {"prefix": "split:", "cluster": "redis", "read_command_policy": {"cluster": "reads"}},
        ],
        "catch_all_route": {
            "cluster": "redis",
            "request_mirror_policy": [{"cluster": "mirror", "exclude_read_commands": true}],
        },
    });
    let setup = Setup::new(settings, look.cluster())
        .and("reads", reads.addr())
        .and("mirror", mirror.addr())
        .routes(routes);
    let proxy = look.start(&setup)?;
    let mut session = proxy.connect()?;
    let ask_all = |session: &mut super::Session, prefix: &str| -> Result<()> {
        WRITES.iter().try_for_each(|words| session.ask(&words.replace('@', prefix)).map(drop))
    };

    let members = look.cluster().members()?;
    let replicas = members.iter().filter(|member| matches!(member.role, Role::Replica { .. }));
    let replicas = replicas.map(|member| look.cluster().node(member));
    let replicas = replicas.collect::<Result<Vec<&RedisServer>>>()?;
    session.ask("SET key 1")?;
    counts::reset(replicas.iter().copied())?;
    ask_all(&mut session, "key")?;
    let rejected = counted(&WRITES, replicas.iter().copied(), |count| count.rejected > 0)?;

    ask_all(&mut session, "split:")?;
    let misled = counted(&WRITES, [&reads], |count| count.calls > 0)?;

    for words in KEYLESS {
        session.ask(words)?;
    }
    session.ask("SET fence 1")?;
    until("the last copy", PATIENCE, || {
        Ok(match mirror.cli(&["EXISTS", "fence"])?.trim() {
            "1" => Probe::Ready(()),
            _ => Probe::NotYet("not yet".to_owned()),
        })
    })?;
    let all = [&WRITES[..], &KEYLESS[..]].concat();
    let missing = counted(&all, [&mirror], |count| count.calls + count.rejected == 0)?;

    let names = names(&WRITES);
    let all = self::names(&all);
    let asked = [
        format!("read_policy REPLICA: {names}"),
        format!("read_command_policy: {names}"),
        format!("a mirror with exclude_read_commands: {all}"),
    ];
    Ok(vec![
        Sight::exactly(
            &asked[0],
            "sent to a replica: none",
            format!("sent to a replica: {rejected}"),
        ),
        Sight::exactly(
            &asked[1],
            "sent to the cluster for reads: none",
            format!("sent to the cluster for reads: {misled}"),
        ),
        Sight::exactly(&asked[2], "not copied: none", format!("not copied: {missing}")),
    ])
}

/// The commands whose counts are such.
fn counted<'a>(
    commands: &[&str],
    servers: impl IntoIterator<Item = &'a RedisServer>,
    are_such: impl Fn(&Count) -> bool,
) -> Result<String> {
    let counts = counts::of(servers)?;
    let such = commands.iter().filter(|words| {
        let mut name = name(words).to_lowercase().replace(' ', "|");
        if !name.contains('|') {
            name = words.split(' ').next().unwrap_or_default().to_lowercase();
        }
        are_such(&counts.get(&name).copied().unwrap_or_default())
    });
    let such: Vec<&str> = such.copied().collect();
    Ok(if such.is_empty() { "none".to_owned() } else { names(&such) })
}

fn names(commands: &[&str]) -> String {
    commands.iter().map(|words| name(words)).collect::<Vec<_>>().join(", ")
}

/// A command's name, with its subcommand's if it has one.
fn name(words: &str) -> &str {
    match words {
        "SCRIPT LOAD return" => "SCRIPT LOAD",
        _ => words.split(' ').next().unwrap_or_default(),
    }
}
