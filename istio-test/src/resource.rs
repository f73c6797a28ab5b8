//! Envoy's resources: from protobuf's JSON to what goes over the wire.

use std::sync::LazyLock;

use anyhow::{Context, Result};
use envoy_types::pb::google::protobuf::Any;
use prost_reflect::prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;

/// Every message of Envoy's configuration.
static MESSAGES: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let descriptors = include_bytes!(concat!(env!("OUT_DIR"), "/envoy.binpb"));
    DescriptorPool::decode(&descriptors[..]).expect("build.rs made it from valid files")
});

/// A kind of resource.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// LDS.
    Listener,
    /// ECDS.
    Extension,
    /// SDS.
    Secret,
}

impl Kind {
    /// In the order in which istiod pushes them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Cluster, Self::Endpoints, Self::Listener, Self::Extension, Self::Secret];

    /// The kind of this type URL.
    pub(crate) fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    pub(crate) fn type_url(self) -> String {
        format!("type.googleapis.com/{}", self.message())
    }

    /// The resource's name.
    pub(crate) fn name_of(self, resource: &Value) -> &str {
        let field = if self == Self::Endpoints { "cluster_name" } else { "name" };
        resource[field].as_str().unwrap_or_default()
    }

    fn message(self) -> &'static str {
        match self {
            Self::Cluster => "envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "envoy.config.listener.v3.Listener",
            Self::Extension => "envoy.config.core.v3.TypedExtensionConfig",
            Self::Secret => "envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }
}

/// `resource` as every two that mean the same are written: without values that are the default.
///
/// # Errors
/// It has a word that the message does not know, or a value of another type; says which.
pub fn canonical(kind: Kind, resource: &Value) -> Result<Value> {
    Ok(serde_json::to_value(message(kind, resource)?)?)
}

/// The message that `resource` describes.
///
/// # Errors
/// As [`canonical`].
pub(crate) fn encode(kind: Kind, resource: &Value) -> Result<Any> {
    let message = message(kind, resource)?;
    Ok(Any { type_url: kind.type_url(), value: message.encode_to_vec() })
}

fn message(kind: Kind, resource: &Value) -> Result<DynamicMessage> {
    let message = MESSAGES.get_message_by_name(kind.message()).context("no such message")?;
    DynamicMessage::deserialize(message, resource)
        .with_context(|| format!("{kind:?} {}", kind.name_of(resource)))
}
