//! `slotmesh-image`: what `make image` runs. Packs the module as an OCI image layout, without a
//! container runtime, and prints the manifest's digest.

mod layer;
mod layout;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::layout::Layout;

/// Packs a WebAssembly module as an OCI image and prints the sha256 of its manifest.
#[derive(Parser)]
#[command(name = "slotmesh-image")]
struct Cli {
    /// The module.
    wasm: PathBuf,
    /// The directory for the image layout; one that is there is replaced.
    layout: PathBuf,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let module = fs::read(&cli.wasm).with_context(|| format!("reading {}", cli.wasm.display()))?;
    ensure!(module.starts_with(b"\0asm"), "{} is not WebAssembly", cli.wasm.display());
    let layout = Layout::create(&cli.layout)
        .with_context(|| format!("making the layout {}", cli.layout.display()))?;
    println!("{}", layout.write_image(&module)?);
    Ok(())
}
