//! A Redis that wants a password, TLS, or Istio's mutual TLS.

use anyhow::{Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;
use slotmesh_testbed::wait::{Probe, until};

use crate::client::{Client, PATIENCE, deployment};
use crate::manifest::Manifest;
use crate::namespace::Namespace;
use crate::redis;
use crate::small::{Kind, SmallCluster, Tls};
use crate::stage::Stage;

/// How often certificates are renewed while the load runs.
const RENEWALS: usize = 2;

pub(crate) fn password(stage: &Stage) -> Result<String> {
    const PASSWORD: &str = "only-for-this-check";
    let kubectl = &stage.kubectl;
    let kind = Kind { password: Some(PASSWORD), ..Kind::default() };
    let cluster = SmallCluster::start(kubectl, "verify-password-redis", kind)?;
    let namespace = Namespace::create(kubectl, "verify-password", "enabled")?;
    let secret = format!("--from-literal=password={PASSWORD}");
    let create = ["create", "secret", "generic", "redis", "--namespace", namespace.name()];
    kubectl.run(&[&create[..], &[&secret]].concat())?;
    serves(stage, namespace, "password", "overlays/credentials", &cluster)
}

pub(crate) fn tls(stage: &Stage) -> Result<String> {
    const NAME: &str = "verify-tls-redis";
    let kubectl = &stage.kubectl;
    let tls = certificates(&format!("*.redis-nodes.{NAME}.svc.cluster.local"))?;
    let kind = Kind { tls: Some(&tls), ..Kind::default() };
    let _cluster = SmallCluster::start(kubectl, NAME, kind)?;
    let namespace = Namespace::create(kubectl, "verify-tls", "enabled")?;
    let authority = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "authority"},
        "data": {"ca.crt": tls.authority},
    });
    Manifest::from(authority.to_string()).apply(kubectl, namespace.name())?;
    let seed = "clustercfg.my-redis.abc123.euw1.cache.amazonaws.com";
    let overlay = Manifest::slotmesh(kubectl, "overlays/tls")?
        .with(
            "*.my-redis.abc123.euw1.cache.amazonaws.com",
            &format!("*.redis-nodes.{NAME}.svc.cluster.local"),
        )?
        .with(seed, &format!("node-0.redis-nodes.{NAME}.svc.cluster.local"))?
        .with("/etc/ssl/certs/ca-certificates.crt", "/etc/redis-authority/ca.crt")?;
    overlay.apply(kubectl, namespace.name())?;
    let client = Client::deploy(kubectl, namespace, &deployment(kubectl, "authority")?)?;
    client.until_it_serves("redis")?;
    client.traffic(redis::service(kubectl, client.namespace(), "redis")?)
}

/// Both nodes have sidecars that take nothing but mutual TLS; certificates are renewed all the
/// time.
pub(crate) fn mutual_tls(stage: &Stage) -> Result<String> {
    let kubectl = &stage.kubectl;
    let kind = Kind { sidecars: [true; 2], ..Kind::default() };
    let cluster = SmallCluster::start(kubectl, "verify-mtls-redis", kind)?;
    let strict = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "redis"},
        "spec": {"mtls": {"mode": "STRICT"}},
    });
    Manifest::from(strict.to_string()).apply(kubectl, cluster.namespace())?;
    let namespace = Namespace::create(kubectl, "verify-mtls", "enabled")?;
    let overlay = of_cluster(stage, "overlays/mtls", &cluster)?;
    overlay.apply(kubectl, namespace.name())?;
    let deployment = deployment(kubectl, "short-certificates")?;
    let client = Client::deploy(kubectl, namespace, &deployment)?;
    client.until_it_serves(&host(&cluster))?;

    let load = client
        .load(redis::service(kubectl, cluster.namespace(), "redis-cluster")?, &["--renew", "50"])?;
    let mut seen = vec![serial(&client)?];
    until("certificates to be renewed", PATIENCE, || {
        let now = serial(&client)?;
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        let renewals = seen.len() - 1;
        Ok(if renewals < RENEWALS {
            Probe::NotYet(format!("{renewals}"))
        } else {
            Probe::Ready(())
        })
    })?;
    load.goes_on()?;
    let seen = load.finish_flawless()?;
    Ok(format!("{seen}, while the client's certificate was renewed {RENEWALS} times"))
}

/// One node has a sidecar, the other has none.
pub(crate) fn auto_mutual_tls(stage: &Stage) -> Result<String> {
    let kubectl = &stage.kubectl;
    let kind = Kind { sidecars: [true, false], ..Kind::default() };
    let cluster = SmallCluster::start(kubectl, "verify-auto-redis", kind)?;
    let namespace = Namespace::create(kubectl, "verify-auto", "enabled")?;
    serves(stage, namespace, "plain", "overlays/auto-mtls", &cluster)
}

fn serves(
    stage: &Stage,
    namespace: Namespace,
    client: &str,
    overlay: &str,
    cluster: &SmallCluster,
) -> Result<String> {
    let kubectl = &stage.kubectl;
    of_cluster(stage, overlay, cluster)?.apply(kubectl, namespace.name())?;
    let client = Client::deploy(kubectl, namespace, &deployment(kubectl, client)?)?;
    client.until_it_serves(&host(cluster))?;
    client.traffic(redis::service(kubectl, cluster.namespace(), "redis-cluster")?)
}

/// An overlay for a cluster in another namespace.
fn of_cluster(stage: &Stage, overlay: &str, cluster: &SmallCluster) -> Result<Manifest> {
    let name = cluster.namespace();
    let manifest = Manifest::slotmesh(&stage.kubectl, overlay)?;
    Ok(manifest
        .with_any(".redis.svc", &format!(".{name}.svc"))
        .with_any("/ns/redis/", &format!("/ns/{name}/")))
}

fn host(cluster: &SmallCluster) -> String {
    format!("redis-cluster.{}", cluster.namespace())
}

/// The number of the certificate that the client's sidecar has now.
fn serial(client: &Client) -> Result<String> {
    let certificates: serde_json::Value = serde_json::from_str(&client.envoy("certs")?)?;
    let chains = certificates["certificates"].as_array().into_iter().flatten();
    let mut chain = chains.filter_map(|one| one["cert_chain"][0]["serial_number"].as_str());
    let serial = chain.next().unwrap_or_default();
    ensure!(!serial.is_empty(), "the sidecar has no certificate");
    Ok(serial.to_owned())
}

/// A certificate for a host, by an authority of its own.
fn certificates(host: &str) -> Result<Tls> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    // Else it has the same name as what it signs, which would then pass for self-signed.
    authority.distinguished_name.push(DnType::CommonName, "an authority of the user's");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let signed = authority.self_signed(&authority_key)?;
    let key = KeyPair::generate()?;
    let issuer = Issuer::new(authority, authority_key);
    let certificate = CertificateParams::new(vec![host.to_owned()])?.signed_by(&key, &issuer)?;
    Ok(Tls { certificate: certificate.pem(), key: key.serialize_pem(), authority: signed.pem() })
}
