//! The walk-through: commands through one address, then a look at what the servers behind it did.
//!
//! It knows nothing of how proxy and servers were started. All it has is a redis-cli for each of
//! them, so it can walk through any deployment that a command line reaches.

mod erasing;
mod mirroring;
mod monitor;
mod reading;
mod sharding;

pub use erasing::erase;
pub use mirroring::mirroring;
pub use reading::replica_reads;
pub use sharding::sharding;

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::member::{Member, Role};
use crate::process;

/// Time for one redis-cli.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Time for replicas and mirrors to receive what was written: neither is waited for by the writer.
const COPY_DEADLINE: Duration = Duration::from_secs(30);

/// What the walk-through writes.
const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// The command line that reaches one Redis or the proxy with redis-cli.
#[derive(Clone, Debug)]
pub struct RedisCli {
    words: Vec<String>,
}

impl RedisCli {
    /// The redis-cli that `words` call: `["redis-cli", "-p", "6379"]`, or
    /// `["kubectl", "exec", "redis-0", "--", "redis-cli"]`.
    pub fn new(words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { words: words.into_iter().map(Into::into).collect() }
    }

    /// The redis-cli of this machine for a port of 127.0.0.1.
    pub fn on_port(port: u16) -> Self {
        Self::new(["redis-cli".to_owned(), "-p".to_owned(), port.to_string()])
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let (program, first) = self.words.split_first().context("an empty command line")?;
        let mut command = Command::new(program);
        command.args(first).args(args);
        Ok(command)
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        let output = process::run(self.command(args)?, COMMAND_TIMEOUT)?;
        Ok(output.trim_end().to_owned())
    }

    /// Runs a command and shows it, with its output, as a terminal would.
    fn show(&self, args: &[&str], out: &mut impl Write) -> Result<String> {
        write!(out, "  $ {}", process::show(&self.command(args)?))?;
        out.flush()?;
        let output = self.run(args)?;
        writeln!(out)?;
        for line in output.lines() {
            writeln!(out, "  {line}")?;
        }
        Ok(output)
    }

    /// Runs commands one after the other over one connection, and shows them as if typed at
    /// redis-cli's prompt. Each must be answered by one line.
    fn session(&self, commands: &[String], out: &mut impl Write) -> Result<Vec<String>> {
        let command = self.command(&[])?;
        writeln!(out, "  $ {}", process::show(&command))?;
        let input: String = commands.iter().map(|command| format!("{command}\n")).collect();
        let output = process::run_with_input(command, input.into(), COMMAND_TIMEOUT)?;
        let answers: Vec<String> = output.lines().map(str::to_owned).collect();
        for (command, answer) in commands.iter().zip(&answers) {
            writeln!(out, "  > {command}\n  {answer}")?;
        }
        ensure!(
            answers.len() == commands.len(),
            "{} commands got {} answers",
            commands.len(),
            answers.len()
        );
        Ok(answers)
    }
}

/// A node and what it says of itself.
struct Node<'a> {
    cli: &'a RedisCli,
    member: Member,
}

/// A heading of the walk-through.
///
/// # Errors
/// `out` cannot be written.
pub fn heading(out: &mut impl Write, text: &str) -> Result<()> {
    Ok(writeln!(out, "\n== {text}")?)
}

/// A result that was checked.
///
/// # Errors
/// `out` cannot be written.
pub fn passed(out: &mut impl Write, text: &str) -> Result<()> {
    Ok(writeln!(out, "  [ok] {text}")?)
}

fn describe(cli: &RedisCli) -> Result<Node<'_>> {
    let members = Member::parse_all(&cli.run(&["CLUSTER", "NODES"])?)?;
    let member = members.into_iter().find(|member| member.myself);
    Ok(Node { cli, member: member.context("a node that does not know itself")? })
}

fn follows(replica: &Node<'_>, primary: &Node<'_>) -> bool {
    matches!(&replica.member.role, Role::Replica { of } if *of == primary.member.id)
}
