//! Manifests of istio/ as a user has them: built by kustomize, with values of one's own.

use anyhow::{Result, ensure};

use crate::kubectl::{Kubectl, istio};

/// The module as the manifests name it, and as the mesh has it.
const PUBLISHED: &str = "oci://ghcr.io/slotmesh/slotmesh:0.1.0";

/// The registry's name for the module, without a tag.
pub(crate) const MODULE: &str = "oci://slotmesh-registry:5000/slotmesh";

/// What `kubectl apply` takes.
#[derive(Clone, Debug)]
pub(crate) struct Manifest(String);

impl Manifest {
    /// What kustomize makes of a directory, whose path begins at istio/.
    pub(crate) fn build(kubectl: &Kubectl, directory: &str) -> Result<Self> {
        let directory = istio().join(directory);
        Ok(Self(kubectl.run(&["kustomize", &directory.to_string_lossy()])?))
    }

    /// A base or an overlay of istio/, with the module that is in the mesh's registry.
    pub(crate) fn slotmesh(kubectl: &Kubectl, name: &str) -> Result<Self> {
        Self::build(kubectl, name)?.with(PUBLISHED, &format!("{MODULE}:kind"))
    }

    /// Another value. Fails if there is nothing to replace: the manifest has changed.
    pub(crate) fn with(&self, old: &str, new: &str) -> Result<Self> {
        ensure!(self.0.contains(old), "there is no `{old}` in:\n{}", self.0);
        Ok(Self(self.0.replace(old, new)))
    }

    /// Another value, where there is such a one.
    pub(crate) fn with_any(&self, old: &str, new: &str) -> Self {
        Self(self.0.replace(old, new))
    }

    pub(crate) fn apply(&self, kubectl: &Kubectl, namespace: &str) -> Result<()> {
        let args = ["apply", "--namespace", namespace, "--filename", "-"];
        kubectl.feed(self.0.as_str(), &args).map(drop)
    }

    /// Applies the objects whose labels fit a selector.
    pub(crate) fn apply_some(
        &self,
        kubectl: &Kubectl,
        namespace: &str,
        selector: &str,
    ) -> Result<()> {
        let args = ["apply", "--namespace", namespace, "--selector", selector, "--filename", "-"];
        kubectl.feed(self.0.as_str(), &args).map(drop)
    }

    /// Applies it also when a signal has asked this program to stop.
    pub(crate) fn put_back(&self, kubectl: &Kubectl, namespace: &str) {
        kubectl.put_back(&self.0, &["apply", "--namespace", namespace, "--filename", "-"]);
    }

    pub(crate) fn delete(&self, kubectl: &Kubectl, namespace: &str) -> Result<()> {
        let args = ["delete", "--ignore-not-found", "--namespace", namespace, "--filename", "-"];
        kubectl.feed(self.0.as_str(), &args).map(drop)
    }
}

impl From<String> for Manifest {
    fn from(text: String) -> Self {
        Self(text)
    }
}
