//! Replies differ from those of Redis.

use anyhow::Result;

use super::session::Session;
use super::{Look, Sight};

pub(super) fn probe(look: &Look<'_>) -> Result<Vec<Sight>> {
    let mut sights = look.answered_like_redis(&["PING message", "LPOP missing 2"])?;
    for (asked, bytes) in [
        ("`*0`, then PING", &b"*0\r\nPING\r\n"[..]),
        ("`*-1`, then PING", b"*-1\r\nPING\r\n"),
        ("an empty line, then PING", b"\r\nPING\r\n"),
    ] {
        sights.push(
            look.like_redis(asked, |addr| {
                Ok(format!("`{}`", Session::connect(addr)?.send(bytes)?))
            })?,
        );
    }
    sights.push(look.like_redis("TIME", |addr| time(&mut Session::connect(addr)?))?);
    sights.push(look.like_redis("ROLE", |addr| {
        let role = Session::connect(addr)?.ask("ROLE")?;
        Ok(match () {
            () if role.starts_with("*3 $6 master") => "the role of a primary".to_owned(),
            () if role.starts_with("*3 *3") => "an array of three roles".to_owned(),
            () => format!("`{role}`"),
        })
    })?);
    sights.push(look.like_redis("CONFIG GET maxmemory", |addr| {
        Ok(format!("`{}`", Session::connect(addr)?.ask("CONFIG GET maxmemory")?))
    })?);
    sights.push(look.like_redis("INFO commandstats", |addr| {
        let reply = Session::connect(addr)?.bytes("INFO commandstats")?;
        let text = String::from_utf8_lossy(&reply).into_owned();
        Ok(match (text.starts_with('-'), text.contains("cmdstat_")) {
            (true, _) => format!("`{}`", text.trim_end()),
            (false, true) => "counts by command".to_owned(),
            (false, false) => "no counts".to_owned(),
        })
    })?);
    Ok(sights)
}

/// Whether TIME's second field is what it should be.
fn time(session: &mut Session) -> Result<String> {
    let reply = session.ask("TIME")?;
    let micros = reply.rsplit(' ').next().and_then(|text| text.parse::<u64>().ok());
    Ok(match micros {
        Some(0..1_000_000) => "seconds, and microseconds of the second".to_owned(),
        Some(_) => "seconds, and microseconds since 1970".to_owned(),
        None => format!("`{reply}`"),
    })
}
