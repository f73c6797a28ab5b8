//! RESP2 and RESP3 exclude each other: a listener serves clients of one of them.

use anyhow::Result;

use super::contender::{Setup, usual};
use super::{Look, Sight};

pub(super) fn probe(look: &Look<'_>) -> Result<Vec<Sight>> {
    let hello = look.connect()?.ask("HELLO 3")?;
    let setup = Setup::new(usual(), look.cluster()).word("protocol_version", "RESP3".into());
    let resp3 = look.start(&setup)?;
    let mut plain = resp3.connect()?;
    let mut sights = vec![Sight::new(
        "no protocol_version: HELLO 3",
        "a map",
        if hello.starts_with('%') { "a map".to_owned() } else { format!("`{hello}`") },
        hello.starts_with('%'),
    )];
    for (words, wanted) in [("PING", "+PONG"), ("SET key value", "+OK")] {
        let asked = format!("protocol_version RESP3: {words}, before any HELLO");
        sights.push(Sight::exactly(
            &asked,
            &format!("`{wanted}`"),
            format!("`{}`", plain.ask(words)?),
        ));
    }
    let hello = resp3.connect()?.ask("HELLO 2")?;
    sights.push(Sight::new(
        "protocol_version RESP3: HELLO 2",
        "an array",
        if hello.starts_with('*') { "an array".to_owned() } else { format!("`{hello}`") },
        hello.starts_with('*'),
    ));
    Ok(sights)
}
