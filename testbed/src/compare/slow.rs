//! One slow command fails its neighbours: when its time is up, the connection they share is closed.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::contender::Setup;
use super::{Look, Sight};
use crate::wait::{Probe, until};

const NEIGHBOURS: usize = 3;

pub(super) fn probe(look: &Look<'_>) -> Result<Vec<Sight>> {
    let settings = json!({"op_timeout": "2s", "enable_redirection": true});
    let proxy = look.start(&Setup::new(settings, look.cluster()))?;
    let mut caller = proxy.connect()?;
    caller.ask("SET key value")?;
    let mut neighbours = (0..NEIGHBOURS).map(|_| proxy.connect()).collect::<Result<Vec<_>>>()?;
    for neighbour in &mut neighbours {
        neighbour.ask("GET key")?;
    }
    let begin = Instant::now();
    let (own, theirs) = thread::scope(|scope| {
        let slow = script(3000);
        let own = scope.spawn(move || caller.call(&["EVAL", &slow, "1", "key"]));
        until("half of the script", Duration::from_secs(10), || {
            Ok(match begin.elapsed() >= Duration::from_millis(1500) {
                true => Probe::Ready(()),
                false => Probe::NotYet(String::new()),
            })
        })?;
        let theirs: Vec<_> = neighbours
            .iter_mut()
            .map(|neighbour| scope.spawn(move || neighbour.ask("GET key")))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<String>>| {
            thread.join().ok().context("a client has panicked")?
        };
        let theirs = theirs.into_iter().map(join).collect::<Result<Vec<String>>>()?;
        anyhow::Ok((join(own)?, theirs))
    })?;
    let served = theirs.iter().filter(|reply| *reply == "$5 value").count();
    let asked = "EVAL of 3 s with an op_timeout of 2 s";
    let neighbours = format!("{NEIGHBOURS} other clients' GETs in that shard, 1.5 s later");
    Ok(vec![
        Sight::new(asked, "an error", format!("`{own}`"), own.starts_with('-')),
        Sight::exactly(&neighbours, "served: 3", format!("served: {served}")),
    ])
}

/// A script that keeps a server busy for so many milliseconds.
pub(super) fn script(milliseconds: u32) -> String {
    format!(
        "local function now() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end \
         local begin = now() repeat until now() - begin > {milliseconds} return 1"
    )
}
