//! The image as container tools and a registry see it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use flate2::read::GzDecoder;
use serde_json::Value;
use slotmesh_testbed::process::{Process, run};
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::{Port, TempDir, locate, or_skip};

const PATIENCE: Duration = Duration::from_secs(60);

/// The smallest module there is, with something behind it to compress.
fn module() -> Vec<u8> {
    [&b"\0asm\x01\0\0\0"[..], &[7; 100_000]].concat()
}

fn build(module: &[u8], layout: &Path) -> Result<String> {
    let wasm = layout.with_extension("wasm");
    fs::write(&wasm, module)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_slotmesh-image"));
    command.arg(wasm).arg(layout);
    Ok(run(command, PATIENCE)?.trim_end().to_owned())
}

/// Every file of a directory, by its path there.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn the_same_module_gives_the_same_image_and_another_gives_another() {
    let dir = TempDir::new("image").unwrap();
    let [first, second, other] = ["a", "b", "c"].map(|name| dir.path().join(name));
    let digest = build(&module(), &first).unwrap();
    assert_eq!(digest.len(), 64, "{digest}");
    assert_eq!(build(&module(), &second).unwrap(), digest);
    assert_eq!(files(&first), files(&second));
    assert_ne!(build(b"\0asm\x01\0\0\0", &other).unwrap(), digest);

    // Built again in the same place: nothing of the old image stays.
    build(&module(), &other).unwrap();
    assert_eq!(files(&first), files(&other));
}

#[test]
fn what_is_no_module_and_what_is_no_layout_is_left_alone() {
    let dir = TempDir::new("image").unwrap();
    let error = build(b"#!/bin/sh", &dir.path().join("layout")).unwrap_err().to_string();
    assert!(error.contains("is not WebAssembly"), "{error}");

    let precious = dir.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "data").unwrap();
    let error = build(&module(), &precious).unwrap_err().to_string();
    assert!(error.contains("it exists and is not an image layout"), "{error}");
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "data");
}

/// A registry of images on loopback.
struct Registry {
    port: Port,
    _process: Process,
    _dir: TempDir,
}

impl Registry {
    fn start(binary: &Path) -> Self {
        let (port, dir) = (Port::free().unwrap(), TempDir::new("registry").unwrap());
        let config = dir.path().join("config.yml");
        let storage = dir.path().join("storage");
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {}}}\n",
            storage.display(),
            port.addr()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(binary);
        command.arg("serve").arg(&config);
        let process = Process::start(command, &dir.path().join("log")).unwrap();
        until("the registry to listen", PATIENCE, || {
            let connected = std::net::TcpStream::connect(port.addr());
            Ok(Probe::retry(
                connected.map_err(|error| anyhow::anyhow!("{error}: {}", process.log())),
            ))
        })
        .unwrap();
        Self { port, _process: process, _dir: dir }
    }
}

/// Copies an image from the registry as Istio's agent gets it: manifest and blobs, checked by
/// digest.
fn pull(name: &str, into: &Path) -> Result<String> {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--src-tls-verify=false", "--preserve-digests"]);
    skopeo.arg(format!("docker://{name}")).arg(format!("dir:{}", into.display()));
    run(skopeo, PATIENCE)
}

#[test]
fn a_registry_hands_out_the_module_under_the_digest_that_was_printed() {
    let Some(binary) = or_skip(locate::registry()) else { return };
    if or_skip(locate::program("skopeo")).is_none() {
        return;
    }
    let registry = Registry::start(&binary);
    let dir = TempDir::new("image").unwrap();
    let layout = dir.path().join("layout");
    let digest = build(&module(), &layout).unwrap();

    let mut push = Command::new(locate::workspace().join("scripts/push-image"));
    let team = format!("{}/team", registry.port.addr());
    push.env("REGISTRY", &team).env("TAG", "t").env("TLS_VERIFY", "false").env("IMAGE", &layout);
    let printed = run(push, PATIENCE).unwrap();
    assert_eq!(printed, format!("uri: oci://{team}/slotmesh:t\nsha256: \"{digest}\"\n"));

    let pulled = dir.path().join("pulled");
    pull(&format!("{team}/slotmesh@sha256:{digest}"), &pulled).unwrap();
    let manifest: Value =
        serde_json::from_slice(&fs::read(pulled.join("manifest.json")).unwrap()).unwrap();
    // What Istio's agent looks for: the last layer, of this type, with a file of this name.
    let layer = manifest["layers"].as_array().unwrap().last().unwrap();
    assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    let blob = layer["digest"].as_str().unwrap().trim_start_matches("sha256:");
    let blob = fs::read(pulled.join(blob)).unwrap();
    let mut archive = tar::Archive::new(GzDecoder::new(&blob[..]));
    let mut entries = archive.entries().unwrap();
    let mut file = entries.next().unwrap().unwrap();
    assert_eq!(file.path().unwrap(), Path::new("plugin.wasm"));
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    assert!(content == module(), "the module has changed on its way");
    assert!(entries.next().is_none(), "there is more in the image than the module");
}
