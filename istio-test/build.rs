//! Describes Envoy's configuration to this crate: has protoc compile the .proto files that the
//! crate envoy-types carries into one set of descriptors.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, ensure};

/// What envoy-types has below `proto/`, by the names that imports begin with.
const INCLUDES: [&str; 7] = [
    "data-plane-api",
    "xds",
    "protoc-gen-validate",
    "googleapis",
    "cel-spec/proto",
    "opentelemetry-proto",
    "client_model",
];

/// What resources are made of, and the extensions that manifests may name: those of Istio's own
/// Envoy that stand in the way of TCP.
const ROOTS: [&str; 17] = [
    "envoy/config/cluster/v3",
    "envoy/config/core/v3",
    "envoy/config/endpoint/v3",
    "envoy/config/listener/v3",
    "envoy/extensions/clusters/dynamic_forward_proxy",
    "envoy/extensions/filters/http/rbac",
    "envoy/extensions/filters/http/upstream_codec",
    "envoy/extensions/filters/http/wasm",
    "envoy/extensions/filters/network/echo",
    "envoy/extensions/filters/network/rbac",
    "envoy/extensions/filters/network/redis_proxy",
    "envoy/extensions/filters/network/tcp_proxy",
    "envoy/extensions/filters/network/wasm",
    "envoy/extensions/load_balancing_policies",
    "envoy/extensions/transport_sockets/raw_buffer",
    "envoy/extensions/transport_sockets/tls",
    "envoy/extensions/upstreams",
];

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let protos = protos()?;
    let mut files = Vec::new();
    for root in ROOTS {
        find(&protos.join("data-plane-api").join(root), &mut files)?;
    }
    let mut protoc = Command::new(protoc_bin_vendored::protoc_bin_path()?);
    protoc.arg("--include_imports").arg("--descriptor_set_out");
    protoc.arg(PathBuf::from(env::var("OUT_DIR")?).join("envoy.binpb"));
    for include in INCLUDES {
        protoc.arg("--proto_path").arg(protos.join(include));
    }
    protoc.arg("--proto_path").arg(protoc_bin_vendored::include_path()?);
    run(protoc.args(files))?;
    Ok(())
}

/// Where Cargo keeps the .proto files of the envoy-types that this workspace is locked to.
fn protos() -> Result<PathBuf> {
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo.args(["metadata", "--format-version", "1", "--locked"]);
    let metadata = run(cargo.args(["--filter-platform", &env::var("TARGET")?]))?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata)?;
    let mut packages = metadata["packages"].as_array().context("no packages")?.iter();
    let package = packages.find(|package| package["name"] == "envoy-types");
    let manifest = package.context("envoy-types is no dependency")?["manifest_path"].as_str();
    let root = Path::new(manifest.context("a package without a manifest")?).with_file_name("proto");
    Ok(root)
}

fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

fn find(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}
