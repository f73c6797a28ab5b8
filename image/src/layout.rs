//! A directory in the form of an OCI image layout
//! (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>).

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, ensure};
use oci_spec::image::{
    Arch, Descriptor, ImageConfigurationBuilder, ImageIndexBuilder, ImageManifestBuilder,
    MediaType, OciLayoutBuilder, Os, RootFsBuilder, SCHEMA_VERSION, Sha256Digest,
};
use sha2::{Digest, Sha256};

use crate::layer;

const MARKER: &str = "oci-layout";

/// A layout that has no image yet.
pub(crate) struct Layout {
    path: PathBuf,
}

impl Layout {
    /// Makes the directory `path`, in place of an older layout.
    ///
    /// # Errors
    /// There is something else, or it cannot be written.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        if path.exists() {
            ensure!(path.join(MARKER).is_file(), "it exists and is not an image layout");
            fs::remove_dir_all(path)?;
        }
        fs::create_dir_all(path.join("blobs/sha256"))?;
        let marker = OciLayoutBuilder::default().image_layout_version("1.0.0").build()?;
        marker.to_file(path.join(MARKER))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Writes an image that holds `module` and nothing else; returns the manifest's digest as 64
    /// hexadecimal digits.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn write_image(&self, module: &[u8]) -> Result<String> {
        let archive = layer::archive(module)?;
        let files = RootFsBuilder::default()
            .typ("layers")
            .diff_ids([format!("sha256:{}", digest(&archive))])
            .build()?;
        // What container runtimes call a WebAssembly module. Nothing here is one to Istio.
        let config = ImageConfigurationBuilder::default()
            .architecture(Arch::Wasm)
            .os(Os::Other("wasip1".to_owned()))
            .rootfs(files)
            .build()?
            .to_string()?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(self.write_blob(MediaType::ImageConfig, config.as_bytes())?)
            .layers([self.write_blob(MediaType::ImageLayerGzip, &layer::compress(&archive)?)?])
            .build()?
            .to_string()?;
        let manifest = self.write_blob(MediaType::ImageManifest, manifest.as_bytes())?;
        let digest = manifest.digest().digest().to_owned();
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests([manifest])
            .build()?;
        index.to_file(self.path.join("index.json"))?;
        Ok(digest)
    }

    fn write_blob(&self, media_type: MediaType, bytes: &[u8]) -> Result<Descriptor> {
        let digest = digest(bytes);
        fs::write(self.path.join("blobs/sha256").join(&digest), bytes)?;
        let size = bytes.len() as u64;
        Ok(Descriptor::new(media_type, size, Sha256Digest::from_str(&digest)?))
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        // Writing to a text cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
