//! The module in a real Envoy, before real servers and with real clients. One program, for tests of
//! all of these wait for servers more than they compute: so two at a time do as well as they can.

mod applications;
mod article;
mod clients;
mod cluster;
mod cluster_clients;
mod command_table;
mod crash;
mod envoy;
mod fairness;
mod features;
mod hostile;
mod hostile_nodes;
mod keyless;
mod kubernetes;
mod large_replies;
mod new_addresses;
mod pubsub;
mod restarts;
mod security;
mod slots;
mod statistics;
#[allow(dead_code, unused_imports, reason = "each test program uses its part")]
#[path = "../support/mod.rs"]
mod support;
mod tracking;
mod transactions;
mod users;
mod workload;
mod wrong_node;
