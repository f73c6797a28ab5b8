//! Counts the instructions of the engine's hot paths and holds them to a budget.
//!
//! Times differ from run to run; instructions do not, so that a change which costs a few per cent
//! shows on any machine. The program runs itself under `valgrind --tool=callgrind`, once for each
//! path. That is all of it that is needed of gungraun (once iai-callgrind), whose runner would have
//! to be built and kept at the same version besides.

mod node;
mod paths;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use paths::REPETITIONS;

/// Instructions of one repetition, by path.
type Counts = BTreeMap<String, u64>;

/// A count may be above its budget by so many per cent: compilers differ a little.
const TOLERANCE: u64 = 5;

const USAGE: &str = "usage: slotmesh-instructions check|write <budget.json>";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        // What it runs itself with.
        ["run", name] => {
            paths::all().iter().find(|path| path.name == *name).context("no such path")?.run();
            Ok(())
        }
        ["check", file] => check(Path::new(file), &count_all()?),
        ["write", file] => {
            let counts = serde_json::to_string_pretty(&count_all()?)?;
            Ok(fs::write(file, counts + "\n")?)
        }
        _ => bail!(USAGE),
    }
}

fn check(file: &Path, counts: &Counts) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let budget: Counts = serde_json::from_str(&text)?;
    ensure!(
        budget.keys().eq(counts.keys()),
        "{} is of other paths; `make instructions-write` writes it anew",
        file.display()
    );
    let mut above = Vec::new();
    println!("{:<44}{:>12}{:>12}", "instructions", "counted", "budget");
    for (name, count) in counts {
        let allowed = budget.get(name).copied().unwrap_or_default();
        println!("{name:<44}{count:>12}{allowed:>12}");
        if *count * 100 > allowed * (100 + TOLERANCE) {
            above.push(name.as_str());
        }
    }
    ensure!(
        above.is_empty(),
        "more than {TOLERANCE} % above budget: {}. If that is worth it, `make instructions-write`",
        above.join("; ")
    );
    Ok(())
}

fn count_all() -> Result<Counts> {
    paths::all().iter().map(|path| Ok((path.name.clone(), count(&path.name)?))).collect()
}

/// Instructions of one repetition of a path.
fn count(name: &str) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.args(["--toggle-collect=*measured*", "--"]);
    valgrind.arg(env::current_exe()?).args(["run", name]);
    let output = valgrind.output().context("valgrind does not start; `make deps` installs it")?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind ended with {}: {log}", output.status);
    let collected = collected(&log).with_context(|| format!("valgrind counted nothing: {log}"))?;
    Ok(collected / REPETITIONS)
}

/// The number in callgrind's last line but one, `==pid== Collected : number`.
fn collected(log: &str) -> Option<u64> {
    let line = log.lines().find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok().filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_what_callgrind_says() {
        let log = "==7== Events    : Ir\n==7== Collected : 1234567\n==7== \n";
        assert_eq!(collected(log), Some(1_234_567));
        assert_eq!(collected("==7== Collected : 0\n"), None);
    }
}
