//! A network of our own, in which packets get lost and lines are narrow.
//!
//! The test runs itself once more in a network namespace where there is nothing but a loopback
//! interface, so that no rule can harm, or outlive, anything but the test.

use std::env;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use slotmesh_testbed::process;

/// Set for the test that runs in the namespace.
const INSIDE: &str = "SLOTMESH_CHAOS_NETWORK";

/// Time for a rule to be set.
const PATIENCE: Duration = Duration::from_secs(20);

/// What happens to packets from and to one node's port. The cluster's own bus is left alone, so the
/// nodes keep their roles.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weather {
    /// One packet in twenty is lost.
    Loss,
    /// All are lost, and nobody is told.
    Silence,
    /// Connections are reset, and none is accepted.
    Reset,
    /// 40 KB a second each way: what does not fit waits.
    Delay,
}

/// The namespace that this process runs in.
#[derive(Debug)]
pub(crate) struct Network(());

impl Network {
    /// `None` outside a namespace of our own.
    pub(crate) fn own() -> Option<Self> {
        env::var_os(INSIDE).map(|_| Self(()))
    }

    /// From now on `node` has this weather.
    pub(crate) fn begin(&self, weather: Weather, node: SocketAddr) -> Result<()> {
        sh(&match weather.rule() {
            Some(rule) => rules("-A", rule, node),
            None => format!(
                "tc qdisc add dev lo root handle 1: htb && {}",
                ["dport", "sport"].map(|side| line(side, node)).join(" && ")
            ),
        })
    }

    /// The sky is clear again.
    pub(crate) fn end(&self, weather: Weather, node: SocketAddr) -> Result<()> {
        sh(&match weather.rule() {
            Some(rule) => rules("-D", rule, node),
            None => "tc qdisc del dev lo root".to_owned(),
        })
    }
}

impl Weather {
    /// The rule for each packet; `None`: packets are only held up.
    fn rule(self) -> Option<&'static str> {
        match self {
            Self::Loss => Some("-m statistic --mode random --probability 0.05 -j DROP"),
            Self::Silence => Some("-j DROP"),
            Self::Reset => Some("-j REJECT --reject-with tcp-reset"),
            Self::Delay => None,
        }
    }
}

/// Adds (`-A`) or removes (`-D`) a rule for all packets of a node.
fn rules(change: &str, rule: &str, node: SocketAddr) -> String {
    let port = node.port();
    ["--dport", "--sport"]
        .map(|side| format!("iptables -w {change} OUTPUT -o lo -p tcp {side} {port} {rule}"))
        .join(" && ")
}

/// A narrow line for all packets to a node (`dport`) or from it (`sport`).
fn line(side: &str, node: SocketAddr) -> String {
    let (class, port) = (if side == "dport" { "1:2" } else { "1:3" }, node.port());
    format!(
        "tc class add dev lo parent 1: classid {class} htb rate 320kbit quantum 1514 && \
         tc filter add dev lo parent 1: protocol ip u32 match ip {side} {port} 0xffff flowid {class}"
    )
}

fn sh(script: &str) -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    process::run(command, PATIENCE)?;
    Ok(())
}

/// Whether this machine lets us have a network of our own with such weather in it.
pub(crate) fn probe() -> Result<()> {
    let node = SocketAddr::from(([127, 0, 0, 1], 1));
    let rule = Weather::Loss.rule().unwrap_or_default();
    let script = format!("{} && tc qdisc add dev lo root handle 1: htb", rules("-A", rule, node));
    process::run(enter(&["sh", "-c", &script]), PATIENCE)?;
    Ok(())
}

/// Runs the test `name` of this program in a namespace of its own, which ends with it.
pub(crate) fn run_inside(name: &str) -> Result<()> {
    let program = env::current_exe()?;
    let program = program.to_str().context("the test's path is no text")?;
    let mut command = enter(&[program, "--exact", name, "--nocapture"]);
    // What the harness says of its one test would be counted twice.
    command.env(INSIDE, "1").stdout(Stdio::null());
    let status = command.status()?;
    ensure!(status.success(), "{name} failed in its own network: {status}");
    Ok(())
}

/// A command in a namespace of its own; it is killed when the thread that waits for it is.
fn enter(words: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--net", "--map-root-user"]);
    command.args(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]).args(words);
    command
}
