//! kubectl for the mesh that is up: all that the checks have.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use slotmesh_testbed::{locate, process};

/// Time for what a person would not wait for either.
const TIMEOUT: Duration = Duration::from_secs(60);

/// `kind-cluster/kubectl`.
#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    program: PathBuf,
}

impl Kubectl {
    pub(crate) fn of_the_mesh() -> Self {
        Self { program: directory().join("kubectl") }
    }

    /// What it prints.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String> {
        self.run_within(TIMEOUT, args)
    }

    /// The same for what takes long.
    pub(crate) fn run_within(&self, within: Duration, args: &[&str]) -> Result<String> {
        process::run(self.command(args), within)
    }

    /// The same, with something on its standard input.
    pub(crate) fn feed(&self, input: impl Into<Vec<u8>>, args: &[&str]) -> Result<String> {
        process::run_with_input(self.command(args), input.into(), TIMEOUT)
    }

    /// What it prints as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Result<Value> {
        let output = self.run(&[args, &["--output", "json"]].concat())?;
        serde_json::from_str(&output).with_context(|| format!("kubectl {}", args.join(" ")))
    }

    /// Runs it also when a signal has asked this program to stop: it puts back what a check has
    /// changed. What goes wrong is said, and nothing else can be done about it.
    pub(crate) fn put_back(&self, input: &str, args: &[&str]) {
        put_back(self.command(args), input);
    }

    /// A command that is still to be run.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args);
        command
    }
}

/// Runs `kind-cluster/mesh` and returns what it prints.
pub(crate) fn mesh(args: &[&str]) -> Result<String> {
    let mut command = Command::new(directory().join("mesh"));
    command.args(args);
    process::run(command, TIMEOUT)
}

/// The same to put back what a check has changed, as [`Kubectl::put_back`] does it.
pub(crate) fn mesh_put_back(args: &[&str]) {
    let mut command = Command::new(directory().join("mesh"));
    command.args(args);
    put_back(command, "");
}

fn put_back(mut command: Command, input: &str) {
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let ended = command.spawn().and_then(|mut child| {
        // Dropped at once, so that the command sees its end.
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        child.wait()
    });
    if !ended.is_ok_and(|status| status.success()) {
        eprintln!("verify: `{}` failed: the mesh is not as it was", process::show(&command));
    }
}

/// The directory kind-cluster.
pub(crate) fn directory() -> PathBuf {
    locate::workspace().join("kind-cluster")
}

/// The directory istio.
pub(crate) fn istio() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../istio"))
}
