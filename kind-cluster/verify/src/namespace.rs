//! Namespaces that a check has for itself.

use std::time::Duration;

use anyhow::Result;

use crate::kubectl::Kubectl;

/// Time for a namespace of an earlier run to go.
const REMOVAL: Duration = Duration::from_secs(120);

/// A namespace with all that is in it. Dropping it deletes it, without waiting.
#[derive(Debug)]
pub(crate) struct Namespace {
    kubectl: Kubectl,
    name: String,
}

impl Namespace {
    /// Makes it, once what an earlier run left in one of that name has gone.
    pub(crate) fn create(kubectl: &Kubectl, name: &str, injection: &str) -> Result<Self> {
        let delete = ["delete", "namespace", name, "--ignore-not-found"];
        kubectl.run_within(REMOVAL, &delete)?;
        let namespace = Self { kubectl: kubectl.clone(), name: name.to_owned() };
        kubectl.run(&["create", "namespace", name])?;
        let label = format!("istio-injection={injection}");
        kubectl.run(&["label", "namespace", name, &label])?;
        Ok(namespace)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.kubectl.put_back("", &["delete", "namespace", &self.name, "--wait=false"]);
    }
}
