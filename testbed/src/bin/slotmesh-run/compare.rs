//! The comparison of both proxies, written down.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use slotmesh_testbed::compare::{Contender, DEFECTS, Defect, Ground, document};

pub(crate) fn run(output: &Path, only: &[u8]) -> Result<()> {
    eprintln!("starting six Redis nodes and one alone");
    let ground = Ground::start()?;
    let wanted = |defect: &&Defect| only.is_empty() || only.contains(&defect.number);
    let [theirs, ours] = Contender::ALL.map(|contender| {
        eprintln!("looking at {contender:?}");
        ground.look(contender, DEFECTS.iter().filter(wanted))
    });
    let text = document(&ground.version()?, &[theirs?, ours?]);
    if only.is_empty() {
        fs::write(output, text).with_context(|| format!("writing {}", output.display()))?;
        eprintln!("written: {}", output.display());
    } else {
        print!("{text}");
    }
    Ok(())
}
