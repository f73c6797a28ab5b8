//! The registry of the module goes and comes back.

use anyhow::{Context, Result, ensure};
use slotmesh_testbed::wait::{Probe, until};

use crate::checks::changes::serves_others;
use crate::client::{Client, PATIENCE, REDIS, deployment};
use crate::kubectl::{mesh, mesh_put_back};
use crate::namespace::Namespace;
use crate::stage::Stage;

/// A pod that starts meanwhile is closed to Redis and to nothing else, until its sidecar is made to
/// ask again.
pub(crate) fn away(stage: &Stage) -> Result<String> {
    const NAME: &str = "verify-registry";
    let kubectl = &stage.kubectl;
    let namespace = Namespace::create(kubectl, NAME, "enabled")?;
    stage.slotmesh()?.apply(kubectl, NAME)?;
    let deployment = deployment(kubectl, "plain")?;
    mesh(&["registry-stop"])?;
    let started = Client::deploy(kubectl, namespace, &deployment).and_then(|client| {
        serves_others(&client)?;
        until("Redis to be closed", PATIENCE, || {
            Ok(match client.redis(REDIS, &["PING"]) {
                Ok(reply) => Probe::NotYet(reply),
                Err(_) => Probe::Ready(()),
            })
        })?;
        Ok(client)
    });
    mesh_put_back(&["registry-start"]);
    let client = started.context("while the registry was away")?;
    ensure!(client.redis(REDIS, &["PING"]).is_err(), "Redis is open by itself");
    let again = format!("istio.io/again={}", client.log()?.len());
    let annotate = ["annotate", "envoyfilter", "slotmesh", "--overwrite", &again];
    kubectl.run(&[&annotate[..], &["--namespace", NAME]].concat())?;
    client.until_it_serves(REDIS)?;
    client.traffic(stage.redis()?)
}
