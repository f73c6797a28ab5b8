//! All checks, in the order in which they are run.

mod changes;
mod clients;
mod istiod;
mod overlays;
mod protected;
mod registry;
mod restarts;

use crate::check::Check;

pub(crate) const ALL: &[Check] = &[
    Check::new("a rolling restart of Redis costs no client anything", restarts::rolling),
    Check::new("a deleted primary costs no client anything", restarts::deletion),
    Check::new(
        "an eviction costs no client anything, and none is granted meanwhile",
        restarts::eviction,
    ),
    Check::new(
        "when all nodes are deleted at once they serve again within 30 s, with all data",
        restarts::all_at_once,
    ),
    Check::new(
        "when all nodes are killed at once they serve again within 30 s, with all data",
        restarts::all_killed,
    ),
    Check::new(
        "Slotmesh comes to a running pod and goes, and no connection notices",
        changes::switching,
    ),
    Check::new("a change of the configuration costs no client anything", changes::configuration),
    Check::new("a change of the image costs no client anything", changes::image),
    Check::new(
        "an image that does not exist is named, and what runs goes on",
        changes::missing_image,
    ),
    Check::new("a misspelt word is named, and what runs goes on", changes::misspelt),
    Check::new(
        "a pod that starts while the registry is away is served when its sidecar asks again",
        registry::away,
    ),
    Check::new(
        "a pod that gets its module from a web server is served when that is back",
        registry::web_server,
    ),
    Check::new("a pod that brings its module with it needs no registry", registry::local_module),
    Check::new("a restart of istiod costs no client anything", istiod::restart),
    Check::new("a minute without istiod costs no client anything", istiod::absence),
    Check::new("a client's pod that is deleted is served until its end", istiod::client_deletion),
    Check::new("a client whose sidecar answers for names is served", clients::dns_proxy),
    Check::new("a client that sees and may reach nothing else is served", clients::narrow),
    Check::new("a client that does not wait for its sidecar is served", clients::not_held),
    Check::new("base/envoyfilter serves", overlays::envoyfilter),
    Check::new("base/wasmplugin serves", overlays::wasmplugin),
    Check::new("overlays/own-registry serves", overlays::own_registry),
    Check::new("overlays/read-split reads from replicas", overlays::read_split),
    Check::new("overlays/mirror copies", overlays::mirror),
    Check::new("overlays/prefix-routes serves two clusters", overlays::prefix_routes),
    Check::new("overlays/several-services serves two Services", overlays::several_services),
    Check::new("overlays/credentials takes the password from a Secret", protected::password),
    Check::new("overlays/tls trusts an authority of the user's", protected::tls),
    Check::new(
        "overlays/mtls serves while certificates are renewed, and Redis takes nothing else",
        protected::mutual_tls,
    ),
    Check::new(
        "overlays/auto-mtls serves nodes with and without a sidecar",
        protected::auto_mutual_tls,
    ),
    Check::new("overlays/gateway serves a client outside the mesh", overlays::gateway),
];
