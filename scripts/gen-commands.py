#!/usr/bin/env python3
"""Write the command table and its documentation.

In:  engine/build-data/commands.json   what `COMMAND` says on redis-server 7.0.15
     engine/build-data/newer.json      the same of commands that came later, kept by hand
     engine/src/command/support.rs     what the proxy does with each command, kept by hand
Out: engine/src/command/table.rs
     docs/commands.md

With --check nothing is written: the exit status says whether both are up to date.
"""

import argparse
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "engine/build-data"
COMMAND = ROOT / "engine/src/command"

# Commands whose key specs are incomplete, and the code in keys.rs that knows better.
KEY_SHAPES = {"migrate": "Migrate", "sort": "Sort", "sort_ro": "One(1)"}

# What a client sees of each decision in support.rs.
OUTCOMES = {
    "Forward": ("forwarded", "to the node that owns its keys"),
    "ForwardKeyed": ("forwarded", "to the node that owns its keys; to any primary if it names none"),
    "ForwardOrBlock": (
        "forwarded",
        "to the node that owns its keys; with `BLOCK`, on a connection that only this client uses",
    ),
    "Block": (
        "forwarded",
        "to the node that owns its keys, on a connection that only this client uses while it waits",
    ),
    "Wait": (
        "fanned out",
        "to every primary, on connections that only this client uses while it waits; the least of the replies",
    ),
    "Transaction::Multi": ("answered", "by the proxy, which queues what follows"),
    "Transaction::Exec": (
        "forwarded",
        "with all that was queued, as one, to the node that owns the keys; they share a slot",
    ),
    "Transaction::Discard": ("answered", "by the proxy"),
    "Transaction::Watch": (
        "forwarded",
        "to the node that owns its keys, on a connection that only this client uses until EXEC",
    ),
    "Transaction::Unwatch": ("answered", "by the proxy, which lets the node know"),
    "Track": (
        "answered",
        "when a node has begun to track, or with `BCAST` every primary, on connections that only this client uses",
    ),
    "Unblock": ("forwarded", "to the node that keeps the client waiting, if that is a client of the same worker"),
    "AnyNode": ("forwarded", "to any node: each gives the same answer"),
    "OnePrimary": ("forwarded", "to the primary of slot 0, which answers for itself"),
    "Debug": (
        "fanned out",
        "`SLEEP` to every primary, if they allow DEBUG; all else is refused, because it looks after one server",
    ),
    "Scan": ("forwarded", "to one primary after the other, as the cursor says"),
    "EveryPrimary::AllOk": ("fanned out", "to every primary; OK when each says so"),
    "EveryPrimary::AnySuccess": ("fanned out", "to every primary; a reply that is no error, if there is one"),
    "EveryPrimary::AnyValue": ("fanned out", "to every primary; one of the keys, at random"),
    "EveryPrimary::Concat": ("fanned out", "to every primary; all elements"),
    "EveryPrimary::First": ("fanned out", "to every primary; each gives the same answer"),
    "EveryPrimary::Info": ("fanned out", "to every primary; as of one server with all keys"),
    "EveryPrimary::Latest": ("fanned out", "to every primary; the newest entries"),
    "EveryPrimary::Least": ("fanned out", "to every primary; the least number"),
    "EveryPrimary::LastOrAll": (
        "fanned out",
        "to every primary; 1 for what each knows, or the proxy, which brings it to whom it is run at",
    ),
    "EveryPrimary::Running": ("fanned out", "to every primary; the one that tells of a running script"),
    "EveryPrimary::SumOfEach": ("fanned out", "to every primary; for each name, the sum"),
    "EveryPrimary::Union": ("fanned out", "to every primary; all elements, each once"),
    "EveryPrimary::Sum": ("fanned out", "to every primary; the sum"),
    "Split::KeyOrder": ("split", "by slot; elements in the order of the keys"),
    "Split::AllOk": ("split", "by slot; OK when every part is"),
    "Split::Sum": ("split", "by slot; the sum of the parts"),
    "Subscribe": (
        "answered",
        "when a node has confirmed what clients have in common; refused with `auth_passthrough`",
    ),
    "Unsubscribe": ("answered", "by the proxy"),
    "Publish::Channel": ("forwarded", "to the node at which this proxy's clients are subscribed"),
    "Publish::ShardChannel": ("forwarded", "to the owner of the channel's slot"),
    "Local": ("answered", "by the proxy"),
    "Local::AclWhoami": ("answered", "by the proxy; by a node with `auth_passthrough`"),
    "Local::Auth": ("answered", "by the proxy; by a node with `auth_passthrough`"),
    "Local::Echo": ("answered", "by the proxy; by a node with `auth_passthrough`"),
    "Local::Ping": ("answered", "by the proxy; by a node with `auth_passthrough`"),
    "Local::Select": (
        "answered",
        "by the proxy if it changes nothing, else by a node: where Redis has one database only, the error is its own",
    ),
    "Local::ClientCapa": ("answered", "by the proxy, without any effect"),
    "Local::Cluster": (
        "answered",
        "as by a standalone server; with `cluster_emulation`, as by one node that owns every slot",
    ),
    "Local::ClusterMode": (
        "answered",
        "as by a standalone server; OK with `cluster_emulation`, without any effect",
    ),
    "Local::ClientInfo": ("answered", "by the proxy, of its own clients"),
    "Local::ClientKill": (
        "answered",
        "by the proxy, of its own clients on the same worker; with `auth_passthrough`, of the same user alone",
    ),
    "Local::ClientList": (
        "answered",
        "by the proxy, of its own clients on the same worker; with `auth_passthrough`, of the same user alone",
    ),
    "Local::ClientNoEvict": ("answered", "by the proxy, and shown by CLIENT INFO; it evicts no client"),
    "Local::ClientNoTouch": ("answered", "by the proxy, without any effect"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check = parser.parse_args().check

    commands = load()
    decisions, reasons = read_support((COMMAND / "support.rs").read_text())
    outputs = {
        COMMAND / "table.rs": table(commands),
        ROOT / "docs/commands.md": documentation(commands, decisions, reasons),
    }
    stale = [path for path, text in outputs.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        print(("out of date: " if check else "written: ") + str(path.relative_to(ROOT)))
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(outputs[path])
    sys.exit(1 if check and stale else 0)


def load():
    """All commands by name, each container right before its subcommands."""
    captured = json.loads((DATA / "commands.json").read_text())
    newer = json.loads((DATA / "newer.json").read_text())
    if twice := captured.keys() & newer.keys():
        sys.exit(f"newer.json repeats what Redis 7.0 has: {sorted(twice)}")
    commands = captured | newer
    for name in commands:
        if "|" in name and name.split("|")[0] not in commands:
            sys.exit(f"{name} has no container")
    return {name: commands[name] for name in sorted(commands, key=lambda name: name.split("|"))}


def table(commands):
    rows = "".join(f"    {row(name, spec, commands)},\n" for name, spec in commands.items())
    return f"""\
//! @generated by scripts/gen-commands.py from engine/build-data: do not edit.

use crate::command::CommandSpec;
use crate::command::spec::{{
    Flags as F, KeyShape, RequestPolicy as To, ResponsePolicy as Join, UNKNOWN_KEYS, index, keyword,
    row,
}};

/// What Redis says of every command; the decisions of this proxy are joined in `support`.
pub(super) static ROWS: [CommandSpec; {len(commands)}] = [
{rows}];
"""


def row(name, spec, commands):
    flags = ", ".join(f"F::{flag.upper()}" for flag in sorted(spec["flags"]))
    keys = ", ".join(map(key_spec, spec["key_specs"]))
    text = f'row("{name}", {spec["arity"]}, &[{flags}], &[{keys}])'
    if "UNKNOWN_KEYS" in keys and name not in KEY_SHAPES:
        sys.exit(f"{name} needs code to find its keys: write it, and name it in KEY_SHAPES")
    if name in KEY_SHAPES:
        text += f".keys_by(KeyShape::{KEY_SHAPES[name]})"
    request, response = policy(spec, "request_policy"), policy(spec, "response_policy")
    if (request, response) != ("Default", "Default"):
        text += f".policy(To::{request}, Join::{response})"
    if count := sum(other.startswith(name + "|") for other in commands):
        text += f".subcommands({count})"
    return text


def key_spec(spec):
    begin, start = spec["begin"]
    find, rest = spec["find"]
    if begin == "unknown" or find == "unknown":
        return "UNKNOWN_KEYS"
    if begin == "index":
        text = f"index({start['index']})"
    else:
        text = f'keyword("{start["keyword"]}", {start["startfrom"]})'
    if find == "range":
        return text + f".range({rest['lastkey']}, {rest['keystep']}, {rest['limit']})"
    return text + f".keynum({rest['keynumidx']}, {rest['firstkey']}, {rest['keystep']})"


def policy(spec, kind):
    for tip in spec["tips"]:
        if tip.startswith(kind + ":"):
            return "".join(word.title() for word in tip.split(":")[1].split("_"))
    return "Default"


def read_support(source):
    """The decisions by command name, and the text of each reason to refuse one."""
    block = re.search(r"const DECISIONS: [^=]*= &\[\n(.*?)\n\];", source, re.S)[1]
    block = re.sub(r"//.*", "", block)
    entry = re.compile(r"\s*\(Support::([\w:()]+?),\s*&\[([^\]]*)\]\),")
    decisions, end = {}, 0
    while match := entry.match(block, end):
        for name in re.findall(r'"([^"]+)"', match[2]):
            if name in decisions:
                sys.exit(f"support.rs decides twice on {name}")
            decisions[name] = match[1]
        end = match.end()
    if block[end:].strip():
        sys.exit(f"support.rs: cannot read {block[end:].strip().splitlines()[0]}")
    reasons = dict(re.findall(r'Self::(\w+) =>\s*\{?\s*"ERR ([^"]+)"', source))
    return decisions, reasons


def documentation(commands, decisions, reasons):
    lines = []
    for name, spec in commands.items():
        is_container = any(other.startswith(name + "|") for other in commands)
        if is_container and name not in decisions:
            continue  # Never runs without a subcommand.
        what, why = outcome(name, spec, decisions.get(name, "Forward"), reasons)
        lines.append(f"| `{name.upper().replace('|', ' ')}` | {places(name, spec)} | {what} | {why} |")
    counts = ", ".join(
        f"{sum(f'| {what} |' in line for line in lines)} {what}"
        for what in ("forwarded", "fanned out", "split", "answered", "refused")
    )
    return f"""\
<!-- @generated by scripts/gen-commands.py: do not edit. -->
# Commands

What Slotmesh does with each of the {len(lines)} commands and subcommands it knows: {counts}. They are
those of Redis 7.0 and later, Valkey, and the modules that come with Redis 8.

- A forwarded command goes to one node, so all its keys must be in one slot; if they are not, the answer is
  `CROSSSLOT`. Keys with the same `{{hash tag}}` share a slot.
- A command without keys concerns the cluster of the catch-all route only. Of those that are fanned out, none of the
  same client is under way at the same time. Replicas are never asked: what is set on all nodes is the operator's.
- Between MULTI and EXEC all keys must be in one slot, and commands that are fanned out are refused with `CROSSSLOT`, alone as
  well: several nodes have no moment in common in which a transaction could happen.
- A command that is not in this table is forwarded as a write whose first argument is its key; but `POST` and `Host:`, which
  Redis takes for the work of a web browser, close the client as they do there.
- *Keys* are the places of the arguments that are keys; the command's name, with its subcommand's, comes before them.

| Command | Keys | What happens | How, or why not |
|---|---|---|---|
""" + "\n".join(lines) + "\n"


def outcome(name, spec, decision, reasons):
    kind, inner = re.fullmatch(r"(\w+)(?:\((?:\w+::)?(\w+)\))?", decision).groups()
    if kind == "Refuse":
        return "refused", reasons[inner]
    if kind == "Forward" and "blocking" in spec["flags"]:
        kind = "ForwardOrBlock"
    if kind == "Forward" and "no_mandatory_keys" in spec["flags"]:
        kind = "ForwardKeyed"
    return OUTCOMES.get(f"{kind}::{inner}") or OUTCOMES[kind]


def places(name, spec):
    """Where the keys of a command stand, for a reader; positions count from its full name."""
    by_code = {"sort": "first, after `STORE`", "sort_ro": "first", "migrate": "third, or after `KEYS`"}
    if name in by_code:
        return by_code[name]
    return ", ".join(place(spec, name.count("|")) for spec in spec["key_specs"]) or "none"


def place(spec, offset):
    begin, start = spec["begin"]
    find, rest = spec["find"]
    if begin == "keyword":
        first = f"after `{start['keyword']}`"
    else:
        first = ("first", "second", "third", "fourth")[start["index"] - 1 - offset]
    if find == "keynum":
        return f"as many as the {first} says"
    if rest["lastkey"] == 0:
        return first
    if rest["lastkey"] > 0:
        return f"{first} and {rest['lastkey']} more"
    step = {1: "", 2: "every second ", 3: "every third "}[rest["keystep"]]
    but = {-1: "", -2: ", but the last"}[rest["lastkey"]]
    return f"{first}: half of the rest" if rest["limit"] else f"{step}from the {first}{but}"


if __name__ == "__main__":
    main()
