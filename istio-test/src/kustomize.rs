//! What `kubectl kustomize` makes of a directory, for as much of Kustomize as the directories below
//! istio/ use. A word of Kustomize that is not implemented here is an error that names it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The objects that the kustomization in `dir` describes, in the order of its resources.
///
/// # Errors
/// A file is missing or broken, a patch meets no object, or a word is not implemented here; says in
/// which file.
pub fn build(dir: &Path) -> Result<Vec<Value>> {
    let path = dir.join("kustomization.yaml");
    let mut objects = Vec::new();
    assemble(dir, &mut objects).with_context(|| path.display().to_string())?;
    Ok(objects)
}

/// The objects in a file of YAML documents.
///
/// # Errors
/// It cannot be read, or is not YAML.
pub fn read(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    parse(&text).with_context(|| path.display().to_string())
}

/// The objects in YAML documents.
///
/// # Errors
/// It is not YAML.
pub fn parse(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// Adds what the kustomization in `dir` describes; a component also changes what is there already.
fn assemble(dir: &Path, objects: &mut Vec<Value>) -> Result<()> {
    let documents = read(&dir.join("kustomization.yaml"))?;
    let [kustomization] = &documents[..] else { bail!("it must be one document") };
    let words = kustomization.as_object().context("it must be a map")?;
    for word in words.keys() {
        match word.as_str() {
            "apiVersion" | "kind" | "resources" | "components" | "patches" | "namespace" => {}
            // The order in which objects are created; here they all are.
            "sortOptions" => {}
            other => bail!("{other}: istio-test does not implement this word of Kustomize"),
        }
    }
    for resource in texts(&kustomization["resources"])? {
        let path = dir.join(resource);
        match path.is_dir() {
            true => objects.extend(build(&path)?),
            false => objects.extend(read(&path)?),
        }
    }
    for component in texts(&kustomization["components"])? {
        let path = dir.join(component);
        assemble(&path, objects).with_context(|| path.display().to_string())?;
    }
    for patch in kustomization["patches"].as_array().into_iter().flatten() {
        apply(patch, dir, objects)?;
    }
    if let Some(namespace) = kustomization["namespace"].as_str() {
        for object in objects {
            object["metadata"]["namespace"] = namespace.into();
        }
    }
    Ok(())
}

/// Applies one entry of `patches`: JSON patches (a list) or merge patches (maps).
fn apply(entry: &Value, dir: &Path, objects: &mut [Value]) -> Result<()> {
    for word in entry.as_object().context("a patch must be a map")?.keys() {
        let known = ["path", "patch", "target"].contains(&word.as_str());
        ensure!(known, "patches: {word}: istio-test does not implement this word of Kustomize");
    }
    let patches = match (entry["path"].as_str(), entry["patch"].as_str()) {
        (Some(path), None) => read(&dir.join(path))?,
        (None, Some(text)) => parse(text)?,
        _ => bail!("a patch needs a path or a patch"),
    };
    for patch in patches {
        let target =
            if entry["target"].is_null() { identity(&patch) } else { entry["target"].clone() };
        let mut met = false;
        for object in objects.iter_mut().filter(|object| is_target(object, &target)) {
            met = true;
            if patch.is_array() {
                let operations: json_patch::Patch = serde_json::from_value(patch.clone())?;
                json_patch::patch(object, &operations)
                    .with_context(|| format!("a patch of {target}"))?;
            } else {
                json_patch::merge(object, &patch);
            }
        }
        ensure!(met, "a patch meets no object: {target}");
    }
    Ok(())
}

/// What a merge patch without a target names.
fn identity(patch: &Value) -> Value {
    serde_json::json!({"kind": patch["kind"], "name": patch["metadata"]["name"]})
}

fn is_target(object: &Value, target: &Value) -> bool {
    let is = |wanted: &Value, found: &Value| wanted.is_null() || wanted == found;
    is(&target["kind"], &object["kind"])
        && is(&target["name"], &object["metadata"]["name"])
        && is(&target["namespace"], &object["metadata"]["namespace"])
}

fn texts(list: &Value) -> Result<Vec<&str>> {
    let entries = list.as_array().into_iter().flatten();
    entries.map(|entry| entry.as_str().context("a path must be a text")).collect()
}
