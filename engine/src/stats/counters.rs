//! The plain counters, each declared once: its meaning, its field, its name.

/// Declares the counters of clients and those of each cluster, and [`Stats`], which has them all.
macro_rules! counters {
    (
        downstream { $($(#[$down_doc:meta])* $down:ident = $down_name:literal;)* }
        upstream { $($(#[$up_doc:meta])* $up:ident = $up_name:literal;)* }
    ) => {
        /// What has been counted since the start, over all clusters. Names follow Envoy's.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct Stats {
            $($(#[$down_doc])* pub $down: u64,)*
            $($(#[$up_doc])* pub $up: u64,)*
        }

        /// What clients do.
        #[derive(Debug, Default)]
        pub(crate) struct DownstreamCounters {
            $($(#[$down_doc])* pub(crate) $down: u64,)*
        }

        /// What happens between the proxy and the nodes of one cluster.
        #[derive(Debug, Default)]
        pub(crate) struct UpstreamCounters {
            $($(#[$up_doc])* pub(crate) $up: u64,)*
        }

        impl DownstreamCounters {
            pub(super) const NAMES: [&'static str; [$($down_name),*].len()] = [$($down_name),*];

            pub(super) fn values(&self) -> [u64; Self::NAMES.len()] {
                [$(self.$down),*]
            }

            pub(super) fn add_to(&self, stats: &mut Stats) {
                $(stats.$down += self.$down;)*
            }
        }

        impl UpstreamCounters {
            pub(super) const NAMES: [&'static str; [$($up_name),*].len()] = [$($up_name),*];

            pub(super) fn values(&self) -> [u64; Self::NAMES.len()] {
                [$(self.$up),*]
            }

            pub(super) fn add_to(&self, stats: &mut Stats) {
                $(stats.$up += self.$up;)*
            }
        }
    };
}

counters! {
    downstream {
        /// Clients that have connected.
        downstream_cx_total = "downstream_cx_total";
        /// Clients closed because what they sent was no RESP.
        downstream_cx_protocol_error = "downstream_cx_protocol_error";
        /// Clients closed because too many bytes of their commands would have had to wait.
        downstream_cx_input_overflow = "downstream_cx_input_overflow";
        /// Clients closed because only the beginning of a reply has come.
        downstream_cx_reply_cut = "downstream_cx_reply_cut";
        /// Clients closed because too many bytes of their replies waited for others.
        downstream_cx_reply_overflow = "downstream_cx_reply_overflow";
        /// Bytes read from clients.
        downstream_cx_rx_bytes_total = "downstream_cx_rx_bytes_total";
        /// Bytes written to clients.
        downstream_cx_tx_bytes_total = "downstream_cx_tx_bytes_total";
        /// Commands read from clients.
        downstream_rq_total = "downstream_rq_total";
        /// Commands that no node answered within `op_timeout`.
        downstream_rq_timeout = "downstream_rq_timeout";
        /// Commands with a wrong number of arguments.
        splitter_invalid_request = "splitter.invalid_request";
        /// Commands that the proxy does not know how to serve.
        splitter_unsupported_command = "splitter.unsupported_command";
    }
    upstream {
        /// Connections to nodes that were opened.
        upstream_cx_total = "upstream_cx_total";
        /// Connections to nodes that ended before they answered anything.
        upstream_cx_connect_fail = "upstream_cx_connect_fail";
        /// Connections closed because somebody else answered at the node's address.
        upstream_cx_wrong_node = "upstream_cx_wrong_node";
        /// Connections on which the node could not be asked for its id.
        upstream_cx_unidentified = "upstream_cx_unidentified";
        /// Connections not opened because their node had been connected to too often in that
        /// second.
        connection_rate_limited = "connection_rate_limited";
        /// Connections closed when their last reply had come, their node having left the cluster.
        upstream_cx_drained = "upstream_cx_drained";
        /// Redirections not followed because too many nodes are known from redirections alone.
        max_upstream_unknown_connections_reached = "max_upstream_unknown_connections_reached";
        /// Nodes that a redirection or a topology has named and `allowed_nodes` does not allow,
        /// each time.
        upstream_node_not_allowed = "upstream_node_not_allowed";
        /// Commands, and parts of split ones, that were put on a connection, once for each try.
        upstream_rq_total = "upstream_rq_total";
        /// Commands sent again after a node or a connection had failed them.
        upstream_rq_retry = "upstream_rq_retry";
        /// Commands, and parts of split ones, that no node answered within `op_timeout`.
        upstream_rq_timeout = "upstream_rq_timeout";
        /// Commands that a MOVED sent to another node.
        redirect_moved = "redirect_moved";
        /// Commands that an ASK sent to another node.
        redirect_ask = "redirect_ask";
        /// Topologies read.
        topology_refresh_success = "topology_refresh_success";
        /// Rounds of all known nodes and seeds in which none gave a topology.
        topology_refresh_failure = "topology_refresh_failure";
        /// Commands copied to this cluster as a mirror.
        mirror_sent = "mirror_sent";
        /// Copies dropped because too many bytes wait for the mirror.
        mirror_dropped_overflow = "mirror_dropped_overflow";
        /// Copies dropped because the mirror is a cluster and their keys sit in several of its
        /// slots.
        mirror_dropped_crossslot = "mirror_dropped_crossslot";
        /// Copies that the mirror did not answer in time.
        mirror_timeout = "mirror_timeout";
        /// Copies that the mirror answered with an error.
        mirror_error = "mirror_error";
    }
}
