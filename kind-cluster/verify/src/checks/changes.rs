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

/// With base/service, whose VirtualService is the switch: it comes last and goes first.
pub(crate) fn switching(stage: &Stage) -> Result<String> {
    let kubectl = &stage.kubectl;
    let namespace = Namespace::create(kubectl, "verify-switching", "enabled")?;
    let client = Client::deploy(kubectl, namespace, &deployment(kubectl, "plain")?)?;
    let others = client.load(stage.mirror()?, &["--renew", "50", "--name", "others"])?;
    until_without(&client)?;

    let slotmesh = stage.slotmesh()?;
    slotmesh.apply_some(kubectl, client.namespace(), "slotmesh!=route")?;
    until("the router", PATIENCE, || {
        Ok(match client.router()?.contains("slotmesh.router") {
            true => Probe::Ready(()),
            false => Probe::NotYet("it is not there".to_owned()),
        })
    })?;
    client.apply(&slotmesh)?;
    client.until_it_serves(REDIS)?;
    let load = client.load(stage.redis()?, &[])?;
    kubectl.run(&["delete", "virtualservice", "slotmesh", "--namespace", client.namespace()])?;
    until_without(&client)?;
    load.goes_on()?;
    let seen = load.finish_flawless().context("through Slotmesh")?;
    client.delete(&slotmesh)?;
    until_without(&client)?;
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
    let missing = stage.slotmesh()?.with(&format!("{MODULE}:kind"), &format!("{MODULE}:none"))?;
    broken(stage, &missing, "error in converting the wasm config to local")
}

pub(crate) fn misspelt(stage: &Stage) -> Result<String> {
    let misspelt = stage.slotmesh()?.with(WORD, MISSPELT)?;
    broken(stage, &misspelt, &format!("settings.{MISSPELT}: unknown field"))
}

/// Waits until new connections lead to a node.
fn until_without(client: &Client) -> Result<()> {
    until("connections without Slotmesh", PATIENCE, || {
        let reply = client.redis(REDIS, &["MSET", "a", "a", "b", "b"])?;
        let plain = reply.starts_with("CROSSSLOT");
        Ok(if plain { Probe::Ready(()) } else { Probe::NotYet(reply) })
    })
}

/// Changes Slotmesh under load, and back again.
fn change(stage: &Stage, changed: &Manifest) -> Result<String> {
    let load = stage.client()?.load(stage.redis()?, &["--renew", "50"])?;
    stage.with(changed, |_| load.goes_on())?;
    load.goes_on()?;
    load.finish_flawless()
}

/// Gives the client a Slotmesh that cannot work, under load, and waits until the log says why.
fn broken(stage: &Stage, broken: &Manifest, reason: &str) -> Result<String> {
    let client = stage.client()?;
    let load = client.load(stage.redis()?, &["--renew", "50"])?;
    let others = begin_others(stage)?;
    let usual = stage.slotmesh()?;
    let result = client
        .apply(broken)
        .and_then(|()| client.until_it_logs(reason))
        .and_then(|()| load.goes_on());
    usual.put_back(&stage.kubectl, client.namespace());
    result?;
    load.goes_on()?;
    let seen = load.finish_flawless()?;
    let others = others.finish_flawless().context("to another Redis")?;
    Ok(format!("{seen}; to another Redis {others}"))
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
