//! Where the parts are that the workspace's own make targets build or install.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The root of the workspace this crate was built in.
pub fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The Envoy binary: `$ENVOY`, else the one in the workspace's virtual environment.
///
/// # Errors
/// It is not there; says how to get it.
pub fn envoy() -> Result<PathBuf> {
    find("ENVOY", &[workspace().join(".venv/bin/envoy")], "`make deps` installs Envoy")
}

/// An Envoy of another version, such as `1.36.4`: `$ENVOY_1_36_4`, else what
/// scripts/install-test-deps installed.
///
/// # Errors
/// It is not there; says how to get it.
pub fn envoy_of(version: &str) -> Result<PathBuf> {
    let installed = workspace().join("target/envoys").join(version).join("bin/envoy");
    let variable = format!("ENVOY_{}", version.replace('.', "_"));
    find(&variable, &[installed], &format!("`make test-deps` installs Envoy {version}"))
}

/// The module: `$SLOTMESH_WASM`, else what scripts/build-wasm made.
///
/// # Errors
/// It is not there; says how to get it.
pub fn wasm() -> Result<PathBuf> {
    let built = workspace().join("target/wasm/slotmesh.wasm");
    find("SLOTMESH_WASM", &[built], "`make wasm` builds the module")
}

/// The registry of images: `$DOCKER_REGISTRY`, else what scripts/install-test-deps unpacked.
///
/// # Errors
/// It is not there; says how to get it.
pub fn registry() -> Result<PathBuf> {
    let unpacked = workspace().join("target/tools/usr/bin/docker-registry");
    find("DOCKER_REGISTRY", &[unpacked], "`make test-deps` fetches a registry")
}

/// kubectl, for its kustomize: `$KUBECTL`, else the one in the workspace's virtual environment.
///
/// # Errors
/// It is not there; says how to get it.
pub fn kubectl() -> Result<PathBuf> {
    find("KUBECTL", &[workspace().join(".venv/bin/kubectl")], "`make test-deps` installs kubectl")
}

/// Our own host's binary: `$SLOTMESH_HOST`, else the one built beside the running program.
///
/// # Errors
/// It is not there; says how to get it.
pub fn host() -> Result<PathBuf> {
    let program = env::current_exe()?;
    // A test runs in `deps/`, one below the binaries.
    let beside = program.ancestors().skip(1).take(2).map(|dir| dir.join("slotmesh-host"));
    let candidates: Vec<PathBuf> = beside.collect();
    find("SLOTMESH_HOST", &candidates, "`cargo build -p slotmesh-host` builds our host")
}

/// A program that the system installs, such as `redis-server`.
///
/// # Errors
/// No directory of `$PATH` has it; says how to get it.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    match env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file()) {
        Some(file) => Ok(file),
        None => bail!("{name} is not installed; `make deps` installs it"),
    }
}

fn find(variable: &str, candidates: &[PathBuf], remedy: &str) -> Result<PathBuf> {
    let chosen = env::var_os(variable).map(PathBuf::from);
    if let Some(file) = &chosen
        && !file.is_file()
    {
        bail!("{variable}={} is not a file", file.display());
    }
    let found = chosen.or_else(|| candidates.iter().find(|file| file.is_file()).cloned());
    match (found, candidates) {
        (Some(file), _) => Ok(file.canonicalize()?),
        (None, [first, ..]) => bail!("{} is not there; {remedy}", first.display()),
        (None, []) => bail!("{variable} is not set; {remedy}"),
    }
}
