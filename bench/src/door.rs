//! Slotmesh for one Service, as `istio/base/service` has it: clients come to a `tcp_proxy`, which
//! leads them to a listener within the same Envoy. What that costs beside the router at the port
//! itself is a row of its own.

use anyhow::{Context, Result};

const HEAD: &str = r#"bootstrap_extensions:
- name: envoy.bootstrap.internal_listener
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener
    buffer_size_kb: 64                                # Istio's

"#;

const ADDRESS: &str =
    r#"    address: {socket_address: {address: "@LISTEN_ADDRESS@", port_value: @LISTEN_PORT@}}"#;

const LISTENER: &str = r#"  - name: service
    address: {socket_address: {address: "@LISTEN_ADDRESS@", port_value: @LISTEN_PORT@}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: door
          cluster: door
"#;

const CLUSTER: &str = r#"  - name: door
    type: STATIC
    lb_policy: RANDOM
    load_assignment:
      cluster_name: door
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {envoy_internal_address: {server_listener_name: slotmesh}}}
"#;

/// The template of a bootstrap, with its listener behind a door.
///
/// # Errors
/// The template is not laid out like envoy/bootstrap.yaml.
pub(crate) fn put_before(template: &str) -> Result<String> {
    let (head, rest) =
        template.split_once("static_resources:\n  listeners:\n").context("no listeners")?;
    let (before, after) = rest.split_once(ADDRESS).context("no address of the listener")?;
    let (after, clusters) = after.split_once("\n  clusters:\n").context("no clusters")?;
    Ok(format!(
        "{head}{HEAD}static_resources:\n  listeners:\n{LISTENER}{before}    internal_listener: {{}}\
         {after}\n  clusters:\n{CLUSTER}{clusters}"
    ))
}

#[cfg(test)]
mod tests {
    use slotmesh_testbed::{EnvoyOptions, PluginConfig};

    use super::*;

    #[test]
    fn the_door_takes_the_port_of_the_listener_behind_it() {
        let template = EnvoyOptions::new(PluginConfig::from_text("")).template;
        let with_door = put_before(&template).unwrap();
        assert_eq!(with_door.matches("@LISTEN_PORT@").count(), 1);
        let (door, behind) = with_door.split_once("internal_listener: {}\n").unwrap();
        assert!(door.contains("tcp_proxy") && behind.contains("envoy.filters.network.wasm"));
    }
}
