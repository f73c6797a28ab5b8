//! Clients that pipeline, and traffic whose every reply is known beforehand.

mod client;
pub(crate) mod packages;
pub(crate) mod pods;
pub(crate) mod proxy;
mod workload;

use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use client::{Client, command};
pub(crate) use workload::{Exchange, Random, Workload, exchange};

/// Sets its flag when dropped, so that traffic ends also when the test around it panics.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The cluster slot of `key`
/// (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>).
pub(crate) fn slot(key: &str) -> u16 {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty());
    crc16::State::<crc16::XMODEM>::calculate(tag.unwrap_or(key).as_bytes()) % 16384
}
