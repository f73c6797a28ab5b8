//! The manifests of istio/ on real Envoys, without Kubernetes.
//!
//! A [`Mesh`] takes objects as `kubectl apply` does, renders them onto what istiod generates for a
//! pod's Envoy, does what the pod's istio-agent would do, and serves the result by delta ADS.
//!
//! ```text
//! kustomize ─► envoyfilter, wasmplugin ─► render ─► agent ─► resource ─► ads ─► Envoy
//!              (what istiod does)                  (in the pod)
//! ```
//!
//! What istiod does is written after its source, as of Istio 1.31, and compared with what one gave
//! a real sidecar (`tests/manifests/istiod/`). Its telemetry filters, which stock Envoy does not
//! have, are left out.

mod ads;
mod agent;
mod envoyfilter;
mod merge;
mod mesh;
mod proxy;
mod render;
mod resource;
mod traffic;
mod wasmplugin;

pub mod kustomize;

pub use agent::Pull;
pub use mesh::{Mesh, POD_NETWORK, Sidecar, image};
pub use proxy::{Proxy, Resolution, Service};
pub use render::{Rendered, render};
pub use resource::{Kind, canonical};
