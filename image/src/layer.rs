//! The image's only layer: `plugin.wasm` in a compressed archive.
//!
//! Everything in it but the module is constant, so the same module always gives the same bytes.
//! The compressor is part of that: it is Rust code pinned by Cargo.lock, not the system's zlib.

use std::io::Write;

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;

/// The name by which Istio's agent finds the module in a layer.
const FILE_NAME: &str = "plugin.wasm";

/// The archive that holds `module`.
///
/// # Errors
/// Never, while it is written to memory.
pub(crate) fn archive(module: &[u8]) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_size(module.len() as u64);
    header.set_mode(0o644);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, FILE_NAME, module)?;
    Ok(archive.into_inner()?)
}

/// `archive` as gzip, whose header says nothing of when and where it was made.
///
/// # Errors
/// Never, while it is written to memory.
pub(crate) fn compress(archive: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(archive)?;
    Ok(encoder.finish()?)
}
