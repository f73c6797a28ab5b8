//! Errors lack their code, the word by which clients tell them apart.

use anyhow::Result;
use serde_json::json;

use super::contender::{Setup, nobody};
use super::slow::script;
use super::{Look, Sight};

/// What clients know to tell apart.
const CODES: [&str; 7] =
    ["ERR", "EXECABORT", "CLUSTERDOWN", "CROSSSLOT", "NOAUTH", "TIMEOUT", "WRONGPASS"];

pub(super) fn probe(look: &Look<'_>) -> Result<Vec<Sight>> {
    let dead = nobody()?;
    let settings = json!({"op_timeout": "1s", "enable_redirection": true});
    let routes = json!({
        "routes": [{"prefix": "dead:", "cluster": "dead"}],
        "catch_all_route": {"cluster": "redis"},
    });
    let faults = json!([{
        "fault_type": "ERROR",
        "fault_enabled": {"default_value": {"numerator": 100}, "runtime_key": "none"},
        "commands": ["INCR"],
    }]);
    let setup = Setup::new(settings, look.cluster())
        .and("dead", dead.addr())
        .routes(routes)
        .word("faults", faults);
    let proxy = look.start(&setup)?;
    let mut sights = Vec::new();
    let mut judge = |asked: &str, reply: String| {
        let code = reply.strip_prefix('-').and_then(|text| text.split(' ').next());
        let sound = code.is_some_and(|code| CODES.contains(&code));
        sights.push(Sight::new(asked, "an error with a code", format!("`{reply}`"), sound));
    };
    for words in ["GET", "FOO", "EXEC"] {
        judge(words, proxy.connect()?.ask(words)?);
    }
    judge("INCR n, with a fault injected", proxy.connect()?.ask("INCR n")?);
    judge("GET of a key whose server is down", proxy.connect()?.ask("GET dead:key")?);
    let slow = script(1500);
    judge(
        "EVAL of a script that takes longer than op_timeout",
        proxy.connect()?.call(&["EVAL", &slow, "1", "k"])?,
    );
    let mut nested = proxy.connect()?;
    nested.ask("MULTI")?;
    judge("MULTI within MULTI", nested.ask("MULTI")?);
    Ok(sights)
}
