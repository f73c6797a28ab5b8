//! MULTI over several slots shows redirections.

use anyhow::Result;

use super::{Look, Sight};

pub(super) fn probe(look: &Look<'_>) -> Result<Vec<Sight>> {
    let mut session = look.connect()?;
    let (asked, wanted) = ("MULTI, SET in each of 3 shards, EXEC", "no MOVED");
    let mut replies = vec![session.ask("MULTI")?];
    if let Some(refused) = replies.first().filter(|reply| reply.starts_with('-')) {
        return Ok(vec![Sight::new(asked, wanted, format!("`{refused}`"), false)]);
    }
    for tag in look.tags()? {
        replies.push(session.ask(&format!("SET {{{tag}}} 1"))?);
    }
    replies.push(session.ask("EXEC")?);
    let moved = replies.iter().any(|reply| reply.contains("MOVED"));
    let codes: Vec<&str> = replies.iter().filter_map(|reply| reply.split(' ').next()).collect();
    let seen = format!("`{}`", codes.join("; "));
    Ok(vec![Sight::new(asked, wanted, seen, !moved)])
}
