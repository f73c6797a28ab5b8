//! How istiod merges a patch into what it generated, on protobuf's JSON.

use serde_json::Value;

/// Lists grow, messages merge field by field, everything else is replaced; of an `Any`, only one of
/// the same type is merged with.
pub(crate) fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            if into.get("@type") != patch.get("@type") {
                into.clone_from(patch);
                return;
            }
            for (name, value) in patch {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(patch)) => into.extend(patch.iter().cloned()),
        (into, patch) => into.clone_from(patch),
    }
}
