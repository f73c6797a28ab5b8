//! What the proxy promises, against a scripted cluster and a clock that the test moves: every
//! scenario whole and byte by byte.

mod allowed_nodes;
mod blocking;
mod clients;
mod failure;
mod fairness;
mod faults;
mod handover;
mod identities;
mod keyless;
mod large_commands;
mod mirroring;
mod mixed;
mod numbers;
mod order;
mod pipelining;
mod pubsub;
mod reading;
mod redirection;
mod relay;
mod routing;
mod scripts;
mod sessions;
mod splitting;
mod statistics;
#[path = "../support/mod.rs"]
mod support;
mod tracking;
mod transactions;
mod waiting_replies;
mod wrong_node;
