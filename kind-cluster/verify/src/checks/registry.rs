//! The registry of the module goes and comes back.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};
use slotmesh_testbed::locate;
use slotmesh_testbed::wait::{Probe, until};

use crate::checks::changes::serves_others;
use crate::client::{Client, PATIENCE, REDIS, deployment};
use crate::kubectl::{mesh, mesh_put_back};
use crate::manifest::Manifest;
use crate::namespace::Namespace;
use crate::stage::Stage;

/// What istio/README.md says of a web server that is back, and some more.
const RETURN: Duration = Duration::from_secs(100);

/// The registry is there again when this is dropped.
struct Away;

impl Away {
    fn begin() -> Result<Self> {
        let away = Self;
        mesh(&["registry-stop"])?;
        Ok(away)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        mesh_put_back(&["registry-start"]);
    }
}

/// A pod that starts meanwhile is closed to Redis and to nothing else, until its sidecar is made to
/// ask again.
pub(crate) fn away(stage: &Stage) -> Result<String> {
    const NAME: &str = "verify-registry";
    let kubectl = &stage.kubectl;
    let namespace = Namespace::create(kubectl, NAME, "enabled")?;
    stage.slotmesh()?.apply(kubectl, NAME)?;
    let deployment = deployment(kubectl, "plain")?;
    let away = Away::begin()?;
    let client = Client::deploy(kubectl, namespace, &deployment)?;
    until_closed(&client)?;
    serves_others(&client)?;
    drop(away);
    ensure!(client.redis(REDIS, &["PING"]).is_err(), "Redis is open by itself");
    let again = format!("istio.io/again={}", client.log()?.len());
    let annotate = ["annotate", "envoyfilter", "slotmesh", "--overwrite", &again];
    kubectl.run(&[&annotate[..], &["--namespace", NAME]].concat())?;
    client.until_it_serves(REDIS)?;
    client.traffic(stage.redis()?)
}

/// Of two pods that start meanwhile one is ready at once, and the other when it can serve. Both do
/// so by themselves.
pub(crate) fn web_server(stage: &Stage) -> Result<String> {
    let kubectl = &stage.kubectl;
    let deployment = deployment(kubectl, "patient")?;
    let begin = |name, overlay| -> Result<Client> {
        let namespace = Namespace::create(kubectl, name, "enabled")?;
        from_web_server(stage, overlay)?.apply(kubectl, name)?;
        Client::create(kubectl, namespace, &deployment)
    };
    let away = Away::begin()?;
    let waiting = begin("verify-wait-for-module", "overlays/wait-for-module")?;
    let ready = begin("verify-web-server", "overlays/web-server")?;
    ready.until_ready()?;
    until_closed(&ready)?;
    serves_others(&ready)?;
    ensure!(!waiting.is_ready()?, "a pod that waits for the module is ready without it");
    drop(away);
    let back = Instant::now();
    let served = |client: &Client| -> Result<u64> {
        until("Slotmesh to serve", RETURN, || Ok(Probe::retry(client.serves(REDIS))))?;
        Ok(back.elapsed().as_secs())
    };
    let (ready_after, waiting_after) = (served(&ready)?, served(&waiting)?);
    waiting.until_ready()?;
    Ok(format!("served {ready_after} s and {waiting_after} s after its return"))
}

/// A pod that brings the module with it needs no registry.
pub(crate) fn local_module(stage: &Stage) -> Result<String> {
    const NAME: &str = "verify-local-module";
    let kubectl = &stage.kubectl;
    let namespace = Namespace::create(kubectl, NAME, "enabled")?;
    Manifest::build(kubectl, "overlays/local-module")?.apply(kubectl, NAME)?;
    let deployment = deployment(kubectl, "local-module")?;
    let module = fs::read(locate::wasm()?)?;
    let _away = Away::begin()?;
    let client = Client::create(kubectl, namespace, &deployment)?;
    until("the init container to take the module", PATIENCE, || {
        Ok(Probe::retry(client.put("slotmesh", module.clone(), "/opt/slotmesh/plugin.wasm")))
    })?;
    client.until_ready()?;
    client.until_it_serves(REDIS)?;
    client.traffic(stage.redis()?)
}

fn until_closed(client: &Client) -> Result<()> {
    until("Redis to be closed", PATIENCE, || {
        Ok(match client.redis(REDIS, &["PING"]) {
            Ok(reply) => Probe::NotYet(reply),
            Err(_) => Probe::Ready(()),
        })
    })
}

/// The registry is a web server: the module is in the one layer of its image.
fn from_web_server(stage: &Stage, overlay: &str) -> Result<Manifest> {
    let layout = locate::workspace().join("target/image");
    let read = |path: &str| -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(layout.join(path))?)?)
    };
    let digest = |of: &Value| Some(of["digest"].as_str()?.to_owned());
    let manifest = digest(&read("index.json")?["manifests"][0]).context("no manifest")?;
    let manifest = read(&format!("blobs/{}", manifest.replace(':', "/")))?;
    let layer = digest(&manifest["layers"][0]).context("no layer")?;
    let module: String = Sha256::digest(fs::read(locate::wasm()?)?)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Manifest::build(&stage.kubectl, overlay)?
        .with(
            "https://files.example/slotmesh-0.1.0.wasm",
            &format!("http://slotmesh-registry:5000/v2/slotmesh/blobs/{layer}"),
        )?
        .with(&"0".repeat(64), &module)
}
