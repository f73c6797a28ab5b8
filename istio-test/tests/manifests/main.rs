//! The manifests of istio/: what comes out of them, and what real Envoys make of that.

mod istiod;
mod overlays;
mod rendering;
mod sidecar;
mod support;
mod versions;
