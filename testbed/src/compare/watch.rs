//! WATCH watches nothing: it goes out on a connection that clients share, MULTI on another.

use std::net::SocketAddr;
use std::thread;

use anyhow::{Context, Result, ensure};

use super::session::Session;
use super::{Look, Sight};

/// Clients that count up together, and how often each tries.
const CLIENTS: usize = 4;
const TRIES: usize = 40;

pub(super) fn probe(look: &Look<'_>) -> Result<Vec<Sight>> {
    Ok(vec![
        look.like_redis("a key changes between WATCH and EXEC", interfere)?,
        look.like_redis("four clients count up by WATCH, GET, MULTI, SET and EXEC", count_up)?,
    ])
}

fn interfere(addr: SocketAddr) -> Result<String> {
    let (mut watcher, mut other) = (Session::connect(addr)?, Session::connect(addr)?);
    watcher.ask("SET watched 1")?;
    for words in ["WATCH watched", "MULTI"] {
        if words == "MULTI" {
            other.ask("SET watched 2")?;
        }
        let reply = watcher.ask(words)?;
        if reply.starts_with('-') {
            return Ok(format!("{words}: `{reply}`"));
        }
    }
    watcher.ask("SET watched 3")?;
    let (exec, value) = (watcher.ask("EXEC")?, other.ask("GET watched")?);
    Ok(format!("EXEC: `{exec}`; then GET: `{value}`"))
}

fn count_up(addr: SocketAddr) -> Result<String> {
    let clients = (0..CLIENTS).map(|_| thread::spawn(move || count_up_alone(addr)));
    let clients: Vec<_> = clients.collect();
    let mut done = 0;
    let mut refused = None;
    for client in clients {
        match client.join().ok().context("a client has panicked")?? {
            Ok(count) => done += count,
            Err(reply) => refused = Some(reply),
        }
    }
    if let Some(reply) = refused {
        return Ok(format!("`{reply}`"));
    }
    let value = Session::connect(addr)?.ask("GET counter")?;
    let value: usize = value.rsplit(' ').next().unwrap_or_default().parse()?;
    ensure!(value <= done, "counted to {value} in {done} transactions");
    eprintln!("WATCH: {done} transactions were confirmed, the counter says {value}");
    Ok(if value == done { "no update is lost" } else { "updates are lost" }.to_owned())
}

/// How many transactions were confirmed, or the error of the command that was not let through.
fn count_up_alone(addr: SocketAddr) -> Result<Result<usize, String>> {
    let mut session = Session::connect(addr)?;
    let mut done = 0;
    for _ in 0..TRIES {
        let reply = session.ask("WATCH counter")?;
        if reply.starts_with('-') {
            return Ok(Err(reply));
        }
        let value = session.ask("GET counter")?;
        let value: usize = value.rsplit(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0);
        let reply = session.ask("MULTI")?;
        if reply.starts_with('-') {
            return Ok(Err(reply));
        }
        session.ask(&format!("SET counter {}", value + 1))?;
        done += usize::from(session.ask("EXEC")?.starts_with("*1 +OK"));
    }
    Ok(Ok(done))
}
