//! Listeners in a file of their own, which Envoy reads again whenever it is replaced.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

/// Cuts a rendered template into a bootstrap that takes its listeners from a file in `dir`, and
/// that file's content.
///
/// # Errors
/// The template is not laid out like envoy/bootstrap.yaml.
pub(crate) fn split(rendered: &str, dir: &Path) -> Result<(String, String)> {
    let (before, rest) =
        rendered.split_once("  listeners:\n").context("the template has no listeners")?;
    let (listeners, after) =
        rest.split_once("\n  clusters:\n").context("the template's clusters do not follow")?;
    let typed = "  - \"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n    name: ";
    let listeners: String = listeners
        .lines()
        .map(|line| match line.strip_prefix("  - name: ") {
            Some(name) => format!("{typed}{name}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    let listeners = format!("resources:\n{listeners}");
    let source = json!({"path_config_source": {"path": file(dir)}, "resource_api_version": "V3"});
    let bootstrap = format!(
        "node: {{id: testbed, cluster: testbed}}\n\
         dynamic_resources: {{lds_config: {source}}}\n\
         {before}  clusters:\n{after}"
    );
    Ok((bootstrap, listeners))
}

/// Puts the file of listeners into place whole.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write(listeners: &str, dir: &Path) -> Result<()> {
    let file = file(dir);
    let next = file.with_extension("next");
    fs::write(&next, listeners)?;
    fs::rename(next, file)?;
    Ok(())
}

fn file(dir: &Path) -> PathBuf {
    dir.join("listeners.yaml")
}
