//! `slotmesh-verify`: what `make mesh-verify` runs after the walk-through.
//!
//! All it has is kubectl for the mesh that is up, and nothing it does depends on what that was made
//! with. Clients are pods; what they see decides.

mod check;
mod checks;
mod client;
mod kubectl;
mod load;
mod manifest;
mod namespace;
mod redis;
mod small;
mod stage;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use slotmesh_testbed::wait;

use crate::check::Check;
use crate::checks::ALL;
use crate::stage::Stage;

/// Checks that what is said of Slotmesh is true in the mesh that is up.
#[derive(Parser)]
#[command(name = "slotmesh-verify")]
struct Cli {
    /// Only the checks whose names hold one of these texts.
    only: Vec<String>,
    /// Prints the names of all checks.
    #[arg(long)]
    list: bool,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if cli.list {
        for check in ALL {
            println!("{}", check.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    wait::stop_on_signals()?;
    let chosen = cli.choose()?;
    let began = Instant::now();
    let stage = Stage::new();
    let failed: Vec<&str> = chosen
        .iter()
        .filter(|check| !wait::interrupted() && !check.holds(&stage))
        .map(|check| check.name)
        .collect();
    println!("\n{} checks in {} s", chosen.len(), began.elapsed().as_secs());
    for name in &failed {
        println!("FAILED: {name}");
    }
    ensure!(!wait::interrupted(), "interrupted: not everything was checked");
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Cli {
    /// The checks to run.
    fn choose(&self) -> Result<Vec<&'static Check>> {
        let named = |check: &&Check| self.only.iter().any(|text| check.name.contains(text));
        let chosen: Vec<&Check> = match self.only.is_empty() {
            true => ALL.iter().collect(),
            false => ALL.iter().filter(named).collect(),
        };
        ensure!(!chosen.is_empty(), "no check has such a name; --list prints all");
        Ok(chosen)
    }
}
