//! The control plane comes and goes, and so do clients.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_verify::key;

use crate::checks::changes;
use crate::client::{PATIENCE, REDIS};
use crate::kubectl::Kubectl;
use crate::load::{told, why};
use crate::stage::Stage;

/// The deployment of istiod.
const ISTIOD: [&str; 3] = ["--namespace", "istio-system", "deployment/istiod"];

/// Time without istiod.
const ABSENCE: Duration = Duration::from_secs(60);

pub(crate) fn restart(stage: &Stage) -> Result<String> {
    let load = stage.client()?.load(stage.redis()?, &["--renew", "50"])?;
    stage.kubectl.run(&[&["rollout", "restart"], &ISTIOD[..]].concat())?;
    until_istiod_is_ready(&stage.kubectl)?;
    load.goes_on()?;
    load.finish_flawless()
}

pub(crate) fn absence(stage: &Stage) -> Result<String> {
    let load = stage.client()?.load(stage.redis()?, &["--renew", "50"])?;
    let replicas = |count| [&["scale", count], &ISTIOD[..]].concat();
    stage.kubectl.run(&replicas("--replicas=0"))?;
    let end = Instant::now() + ABSENCE;
    let absent = until("the end of the absence", 2 * ABSENCE, || {
        let over = Instant::now() >= end;
        Ok(if over { Probe::Ready(()) } else { Probe::NotYet(String::new()) })
    });
    stage.kubectl.put_back("", &replicas("--replicas=1"));
    absent?;
    until_istiod_is_ready(&stage.kubectl)?;
    load.goes_on()?;
    let seen = load.finish_flawless()?;
    changes::configuration(stage).context("a change afterwards")?;
    Ok(seen)
}

pub(crate) fn client_deletion(stage: &Stage) -> Result<String> {
    const NAME: &str = "deleted";
    let client = stage.client()?;
    let load = client.load(stage.redis()?, &["--name", NAME])?;
    stage.kubectl.run(&["delete", "pod", "--namespace", client.namespace(), "--all"])?;
    let report = load.until_it_is_killed()?;
    ensure!(report.failures() == 0, "{}{}", told(&report), why(&report));
    client.until_ready()?;
    client.until_it_serves(REDIS)?;
    for (number, &acknowledged) in report.acknowledged.iter().enumerate() {
        let key = key(NAME, number, acknowledged);
        let value = client.redis(REDIS, &["GET", &key])?;
        let there = value.parse::<u64>().is_ok_and(|value| value >= acknowledged);
        ensure!(there, "{key}: {acknowledged} was acknowledged, now {value}");
    }
    Ok(format!("until its end {}; its last writes are there", told(&report)))
}

fn until_istiod_is_ready(kubectl: &Kubectl) -> Result<()> {
    kubectl.run_within(PATIENCE, &[&["rollout", "status"], &ISTIOD[..]].concat())?;
    Ok(())
}
