//! Scripts are refused: those without keys, in transactions, and the newer commands.

use anyhow::Result;

use super::session::Session;
use super::{Look, Sight};

const SHA: &str = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";

pub(super) fn probe(look: &Look<'_>) -> Result<Vec<Sight>> {
    let commands = [
        "EVAL return(1) 0",
        "EVAL return(KEYS[1]) 1 key",
        &format!("EVALSHA {SHA} 0"),
        "EVAL_RO return(1) 1 key",
        &format!("EVALSHA_RO {SHA} 1 key"),
        "FCALL function 1 key",
        "FCALL_RO function 1 key",
        "FUNCTION LIST",
    ];
    let mut sights = look.answered_like_redis(&commands)?;
    sights.push(look.like_redis("MULTI, EVAL return(1) 1 key, EXEC", |addr| {
        let mut session = Session::connect(addr)?;
        let replies = ["MULTI", "EVAL return(1) 1 key", "EXEC"].map(|words| session.ask(words));
        Ok(format!("`{}`", replies.into_iter().collect::<Result<Vec<_>>>()?.join("; ")))
    })?);
    Ok(sights)
}
