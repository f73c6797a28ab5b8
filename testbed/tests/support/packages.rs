//! Clients of other languages, each from its own registry of packages.
//!
//! They go to target/clients/, once for each content of their lock file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use slotmesh_testbed::locate;
use slotmesh_testbed::process::run;

/// Time for a package manager and the registry it asks.
const PATIENCE: Duration = Duration::from_secs(300);

/// A command that runs a program of clients/python/ with the packages of its requirements.txt.
///
/// # Errors
/// There is no Python that can make a virtual environment, or the registry is out of reach.
pub(crate) fn python(program: &str) -> Result<Command> {
    let source = source("python");
    let requirements = source.join("requirements.txt");
    let environment = install("python", &requirements, |environment| {
        let mut venv = Command::new(find_python()?);
        venv.args(["-m", "venv"]).arg(environment);
        run(venv, PATIENCE)?;
        let mut pip = Command::new(environment.join("bin/python"));
        pip.args("-m pip install --quiet --disable-pip-version-check --retries 1".split(' '));
        pip.arg("--requirement").arg(&requirements);
        run(pip, PATIENCE)
    })?;
    let mut command = Command::new(environment.join("bin/python"));
    command.arg(source.join(program));
    Ok(command)
}

/// A command that runs a program of clients/node/ with the packages of its package-lock.json.
///
/// # Errors
/// node or npm is not installed, or the registry is out of reach.
pub(crate) fn node(program: &str) -> Result<Command> {
    let source = source("node");
    let mut node = Command::new("node");
    node.arg("--version");
    run(node, PATIENCE)?;
    let directory = install("node", &source.join("package-lock.json"), |directory| {
        for file in ["package.json", "package-lock.json"] {
            fs::copy(source.join(file), directory.join(file))?;
        }
        let mut npm = Command::new("npm");
        npm.args("ci --ignore-scripts --no-audit --no-fund --fetch-retries 1".split(' '));
        npm.current_dir(directory);
        run(npm, PATIENCE)
    })?;
    // A module finds its packages beside itself or above, and nowhere else.
    fs::copy(source.join(program), directory.join(program))?;
    let mut command = Command::new("node");
    command.arg(directory.join(program));
    Ok(command)
}

fn source(language: &str) -> PathBuf {
    locate::workspace().join("testbed/clients").join(language)
}

/// Fills target/clients/`name` unless that is what `lock` asks for already.
fn install(name: &str, lock: &Path, fill: impl FnOnce(&Path) -> Result<String>) -> Result<PathBuf> {
    let directory = locate::workspace().canonicalize()?.join("target/clients").join(name);
    fs::create_dir_all(&directory)?;
    // Other tests, and tests of other processes, wait here.
    let turn = File::create(directory.with_extension("lock"))?;
    turn.lock()?;
    let (wanted, stamp) = (fs::read(lock)?, directory.join("installed"));
    if !fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        fs::remove_dir_all(&directory)?;
        fs::create_dir_all(&directory)?;
        fill(&directory)?;
        fs::write(stamp, wanted)?;
    }
    Ok(directory)
}

/// A Python that can make a virtual environment: the user's own, else the system's. A shim of pyenv
/// may stand in PATH with nothing behind it.
fn find_python() -> Result<&'static str> {
    let mut candidates = ["python3", "/usr/bin/python3"].into_iter();
    let usable = candidates.find(|candidate| {
        let mut probe = Command::new(candidate);
        probe.args(["-c", "import ensurepip, venv"]);
        run(probe, PATIENCE).is_ok()
    });
    usable.context("no python3 here can make a virtual environment")
}
