//! Slotmesh comes, changes and goes while clients are served.

use anyhow::{Context, Result, ensure};
use slotmesh_testbed::wait::{Probe, until};

use crate::client::{Client, PATIENCE, REDIS, deployment};
use crate::load::Load;
use crate::manifest::{MODULE, Manifest};
use crate::namespace::Namespace;
use crate::stage::Stage;

/// The other Redis, which has a port of its own.
const MIRROR: &str = "redis-mirror.redis";
const MIRROR_PORT: [&str; 2] = ["-p", "6380"];

/// The right word stands in every manifest.
const WORD: &str = "op_timeout";
const MISSPELT: &str = "op_timeuot";

pub(crate) fn installation(stage: &Stage) -> Result<String> {
    let kubectl = &stage.kubectl;
    let namespace = Namespace::create(kubectl, "verify-installation", "enabled")?;
    let client = Client::deploy(kubectl, namespace, &deployment(kubectl, "plain")?)?;
    let others = client.load(stage.mirror()?, &["--renew", "50", "--name", "others"])?;
    ensure!(client.serves(REDIS).is_err(), "it is served without Slotmesh");

    let slotmesh = stage.slotmesh()?;
    client.apply(&slotmesh)?;
    client.until_it_serves(REDIS)?;
    let load = client.load(stage.redis()?, &[])?;
    client.delete(&slotmesh)?;
    until("connections without Slotmesh", PATIENCE, || {
        Ok(match client.serves(REDIS) {
            Ok(()) => Probe::NotYet("new connections are still Slotmesh's".to_owned()),
            Err(_) => Probe::Ready(()),
        })
    })?;
    load.goes_on()?;
    let seen = load.finish_flawless().context("through Slotmesh")?;
    others.goes_on()?;
    let others = others.finish_flawless().context("to another Redis")?;
    Ok(format!("{seen}; to another Redis {others}"))
}

pub(crate) fn configuration(stage: &Stage) -> Result<String> {
    let word = r#""stat_prefix": "changed","#;
    let changed = stage.slotmesh()?.with(r#""settings""#, &format!(r#"{word} "settings""#))?;
    change(stage, &changed)
}

pub(crate) fn image(stage: &Stage) -> Result<String> {
    let changed = stage.slotmesh()?.with(&format!("{MODULE}:kind"), &format!("{MODULE}:second"))?;
    change(stage, &changed)
}

pub(crate) fn missing_image(stage: &Stage) -> Result<String> {
    let client = stage.client()?;
    let load = client.load(stage.redis()?, &[])?;
    let others = begin_others(stage)?;
    let missing = stage.slotmesh()?.with(&format!("{MODULE}:kind"), &format!("{MODULE}:none"))?;
    with_broken(stage, &missing, || {
        until("new connections to be closed", PATIENCE, || {
            Ok(match client.redis(REDIS, &["PING"]) {
                Ok(reply) => Probe::NotYet(reply),
                Err(_) => Probe::Ready(()),
            })
        })?;
        serves_others(client)?;
        load.goes_on().context("connections that were there")
    })?;
    let seen = load.finish_flawless()?;
    let others = others.finish_flawless().context("to another Redis")?;
    Ok(format!("{seen}; to another Redis {others}"))
}

pub(crate) fn misspelt(stage: &Stage) -> Result<String> {
    let client = stage.client()?;
    let load = client.load(stage.redis()?, &["--renew", "50"])?;
    let others = begin_others(stage)?;
    let misspelt = stage.slotmesh()?.with(WORD, MISSPELT)?;
    with_broken(stage, &misspelt, || {
        let named = format!("settings.{MISSPELT}: unknown field");
        until(&format!("`{named}` in the log"), PATIENCE, || {
            Ok(match client.log()?.contains(&named) {
                true => Probe::Ready(()),
                false => Probe::NotYet("it is not there".to_owned()),
            })
        })?;
        serves_others(client)?;
        load.goes_on()
    })?;
    let seen = load.finish_flawless()?;
    let others = others.finish_flawless().context("to another Redis")?;
    Ok(format!("{seen}; to another Redis {others}"))
}

/// Changes Slotmesh under load, and back again.
fn change(stage: &Stage, changed: &Manifest) -> Result<String> {
    let load = stage.client()?.load(stage.redis()?, &["--renew", "50"])?;
    stage.with(changed, |_| load.goes_on())?;
    load.goes_on()?;
    load.finish_flawless()
}

/// Does something while the client has a Slotmesh that cannot work, and gives it the usual one back.
fn with_broken(stage: &Stage, broken: &Manifest, then: impl FnOnce() -> Result<()>) -> Result<()> {
    let client = stage.client()?;
    client.apply(broken)?;
    let result = then();
    client.apply(&stage.slotmesh()?)?;
    result?;
    client.until_it_serves(REDIS)
}

fn begin_others(stage: &Stage) -> Result<Load> {
    let options = ["--renew", "50", "--clients", "2", "--name", "others"];
    stage.client()?.load(stage.mirror()?, &options)
}

/// Whether a Redis that Slotmesh has nothing to do with is reached.
pub(super) fn serves_others(client: &Client) -> Result<()> {
    let reply = client.redis(MIRROR, &[&MIRROR_PORT[..], &["PING"]].concat())?;
    ensure!(reply == "PONG", "another Redis answers {reply}");
    Ok(())
}
