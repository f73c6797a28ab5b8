//! The real module in this host.

mod imports;
mod live;
mod memory;
mod scenarios;
mod support;
mod tickets;
