//! What is no key is hashed as one: the count before the keys of ZUNION, the operation of BITOP.

use anyhow::Result;
use serde_json::json;

use super::contender::Setup;
use super::{Look, Sight};

/// Commands whose first argument is no key; keys stand where the `@` is.
const COMMANDS: [(&str, &str); 4] = [
    ("ZUNION", "ZUNION 2 @a @b"),
    ("ZINTER", "ZINTER 2 @a @b"),
    ("ZDIFF", "ZDIFF 2 @a @b"),
    ("BITOP", "BITOP AND @d @c @e"),
];

pub(super) fn probe(look: &Look<'_>) -> Result<Vec<Sight>> {
    let settings = json!({"op_timeout": "5s", "enable_redirection": false});
    let proxy = look.start(&Setup::new(settings, look.cluster()))?;
    let mut session = proxy.connect()?;
    let tags = look.tags()?;
    let mut sights = Vec::new();
    for (name, words) in COMMANDS {
        let mut moved = 0;
        for tag in &tags {
            let reply = session.ask(&words.replace('@', &format!("{{{tag}}}")))?;
            moved += usize::from(reply.starts_with("-MOVED"));
        }
        let asked =
            format!("{name} on keys of one slot, in each of 3 shards, redirections not followed");
        sights.push(Sight::exactly(&asked, "MOVED: 0 of 3", format!("MOVED: {moved} of 3")));
    }
    Ok(sights)
}
