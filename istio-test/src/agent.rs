//! What the istio-agent of a pod does with the extension configurations that pass through it: it
//! pulls the module, and has Envoy load it from a file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

/// What comes of pulling an image.
#[derive(Clone, Debug)]
pub enum Pull {
    /// The module, and the digest of the image.
    Pulled {
        /// The module's file.
        file: PathBuf,
        /// 64 digits.
        digest: String,
    },
    /// The registry has not answered yet.
    Pending,
    /// It will not.
    Failed,
}

/// The registries that an agent reaches: images by their URLs.
pub(crate) type Registry = BTreeMap<String, Pull>;

/// The extension configuration as Envoy is given it; `None` as long as the module is being pulled.
pub(crate) fn convert(mut extension: Value, registry: &Registry) -> Option<Value> {
    let config = &mut extension["typed_config"]["config"];
    let remote = config["vm_config"]["code"]["remote"].clone();
    if remote.is_null() {
        return Some(extension);
    }
    let url = remote["http_uri"]["uri"].as_str().unwrap_or_default();
    // "nil" is istiod's word for none.
    let wanted = remote["sha256"].as_str().filter(|digest| !["", "nil"].contains(digest));
    match registry.get(url).unwrap_or(&Pull::Failed) {
        Pull::Pending => return None,
        Pull::Pulled { file, digest } if wanted.is_none_or(|wanted| wanted == digest) => {
            let variables = "/vm_config/environment_variables/key_values";
            let variables = config.pointer_mut(variables).and_then(Value::as_object_mut);
            if let Some(variables) = variables {
                variables.retain(|name, _| !name.starts_with("ISTIO_META_"));
            }
            config["vm_config"]["code"] = json!({"local": {"filename": file}});
        }
        Pull::Pulled { .. } | Pull::Failed => {
            let open = config["failure_policy"] == "FAIL_OPEN";
            extension["typed_config"] = stand_in(&extension["typed_config"]["@type"], open);
        }
    }
    Some(extension)
}

/// What the agent puts in the place of a module that it cannot pull: a filter that denies
/// everything, or nothing.
fn stand_in(wasm: &Value, open: bool) -> Value {
    let network = wasm.as_str().is_some_and(|wasm| wasm.contains(".network."));
    let (layer, prefix) =
        if network { ("network", "stat_prefix") } else { ("http", "rules_stat_prefix") };
    let word = if open { "allow" } else { "deny" };
    let mut rbac = json!({
        "@type": format!("type.googleapis.com/envoy.extensions.filters.{layer}.rbac.v3.RBAC"),
        prefix: format!("wasm-default-{word}"),
    });
    if !open {
        rbac["rules"] = json!({});
    }
    rbac
}
